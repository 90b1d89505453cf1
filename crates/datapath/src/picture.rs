//! What the kernel's maps hold, as user space remembers it between two changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use alize_model::{Budgets, Service, ServiceName, Transport};

use crate::abi::{self, ServiceWord, endpoint_state};
use crate::allocate::{Numbers, Run, Runs};
use crate::{LiveState, Unavailable};

/// What a client dials: key of `frontends`.
pub(crate) type Dialled = (SocketAddr, Transport);

/// Everything in force.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) services: BTreeMap<ServiceName, LiveService>,
    /// Number to name, of removed services that wait for their last connection too.
    pub(crate) names: HashMap<u32, ServiceName>,
    pub(crate) service_numbers: Numbers,
    pub(crate) endpoint_numbers: Numbers,
    pub(crate) runs: Runs,
    /// Entries of `frontends`.
    pub(crate) frontends: u32,
    pub(crate) frontend_limit: u32,
    pub(crate) garbage: Garbage,
}

/// What was taken out of use and cannot be used again yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Garbage {
    /// Runs that a program may still read: until the next grace period.
    pub(crate) runs: Vec<Run>,
    /// Services with something that is [`Stage::Leaving`]: until the next grace period.
    pub(crate) leaving: BTreeSet<u32>,
    /// Services with something that is [`Stage::Gone`]: until its last connection ends.
    pub(crate) gone: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct LiveService {
    pub(crate) number: u32,
    /// As it was last applied; `None` when the maps were adopted and nothing has been applied since.
    pub(crate) definition: Option<Arc<Service>>,
    pub(crate) sick: Vec<(SocketAddr, Unavailable)>,
    /// Sorted.
    pub(crate) frontends: Vec<Dialled>,
    /// Sorted by address and transport.
    pub(crate) endpoints: Vec<LiveEndpoint>,
    /// `word4` and `word6`. Of a removed service 0: its words are still written until the next grace period, but what
    /// they name is not its own any more.
    pub(crate) words: [u64; 2],
    /// It is in nobody's snapshot any more, and waits for its last connection.
    pub(crate) removed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveEndpoint {
    pub(crate) address: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) number: u32,
    pub(crate) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Active,
    Draining,
    Unavailable(Unavailable),
    /// Removed. A program that read the old table may still choose it, so the kernel is told that it drains: a
    /// connect in flight succeeds, affinity and new tables pass it by.
    Leaving,
    /// Removed, and no program can choose it any more; connections may be open.
    Gone,
}

impl Stage {
    /// `enum endpoint_state`.
    pub(crate) fn border(self) -> u8 {
        let state = match self {
            Stage::Active => endpoint_state::ENDPOINT_ACTIVE,
            Stage::Draining | Stage::Leaving => endpoint_state::ENDPOINT_DRAINING,
            Stage::Unavailable(_) => endpoint_state::ENDPOINT_UNAVAILABLE,
            Stage::Gone => endpoint_state::ENDPOINT_GONE,
        };
        state.0 as u8
    }

    /// What a state found in the kernel means. Why an endpoint was unavailable is not written there; the next change
    /// tells.
    pub(crate) fn adopt(state: u8) -> Self {
        match endpoint_state(state.into()) {
            endpoint_state::ENDPOINT_ACTIVE => Stage::Active,
            endpoint_state::ENDPOINT_DRAINING => Stage::Draining,
            endpoint_state::ENDPOINT_UNAVAILABLE => Stage::Unavailable(Unavailable::Unhealthy),
            _ => Stage::Gone,
        }
    }

    pub(crate) fn is_removed(self) -> bool {
        matches!(self, Stage::Leaving | Stage::Gone)
    }

    pub(crate) fn live_state(self) -> LiveState {
        match self {
            Stage::Active => LiveState::Active,
            Stage::Draining => LiveState::Draining,
            Stage::Unavailable(why) => LiveState::Unavailable(why),
            Stage::Leaving | Stage::Gone => LiveState::Removed,
        }
    }
}

impl LiveEndpoint {
    pub(crate) fn key(&self) -> (SocketAddr, Transport) {
        (self.address, self.transport)
    }

    /// The entry of `endpoints`.
    pub(crate) fn border(&self, service: u32) -> (u32, abi::endpoint) {
        let entry = abi::endpoint {
            address: abi::address_words(self.address.ip()),
            port: self.address.port().to_be(),
            protocol: abi::protocol_number(self.transport),
            state: self.stage.border(),
            service,
        };
        (self.number, entry)
    }
}

impl LiveService {
    /// The runs that its words name; one, where both words name the same.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Run> + use<> {
        let [first, second] = self.words.map(run_of);
        [Some(first), (second != first).then_some(second)].into_iter().flatten().filter(|run| run.length > 0)
    }
}

/// The run of slots that a service word names.
pub(crate) fn run_of(word: u64) -> Run {
    let ServiceWord { base, length, .. } = ServiceWord::unpack(word);
    Run { base, length }
}

impl Picture {
    /// Of empty maps.
    pub(crate) fn new(budgets: &Budgets, frontend_limit: u32) -> Self {
        Self {
            services: BTreeMap::new(),
            names: HashMap::new(),
            service_numbers: Numbers::new(budgets.services),
            endpoint_numbers: Numbers::new(budgets.endpoints),
            runs: Runs::new(budgets.slots),
            frontends: 0,
            frontend_limit,
            garbage: Garbage::default(),
        }
    }

    /// The service with number `number`, removed ones included.
    pub(crate) fn service(&self, number: u32) -> Option<&LiveService> {
        self.services.get(self.names.get(&number)?)
    }
}
