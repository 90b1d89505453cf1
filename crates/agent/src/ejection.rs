//! Ejection: an endpoint that fails the connections of real clients rests for a while, longer each time.
//!
//! Pure; the caller brings the clock and what the kernel counted. A returned endpoint whose next connect fails is
//! ejected again at once: the kernel counts failures in a row, and only a success ends the row.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use alize_model::{Endpoint, PassiveEjection, Service, ServiceName, Snapshot};

/// An endpoint, by the name that outlives reloads.
pub(crate) type Key = (ServiceName, SocketAddr);

/// The cap is not looked at again for so long: that walks over the service's endpoints, and failures come in floods.
const SPARED: Duration = Duration::from_millis(100);

/// Which endpoints are ejected, and how often each was lately.
#[derive(Default)]
pub(crate) struct Ejections {
    records: HashMap<Key, Record>,
}

struct Record {
    /// Ejections since the record began.
    times: u32,
    /// When the endpoint returns; none while it is not ejected.
    until: Option<Instant>,
    /// Of the last failure or return; the record is forgotten `max` after it.
    last: Instant,
    max: Duration,
    /// The cap saved it, which has been told, and was found so last at this time.
    spared: Option<Instant>,
}

/// What a failure led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It gets no new connection for this long.
    Ejected(Duration),
    /// It failed often enough, but too many others rest already. Told once, until it is ejected or forgotten.
    Spared,
}

impl Ejections {
    /// A connect to `address` failed, the `failures`th in a row. `is_usable` tells of the service's endpoints whether
    /// they take new connections.
    pub(crate) fn failed(
        &mut self,
        service: &Service,
        address: SocketAddr,
        failures: u32,
        is_usable: impl Fn(SocketAddr) -> bool,
        now: Instant,
    ) -> Option<Verdict> {
        let policy = service.ejection?;
        if failures < u32::from(policy.failures.get()) || !is_usable(address) {
            return None;
        }
        let key = (service.name.clone(), address);
        let spared = self.records.get(&key).and_then(|record| record.spared);
        if spared.is_some_and(|at| now < at + SPARED) {
            return None;
        }
        let may_eject = self.cap_allows(service, &policy, address, is_usable);
        let record = self.records.entry(key).or_insert_with(|| Record::new(now));
        record.max = policy.max;
        if record.is_forgotten(now) {
            *record = Record { max: policy.max, ..Record::new(now) };
        }
        record.last = now;
        if !may_eject {
            return record.spared.replace(now).is_none().then_some(Verdict::Spared);
        }
        Some(Verdict::Ejected(record.eject(&policy, now)))
    }

    /// The last usable endpoint is never ejected, unless the policy says that all may be.
    fn cap_allows(
        &self,
        service: &Service,
        policy: &PassiveEjection,
        address: SocketAddr,
        is_usable: impl Fn(SocketAddr) -> bool,
    ) -> bool {
        let eligible = || service.endpoints.iter().filter(|e| !e.draining && e.weight > 0);
        let total = eligible().count();
        let ejected = eligible().filter(|e| self.is_ejected(&service.name, e.address)).count();
        let another = eligible().any(|e| e.address != address && is_usable(e.address));
        let under_the_cap = (ejected + 1) * 100 <= total * usize::from(policy.max_ejected);
        (another && (ejected == 0 || under_the_cap)) || policy.max_ejected >= 100
    }

    /// Ejects an endpoint as if for the first time: an earlier agent had ejected it.
    pub(crate) fn resume(&mut self, key: Key, policy: &PassiveEjection, now: Instant) {
        let mut record = Record { max: policy.max, ..Record::new(now) };
        record.eject(policy, now);
        self.records.insert(key, record);
    }

    pub(crate) fn is_ejected(&self, service: &ServiceName, address: SocketAddr) -> bool {
        self.records.get(&(service.clone(), address)).is_some_and(|record| record.until.is_some())
    }

    /// All that are ejected now.
    pub(crate) fn ejected(&self) -> impl Iterator<Item = &Key> {
        self.records.iter().filter(|(_, record)| record.until.is_some()).map(|(key, _)| key)
    }

    /// When the next endpoint returns.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.records.values().filter_map(|record| record.until).min()
    }

    /// Returns endpoints whose time is over, and forgets those that have been good for long.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Key> {
        let mut returned = Vec::new();
        for (key, record) in &mut self.records {
            if record.until.is_some_and(|until| until <= now) {
                record.until = None;
                record.last = now;
                returned.push(key.clone());
            }
        }
        self.records.retain(|_, record| !record.is_forgotten(now));
        returned
    }

    /// Drops what the new state no longer has or no longer ejects.
    pub(crate) fn reload(&mut self, snapshot: &Snapshot) {
        self.records.retain(|(name, address), _| {
            snapshot.get(name.as_str()).is_some_and(|service| {
                service.ejection.is_some() && find_endpoint(service, *address).is_some()
            })
        });
    }
}

impl Record {
    fn new(now: Instant) -> Self {
        Self { times: 0, until: None, last: now, max: Duration::ZERO, spared: None }
    }

    /// Back-off: `base`, then twice as long each time, never longer than `max`.
    fn eject(&mut self, policy: &PassiveEjection, now: Instant) -> Duration {
        let factor = 1u32.checked_shl(self.times).unwrap_or(u32::MAX);
        let rest = policy.base.saturating_mul(factor).min(policy.max);
        self.times = self.times.saturating_add(1);
        self.until = Some(now + rest);
        self.spared = None;
        rest
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.until.is_none() && now.saturating_duration_since(self.last) > self.max
    }
}

/// The endpoint of `service` at `address`: endpoints are sorted by address.
pub(crate) fn find_endpoint(service: &Service, address: SocketAddr) -> Option<&Endpoint> {
    let index = service.endpoints.binary_search_by(|endpoint| endpoint.address.cmp(&address)).ok()?;
    service.endpoints.get(index)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use alize_model::{Balance, Mode, Protocol, Removal};
    use proptest::prelude::*;

    use super::*;

    const BASE: Duration = Duration::from_secs(10);
    const MAX: Duration = Duration::from_secs(60);

    fn address(index: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1000 + index as u16))
    }

    fn service(endpoints: usize, max_ejected: u8) -> Service {
        let endpoint = |index| Endpoint {
            address: address(index),
            weight: 1,
            labels: Default::default(),
            draining: false,
        };
        Service {
            name: ServiceName::new("web").unwrap(),
            protocol: Protocol::Tcp,
            mode: Mode::Enforce,
            frontends: Vec::new(),
            balance: Balance::RoundRobin,
            affinity: None,
            health: None,
            ejection: Some(PassiveEjection {
                failures: NonZeroU8::new(3).unwrap(),
                base: BASE,
                max: MAX,
                max_ejected,
            }),
            removal: Removal::Keep,
            tls: Default::default(),
            split: None,
            http: None,
            endpoints: (0..endpoints).map(endpoint).collect(),
        }
    }

    /// Fails `index` for the `failures`th time in a row.
    fn fail(
        ejections: &mut Ejections,
        web: &Service,
        index: usize,
        failures: u32,
        now: Instant,
    ) -> Option<Verdict> {
        let down: Vec<_> = ejections.ejected().map(|(_, address)| *address).collect();
        ejections.failed(web, address(index), failures, |address| !down.contains(&address), now)
    }

    #[test]
    fn only_failures_in_a_row_eject() {
        let (web, now, mut ejections) = (service(3, 50), Instant::now(), Ejections::default());
        assert_eq!(fail(&mut ejections, &web, 0, 1, now), None);
        assert_eq!(fail(&mut ejections, &web, 0, 2, now), None);
        assert_eq!(fail(&mut ejections, &web, 0, 3, now), Some(Verdict::Ejected(BASE)));
        assert!(ejections.is_ejected(&web.name, address(0)));
        assert_eq!(fail(&mut ejections, &web, 0, 4, now), None, "while it rests nothing is added");
        assert_eq!(ejections.deadline(), Some(now + BASE));
    }

    #[test]
    fn rest_doubles_up_to_the_longest_and_stays_there() {
        let (web, mut now, mut ejections) = (service(3, 50), Instant::now(), Ejections::default());
        let mut rests = Vec::new();
        for failures in 3..9 {
            let Some(Verdict::Ejected(rest)) = fail(&mut ejections, &web, 0, failures, now) else {
                panic!("not ejected at {failures}")
            };
            rests.push(rest.as_secs());
            now += rest;
            assert_eq!(ejections.expire(now - Duration::from_millis(1)), []);
            assert_eq!(ejections.expire(now), [(web.name.clone(), address(0))]);
        }
        assert_eq!(rests, [10, 20, 40, 60, 60, 60]);
    }

    #[test]
    fn history_is_forgotten_after_the_longest_rest_without_failures() {
        let (web, start, mut ejections) = (service(3, 50), Instant::now(), Ejections::default());
        fail(&mut ejections, &web, 0, 3, start);
        let returned = start + BASE;
        ejections.expire(returned);
        fail(&mut ejections, &web, 0, 4, returned + MAX);
        let again = returned + MAX + 2 * BASE;
        assert_eq!(ejections.deadline(), Some(again), "the history still counts");
        ejections.expire(again);
        let later = again + MAX + Duration::from_millis(1);
        assert_eq!(fail(&mut ejections, &web, 0, 3, later), Some(Verdict::Ejected(BASE)));
        ejections.expire(later + BASE);
        ejections.expire(later + BASE + MAX + Duration::from_millis(1));
        assert!(ejections.records.is_empty());
    }

    #[test]
    fn one_may_be_ejected_if_another_is_left() {
        let (web, now, mut ejections) = (service(2, 0), Instant::now(), Ejections::default());
        assert!(matches!(fail(&mut ejections, &web, 0, 3, now), Some(Verdict::Ejected(_))));
        assert_eq!(fail(&mut ejections, &web, 1, 3, now), Some(Verdict::Spared));
        assert_eq!(fail(&mut ejections, &web, 1, 4, now), None, "told once");
        let (alone, mut ejections) = (service(1, 50), Ejections::default());
        assert_eq!(fail(&mut ejections, &alone, 0, 3, now), Some(Verdict::Spared));
    }

    #[test]
    fn all_may_be_ejected_when_the_policy_says_so() {
        let (web, now, mut ejections) = (service(2, 100), Instant::now(), Ejections::default());
        assert!(matches!(fail(&mut ejections, &web, 0, 3, now), Some(Verdict::Ejected(_))));
        assert!(matches!(fail(&mut ejections, &web, 1, 3, now), Some(Verdict::Ejected(_))));
    }

    #[test]
    fn an_endpoint_that_others_hold_back_does_not_count_as_left() {
        let (web, now, mut ejections) = (service(2, 50), Instant::now(), Ejections::default());
        let only_first = |candidate| candidate == address(0);
        assert_eq!(ejections.failed(&web, address(0), 3, only_first, now), Some(Verdict::Spared));
    }

    proptest! {
        /// Whatever fails whenever: the cap holds, one endpoint is left, and everything ejected returns in time.
        #[test]
        fn the_cap_holds(
            endpoints in 1usize..12,
            max_ejected in 0u8..100,
            steps in prop::collection::vec((0usize..12, 1u32..6, 0u64..30), 1..200),
        ) {
            let web = service(endpoints, max_ejected);
            let (mut now, mut ejections) = (Instant::now(), Ejections::default());
            for (index, failures, pause) in steps {
                now += Duration::from_secs(pause);
                ejections.expire(now);
                fail(&mut ejections, &web, index % endpoints, failures, now);
                let ejected = ejections.ejected().count();
                prop_assert!(ejected <= (endpoints * usize::from(max_ejected) / 100).max(1));
                prop_assert!(ejected < endpoints);
                if let Some(deadline) = ejections.deadline() {
                    prop_assert!(deadline <= now + MAX);
                }
            }
            ejections.expire(now + MAX);
            prop_assert_eq!(ejections.ejected().count(), 0);
        }
    }
}
