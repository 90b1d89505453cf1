//! Active health checks: which endpoint is asked when, and what the answers make of it.
//!
//! Pure; the caller brings the clock and does the asking ([`crate::probe`]). An endpoint that waits for its turn costs
//! one entry here and one in the heap, no task and no timer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alize_model::{HealthCheck, Service, ServiceName, Snapshot};

use crate::ejection::Key;

/// Checks that run at once; those that come due meanwhile wait.
const RUNNING: usize = 128;

/// All endpoints that are checked.
pub(crate) struct Checks {
    entries: Vec<Entry>,
    /// When to ask which entry; an entry that is being asked is not in it.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Entry by ticket.
    running: HashMap<u64, usize>,
    next_ticket: u64,
    random: fastrand::Rng,
    /// Answers since the agent started: well, not well.
    pub(crate) answers: [u64; 2],
}

struct Entry {
    service: Arc<Service>,
    address: SocketAddr,
    due: Instant,
    healthy: bool,
    /// Answers in a row that contradict `healthy`.
    streak: u8,
    ticket: Option<u64>,
}

/// A check to be made now.
#[derive(Clone)]
pub(crate) struct Job {
    /// To be given back with the answer.
    pub(crate) ticket: u64,
    /// The service; it has a health check.
    pub(crate) service: Arc<Service>,
    /// The endpoint.
    pub(crate) address: SocketAddr,
}

/// An endpoint became healthy or unhealthy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) service: ServiceName,
    pub(crate) address: SocketAddr,
    pub(crate) healthy: bool,
    pub(crate) reason: String,
}

impl Checks {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            entries: Vec::new(),
            due: BinaryHeap::new(),
            running: HashMap::new(),
            next_ticket: 0,
            random: fastrand::Rng::with_seed(seed),
            answers: [0; 2],
        }
    }

    /// Takes over a new state. What is known of an endpoint stays, unless it is asked something else from now on; new
    /// endpoints are taken for healthy and asked within their interval, spread by chance.
    pub(crate) fn reload(&mut self, snapshot: &Snapshot, now: Instant) {
        let mut known: HashMap<Key, Entry> = self
            .entries
            .drain(..)
            .map(|entry| ((entry.service.name.clone(), entry.address), entry))
            .collect();
        self.running.clear();
        for service in snapshot.services() {
            let Some(check) = &service.health else { continue };
            for endpoint in &service.endpoints {
                let old = known.remove(&(service.name.clone(), endpoint.address));
                let entry = self.entry(service, check, endpoint.address, old, now);
                if let Some(ticket) = entry.ticket {
                    self.running.insert(ticket, self.entries.len());
                }
                self.entries.push(entry);
            }
        }
        self.entries.shrink_to_fit();
        let waiting = self.entries.iter().enumerate().filter(|(_, entry)| entry.ticket.is_none());
        self.due = waiting.map(|(index, entry)| Reverse((entry.due, index))).collect();
    }

    fn entry(
        &mut self,
        service: &Arc<Service>,
        check: &HealthCheck,
        address: SocketAddr,
        old: Option<Entry>,
        now: Instant,
    ) -> Entry {
        let service = Arc::clone(service);
        match old {
            Some(old) if asks_the_same(&old.service, check) => {
                Entry { service, due: old.due.min(now + check.interval), ..old }
            }
            _ => {
                let due = now + check.interval.mul_f64(self.random.f64());
                Entry { service, address, due, healthy: true, streak: 0, ticket: None }
            }
        }
    }

    /// When the next check is to be made, if there is room for one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.running.len() >= RUNNING {
            return None;
        }
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// A check that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Job> {
        if self.deadline()? > now {
            return None;
        }
        let Reverse((_, index)) = self.due.pop()?;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.running.insert(ticket, index);
        let next = match &self.entries[index].service.health {
            Some(check) => jittered(check, &mut self.random),
            None => Duration::MAX,
        };
        let entry = &mut self.entries[index];
        entry.ticket = Some(ticket);
        entry.due = now.checked_add(next).unwrap_or(now);
        Some(Job { ticket, service: Arc::clone(&entry.service), address: entry.address })
    }

    /// The answer to a check; nothing comes of it when the endpoint has gone meanwhile.
    pub(crate) fn answered(&mut self, ticket: u64, answer: Result<(), String>) -> Option<Change> {
        let index = self.running.remove(&ticket)?;
        self.answers[usize::from(answer.is_err())] += 1;
        let entry = &mut self.entries[index];
        entry.ticket = None;
        self.due.push(Reverse((entry.due, index)));
        entry.judge(answer)
    }

    /// Takes endpoints for unhealthy until their checks say otherwise: an earlier agent found them so.
    pub(crate) fn assume_unhealthy(&mut self, endpoints: &HashSet<Key>) {
        for entry in &mut self.entries {
            if endpoints.contains(&(entry.service.name.clone(), entry.address)) {
                entry.healthy = false;
                entry.streak = 0;
            }
        }
    }

    /// All that are unhealthy now.
    pub(crate) fn unhealthy(&self) -> impl Iterator<Item = (&ServiceName, SocketAddr)> {
        let unhealthy = self.entries.iter().filter(|entry| !entry.healthy);
        unhealthy.map(|entry| (&entry.service.name, entry.address))
    }
}

impl Entry {
    fn judge(&mut self, answer: Result<(), String>) -> Option<Change> {
        if answer.is_ok() == self.healthy {
            self.streak = 0;
            return None;
        }
        let check = self.service.health.as_ref()?;
        let needed = if self.healthy { check.unhealthy } else { check.healthy }.get();
        self.streak = self.streak.saturating_add(1);
        if self.streak < needed {
            return None;
        }
        self.streak = 0;
        self.healthy = answer.is_ok();
        Some(Change {
            service: self.service.name.clone(),
            address: self.address,
            healthy: self.healthy,
            reason: match answer {
                Ok(()) => format!("{} well", times(needed, "check", "checks in a row")),
                Err(reason) => format!("{reason}, {}", times(needed, "time", "times in a row")),
            },
        })
    }
}

fn times(count: u8, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Whether the answers so far are answers to `check`.
fn asks_the_same(service: &Service, check: &HealthCheck) -> bool {
    service.health.as_ref().is_some_and(|old| old.probe == check.probe && old.port == check.port)
}

/// The wait until the next check: the interval, varied by chance, so that many checks do not march in step.
fn jittered(check: &HealthCheck, random: &mut fastrand::Rng) -> Duration {
    let share = f64::from(check.jitter.min(100)) / 100.0;
    let wait = check.interval.mul_f64(1.0 + share * (2.0 * random.f64() - 1.0));
    // At 100 % jitter a wait may come near zero; an endpoint must not be asked without pause.
    wait.max(Duration::from_millis(10))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU8;

    use alize_model::{Budgets, HostFacts, Probe, Source};
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn snapshot(services: usize, endpoints: usize, path: &str) -> Snapshot {
        let mut text = format!("services:{}\n", if services == 0 { " []" } else { "" });
        for service in 0..services {
            let (high, low) = (service / 250, service % 250 + 1);
            text += &format!("  - name: svc-{service}\n    address: 10.96.{high}.{low}:80\n");
            text += &format!(
                "    health: {{http: {path}, interval: 10s, timeout: 1s, healthy: 2, unhealthy: 3}}\n"
            );
            text += if endpoints == 0 { "    endpoints: []\n" } else { "    endpoints:\n" };
            for endpoint in 0..endpoints {
                text += &format!("      - 192.0.2.{}:{}\n", endpoint + 1, 1000 + service);
            }
        }
        let source = Source { name: "test.yaml", text: &text };
        alize_model::parse(source, &Budgets::default(), &HostFacts::default()).expect("a valid file").0
    }

    fn checks(snapshot: &Snapshot, now: Instant) -> Checks {
        let mut checks = Checks::new(7);
        checks.reload(snapshot, now);
        checks
    }

    /// Answers every check that comes due until `end`.
    fn answer_all(
        checks: &mut Checks,
        mut now: Instant,
        end: Instant,
        answer: impl Fn(SocketAddr) -> Result<(), String>,
    ) -> Vec<(Instant, Change)> {
        let mut changes = Vec::new();
        while let Some(due) = checks.deadline().filter(|due| *due <= end) {
            now = now.max(due);
            let job = checks.take_due(now).expect("it is due");
            changes.extend(checks.answered(job.ticket, answer(job.address)).map(|change| (now, change)));
        }
        changes
    }

    fn refused(_: SocketAddr) -> Result<(), String> {
        Err("connect refused".into())
    }

    #[test]
    fn thresholds_are_in_a_row() {
        let now = Instant::now();
        let mut checks = checks(&snapshot(1, 1, "/"), now);
        let mut ask = |answer: Result<(), &str>| {
            let due = checks.deadline().unwrap();
            let job = checks.take_due(due).unwrap();
            checks
                .answered(job.ticket, answer.map_err(String::from))
                .map(|change| (change.healthy, change.reason))
        };
        assert_eq!(ask(Err("x")), None);
        assert_eq!(ask(Err("x")), None);
        assert_eq!(ask(Ok(())), None, "a success ends the row");
        assert_eq!(ask(Err("x")), None);
        assert_eq!(ask(Err("x")), None);
        assert_eq!(ask(Err("connect refused")), Some((false, "connect refused, 3 times in a row".into())));
        assert_eq!(ask(Err("x")), None, "told once");
        assert_eq!(ask(Ok(())), None);
        assert_eq!(ask(Err("x")), None, "a failure ends the row");
        assert_eq!(ask(Ok(())), None);
        assert_eq!(ask(Ok(())), Some((true, "2 checks in a row well".into())));
    }

    #[test]
    fn first_checks_are_spread_over_the_interval() {
        let now = Instant::now();
        let mut checks = checks(&snapshot(100, 3, "/"), now);
        let mut per_second = BTreeMap::<u64, u32>::new();
        while let Some(due) = checks.deadline().filter(|due| *due <= now + INTERVAL) {
            let job = checks.take_due(due).unwrap();
            checks.answered(job.ticket, Ok(()));
            *per_second.entry((due - now).as_secs()).or_default() += 1;
        }
        let (least, most) = (per_second.values().min().unwrap(), per_second.values().max().unwrap());
        assert!(per_second.len() >= 10 && *least > 10 && *most < 60, "{per_second:?}");
    }

    #[test]
    fn running_checks_are_bounded_and_the_rest_waits() {
        let now = Instant::now();
        let mut checks = checks(&snapshot(100, 3, "/"), now);
        let late = now + 2 * INTERVAL;
        let jobs: Vec<_> = std::iter::from_fn(|| checks.take_due(late)).collect();
        assert_eq!(jobs.len(), RUNNING);
        assert_eq!(checks.deadline(), None);
        checks.answered(jobs[0].ticket, Ok(()));
        assert!(checks.take_due(late).is_some());
    }

    #[test]
    fn a_reload_keeps_what_is_known_of_unchanged_endpoints() {
        let now = Instant::now();
        let mut checks = checks(&snapshot(2, 2, "/"), now);
        let changes = answer_all(&mut checks, now, now + 4 * INTERVAL, refused);
        assert_eq!(changes.len(), 4);
        let running =
            std::iter::repeat_with(|| checks.take_due(now + 10 * INTERVAL)).take(1).flatten().next();
        checks.reload(&snapshot(1, 3, "/"), now);
        assert_eq!(checks.unhealthy().count(), 2, "svc-1 is gone, the new endpoint counts as healthy");
        let ticket = running.expect("a check was due").ticket;
        let _ = checks.answered(ticket, Ok(()));
        assert_eq!(checks.entries.iter().filter(|entry| entry.ticket.is_some()).count(), 0);
        assert_eq!(checks.due.len(), checks.entries.len());
        checks.reload(&snapshot(1, 3, "/other"), now);
        assert_eq!(checks.unhealthy().count(), 0, "another question: old answers do not count");
        checks.reload(&Snapshot::default(), now);
        assert_eq!(checks.deadline(), None);
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() + size_of::<Reverse<(Instant, usize)>>() <= 128);
    }

    proptest! {
        #[test]
        fn waits_stay_within_the_jitter(seed: u64, jitter in 0u8..=100) {
            let check = HealthCheck {
                probe: Probe::Tcp,
                port: None,
                interval: INTERVAL,
                timeout: Duration::from_secs(1),
                jitter,
                healthy: NonZeroU8::MIN,
                unhealthy: NonZeroU8::MIN,
            };
            let mut random = fastrand::Rng::with_seed(seed);
            let share = f64::from(jitter) / 100.0;
            for _ in 0..100 {
                let wait = jittered(&check, &mut random).as_secs_f64();
                prop_assert!(wait >= 10.0 * (1.0 - share) - 1e-6 && wait <= 10.0 * (1.0 + share) + 0.011);
            }
        }

        /// Reloads and answers in any order leave each endpoint exactly once waiting or running.
        #[test]
        fn no_endpoint_is_lost(steps in prop::collection::vec((0u8..3, 0usize..4, 0usize..4), 1..60)) {
            let start = Instant::now();
            let mut checks = Checks::new(1);
            let (mut now, mut open) = (start, Vec::new());
            for (what, a, b) in steps {
                now += Duration::from_secs(3);
                match what {
                    0 => checks.reload(&snapshot(a, b, "/"), now),
                    1 => open.extend(checks.take_due(now)),
                    _ => if let Some(job) = open.pop() { let _ = checks.answered(job.ticket, refused(job.address)); },
                }
                prop_assert_eq!(checks.due.len() + checks.running.len(), checks.entries.len());
                for (ticket, index) in &checks.running {
                    prop_assert_eq!(checks.entries[*index].ticket, Some(*ticket));
                }
            }
        }
    }
}
