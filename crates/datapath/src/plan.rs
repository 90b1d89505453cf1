//! From what is in force and what is desired to ordered writes. Pure but for reading tables that may be unchanged.
//!
//! Everything that can be refused is refused here, before the first write.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use alize_model::{Service, ServiceName};

use crate::abi::{MAX_LENGTH, NONE, ServiceWord};
use crate::allocate::{Numbers, Run, Runs};
use crate::picture::{Dialled, LiveEndpoint, LiveService, Picture, Stage, run_of};
use crate::tables::{self, Table, Tables};
use crate::{Availability, Desired, Error, Unavailable};

/// Reads a run of slots back from the kernel.
pub(crate) type ReadRun<'a> = &'a mut dyn FnMut(Run) -> Result<Vec<u64>, Error>;

/// Ordered writes, and the allocations that are true once they are done.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) phases: Vec<Phase>,
    /// Services that are equal to what is in force, but another value in memory: kept, so that the old one can go.
    pub(crate) refreshed: Vec<Arc<Service>>,
    pub(crate) added: u32,
    pub(crate) changed: u32,
    pub(crate) removed: u32,
    pub(crate) unchanged: u32,
    pub(crate) service_numbers: Numbers,
    pub(crate) endpoint_numbers: Numbers,
    pub(crate) runs: Runs,
    /// Runs that are out of use when the last phase is done, but may still be read.
    pub(crate) freed: Vec<Run>,
    /// Removed addresses must go before new ones come, or the map would be full in between.
    pub(crate) delete_first: bool,
    /// Entries of `frontends` in the end.
    pub(crate) frontends: u32,
}

/// Writes that may be done without waiting. Between two phases a grace period passes, because the later one writes
/// slots that the earlier one took out of use.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    pub(crate) changes: Vec<Change>,
    pub(crate) retired: Vec<Retired>,
}

/// A service that is new or different.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) name: ServiceName,
    pub(crate) is_new: bool,
    /// What is in force when the phase is done.
    pub(crate) after: LiveService,
    /// Endpoints whose entry differs from the kernel's; indices into `after.endpoints`.
    pub(crate) endpoint_writes: Vec<usize>,
    pub(crate) slot_writes: Vec<(Run, Vec<u64>)>,
    pub(crate) word_writes: bool,
    pub(crate) frontends_added: Vec<Dialled>,
    pub(crate) frontends_dropped: Vec<Dialled>,
}

/// A service that is no longer desired.
#[derive(Debug)]
pub(crate) struct Retired {
    pub(crate) name: ServiceName,
    pub(crate) frontends_dropped: Vec<Dialled>,
}

/// The writes that make the kernel equal to `desired`.
pub(crate) fn plan(picture: &Picture, desired: Desired<'_>, read: ReadRun<'_>) -> Result<Plan, Error> {
    let sick = sick_by_service(desired.unavailable);
    let mut drafts = Vec::new();
    let (mut refreshed, mut unchanged) = (Vec::new(), 0);
    let mut live = picture.services.iter().peekable();
    let mut retired: Vec<&ServiceName> = Vec::new();
    let mut retire = |name, service: &LiveService| {
        if !service.removed {
            retired.push(name);
        }
    };
    // Both sides are sorted by name.
    for service in desired.snapshot.services() {
        while let Some((name, old)) = live.next_if(|(name, _)| **name < service.name) {
            retire(name, old);
        }
        let old = live.next_if(|(name, _)| **name == service.name).map(|(_, old)| old);
        let sick = sick.get(&service.name).map_or(&[][..], Vec::as_slice);
        match old {
            Some(old) if is_same(old, service, sick) => {
                unchanged += 1;
                if old.definition.as_ref().is_some_and(|known| !Arc::ptr_eq(known, service)) {
                    refreshed.push(service.clone());
                }
            }
            _ => drafts.push(Draft::new(old, service, sick)),
        }
    }
    live.for_each(|(name, old)| retire(name, old));
    Planner::new(picture, &retired, read).run(drafts, refreshed, unchanged)
}

/// The endpoints of each service that are unavailable, sorted by address.
fn sick_by_service(unavailable: &Availability) -> HashMap<&ServiceName, Vec<(SocketAddr, Unavailable)>> {
    let mut sick: HashMap<&ServiceName, Vec<_>> = HashMap::new();
    for ((name, address), why) in unavailable {
        sick.entry(name).or_default().push((*address, *why));
    }
    sick.values_mut().for_each(|endpoints| endpoints.sort_by_key(|(address, _)| *address));
    sick
}

fn is_same(old: &LiveService, service: &Arc<Service>, sick: &tables::Sick) -> bool {
    let known = |known: &Arc<Service>| Arc::ptr_eq(known, service) || known == service;
    !old.removed && old.sick == sick && old.definition.as_ref().is_some_and(known)
}

/// A service that may need writes; numbers and runs are not given yet.
struct Draft<'a> {
    old: Option<&'a LiveService>,
    service: &'a Arc<Service>,
    sick: Vec<(SocketAddr, Unavailable)>,
    /// Sorted; a new endpoint has number [`NONE`].
    endpoints: Vec<LiveEndpoint>,
    frontends: Vec<Dialled>,
    tables: Tables,
}

impl<'a> Draft<'a> {
    fn new(old: Option<&'a LiveService>, service: &'a Arc<Service>, sick: &tables::Sick) -> Self {
        let transport = service.protocol.transport();
        let mut frontends: Vec<Dialled> =
            service.frontends.iter().map(|frontend| (frontend.socket_addr(), transport)).collect();
        frontends.sort();
        Self {
            old,
            service,
            sick: sick.to_vec(),
            endpoints: endpoints(old, service, sick),
            frontends,
            tables: tables::build(service, sick),
        }
    }

    /// Addresses that the service did not have.
    fn added(&self) -> impl Iterator<Item = Dialled> {
        without(&self.frontends, old_frontends(self.old))
    }

    /// Addresses that the service no longer has.
    fn dropped(&self) -> impl Iterator<Item = Dialled> {
        without(old_frontends(self.old), &self.frontends)
    }

    fn new_endpoints(&self) -> u32 {
        self.endpoints.iter().filter(|endpoint| endpoint.number == NONE).count() as u32
    }

    /// Numbers by position in the service's list, which is what tables speak of.
    fn numbers(&self) -> Vec<u32> {
        let transport = self.service.protocol.transport();
        let number =
            |address| match self.endpoints.binary_search_by_key(&(address, transport), LiveEndpoint::key) {
                Ok(at) => self.endpoints[at].number,
                Err(_) => NONE,
            };
        self.service.endpoints.iter().map(|endpoint| number(endpoint.address)).collect()
    }

    fn word(&self, table: &Table, run: Run) -> u64 {
        let affinity = self.service.affinity.map_or(0, |affinity| affinity.timeout.as_secs());
        ServiceWord {
            base: run.base,
            length: run.length,
            choice: table.choice,
            mode: self.service.mode,
            affinity: affinity.min(u16::MAX.into()) as u16,
        }
        .pack()
    }
}

/// The endpoints that are wanted, with the number they had, and those that are wanted no more.
fn endpoints(old: Option<&LiveService>, service: &Service, sick: &tables::Sick) -> Vec<LiveEndpoint> {
    let known = old.map_or(&[][..], |old| old.endpoints.as_slice());
    let transport = service.protocol.transport();
    let mut endpoints: Vec<LiveEndpoint> = service
        .endpoints
        .iter()
        .map(|endpoint| {
            let key = (endpoint.address, transport);
            let number =
                known.binary_search_by_key(&key, LiveEndpoint::key).map_or(NONE, |at| known[at].number);
            LiveEndpoint { address: endpoint.address, transport, number, stage: stage(endpoint, sick) }
        })
        .collect();
    endpoints.sort_by_key(LiveEndpoint::key);
    let wanted = endpoints.len();
    for old in known {
        if endpoints[..wanted].binary_search_by_key(&old.key(), LiveEndpoint::key).is_err() {
            let stage = if old.stage == Stage::Gone { Stage::Gone } else { Stage::Leaving };
            endpoints.push(LiveEndpoint { stage, ..*old });
        }
    }
    endpoints.sort_by_key(LiveEndpoint::key);
    endpoints
}

fn stage(endpoint: &alize_model::Endpoint, sick: &tables::Sick) -> Stage {
    if endpoint.draining {
        return Stage::Draining;
    }
    match sick.binary_search_by_key(&endpoint.address, |(address, _)| *address) {
        Ok(at) => Stage::Unavailable(sick[at].1),
        Err(_) => Stage::Active,
    }
}

/// Gives out numbers and runs, and puts the writes in order.
struct Planner<'a> {
    picture: &'a Picture,
    read: ReadRun<'a>,
    service_numbers: Numbers,
    endpoint_numbers: Numbers,
    runs: Runs,
    phases: Vec<Phase>,
    phase: Phase,
    /// Out of use when the current phase is done.
    freed: Vec<Run>,
    /// Services to retire, and how many services must take over addresses of theirs before.
    retiring: BTreeMap<&'a ServiceName, usize>,
    /// New address to the service to be retired that has it now.
    takes_over: HashMap<Dialled, &'a ServiceName>,
    changed: u32,
    added: u32,
    unchanged: u32,
}

impl<'a> Planner<'a> {
    fn new(picture: &'a Picture, retired: &[&'a ServiceName], read: ReadRun<'a>) -> Self {
        let takes_over = retired
            .iter()
            .flat_map(|&name| picture.services[name].frontends.iter().map(move |dialled| (*dialled, name)))
            .collect();
        Self {
            picture,
            read,
            service_numbers: picture.service_numbers.clone(),
            endpoint_numbers: picture.endpoint_numbers.clone(),
            runs: picture.runs.clone(),
            phases: Vec::new(),
            phase: Phase::default(),
            freed: picture.garbage.runs.clone(),
            retiring: retired.iter().map(|&name| (name, 0)).collect(),
            takes_over,
            changed: 0,
            added: 0,
            unchanged: 0,
        }
    }

    fn run(
        mut self,
        mut drafts: Vec<Draft<'a>>,
        refreshed: Vec<Arc<Service>>,
        unchanged: u32,
    ) -> Result<Plan, Error> {
        self.unchanged = unchanged;
        let removed = self.retiring.len() as u32;
        let frontends = self.check_frontends(&drafts)?;
        self.check_numbers(&drafts)?;
        for draft in &drafts {
            self.takers_of(draft).for_each(|name| {
                self.retiring.entry(name).and_modify(|takers| *takers += 1);
            });
        }
        // Those that take addresses over come first: only then can the service that had them give up its slots.
        drafts.sort_by_key(|draft| self.takers_of(draft).next().is_none());
        for draft in drafts {
            self.place(draft)?;
        }
        let waiting: Vec<_> = self.retiring.keys().copied().collect();
        waiting.into_iter().for_each(|name| self.retire(name));
        self.phases.push(std::mem::take(&mut self.phase));
        let kept = frontends.taken_over;
        for phase in &mut self.phases {
            // An address that goes to another service is one write: the new owner's.
            phase
                .changes
                .iter_mut()
                .for_each(|change| change.frontends_dropped.retain(|key| !kept.contains(key)));
            phase
                .retired
                .iter_mut()
                .for_each(|retired| retired.frontends_dropped.retain(|key| !kept.contains(key)));
        }
        Ok(Plan {
            phases: self.phases,
            refreshed,
            added: self.added,
            changed: self.changed,
            removed,
            unchanged: self.unchanged,
            service_numbers: self.service_numbers,
            endpoint_numbers: self.endpoint_numbers,
            runs: self.runs,
            freed: self.freed,
            delete_first: frontends.peak > self.picture.frontend_limit,
            frontends: frontends.last,
        })
    }

    /// The services to be retired whose addresses `draft` takes over, each once.
    fn takers_of(&self, draft: &Draft<'a>) -> impl Iterator<Item = &'a ServiceName> + use<'a> {
        let names: HashSet<&'a ServiceName> =
            draft.frontends.iter().filter_map(|dialled| self.takes_over.get(dialled).copied()).collect();
        names.into_iter()
    }

    fn check_frontends(&self, drafts: &[Draft<'a>]) -> Result<Frontends, Error> {
        let limit = self.picture.frontend_limit;
        let mut dropped: HashSet<Dialled> = self.takes_over.keys().copied().collect();
        drafts.iter().for_each(|draft| dropped.extend(draft.dropped()));
        let taken_over: HashSet<Dialled> =
            drafts.iter().flat_map(Draft::added).filter(|dialled| dropped.contains(dialled)).collect();
        let going = (dropped.len() - taken_over.len()) as u32;
        let mut last = self.picture.frontends.saturating_sub(going);
        for draft in drafts {
            let needed = draft.added().filter(|dialled| !taken_over.contains(dialled)).count() as u32;
            if last + needed > limit {
                return Err(Error::Budget {
                    what: "service addresses",
                    service: draft.service.name.to_string(),
                    needed,
                    free: limit.saturating_sub(last),
                    budget: limit,
                    flag: "--max-services",
                });
            }
            last += needed;
        }
        Ok(Frontends { peak: last + going, last, taken_over })
    }

    fn check_numbers(&self, drafts: &[Draft<'a>]) -> Result<(), Error> {
        let (mut services, mut endpoints) = (self.service_numbers.free(), self.endpoint_numbers.free());
        for draft in drafts {
            let refuse = |what, needed, free, budget, flag| Error::Budget {
                what,
                service: draft.service.name.to_string(),
                needed,
                free,
                budget,
                flag,
            };
            if draft.old.is_none() {
                services = services.checked_sub(1).ok_or_else(|| {
                    refuse("services", 1, 0, self.service_numbers.limit(), "--max-services")
                })?;
            }
            let needed = draft.new_endpoints();
            endpoints = endpoints.checked_sub(needed).ok_or_else(|| {
                refuse("endpoints", needed, endpoints, self.endpoint_numbers.limit(), "--max-endpoints")
            })?;
        }
        Ok(())
    }

    /// Numbers, runs and writes for one service.
    fn place(&mut self, mut draft: Draft<'a>) -> Result<(), Error> {
        for endpoint in &mut draft.endpoints {
            if endpoint.number == NONE {
                // check_numbers() has counted.
                endpoint.number = self.endpoint_numbers.take().unwrap_or(NONE);
            }
        }
        let numbers = draft.numbers();
        let old_words = draft.old.map_or([0; 2], |old| old.words);
        let v4 = self.place_table(&draft, &draft.tables.v4, &numbers, old_words)?;
        let v6 = match &draft.tables.v6 {
            Some(table) => Some(self.place_table(&draft, table, &numbers, old_words)?),
            None => None,
        };
        let word4 = draft.word(&draft.tables.v4, v4.run);
        let word6 = match (&draft.tables.v6, &v6) {
            (Some(table), Some(placed)) => draft.word(table, placed.run),
            _ => word4,
        };
        let kept = [Some(v4.run), v6.as_ref().map(|placed| placed.run)];
        let old_runs = draft.old.into_iter().flat_map(LiveService::runs);
        self.freed.extend(old_runs.filter(|run| !kept.contains(&Some(*run))));
        let slot_writes =
            [Some(v4), v6].into_iter().flatten().filter_map(|placed| Some((placed.run, placed.write?)));
        let slot_writes = slot_writes.collect();
        self.record(draft, [word4, word6], slot_writes);
        Ok(())
    }

    /// The run that holds the table: one the service has already, if that holds just this, else a new one.
    fn place_table(
        &mut self,
        draft: &Draft<'a>,
        table: &Table,
        numbers: &[u32],
        old_words: [u64; 2],
    ) -> Result<Placed, Error> {
        let words = table.words(numbers);
        let length = words.len() as u32;
        if length == 0 {
            return Ok(Placed::default());
        }
        for run in old_words.map(run_of) {
            if run.length == length && (self.read)(run)? == words {
                return Ok(Placed { run, write: None });
            }
        }
        loop {
            let run = if length <= MAX_LENGTH { self.runs.take(length) } else { None };
            if let Some(run) = run {
                return Ok(Placed { run, write: Some(words) });
            }
            if length > self.runs.limit() || !self.next_phase() {
                return Err(Error::Budget {
                    what: "balancing slots",
                    service: draft.service.name.to_string(),
                    needed: length,
                    free: self.runs.free(),
                    budget: self.runs.limit().min(MAX_LENGTH),
                    flag: "--max-slots",
                });
            }
        }
    }

    /// Ends the phase, so that what it takes out of use can be used; false when that is nothing.
    fn next_phase(&mut self) -> bool {
        let ready: Vec<_> =
            self.retiring.iter().filter(|(_, takers)| **takers == 0).map(|(&name, _)| name).collect();
        ready.into_iter().for_each(|name| self.retire(name));
        if self.freed.is_empty() {
            return false;
        }
        self.freed.drain(..).for_each(|run| self.runs.give_back(run));
        self.phases.push(std::mem::take(&mut self.phase));
        true
    }

    fn retire(&mut self, name: &'a ServiceName) {
        self.retiring.remove(name);
        let service = &self.picture.services[name];
        self.freed.extend(service.runs());
        self.phase.retired.push(Retired { name: name.clone(), frontends_dropped: service.frontends.clone() });
    }

    /// Puts the writes of a service whose tables have their places into the current phase.
    fn record(&mut self, draft: Draft<'a>, words: [u64; 2], slot_writes: Vec<(Run, Vec<u64>)>) {
        self.takers_of(&draft).for_each(|name| {
            self.retiring.entry(name).and_modify(|takers| *takers -= 1);
        });
        let was = draft.old.map_or(&[][..], |old| old.endpoints.as_slice());
        let is_written =
            |endpoint: &LiveEndpoint| match was.binary_search_by_key(&endpoint.key(), LiveEndpoint::key) {
                Ok(at) => was[at].stage.border() == endpoint.stage.border(),
                Err(_) => false,
            };
        let endpoint_writes: Vec<usize> =
            (0..draft.endpoints.len()).filter(|&at| !is_written(&draft.endpoints[at])).collect();
        let frontends_added: Vec<_> = draft.added().collect();
        let frontends_dropped: Vec<_> = draft.dropped().collect();
        let word_writes = draft.old.is_none_or(|old| old.removed || old.words != words);
        let writes = !endpoint_writes.is_empty()
            || !frontends_added.is_empty()
            || !frontends_dropped.is_empty()
            || word_writes
            || draft.old.is_none_or(|old| old.removed);
        match draft.old {
            None => self.added += 1,
            Some(old) if old.removed => self.added += 1,
            Some(old) if writes || old.definition.is_some() => self.changed += 1,
            Some(_) => self.unchanged += 1,
        }
        let number = match draft.old {
            Some(old) => old.number,
            // check_numbers() has counted.
            None => self.service_numbers.take().unwrap_or(NONE),
        };
        self.phase.changes.push(Change {
            name: draft.service.name.clone(),
            is_new: draft.old.is_none(),
            after: LiveService {
                number,
                definition: Some(draft.service.clone()),
                sick: draft.sick,
                frontends: draft.frontends,
                endpoints: draft.endpoints,
                words,
                removed: false,
            },
            endpoint_writes,
            slot_writes,
            word_writes,
            frontends_added,
            frontends_dropped,
        });
    }
}

/// How full `frontends` gets.
struct Frontends {
    /// When all additions come first.
    peak: u32,
    last: u32,
    /// Addresses that go from one service to another.
    taken_over: HashSet<Dialled>,
}

#[derive(Default)]
struct Placed {
    run: Run,
    /// `None`: the kernel's slots are these already.
    write: Option<Vec<u64>>,
}

fn old_frontends(old: Option<&LiveService>) -> &[Dialled] {
    old.map_or(&[], |old| old.frontends.as_slice())
}

/// What of `these` is not in `those`; both sorted.
fn without<'a>(these: &'a [Dialled], those: &'a [Dialled]) -> impl Iterator<Item = Dialled> + 'a {
    these.iter().copied().filter(|dialled| those.binary_search(dialled).is_err())
}

#[cfg(test)]
mod tests;
