//! The tables of HTTP services in the kernel, kept equal to what was applied.
//!
//! A change of a service writes a new set of tables beside the old one and then switches the service's word, one store:
//! a request sees the old tables or the new ones. The old set is freed once no program can be reading it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alize_model::http::{Http, KernelTable, RouteTable};
use alize_model::{Endpoint, Mode, Service, ServiceName};
use libbpf_rs::MapHandle;

use super::abi::{
    ServiceWord, VERDICT_CHOICE, http_class, http_class_key, http_group, http_headers, http_rates, http_rule,
};
use super::counters::{CounterMaps, RouterCounters};
use super::lower::{Lowered, Place, Services, Usable};
use super::shared::Shared;
use crate::abi::Slot;
use crate::allocate::{Run, Runs};
use crate::maps::Map;
use crate::picture::{LiveEndpoint, LiveService, Picture, Stage};
use crate::plan::Plan;
use crate::{Error, grace};

/// The maps that hold routes.
#[derive(Debug)]
pub(crate) struct RouteMaps {
    pub(crate) services: Map<u32, u64>,
    pub(crate) classes: Map<http_class_key, http_class>,
    pub(crate) headers: Map<u32, http_headers>,
    pub(crate) rules: Map<u32, http_rule>,
    pub(crate) rates: Map<u32, http_rates>,
    pub(crate) groups: Map<u32, http_group>,
    pub(crate) targets: Map<u32, u64>,
    pub(crate) counters: CounterMaps,
    /// `None`: the programs of back sockets are off.
    pub(crate) remote: Option<Map<u32, u32>>,
}

impl RouteMaps {
    pub(crate) fn new(take: &mut impl FnMut(&str) -> Result<MapHandle, Error>) -> Result<Self, Error> {
        Ok(Self {
            services: Map::new(take("http_services")?)?,
            classes: Map::new(take("http_classes")?)?,
            headers: Map::new(take("http_headers")?)?,
            rules: Map::new(take("http_rules")?)?,
            rates: Map::new(take("http_rates")?)?,
            groups: Map::new(take("http_groups")?)?,
            targets: Map::new(take("http_targets")?)?,
            counters: CounterMaps {
                traffic: Map::new(take("http_traffic")?)?,
                reasons: Map::new(take("http_reasons")?)?,
                slots: Map::new(take("http_slots")?)?,
                load: Map::new(take("http_load")?)?,
            },
            // Taken last: the object may be off, and nothing else is lost then.
            remote: take("http_remote").ok().map(Map::new).transpose()?,
        })
    }

    fn store(&self, service: u32, word: ServiceWord) -> Result<(), Error> {
        let words: Shared<AtomicU64> = Shared::around(&self.services, service)?;
        if let Some(place) = words.get(service) {
            place.store(word.pack(), Ordering::Release);
        }
        Ok(())
    }
}

/// What the maps hold for one service.
#[derive(Debug)]
struct Live {
    runs: Taken,
    /// What it was made from; `None`: it was found in the kernel.
    from: Option<Box<Source>>,
}

#[derive(Debug)]
struct Source {
    service: Arc<Service>,
    endpoints: Vec<LiveEndpoint>,
    lowered: Lowered,
}

/// Places in the maps.
#[derive(Clone, Copy, Debug)]
struct Taken {
    table: u32,
    rules: Run,
    groups: Run,
    targets: Run,
    /// Some of the rules have rate limits.
    limited: bool,
}

impl Taken {
    fn place(self) -> Place {
        Place {
            table: self.table,
            rules: self.rules.base,
            groups: self.groups.base,
            targets: self.targets.base,
        }
    }
}

/// The kernel's HTTP tables and who has which place in them.
#[derive(Debug)]
pub(crate) struct Tables {
    maps: RouteMaps,
    rules: Runs,
    groups: Runs,
    targets: Runs,
    next_table: u32,
    live: HashMap<u32, Live>,
    garbage: Vec<Taken>,
    /// The kernel was tried and does what routing relies on.
    allowed: bool,
}

impl Tables {
    /// Of maps that may hold something already.
    pub(crate) fn open(maps: RouteMaps) -> Result<Self, Error> {
        let mut tables = Self {
            rules: Runs::new(maps.rules.max_entries()),
            groups: Runs::new(maps.groups.max_entries()),
            targets: Runs::new(maps.targets.max_entries()),
            next_table: 1,
            live: HashMap::new(),
            garbage: Vec::new(),
            allowed: false,
            maps,
        };
        tables.adopt()?;
        Ok(tables)
    }

    /// Whether the kernel may route: connections that are made from now on. Until it may, the proxy serves everything.
    pub(crate) fn allow(&mut self, allowed: bool) -> Result<(), Error> {
        self.allowed = allowed;
        for (&number, live) in &self.live {
            let Some(from) = &live.from else { continue };
            self.maps.store(number, from.lowered.word(live.runs.place(), allowed))?;
        }
        Ok(())
    }

    /// Whether the proxy may give connections to endpoints elsewhere to the kernel.
    pub(crate) fn allow_remote(&self, allowed: bool) -> Result<(), Error> {
        self.maps.remote.as_ref().map_or(Ok(()), |remote| remote.put(&0, &u32::from(allowed)))
    }

    pub(crate) fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// Connections of services that are about to appear go to the proxy from the first on: balanced as a whole they would
    /// pass rules by that the tables do not hold yet.
    pub(crate) fn announce(&self, plan: &Plan) -> Result<(), Error> {
        let changes = plan.phases.iter().flat_map(|phase| &phase.changes).filter(|change| change.is_new);
        for change in changes {
            if change.after.definition.as_deref().is_some_and(is_routed) {
                let word = ServiceWord { on: true, strict: true, ..ServiceWord::default() };
                self.maps.store(change.after.number, word)?;
            }
        }
        Ok(())
    }

    /// Makes the tables equal to the services in `picture`; how many were changed.
    pub(crate) fn apply(&mut self, picture: &Picture) -> Result<u32, Error> {
        let mut changed = 0;
        let mut wanted: HashMap<u32, ()> = HashMap::new();
        for service in picture.services.values().filter(|service| !service.removed) {
            let Some(definition) = service.definition.as_ref().filter(|one| is_routed(one)) else { continue };
            wanted.insert(service.number, ());
            if self.is_current(service, definition) {
                continue;
            }
            let lowered = lower(definition, picture);
            changed += u32::from(self.put(service, definition, lowered)?);
        }
        let unwanted: Vec<u32> =
            self.live.keys().copied().filter(|number| !wanted.contains_key(number)).collect();
        for number in unwanted {
            self.maps.store(number, ServiceWord::default())?;
            self.maps.counters.reasons.delete_all([number].into_iter())?;
            if let Some(live) = self.live.remove(&number) {
                self.garbage.push(live.runs);
                changed += 1;
            }
        }
        if changed > 0 {
            let known = |service, endpoint| {
                picture.service(service).is_some_and(|live| {
                    // Routes lead to endpoints of other services as well.
                    live.definition.as_ref().and_then(|one| one.http.as_deref()).is_some_and(names_others)
                        || live.endpoints.iter().any(|one| one.number == endpoint)
                })
            };
            self.maps.counters.prune(known)?;
        }
        Ok(changed)
    }

    fn is_current(&self, service: &LiveService, definition: &Arc<Service>) -> bool {
        // Routes to other services depend on those as well, so they are lowered anew.
        let alone = definition.http.as_deref().is_none_or(|http| !names_others(http));
        let from = self.live.get(&service.number).and_then(|live| live.from.as_ref());
        alone
            && from.is_some_and(|from| {
                Arc::ptr_eq(&from.service, definition) && from.endpoints == service.endpoints
            })
    }

    /// Writes and switches to the new tables of a service, unless they are what there is.
    fn put(
        &mut self,
        service: &LiveService,
        definition: &Arc<Service>,
        lowered: Lowered,
    ) -> Result<bool, Error> {
        let source = |lowered| {
            let (service, endpoints) = (Arc::clone(definition), service.endpoints.clone());
            Some(Box::new(Source { service, endpoints, lowered }))
        };
        if let Some(live) = self.live.get_mut(&service.number)
            && live.from.as_ref().is_some_and(|from| from.lowered == lowered)
        {
            live.from = source(lowered);
            return Ok(false);
        }
        let mut taken = self.take(lowered.sizes())?;
        taken.limited = lowered.rates(taken.place()).next().is_some();
        if let Err(error) = self.write(service.number, taken, &lowered) {
            self.garbage.push(taken);
            return Err(error);
        }
        let live = Live { runs: taken, from: source(lowered) };
        if let Some(old) = self.live.insert(service.number, live) {
            self.garbage.push(old.runs);
        }
        Ok(true)
    }

    fn write(&self, number: u32, taken: Taken, lowered: &Lowered) -> Result<(), Error> {
        let place = taken.place();
        self.maps.targets.put_all(lowered.targets(place))?;
        self.maps.groups.put_all(lowered.groups(place))?;
        self.maps.rates.put_all(lowered.rates(place))?;
        self.maps.rules.put_all(lowered.rules(place))?;
        self.maps
            .headers
            .put_all(lowered.headers(place).map(|headers| (place.table, headers)).into_iter())?;
        self.maps.classes.put_all(lowered.classes(place).into_iter())?;
        self.maps.store(number, lowered.word(place, self.allowed))
    }

    fn take(&mut self, sizes: [u32; 3]) -> Result<Taken, Error> {
        let attempt = |tables: &mut Self| {
            let rules = take(&mut tables.rules, sizes[0])?;
            let Some(groups) = take(&mut tables.groups, sizes[1]) else {
                give_back(&mut tables.rules, rules);
                return None;
            };
            let Some(targets) = take(&mut tables.targets, sizes[2]) else {
                give_back(&mut tables.rules, rules);
                give_back(&mut tables.groups, groups);
                return None;
            };
            Some(Taken { table: 0, rules, groups, targets, limited: false })
        };
        let taken = match attempt(self) {
            Some(taken) => taken,
            None => {
                // What earlier changes left behind may be what is missing.
                self.settle()?;
                attempt(self).ok_or(Error::HttpTablesFull {
                    rules: self.rules.limit(),
                    groups: self.groups.limit(),
                    targets: self.targets.limit(),
                })?
            }
        };
        let table = self.next_table;
        self.next_table = self.next_table.wrapping_add(1).max(1);
        Ok(Taken { table, ..taken })
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> Result<RouterCounters, Error> {
        self.maps.counters.read()
    }

    /// See [`CounterMaps::outstanding`].
    pub(crate) fn outstanding(&self) -> Result<(u64, u64), Error> {
        self.maps.counters.outstanding()
    }

    /// Frees what earlier changes took out of use, once no program can be reading it.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        if self.garbage.is_empty() || !grace::period() {
            return Ok(());
        }
        let tables: Vec<u32> = self.garbage.iter().map(|taken| taken.table).collect();
        let mut keys = Vec::new();
        self.maps.classes.for_each(|key, _| {
            if tables.contains(&key.table) {
                keys.push(key);
            }
        })?;
        self.maps.classes.delete_all(keys.into_iter())?;
        self.maps.headers.delete_all(tables.into_iter())?;
        for Run { base, length } in self.garbage.iter().filter(|taken| taken.limited).map(|taken| taken.rules)
        {
            self.maps.rates.delete_all(base..base + length)?;
        }
        for taken in self.garbage.drain(..) {
            give_back(&mut self.rules, taken.rules);
            give_back(&mut self.groups, taken.groups);
            give_back(&mut self.targets, taken.targets);
        }
        Ok(())
    }

    /// Marks what is in use as taken, so that it goes on until the first change replaces it.
    fn adopt(&mut self) -> Result<(), Error> {
        let mut words: Vec<(u32, ServiceWord)> = Vec::new();
        self.maps.services.for_each(|number, value| {
            let word = value.first().map(|&word| ServiceWord::unpack(word)).unwrap_or_default();
            if word.on {
                words.push((number, word));
            }
        })?;
        if words.is_empty() {
            return Ok(());
        }
        let mut rules: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        self.maps.classes.for_each(|key, value| {
            let verdicts =
                value.iter().flat_map(|class| class.verdicts).filter(|verdict| verdict & VERDICT_CHOICE == 0);
            let named = verdicts.filter_map(|rule| rule.checked_sub(1));
            rules.entry(key.table).or_default().extend(named);
        })?;
        for (number, word) in words {
            let mut named = rules.remove(&word.table).unwrap_or_default();
            named.extend(word.any);
            if let Some(headers) = self.maps.headers.get(&word.table)? {
                named.extend(headers.choice.iter().filter_map(|choice| choice.verdict.checked_sub(1)));
            }
            let runs = self.adopt_one(word.table, &named)?;
            self.next_table = self.next_table.max(word.table.wrapping_add(1).max(1));
            self.live.insert(number, Live { runs, from: None });
        }
        Ok(())
    }

    /// Rules, groups and targets of a service lie side by side, so the ends tell the runs.
    fn adopt_one(&mut self, table: u32, rules: &[u32]) -> Result<Taken, Error> {
        let (mut groups, mut targets) = (Vec::new(), Vec::new());
        for rule in rules {
            let Some(rule) = self.maps.rules.get(rule)? else { continue };
            for place in rule.base..rule.base + rule.length {
                targets.push(place);
                if let Some(slot) = self.maps.targets.get(&place)?.map(Slot::unpack) {
                    groups.extend([slot.endpoint, slot.alias]);
                }
            }
        }
        for group in &groups {
            if let Some(group) = self.maps.groups.get(group)? {
                targets.extend(group.base..group.base + group.length);
            }
        }
        Ok(Taken {
            table,
            rules: adopt_run(&mut self.rules, rules),
            groups: adopt_run(&mut self.groups, &groups),
            targets: adopt_run(&mut self.targets, &targets),
            limited: true,
        })
    }
}

fn take(runs: &mut Runs, length: u32) -> Option<Run> {
    if length == 0 { Some(Run { base: 0, length: 0 }) } else { runs.take(length) }
}

fn give_back(runs: &mut Runs, run: Run) {
    if run.length > 0 {
        runs.give_back(run);
    }
}

fn adopt_run(runs: &mut Runs, places: &[u32]) -> Run {
    let none = Run { base: 0, length: 0 };
    let (Some(&first), Some(&last)) = (places.iter().min(), places.iter().max()) else { return none };
    let run = Run { base: first, length: last - first + 1 };
    if runs.adopt(run) { run } else { none }
}

/// Whether the requests of the service are routed one by one.
pub(crate) fn is_routed(service: &Service) -> bool {
    service.http.is_some() && service.mode == Mode::Enforce
}

fn names_others(http: &Http) -> bool {
    http.routes.iter().any(|route| match &route.action {
        alize_model::http::Action::Forward(forward) => {
            forward.backends.iter().any(|backend| backend.target.service.is_some())
        }
        _ => false,
    })
}

fn lower(service: &Service, picture: &Picture) -> Lowered {
    let Some(http) = &service.http else { return Lowered::default() };
    let known = InPicture(picture);
    let kernel = if Arc::ptr_eq(http, &Http::plain()) {
        KernelTable::of_rule(0)
    } else {
        let elsewhere = |name: &ServiceName| known.service(name)?.http.as_deref()?.reason_as_target();
        RouteTable::compile(http).kernel(elsewhere)
    };
    Lowered::new(service, &kernel, &known)
}

struct InPicture<'a>(&'a Picture);

impl Services for InPicture<'_> {
    fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.0.services.get(name).filter(|live| !live.removed)?.definition.as_deref()
    }

    fn usable(&self, service: &Service, endpoint: &Endpoint) -> Option<Usable> {
        let live = self.0.services.get(&service.name)?;
        let known = live.endpoints.iter().find(|known| known.address == endpoint.address)?;
        (known.stage == Stage::Active && endpoint.weight > 0).then_some(Usable {
            number: known.number,
            address: known.address,
            weight: endpoint.weight,
        })
    }
}
