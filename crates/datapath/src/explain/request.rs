//! What the kernel's tables would do with a request on a connection of an HTTP service: the maps that alize_http_client reads,
//! in the order in which it reads them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use alize_model::http::{Caller as Who, Method, value_place};
use serde::Serialize;

use super::{Step, open};
use crate::Error;
use crate::abi::{self, Choice, Slot, endpoint};
use crate::http::abi::{
    COOKIE_SHIFT, FLAGS, METHODS, PATTERN_SIZE, ServiceWord, VERDICT_CHOICE, http_balance, http_bucket_key,
    http_caller, http_class, http_class_key, http_condition, http_group, http_headers, http_limit,
    http_listener, http_pool_key, http_proxied, http_rates, http_rule, http_slot,
};
use crate::maps::Map;
use crate::pin::Pins;
use crate::tables::shares_of;

/// From where a caller calls the proxy that binds no address itself.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// The target before `?`.
    pub path: &'a str,
    /// Names in any case, and values.
    pub headers: &'a [(String, String)],
}

/// What becomes of a request.
#[derive(Clone, Debug, Serialize)]
pub struct RequestFacts {
    /// The steps, in the order in which the kernel takes them.
    pub steps: Vec<Step>,
    /// Place of the route among those of the service, if the kernel's tables name one.
    pub route: Option<u32>,
    /// The rate limits that it is drawn from.
    pub limits: Vec<LimitFacts>,
    /// The endpoints that the rule leads to.
    pub endpoints: Vec<RequestCandidate>,
    /// `kernel-l7` or `proxy`.
    pub path: &'static str,
    /// Why the proxy gets it, as the kernel would count it; `kernel-off`: it routes nothing.
    pub reason: Option<&'static str>,
}

/// A rate limit and its bucket now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitFacts {
    /// `service` or `route`.
    pub of: &'static str,
    /// Requests a second, in the long run.
    pub requests: f64,
    /// So many at once.
    pub burst: u64,
    /// `all` or `client`.
    pub per: &'static str,
    /// Requests that may be taken now.
    pub left: u64,
    /// Seconds until one may be taken.
    pub wait: f64,
}

/// An endpoint of the rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestCandidate {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its number.
    pub id: u32,
    /// Its share of the rule's requests when all is calm, 0 to 1.
    pub share: f64,
    /// Requests outstanding that the kernel has routed.
    pub routed: u32,
    /// Requests outstanding that the proxy serves.
    pub proxied: u32,
    /// The circuit's bound on both together.
    pub max_requests: Option<u32>,
    /// Idle connections to it that the kernel may use for this caller; unknown when its network namespace is.
    pub idle: Option<u32>,
}

impl RequestCandidate {
    /// It has as many requests as it may.
    pub fn is_full(&self) -> bool {
        self.max_requests.is_some_and(|max| self.routed + self.proxied >= max)
    }
}

/// The pinned maps, opened for reading.
pub(super) struct Routes {
    services: Map<u32, u64>,
    listeners: Map<u64, http_listener>,
    classes: Map<http_class_key, http_class>,
    headers: Map<u32, http_headers>,
    rules: Map<u32, http_rule>,
    rates: Map<u32, http_rates>,
    groups: Map<u32, http_group>,
    targets: Map<u32, u64>,
    buckets: Map<http_bucket_key, u64>,
    caller_buckets: Map<http_bucket_key, u64>,
    load: Map<u32, u32>,
    proxied: Map<u32, http_proxied>,
    pools: Map<http_pool_key, u32>,
    slots: Map<u32, http_slot>,
    endpoints: Map<u32, endpoint>,
}

/// Who asks, as far as it is known.
pub(super) struct Asker {
    pub(super) netns: Option<u64>,
}

impl Routes {
    /// `None`: the programs that route are off.
    pub(super) fn open(pins: &Pins) -> Result<Option<Self>, Error> {
        if !pins.map("http_rates").exists() {
            return Ok(None);
        }
        Ok(Some(Self {
            services: Map::new(open(pins, "http_services")?)?,
            listeners: Map::new(open(pins, "http_listeners")?)?,
            classes: Map::new(open(pins, "http_classes")?)?,
            headers: Map::new(open(pins, "http_headers")?)?,
            rules: Map::new(open(pins, "http_rules")?)?,
            rates: Map::new(open(pins, "http_rates")?)?,
            groups: Map::new(open(pins, "http_groups")?)?,
            targets: Map::new(open(pins, "http_targets")?)?,
            buckets: Map::new(open(pins, "http_buckets")?)?,
            caller_buckets: Map::new(open(pins, "http_caller_buckets")?)?,
            load: Map::new(open(pins, "http_load")?)?,
            proxied: Map::new(open(pins, "http_proxied")?)?,
            pools: Map::new(open(pins, "http_pools")?)?,
            slots: Map::new(open(pins, "http_slots")?)?,
            endpoints: Map::new(open(pins, "endpoints")?)?,
        }))
    }

    pub(super) fn word(&self, service: u32) -> Result<ServiceWord, Error> {
        Ok(self.services.get(&service)?.map(ServiceWord::unpack).unwrap_or_default())
    }

    /// Where the proxy listens in the network namespace for callers of `dialled`.
    pub(super) fn listener(&self, netns: u64, v4: bool) -> Result<Option<SocketAddr>, Error> {
        let Some(listener) = self.listeners.get(&netns)? else { return Ok(None) };
        let port = u16::from_be(if v4 { listener.port4 } else { listener.port6 });
        let host: IpAddr = if v4 { LOOPBACK } else { Ipv6Addr::LOCALHOST.into() };
        Ok((port != 0).then(|| (host, port).into()))
    }

    /// Walks the decision about a request.
    pub(super) fn explain(
        &self,
        service: u32,
        asker: &Asker,
        request: &Request<'_>,
    ) -> Result<RequestFacts, Error> {
        let mut facts = RequestFacts {
            steps: Vec::new(),
            route: None,
            limits: Vec::new(),
            endpoints: Vec::new(),
            path: "proxy",
            reason: Some("route"),
        };
        let mut tell = |name, found: String| facts.steps.push(Step { name, found });
        let word = self.word(service)?;
        if !word.kernel {
            tell("kernel", "off: this kernel has not been tried, or does not do what routing takes".into());
            facts.reason = Some("kernel-off");
            return Ok(facts);
        }
        let (number, how) = self.rule(word, request)?;
        tell("lookup", how);
        let Some(number) = number else { return Ok(facts) };
        let Some(rule) = self.rules.get(&number)? else { return Ok(facts) };
        let hashed = self.hashed(word, request)?;
        let (candidates, how) = self.endpoints(&rule, asker, hashed)?;
        tell("balance", how);
        let limits = if rule.limited != 0 { self.limits(number, asker)? } else { Vec::new() };
        let (circuit, full) = circuit(&candidates);
        tell("circuit", circuit);
        let over = limits.iter().find(|limit| limit.left == 0);
        tell("rate limit", limited(&limits));
        facts.reason = match () {
            () if candidates.is_empty() => Some("no-endpoint"),
            () if full => Some("circuit-open"),
            () if candidates.iter().all(|one| one.idle == Some(0)) => Some("pool-empty"),
            () if over.is_some() => Some("rate-limited"),
            () => None,
        };
        facts.path = if facts.reason.is_none() { "kernel-l7" } else { "proxy" };
        facts.route = Some(rule.route);
        facts.limits = limits;
        facts.endpoints = candidates;
        Ok(facts)
    }

    /// The number of the rule, if the tables name one; and how it was found.
    fn rule(&self, word: ServiceWord, request: &Request<'_>) -> Result<(Option<u32>, String), Error> {
        let place =
            Method::read(request.method).map(|method| method as usize).filter(|place| *place < METHODS);
        let Some(place) = place else {
            return Ok((None, format!("{} is no method that the kernel takes", request.method)));
        };
        if let Some(rule) = word.any {
            return Ok((Some(rule), format!("all requests have rule {rule}")));
        }
        let mut key = http_class_key {
            prefix: 32 + PATTERN_SIZE as u32 * 8,
            table: word.table,
            path: [0; PATTERN_SIZE],
        };
        key.path.iter_mut().zip(request.path.bytes()).for_each(|(to, from)| *to = from as _);
        let Some(class) = self.classes.get(&key)? else {
            return Ok((None, format!("table {} has no class for the path", word.table)));
        };
        let verdict = class.verdicts[place];
        let (verdict, by) = match verdict & VERDICT_CHOICE {
            0 => (verdict, "by path and method".to_owned()),
            _ => self.choose(word.table, verdict & !VERDICT_CHOICE, request)?,
        };
        Ok(match verdict.checked_sub(1) {
            Some(rule) => (Some(rule), format!("table {} gives rule {rule}, {by}", word.table)),
            None => (None, format!("table {} leaves it to the proxy, {by}", word.table)),
        })
    }

    fn choose(&self, table: u32, first: u32, request: &Request<'_>) -> Result<(u32, String), Error> {
        let Some(headers) = self.headers.get(&table)? else {
            return Ok((0, "for its conditions on headers are gone".into()));
        };
        let mut met = 0u32;
        let mut names = Vec::new();
        for (bit, condition) in headers.condition.iter().take(headers.count as usize).enumerate() {
            let (name, value) = texts(condition);
            let mut values = request.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(&name));
            match (values.next(), values.next()) {
                (Some((_, sent)), None) if *sent == value => {
                    met |= 1 << bit;
                    names.push(format!("{name}: {value}"));
                }
                (Some(_), Some(_)) => return Ok((0, format!("for header {name} comes twice"))),
                _ => {}
            }
        }
        let choices = headers.choice.iter().skip(first as usize);
        let found = choices.into_iter().find(|choice| met & choice.mask == choice.mask);
        let by = if names.is_empty() { "no header".to_owned() } else { names.join(", ") };
        Ok((found.map_or(0, |choice| choice.verdict), format!("by path, method and headers ({by})")))
    }

    /// The place of the header's value that requests of the service are balanced by.
    fn hashed(&self, word: ServiceWord, request: &Request<'_>) -> Result<Option<u32>, Error> {
        let headers = if word.headers { self.headers.get(&word.table)? } else { None };
        let Some(headers) = headers else { return Ok(None) };
        let Some(at) = headers.hashed.checked_sub(1) else { return Ok(None) };
        let Some(condition) = headers.condition.get(at as usize) else { return Ok(None) };
        let (name, _) = texts(condition);
        let sent = request.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name));
        Ok(sent.map(|(_, value)| value_place(value.as_bytes())))
    }

    /// The endpoints of a rule and how one of them is chosen.
    fn endpoints(
        &self,
        rule: &http_rule,
        asker: &Asker,
        hashed: Option<u32>,
    ) -> Result<(Vec<RequestCandidate>, String), Error> {
        let of_rule = self.run(rule.base, rule.length)?;
        let mut shares: BTreeMap<u32, (f64, Option<u32>)> = BTreeMap::new();
        let mut ways = Vec::new();
        for (group, share) in shares_of(Choice::WeightedRandom, &of_rule) {
            let Some(group) = self.groups.get(&group)? else { continue };
            let slots = self.run(group.base, group.length)?;
            let (within, way) = within(&group, &slots, asker, hashed);
            ways.push(way);
            let max = (group.max_requests != 0).then_some(group.max_requests);
            for (endpoint, part) in within {
                let entry = shares.entry(endpoint).or_insert((0.0, max));
                entry.0 += share * part;
            }
        }
        let idle = self.idle(asker)?;
        let mut candidates = Vec::new();
        for (id, (share, max_requests)) in shares {
            let Some(entry) = self.endpoints.get(&id)? else { continue };
            let proxied = self.proxied.get(&id)?.unwrap_or_default();
            candidates.push(RequestCandidate {
                address: abi::socket_addr(entry.address, entry.port),
                id,
                share,
                routed: self.load.get(&id)?.unwrap_or(0),
                proxied: proxied.lane.iter().map(|&count| u32::from(count)).sum(),
                max_requests,
                idle: idle.as_ref().map(|idle| idle.get(&id).copied().unwrap_or(0)),
            });
        }
        candidates.sort_by_key(|candidate| (candidate.address, candidate.id));
        ways.sort();
        ways.dedup();
        Ok((candidates, if ways.is_empty() { "no endpoint takes requests".into() } else { ways.join("; ") }))
    }

    fn run(&self, base: u32, length: u32) -> Result<Vec<u64>, Error> {
        if length == 0 { Ok(Vec::new()) } else { self.targets.get_run(base, length) }
    }

    /// Idle connections by endpoint, from the caller's network namespace.
    fn idle(&self, asker: &Asker) -> Result<Option<HashMap<u32, u32>>, Error> {
        let Some(netns) = asker.netns else { return Ok(None) };
        let mut pools = HashMap::new();
        self.pools.for_each(|key, pool| {
            if key.netns == netns {
                pools.extend(pool.first().map(|&pool| (pool, key.endpoint)));
            }
        })?;
        let mut idle = HashMap::new();
        self.slots.for_each(|_, slot| {
            let Some(slot) = slot.first().filter(|slot| is_idle(slot)) else { return };
            if pools.get(&slot.pool) == Some(&slot.endpoint) {
                *idle.entry(slot.endpoint).or_insert(0) += 1;
            }
        })?;
        Ok(Some(idle))
    }

    fn limits(&self, rule: u32, asker: &Asker) -> Result<Vec<LimitFacts>, Error> {
        let Some(rates) = self.rates.get(&rule)? else { return Ok(Vec::new()) };
        let mut limits = Vec::new();
        for (of, limit) in
            ["service", "route"].into_iter().zip(rates.limit).filter(|(_, limit)| limit.bucket != 0)
        {
            let full = match (limit.per_caller, asker.netns) {
                (0, _) => self
                    .buckets
                    .get(&http_bucket_key { bucket: limit.bucket, caller: http_caller::default() })?,
                (_, Some(netns)) => {
                    let caller = http_caller { netns, address: Who { netns, address: LOOPBACK }.words() };
                    self.caller_buckets.get(&http_bucket_key { bucket: limit.bucket, caller })?
                }
                (_, None) => None,
            };
            limits.push(bucket(of, &limit, full.unwrap_or(0), super::monotonic_ns()));
        }
        Ok(limits)
    }
}

/// Whether the kernel may lend the slot.
fn is_idle(slot: &http_slot) -> bool {
    slot.state & FLAGS == 0 && slot.state >> COOKIE_SHIFT == 0
}

fn bucket(of: &'static str, limit: &http_limit, full: u64, now: u64) -> LimitFacts {
    let interval = limit.interval_ns.max(1);
    let ahead = full.saturating_sub(now);
    let over = ahead.saturating_sub(limit.room_ns);
    LimitFacts {
        of,
        requests: 1e9 / interval as f64,
        burst: limit.room_ns / interval + 1,
        per: if limit.per_caller == 0 { "all" } else { "client" },
        left: if over > 0 { 0 } else { (limit.room_ns - ahead) / interval + 1 },
        wait: over as f64 / 1e9,
    }
}

fn limited(limits: &[LimitFacts]) -> String {
    let each = limits.iter().map(|limit| {
        let whose = if limit.per == "client" { ", for each client" } else { "" };
        let left = match limit.left {
            0 => format!("none is left, the next in {:.3} s", limit.wait),
            left => format!("{left} are left"),
        };
        format!("{}: {:.0} requests/s, burst {}{whose}: {left}", limit.of, limit.requests, limit.burst)
    });
    let all: Vec<String> = each.collect();
    if all.is_empty() { "none".into() } else { all.join("; ") }
}

fn circuit(candidates: &[RequestCandidate]) -> (String, bool) {
    let bound = candidates.iter().filter_map(|candidate| candidate.max_requests).max();
    let Some(bound) = bound else { return ("none".into(), false) };
    let full = candidates.iter().filter(|candidate| candidate.is_full()).count();
    let found = format!(
        "at most {bound} requests outstanding at an endpoint: {full} of {} have as many as they may",
        candidates.len()
    );
    (found, full == candidates.len() && full > 0)
}

/// Shares of a group's endpoints, and the way one is chosen.
fn within(
    group: &http_group,
    slots: &[u64],
    asker: &Asker,
    hashed: Option<u32>,
) -> (HashMap<u32, f64>, String) {
    let at = |place: u32| {
        let only = slots.get(place as usize).map(|slot| (Slot::unpack(*slot).endpoint, 1.0));
        only.into_iter().collect()
    };
    match http_balance(group.balance) {
        http_balance::HTTP_WEIGHTED_RANDOM => {
            (shares_of(Choice::WeightedRandom, slots), "weighted-random: one by chance".into())
        }
        http_balance::HTTP_ROUND_ROBIN => {
            let found = format!("round-robin: turn {} of {}", group.turn % group.length.max(1), group.length);
            (shares_of(Choice::RoundRobin, slots), found)
        }
        http_balance::HTTP_SOURCE_HASH => match asker.netns {
            Some(netns) => {
                let place = Who { netns, address: LOOPBACK }.place();
                let found = format!(
                    "consistent hash: who calls from {LOOPBACK} in its network namespace has place {place} of {}",
                    group.length
                );
                (at(place), found)
            }
            None => {
                let found = "consistent hash of who calls, whose network namespace is not known".into();
                (shares_of(Choice::Maglev, slots), found)
            }
        },
        http_balance::HTTP_HEADER_HASH => {
            let found =
                |place| format!("consistent hash: the header's value has place {place} of {}", group.length);
            match hashed {
                Some(place) => (at(place), found(place)),
                None => {
                    let found = "consistent hash of a header, without which it is least-requests".into();
                    (shares_of(Choice::Maglev, slots), found)
                }
            }
        }
        _ => (
            shares_of(Choice::LeastConnections, slots),
            "least-requests: the better of two drawn by chance, by outstanding requests for the weight"
                .into(),
        ),
    }
}

fn texts(condition: &http_condition) -> (String, String) {
    let text = |bytes: &[u8], length: u32| -> String {
        bytes.iter().take(length as usize).map(|&byte| char::from(byte)).collect()
    };
    (text(&condition.name, condition.name_length), text(&condition.value, condition.value_length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_told_as_requests() {
        let limit =
            http_limit { bucket: 1, interval_ns: 100_000_000, room_ns: 400_000_000, per_caller: 0, zero: 0 };
        let at = |full| {
            let facts = bucket("service", &limit, full, 1_000_000_000);
            (facts.left, facts.wait)
        };
        assert_eq!(at(0), (5, 0.0));
        assert_eq!(at(1_000_000_000), (5, 0.0));
        assert_eq!(at(1_100_000_000), (4, 0.0));
        assert_eq!(at(1_400_000_000), (1, 0.0));
        assert_eq!(at(1_450_000_000), (0, 0.05));
        assert_eq!(bucket("route", &limit, 0, 0).burst, 5);
    }
}
