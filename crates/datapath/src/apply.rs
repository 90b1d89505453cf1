//! Carries a plan out: the writes in an order in which no connect sees half a service.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use alize_model::{Removal, ServiceName};

use crate::abi::{self, endpoint_load};
use crate::maps::Maps;
use crate::picture::{LiveEndpoint, Picture, Stage};
use crate::plan::{Change, Phase, Plan, Retired};
use crate::words::{Family, Words};
use crate::{Error, grace};

/// Carries `plan` out and brings `picture` up to date. After an error the picture is not to be trusted.
pub(crate) fn apply(maps: &Maps, picture: &mut Picture, plan: Plan) -> Result<Done, Error> {
    let started = Instant::now();
    for (index, phase) in plan.phases.iter().enumerate() {
        if index > 0 && !grace::period() {
            let reason =
                "the kernel refuses membarrier(2) (nohz_full?), and without they are too few: --max-slots";
            return Err(Error::kernel("cannot use slots again:", "slots", std::io::Error::other(reason)));
        }
        write(maps, picture, phase, plan.delete_first)?;
    }
    let elapsed = started.elapsed();
    Ok(Done { elapsed, terminated: remember(picture, plan) })
}

pub(crate) struct Done {
    pub(crate) elapsed: Duration,
    /// Endpoints that were removed and whose connections are to be closed.
    pub(crate) terminated: Vec<u32>,
}

/// New things first, from the last that a connect reads to the first, then the switch, then what is not needed any
/// more. Whenever this stops, what a connect can reach is whole.
fn write(maps: &Maps, picture: &Picture, phase: &Phase, delete_first: bool) -> Result<(), Error> {
    let mut changes: Vec<&Change> = phase.changes.iter().collect();
    changes.sort_by_key(|change| change.after.number);

    let new = changes.iter().filter(|change| change.is_new);
    maps.service_names
        .put_all(new.map(|change| (change.after.number, abi::service_name(change.name.as_str()))))?;
    maps.endpoints.put_all(changes.iter().flat_map(|change| {
        change.endpoint_writes.iter().map(|&at| change.after.endpoints[at].border(change.after.number))
    }))?;
    maps.slots.put_all(changes.iter().flat_map(|change| {
        let words = |(run, words): &'_ (_, Vec<u64>)| numbered(*run, words.clone());
        change.slot_writes.iter().flat_map(words)
    }))?;
    let mut words = Words::new(&maps.services);
    for change in changes.iter().filter(|change| change.word_writes) {
        words.store(change.after.number, Family::V4, change.after.words[0])?;
        words.store(change.after.number, Family::V6, change.after.words[1])?;
    }
    if delete_first {
        drop_frontends(maps, phase)?;
    }
    maps.frontends.put_all(changes.iter().flat_map(|change| {
        let key = |dialled: &(_, _)| (abi::frontend_key(dialled.0, dialled.1), change.after.number);
        change.frontends_added.iter().map(key)
    }))?;
    if !delete_first {
        drop_frontends(maps, phase)?;
    }
    for retired in &phase.retired {
        retire(maps, picture, retired)?;
    }
    Ok(())
}

fn numbered(run: crate::allocate::Run, words: Vec<u64>) -> impl Iterator<Item = (u32, u64)> {
    (run.base..).zip(words)
}

fn drop_frontends(maps: &Maps, phase: &Phase) -> Result<(), Error> {
    let changed = phase.changes.iter().flat_map(|change| &change.frontends_dropped);
    let retired = phase.retired.iter().flat_map(|retired| &retired.frontends_dropped);
    maps.frontends.delete_all(changed.chain(retired).map(|dialled| abi::frontend_key(dialled.0, dialled.1)))
}

/// Nobody finds the service by its address any more. Who has found it a moment ago must still be balanced, so its words
/// and slots stay until no program can be reading them.
fn retire(maps: &Maps, picture: &Picture, retired: &Retired) -> Result<(), Error> {
    let Some(service) = picture.services.get(&retired.name) else { return Ok(()) };
    let left = service.endpoints.iter().filter(|endpoint| !endpoint.stage.is_removed());
    maps.endpoints.put_all(left.map(|endpoint| {
        let left = LiveEndpoint { stage: Stage::Leaving, ..*endpoint };
        left.border(service.number)
    }))
}

/// Brings the picture up to date with a plan that has been written. Returns the endpoints whose connections are to be
/// closed.
pub(crate) fn remember(picture: &mut Picture, plan: Plan) -> Vec<u32> {
    let mut terminated = Vec::new();
    for phase in plan.phases {
        phase.changes.into_iter().for_each(|change| terminated.extend(remember_change(picture, change)));
        phase.retired.into_iter().for_each(|retired| terminated.extend(leave(picture, &retired.name)));
    }
    for service in plan.refreshed {
        if let Some(live) = picture.services.get_mut(&service.name) {
            live.definition = Some(service);
        }
    }
    picture.service_numbers = plan.service_numbers;
    picture.endpoint_numbers = plan.endpoint_numbers;
    picture.runs = plan.runs;
    picture.frontends = plan.frontends;
    picture.garbage.runs = plan.freed;
    terminated
}

fn remember_change(picture: &mut Picture, change: Change) -> Vec<u32> {
    let Change { name, after, endpoint_writes, .. } = change;
    let mut terminated = Vec::new();
    if after.definition.as_ref().is_some_and(|service| service.removal == Removal::Terminate) {
        let written = endpoint_writes.iter().map(|&at| after.endpoints[at]);
        let newly = written.filter(|endpoint| endpoint.stage == Stage::Leaving);
        terminated.extend(newly.map(|endpoint| endpoint.number));
    }
    if after.endpoints.iter().any(|endpoint| endpoint.stage == Stage::Leaving) {
        picture.garbage.leaving.insert(after.number);
    }
    picture.names.insert(after.number, name.clone());
    picture.services.insert(name, after);
    terminated
}

fn leave(picture: &mut Picture, name: &ServiceName) -> Vec<u32> {
    let Some(service) = picture.services.get_mut(name) else { return Vec::new() };
    let terminate = service.definition.as_ref().is_some_and(|service| service.removal == Removal::Terminate);
    let mut terminated = Vec::new();
    for endpoint in service.endpoints.iter_mut().filter(|endpoint| !endpoint.stage.is_removed()) {
        endpoint.stage = Stage::Leaving;
        if terminate {
            terminated.push(endpoint.number);
        }
    }
    service.removed = true;
    service.definition = None;
    service.sick = Vec::new();
    service.frontends = Vec::new();
    service.words = [0; 2];
    picture.garbage.leaving.insert(service.number);
    terminated
}

/// Finishes what earlier changes left behind: once no program can reach them, runs are free again and endpoints are
/// gone; once their last connection has ended, numbers are free again and their counters go.
///
/// Where the kernel cannot tell that no program reaches them, nothing is ever used again.
pub(crate) fn settle(maps: &Maps, picture: &mut Picture) -> Result<(), Error> {
    let waiting = !picture.garbage.runs.is_empty() || !picture.garbage.leaving.is_empty();
    if waiting && grace::period() {
        picture.garbage.runs.drain(..).for_each(|run| picture.runs.give_back(run));
        for number in std::mem::take(&mut picture.garbage.leaving) {
            end_leaving(maps, picture, number)?;
        }
    }
    let gone: Vec<u32> = picture.garbage.gone.iter().copied().collect();
    gone.into_iter().try_for_each(|number| release(maps, picture, number))
}

fn end_leaving(maps: &Maps, picture: &mut Picture, number: u32) -> Result<(), Error> {
    let Some(service) = picture.names.get(&number).and_then(|name| picture.services.get_mut(name)) else {
        return Ok(());
    };
    let mut entries = Vec::new();
    for endpoint in service.endpoints.iter_mut().filter(|endpoint| endpoint.stage == Stage::Leaving) {
        endpoint.stage = Stage::Gone;
        entries.push(endpoint.border(number));
    }
    picture.garbage.gone.insert(number);
    maps.endpoints.put_all(entries.into_iter())?;
    if service.removed {
        let mut words = Words::new(&maps.services);
        words.store(number, Family::V4, 0)?;
        words.store(number, Family::V6, 0)?;
    }
    Ok(())
}

/// Frees the numbers of a service's endpoints that nothing is connected to any more, and the service's own.
fn release(maps: &Maps, picture: &mut Picture, number: u32) -> Result<(), Error> {
    let Some(name) = picture.names.get(&number).cloned() else { return Ok(()) };
    let Some(service) = picture.services.get_mut(&name) else { return Ok(()) };
    let mut free = HashSet::new();
    for endpoint in service.endpoints.iter().filter(|endpoint| endpoint.stage == Stage::Gone) {
        if maps.endpoint_load.get(&endpoint.number)?.is_none_or(|load| load.open == 0) {
            free.insert(endpoint.number);
        }
    }
    maps.endpoint_traffic.delete_all(free.iter().copied())?;
    maps.shadow_would.delete_all(free.iter().copied())?;
    maps.endpoint_load.put_all(free.iter().map(|&endpoint| (endpoint, endpoint_load::default())))?;
    // An entry of zeros is a free number to whoever adopts the maps, so it is written last.
    maps.endpoints.put_all(free.iter().map(|&endpoint| (endpoint, abi::endpoint::default())))?;
    service.endpoints.retain(|endpoint| endpoint.stage != Stage::Gone || !free.contains(&endpoint.number));
    free.into_iter().for_each(|endpoint| picture.endpoint_numbers.give_back(endpoint));
    let removed = service.removed && !picture.garbage.leaving.contains(&number);
    if removed && service.endpoints.is_empty() {
        maps.service_traffic.delete_all(std::iter::once(number))?;
        maps.service_decisions.delete_all(std::iter::once(number))?;
        maps.shadow_outcomes.delete_all(std::iter::once(number))?;
        maps.service_names.delete_all(std::iter::once(number))?;
        picture.services.remove(&name);
        picture.names.remove(&number);
        picture.service_numbers.give_back(number);
        picture.garbage.gone.remove(&number);
    } else if !service.endpoints.iter().any(|endpoint| endpoint.stage == Stage::Gone) && !service.removed {
        picture.garbage.gone.remove(&number);
    }
    Ok(())
}
