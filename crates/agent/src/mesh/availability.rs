//! Who is available: what checks, failures of clients and an adopted kernel say together.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alize_datapath::{Availability, DataPath, Desired, LiveState, Unavailable};
use alize_model::Snapshot;

use super::Mesh;
use crate::ejection::{Key, Verdict, find_endpoint};
use crate::events::Kind;
use crate::health::Change;
use crate::probe::seconds;

/// A write that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// After a write of availability, this many times as long passes until the next.
const WRITE_PAUSE: u32 = 4;

impl Mesh {
    /// The answer to a health check.
    pub(crate) fn answered(&mut self, ticket: u64, answer: Result<(), String>) {
        let Some(change) = self.checks.answered(ticket, answer) else { return };
        let Change { service, address, healthy, reason } = change;
        let key = (service.clone(), address);
        let message = format!("{}: {reason}", if healthy { "healthy" } else { "unhealthy" });
        self.events.tell_endpoint(Kind::Health, &service, address, message);
        match healthy {
            false => self.set_unavailable(key, Unavailable::Unhealthy, reason),
            true if self.ejections.is_ejected(&service, address) => {
                self.set_unavailable(key, Unavailable::Ejected, "connects in a row failed".into());
            }
            true => self.set_available(&key),
        }
    }

    /// Returns ejected endpoints whose time is over.
    pub(crate) fn expire_ejections(&mut self, now: Instant) {
        for key in self.ejections.expire(now) {
            let message = "returned: its ejection is over".to_owned();
            self.events.tell_endpoint(Kind::Ejection, &key.0, key.1, message);
            // It may have become unhealthy meanwhile.
            if self.unavailable.get(&key) == Some(&Unavailable::Ejected) {
                self.set_available(&key);
            }
        }
    }

    /// An endpoint failed the connection of a client. Called for each of a flood of failures, so it asks the kernel
    /// only where an ejection may come of it.
    pub(super) fn endpoint_failed(&mut self, service: u32, endpoint: u32) {
        let name = self.datapath.service_name(service);
        let Some(service) = name.and_then(|name| self.snapshot.get(name.as_str())) else { return };
        if service.ejection.is_none() {
            return;
        }
        let service = Arc::clone(service);
        let Some(address) = self.datapath.endpoint_address(endpoint) else { return };
        let failures = self.datapath.consecutive_failures(endpoint);
        let unavailable = &self.unavailable;
        let is_usable = |address: SocketAddr| {
            find_endpoint(&service, address).is_some_and(|endpoint| !endpoint.draining && endpoint.weight > 0)
                && !unavailable.contains_key(&(service.name.clone(), address))
        };
        let message = match self.ejections.failed(&service, address, failures, is_usable, Instant::now()) {
            None => return,
            Some(Verdict::Ejected(rest)) => {
                let reason = format!("{failures} connects in a row failed");
                let message = format!("ejected for {}: {reason}", seconds(rest));
                self.set_unavailable((service.name.clone(), address), Unavailable::Ejected, reason);
                message
            }
            Some(Verdict::Spared) => {
                format!(
                    "not ejected although {failures} connects in a row failed: too many others are unavailable"
                )
            }
        };
        self.events.tell_endpoint(Kind::Ejection, &service.name, address, message);
    }

    fn set_unavailable(&mut self, key: Key, why: Unavailable, reason: String) {
        self.reasons.insert(key.clone(), reason);
        self.unavailable.insert(key, why);
        self.unwritten = true;
    }

    fn set_available(&mut self, key: &Key) {
        self.reasons.remove(key);
        self.unavailable.remove(key);
        self.unwritten = true;
    }

    /// Works out anew who is unavailable, after a reload. An endpoint that is both unhealthy and ejected counts as
    /// unhealthy: that lasts longer.
    pub(super) fn review_availability(&mut self) {
        let ejected = self.ejections.ejected().map(|key| (key.clone(), Unavailable::Ejected));
        let mut unavailable: Availability = ejected.collect();
        let unhealthy = self.checks.unhealthy().map(|(service, address)| (service.clone(), address));
        unavailable.extend(unhealthy.map(|key| (key, Unavailable::Unhealthy)));
        self.reasons.retain(|key, _| unavailable.contains_key(key));
        if unavailable != self.unavailable {
            self.unavailable = unavailable;
            self.unwritten = true;
        }
    }

    /// Tells the kernel who is available, if that changed. When thousands of endpoints change one after the other, most of
    /// the time is left for everything else.
    pub(crate) fn write_availability(&mut self, now: Instant) {
        if !self.unwritten || self.write_at.is_some_and(|at| now < at) {
            return;
        }
        let desired = Desired { snapshot: &self.snapshot, unavailable: &self.unavailable };
        let result = self.datapath.apply(desired);
        self.unwritten = result.is_err();
        self.untrimmed = true;
        self.write_at =
            Some(Instant::now() + if result.is_err() { RETRY } else { now.elapsed() * WRITE_PAUSE });
        self.tell_proxy();
        let failed_before = std::mem::replace(&mut self.write_failed, result.is_err());
        if let Err(error) = result
            && !failed_before
        {
            let message = format!("cannot write the availability of endpoints, trying again: {error}");
            self.events.tell(Kind::Agent, message);
        }
    }

    /// When there is something to do, whatever happens until then.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [
            self.checks.deadline(),
            self.ejections.deadline(),
            self.flood.deadline(),
            self.write_at.filter(|_| self.unwritten),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What an earlier agent found out is not forgotten: an endpoint that was unavailable stays so until its checks, or
    /// the end of an ejection, say otherwise.
    pub(super) fn resume(&mut self, resumed: Vec<(Key, Unavailable)>) {
        self.adopted_unavailable = Vec::new();
        let mut unhealthy = HashSet::new();
        for (key, why) in resumed {
            let service = self.snapshot.get(key.0.as_str());
            match (why, service.and_then(|service| service.ejection)) {
                (Unavailable::Ejected, Some(policy)) => {
                    self.ejections.resume(key.clone(), &policy, Instant::now());
                }
                _ => drop(unhealthy.insert(key.clone())),
            }
            self.reasons.insert(key, "it was unavailable before the agent was restarted".into());
        }
        self.checks.assume_unhealthy(&unhealthy);
    }
}

pub(super) fn unavailable_in_kernel(datapath: &DataPath) -> Vec<Key> {
    let services = (0..datapath.budgets().services).filter_map(|id| Some((id, datapath.service_name(id)?)));
    let mut found = Vec::new();
    for (id, name) in services {
        let unavailable = datapath
            .endpoints(id)
            .into_iter()
            .filter(|endpoint| matches!(endpoint.state, LiveState::Unavailable(_)));
        found.extend(unavailable.map(|endpoint| (name.clone(), endpoint.address)));
    }
    found
}

/// Why adopted endpoints are unavailable, by what the new state says of their services. The kernel does not know; checks
/// find out soon, so they come first.
pub(super) fn resumed(adopted: &[Key], snapshot: &Snapshot) -> Vec<(Key, Unavailable)> {
    let resumed = adopted.iter().filter_map(|key| {
        let service =
            snapshot.get(key.0.as_str()).filter(|service| find_endpoint(service, key.1).is_some())?;
        let why = match (&service.health, &service.ejection) {
            (Some(_), _) => Unavailable::Unhealthy,
            (None, Some(_)) => Unavailable::Ejected,
            (None, None) => return None,
        };
        Some((key.clone(), why))
    });
    resumed.collect()
}

/// The entries that the new state still means: their endpoint is there and still checked that way.
pub(super) fn still_meant(unavailable: &Availability, snapshot: &Snapshot) -> Availability {
    let meant = unavailable.iter().filter(|((name, address), why)| {
        snapshot.get(name.as_str()).is_some_and(|service| {
            let checked = match why {
                Unavailable::Unhealthy => service.health.is_some(),
                Unavailable::Ejected => service.ejection.is_some(),
            };
            checked && find_endpoint(service, *address).is_some()
        })
    });
    meant.map(|(key, why)| (key.clone(), *why)).collect()
}
