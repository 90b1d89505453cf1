//! From a service's route table and the health of endpoints to what the kernel's HTTP maps hold: pure.
//!
//! Numbers in [`Lowered`] count from 0 within the service; [`Lowered::place`] puts them where the maps have room.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use alize_model::http::{
    Action, Backend, HashOn, HttpBalance, KernelCondition, KernelPattern, KernelTable, KernelVerdict, PLACES,
    RateLimit, Route, rendezvous,
};
use alize_model::{Endpoint, Service, ServiceName};

use super::abi::{
    METHODS, PATTERN_SIZE, ServiceWord, VERDICT_CHOICE, http_balance, http_choice, http_class,
    http_class_key, http_condition, http_group, http_headers, http_rates, http_rule,
};
use super::limits::Rate;
use crate::abi::Slot;
use crate::tables::{self, Share};

/// An endpoint that takes requests, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usable {
    /// Its number in the kernel.
    pub(crate) number: u32,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its share against its neighbours, above 0.
    pub(crate) weight: u16,
}

/// What the lowering asks about services: their definitions, and which endpoints take requests.
pub(crate) trait Services {
    /// The service called `name`.
    fn service(&self, name: &ServiceName) -> Option<&Service>;
    /// The endpoint of `service` at `address`, if it takes requests.
    fn usable(&self, service: &Service, endpoint: &Endpoint) -> Option<Usable>;
}

/// Slots of a rule or a group, and where they begin among all of the service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    base: u32,
    length: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    groups: Span,
    route: u16,
    rates: [Option<Rate>; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    endpoints: Span,
    balance: http_balance,
    /// Outstanding at an endpoint; 0: any number.
    max_requests: u32,
}

/// A slot names a group of the service, or an endpoint of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Group(Slot),
    Endpoint(Slot),
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Proxy,
    Rule(u32),
    /// The first of the choices by headers.
    Choice(u32),
}

/// What the maps hold for one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lowered {
    /// The one rule for all requests.
    any: Option<u32>,
    classes: Vec<(KernelPattern, [Verdict; METHODS])>,
    conditions: Vec<KernelCondition>,
    /// The header by whose value requests are balanced.
    hashed: Option<Box<str>>,
    choices: Vec<(u8, Verdict)>,
    rules: Vec<Rule>,
    groups: Vec<Group>,
    targets: Vec<Target>,
    /// Connections cannot stand for requests: some rule tells requests apart.
    strict: bool,
}

/// Where the maps have room for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) table: u32,
    pub(crate) rules: u32,
    pub(crate) groups: u32,
    pub(crate) targets: u32,
}

impl Lowered {
    /// Lowers `kernel`, the table of `service`.
    pub(crate) fn new(service: &Service, kernel: &KernelTable, services: &impl Services) -> Self {
        let mut lowered = Self::default();
        let mut known: BTreeMap<u16, u32> = BTreeMap::new();
        lowered.any = kernel.any.map(|rule| lowered.rule(service, rule, services, &mut known));
        lowered.conditions.clone_from(&kernel.conditions);
        let mut firsts = Vec::new();
        for list in &kernel.choices {
            firsts.push(lowered.choices.len() as u32);
            for choice in list {
                let verdict = lowered.verdict(choice.verdict, &firsts, service, services, &mut known);
                lowered.choices.push((choice.mask, verdict));
            }
        }
        for class in &kernel.classes {
            let mut verdicts = [Verdict::Proxy; METHODS];
            for (verdict, place) in class.verdicts.iter().zip(&mut verdicts) {
                *place = lowered.verdict(*verdict, &firsts, service, services, &mut known);
            }
            lowered.classes.push((class.pattern.clone(), verdicts));
        }
        lowered.hashed = service.http.as_ref().and_then(|http| http.hashed_header()).map(Box::from);
        lowered.strict = !is_plain(service);
        lowered.shrink();
        lowered
    }

    /// It is kept for as long as the service is there, and most have one rule.
    fn shrink(&mut self) {
        self.classes.shrink_to_fit();
        self.conditions.shrink_to_fit();
        self.choices.shrink_to_fit();
        self.rules.shrink_to_fit();
        self.groups.shrink_to_fit();
        self.targets.shrink_to_fit();
    }

    /// How many rules, groups and targets it takes.
    pub(crate) fn sizes(&self) -> [u32; 3] {
        [self.rules.len() as u32, self.groups.len() as u32, self.targets.len() as u32]
    }

    fn verdict(
        &mut self,
        verdict: KernelVerdict,
        firsts: &[u32],
        service: &Service,
        services: &impl Services,
        known: &mut BTreeMap<u16, u32>,
    ) -> Verdict {
        match verdict {
            KernelVerdict::Proxy(_) => Verdict::Proxy,
            KernelVerdict::Rule(rule) => Verdict::Rule(self.rule(service, rule, services, known)),
            KernelVerdict::Headers(list) => {
                firsts.get(usize::from(list)).map_or(Verdict::Proxy, |&first| Verdict::Choice(first))
            }
        }
    }

    fn rule(
        &mut self,
        service: &Service,
        route: u16,
        services: &impl Services,
        known: &mut BTreeMap<u16, u32>,
    ) -> u32 {
        if let Some(&rule) = known.get(&route) {
            return rule;
        }
        let definition = service.http.as_ref().and_then(|http| http.routes.get(usize::from(route)));
        let backends = match definition {
            Some(route) => match &route.action {
                Action::Forward(forward) => forward.backends.as_slice(),
                Action::Redirect(_) | Action::Respond(_) => &[],
            },
            None => &[],
        };
        let mut shares = Vec::new();
        for backend in backends.iter().filter(|backend| backend.weight > 0) {
            let Some(target) = target(service, backend, services) else { continue };
            for (endpoints, weight) in parts(target, backend, services) {
                if !endpoints.is_empty() {
                    shares.push(Share { position: self.group(target, &endpoints), weight });
                }
            }
        }
        let slots = if shares.is_empty() { Vec::new() } else { tables::alias(&shares) };
        let groups = self.span(slots.into_iter().map(Target::Group));
        let rates = rates(service, definition);
        self.rules.push(Rule { groups, route, rates });
        let number = self.rules.len() as u32 - 1;
        known.insert(route, number);
        number
    }

    fn group(&mut self, service: &Service, endpoints: &[Usable]) -> u32 {
        let shares: Vec<Share> = endpoints
            .iter()
            .map(|endpoint| Share { position: endpoint.number, weight: endpoint.weight.into() })
            .collect();
        let balance = service.http.as_ref().map_or(&HttpBalance::LeastRequests, |http| &http.balance);
        let (slots, balance) = match balance {
            HttpBalance::RoundRobin => (tables::turns(&shares), http_balance::HTTP_ROUND_ROBIN),
            HttpBalance::WeightedRandom => (tables::alias(&shares), http_balance::HTTP_WEIGHTED_RANDOM),
            HttpBalance::ConsistentHash(HashOn::Source) => {
                (by_place(endpoints), http_balance::HTTP_SOURCE_HASH)
            }
            HttpBalance::ConsistentHash(HashOn::Header(_)) => {
                (by_place(endpoints), http_balance::HTTP_HEADER_HASH)
            }
            // By a cookie is the proxy's, which the table says.
            HttpBalance::LeastRequests | HttpBalance::ConsistentHash(HashOn::Cookie(_)) => {
                (tables::thresholds(&shares), http_balance::HTTP_LEAST_REQUESTS)
            }
        };
        let endpoints = self.span(slots.into_iter().map(Target::Endpoint));
        let circuit = service.http.as_ref().and_then(|http| http.circuit);
        let max_requests =
            circuit.and_then(|circuit| circuit.max_requests).map_or(0, std::num::NonZeroU32::get);
        self.groups.push(Group { endpoints, balance, max_requests });
        self.groups.len() as u32 - 1
    }

    fn span(&mut self, targets: impl Iterator<Item = Target>) -> Span {
        let base = self.targets.len() as u32;
        self.targets.extend(targets);
        Span { base, length: self.targets.len() as u32 - base }
    }

    /// The service's word when its tables are at `place`; whether the `kernel` may route.
    pub(crate) fn word(&self, place: Place, kernel: bool) -> ServiceWord {
        let any = self.any.map(|rule| place.rules + rule);
        let headers = !self.conditions.is_empty() || self.hashed.is_some();
        // To limits for each of them, and where who it is decides.
        let caller = self.rules.iter().any(Rule::is_limited)
            || self.groups.iter().any(|group| group.balance == http_balance::HTTP_SOURCE_HASH);
        ServiceWord { on: true, strict: self.strict, kernel, headers, caller, any, table: place.table }
    }

    pub(crate) fn classes(&self, place: Place) -> Vec<(http_class_key, http_class)> {
        let number = |verdict| number(verdict, place);
        self.classes
            .iter()
            .flat_map(|(pattern, verdicts)| {
                let class = http_class { verdicts: verdicts.map(number), zero: 0 };
                keys(pattern, place.table).into_iter().map(move |key| (key, class))
            })
            .collect()
    }

    /// What the service's routes ask of headers; `None`: nothing.
    pub(crate) fn headers(&self, place: Place) -> Option<http_headers> {
        if self.conditions.is_empty() && self.hashed.is_none() {
            return None;
        }
        // No request has the value of a header that is only hashed: there is none to compare.
        let hashed = self.hashed.iter().map(|name| (&**name, ""));
        let all = self.conditions.iter().map(|one| (&*one.name, &*one.value)).chain(hashed);
        let mut headers = http_headers::default();
        for (to, (name, value)) in headers.condition.iter_mut().zip(all) {
            *to = condition(name, value);
            headers.count += 1;
        }
        if self.hashed.is_some() {
            headers.hashed = headers.count;
        }
        for (to, &(mask, verdict)) in headers.choice.iter_mut().zip(&self.choices) {
            *to = http_choice { mask: mask.into(), verdict: number(verdict, place) };
        }
        Some(headers)
    }

    pub(crate) fn rules(&self, place: Place) -> impl Iterator<Item = (u32, http_rule)> {
        (place.rules..).zip(self.rules.iter().map(move |rule| http_rule {
            base: place.targets + rule.groups.base,
            length: rule.groups.length,
            route: rule.route.into(),
            limited: rule.is_limited().into(),
        }))
    }

    /// The rate limits of rules that have some.
    pub(crate) fn rates(&self, place: Place) -> impl Iterator<Item = (u32, http_rates)> {
        let limited = (place.rules..).zip(&self.rules).filter(|(_, rule)| rule.is_limited());
        limited.map(|(number, rule)| (number, Rate::pack_both(rule.rates)))
    }

    pub(crate) fn groups(&self, place: Place) -> impl Iterator<Item = (u32, http_group)> {
        (place.groups..).zip(self.groups.iter().map(move |group| http_group {
            base: place.targets + group.endpoints.base,
            length: group.endpoints.length,
            balance: group.balance.0,
            turn: 0,
            max_requests: group.max_requests,
            zero: 0,
        }))
    }

    pub(crate) fn targets(&self, place: Place) -> impl Iterator<Item = (u32, u64)> {
        (place.targets..).zip(self.targets.iter().map(move |target| match *target {
            Target::Endpoint(slot) => slot.pack(),
            Target::Group(slot) => {
                let group = |number: u32| place.groups + number;
                Slot { endpoint: group(slot.endpoint), alias: group(slot.alias), ..slot }.pack()
            }
        }))
    }
}

impl Rule {
    fn is_limited(&self) -> bool {
        self.rates.iter().any(Option::is_some)
    }
}

/// The service that a backend leads to.
fn target<'a>(own: &'a Service, backend: &Backend, services: &'a impl Services) -> Option<&'a Service> {
    backend.target.service.as_ref().map_or(Some(own), |name| services.service(name))
}

/// The rate limits of a rule: its service's, then its own.
fn rates(service: &Service, route: Option<&Route>) -> [Option<Rate>; 2] {
    let rate = |limit: &RateLimit, route| Rate::new(limit, &service.name, route);
    let whole = service.http.as_ref().and_then(|http| http.rate_limit);
    [
        whole.map(|limit| rate(&limit, None)),
        route.and_then(|route| Some(rate(&route.rate_limit?, Some(&route.name)))),
    ]
}

/// For each place of callers, or of values, the endpoint that they have.
fn by_place(endpoints: &[Usable]) -> Vec<Slot> {
    let named: Vec<(String, u16)> =
        endpoints.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.weight)).collect();
    let weighted = || named.iter().map(|(address, weight)| (address, *weight));
    let of = |place: u32| rendezvous(place.into(), weighted()).and_then(|at| endpoints.get(at));
    (0..PLACES).filter_map(of).map(|endpoint| Slot::only(endpoint.number)).collect()
}

/// A verdict as the kernel has it.
fn number(verdict: Verdict, place: Place) -> u32 {
    match verdict {
        Verdict::Proxy => 0,
        Verdict::Rule(rule) => place.rules + rule + 1,
        Verdict::Choice(first) => VERDICT_CHOICE | first,
    }
}

fn condition(name: &str, value: &str) -> http_condition {
    let mut packed = http_condition {
        name_length: name.len() as u32,
        value_length: value.len() as u32,
        ..Default::default()
    };
    packed.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    packed.value.iter_mut().zip(value.bytes()).for_each(|(to, from)| *to = from);
    packed
}

/// Whether balancing each connection does justice to the service: one rule, and it only forwards to all endpoints.
fn is_plain(service: &Service) -> bool {
    let Some(http) = &service.http else { return true };
    let [route] = http.routes.as_slice() else { return false };
    let all = |action: &Action| match action {
        Action::Forward(forward) => *forward.backends == [Backend::all()],
        Action::Redirect(_) | Action::Respond(_) => false,
    };
    http.proxy_reason().is_none()
        && http.rate_limit.is_none()
        && route.rate_limit.is_none()
        && http.circuit.is_none()
        && !matches!(http.balance, HttpBalance::ConsistentHash(_))
        && route.proxy_reason().is_none()
        && all(&route.action)
        && route.matches.iter().any(|one| *one == alize_model::http::Match::default())
}

/// The endpoints of `service` that a backend chooses and that take requests, in parts with a share each: of a service with a split one a label
/// value, whose shares count as connections' do.
fn parts(service: &Service, backend: &Backend, services: &impl Services) -> Vec<(Vec<Usable>, u64)> {
    let chosen = |endpoint: &&Endpoint| backend.target.selects(&endpoint.labels);
    let weight = u64::from(backend.weight);
    let Some(split) = &service.split else {
        let usable = service.endpoints.iter().filter(chosen);
        return vec![(usable.filter_map(|one| services.usable(service, one)).collect(), weight)];
    };
    let mut by_value: BTreeMap<&str, Vec<Usable>> = BTreeMap::new();
    for endpoint in service.endpoints.iter().filter(chosen) {
        let value = endpoint.labels.get(&split.label);
        let shared = value.filter(|value| split.shares.get(*value).is_some_and(|&share| share > 0));
        if let (Some(value), Some(usable)) = (shared, services.usable(service, endpoint)) {
            by_value.entry(value).or_default().push(usable);
        }
    }
    // The backend's share is divided among the values that have an endpoint: over a common denominator, as whole numbers.
    let total: u64 = by_value.keys().map(|value| u64::from(split.shares[*value])).sum();
    let scale = |value: &str| weight * u64::from(split.shares[value]) * SPLIT_ONE / total.max(1);
    by_value.into_iter().map(|(value, endpoints)| (endpoints, scale(value).max(1))).collect()
}

/// What a share of 1 is when a backend's is divided.
const SPLIT_ONE: u64 = 1 << 16;

/// Keys of a pattern: a prefix is of whole segments, so it is the path itself and what follows it and a slash.
fn keys(pattern: &KernelPattern, table: u32) -> Vec<http_class_key> {
    let key = |text: &str, end: &[u8]| {
        let mut key = http_class_key { prefix: 0, table, path: [0; PATTERN_SIZE] };
        let bytes = text.bytes().chain(end.iter().copied());
        let mut length = 0;
        for (to, from) in key.path.iter_mut().zip(bytes) {
            *to = from as _;
            length += 1;
        }
        key.prefix = 32 + length * 8;
        key
    };
    match pattern {
        KernelPattern::Exact(path) => vec![key(path, &[0])],
        KernelPattern::Prefix(path) if **path == *"/" => vec![key("/", &[])],
        KernelPattern::Prefix(path) => vec![key(path, &[0]), key(path, b"/")],
    }
}
