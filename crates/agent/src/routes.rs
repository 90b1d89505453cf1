//! Requests of HTTP services: what was counted of them, on either path, and what is told of routes.

use std::collections::BTreeMap;

use alize_model::api::{BackendStatus, ProxiedStatus, RouteStatus};
use alize_model::control::{ProxyCounters, RequestCounters, ServiceCounters};
use alize_model::http::{Action, Http, KernelPattern, PathMatch, RouteTable, Way};
use alize_model::{Service, ServiceName};

use crate::scrape::Scrape;

/// Names of the classes of [`RequestCounters::statuses`], in their order.
pub(crate) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What was counted on one path. The proxy's are of its own process; they begin anew with it.
#[derive(Debug)]
pub(crate) struct Counted {
    /// `kernel-l7` or `proxy`.
    pub(crate) path: &'static str,
    /// Of each service that had a request.
    pub(crate) services: Vec<ServiceCounters>,
}

impl Counted {
    /// What the proxy tells.
    pub(crate) fn by_proxy(counters: ProxyCounters) -> Self {
        Self { path: "proxy", services: counters.services }
    }
}

/// A request that passes from the kernel to the proxy has a reason on both sides: what one side says more precisely the other
/// does not say again. The kernel knows what it read, the proxy which rule it is that needs it.
pub(crate) fn settle(kernel: &mut Counted, proxy: &mut Counted) {
    for of_proxy in &mut proxy.services {
        let mut services = kernel.services.iter_mut();
        let Some(of_kernel) = services.find(|known| known.service == of_proxy.service) else { continue };
        of_kernel.reasons.remove("route");
        of_proxy.reasons.remove("not-taken");
    }
}

/// The routes of a service; `counted` on all paths.
pub(crate) fn routes(scrape: &Scrape, service: &Service, counted: &[Counted]) -> Vec<RouteStatus> {
    let Some(http) = &service.http else { return Vec::new() };
    let elsewhere = |name: &ServiceName| {
        let service = scrape.service(name.as_str())?.service.as_ref()?;
        service.http.as_ref()?.reason_as_target()
    };
    let ways = RouteTable::compile(http).ways(elsewhere);
    let requests = requests(&service.name, counted);
    let routes = http.routes.iter().zip(ways).map(|(route, way)| RouteStatus {
        name: route.name.to_string(),
        matches: route.matches.iter().map(ToString::to_string).collect(),
        backends: backends(&route.action),
        does: route.deeds(),
        path: path(&way).into(),
        proxied: proxied(way, http),
        requests: requests.get(&*route.name).cloned().unwrap_or_default(),
    });
    routes.collect()
}

fn backends(action: &Action) -> Vec<BackendStatus> {
    let Action::Forward(forward) = action else { return Vec::new() };
    let all: u32 = forward.backends.iter().map(|backend| u32::from(backend.weight)).sum();
    let backends = forward.backends.iter().map(|backend| BackendStatus {
        target: backend.target.to_string(),
        weight: backend.weight,
        share: f64::from(backend.weight) / f64::from(all.max(1)),
    });
    backends.collect()
}

fn path(way: &Way) -> &'static str {
    match (way.kernel, way.proxy.is_empty()) {
        (true, true) => "kernel",
        (true, false) => "both",
        (false, false) => "proxy",
        (false, true) => "none",
    }
}

fn proxied(way: Way, http: &Http) -> Vec<ProxiedStatus> {
    let told = way.proxy.into_iter().map(|(reason, patterns)| ProxiedStatus {
        reason: reason.name().into(),
        because: reason.sentence().into(),
        paths: if http.proxy_reason().is_some() { Vec::new() } else { patterns.iter().map(shown).collect() },
    });
    told.collect()
}

/// A pattern as a match is shown.
fn shown(pattern: &KernelPattern) -> String {
    match pattern {
        KernelPattern::Exact(path) => PathMatch::Exact(path.clone()).to_string(),
        KernelPattern::Prefix(path) => PathMatch::Prefix(path.clone()).to_string(),
    }
}

/// Requests of a service by route and class, on all paths together.
fn requests(service: &ServiceName, counted: &[Counted]) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut by_route: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let services = counted.iter().flat_map(|counted| &counted.services);
    for series in services.filter(|counters| counters.service == *service).flat_map(|c| &c.requests) {
        let Some(route) = &series.route else { continue };
        let classes = by_route.entry(route.to_string()).or_default();
        for (class, count) in CLASSES.iter().zip(series.statuses).filter(|(_, count)| *count > 0) {
            *classes.entry((*class).to_owned()).or_default() += count;
        }
    }
    by_route
}

/// Latencies of one service's requests by route, over all endpoints: a histogram for each endpoint would be too many.
pub(crate) fn latencies(counters: &ServiceCounters) -> BTreeMap<&str, RequestCounters> {
    let mut by_route: BTreeMap<&str, RequestCounters> = BTreeMap::new();
    for series in &counters.requests {
        let all = by_route.entry(series.route.as_deref().unwrap_or_default()).or_default();
        all.latency_sum += series.latency_sum;
        for (bucket, count) in &series.buckets {
            *all.buckets.entry(*bucket).or_default() += count;
        }
    }
    by_route
}

/// Upper bounds in seconds, one an octave from 2^-17 to 32 and then infinity, and how many were at most so slow: the
/// bounds of all durations in the metrics.
pub(crate) fn cumulative(buckets: &BTreeMap<u32, u64>) -> impl Iterator<Item = (f64, u64)> + '_ {
    /// Buckets that end with an octave.
    const FIRST: u32 = 3;
    const LAST: u32 = 91;
    let below = |index: u32| buckets.range(..=index).map(|(_, count)| count).sum();
    let octaves =
        (FIRST..=LAST).step_by(4).map(move |index| (2f64.powi((index as i32 - 71) / 4), below(index)));
    octaves.chain(std::iter::once((f64::INFINITY, below(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_counts_below_every_bound_that_is_not_smaller() {
        let buckets = BTreeMap::from([(0, 1), (71, 2), (72, 4), (111, 8)]);
        let all: Vec<(f64, u64)> = cumulative(&buckets).collect();
        assert_eq!(all.len(), 24);
        assert_eq!(all[0], (2f64.powi(-17), 1));
        let at = |bound: f64| all.iter().find(|(found, _)| *found == bound).unwrap().1;
        assert_eq!((at(0.5), at(1.0), at(2.0), at(32.0), at(f64::INFINITY)), (1, 3, 7, 7, 15));
    }

    #[test]
    fn a_request_that_left_the_kernel_has_one_reason() {
        let counted = |path, reasons: &[(&str, u64)]| {
            let mut services = ServiceCounters::new(ServiceName::new("web").unwrap());
            services.reasons = reasons.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
            Counted { path, services: vec![services] }
        };
        let mut kernel = counted("kernel-l7", &[("route", 5), ("pipelined", 2)]);
        let mut proxy = counted("proxy", &[("header-match", 5), ("not-taken", 2)]);
        settle(&mut kernel, &mut proxy);
        let reasons = |counted: &Counted| counted.services[0].reasons.clone();
        assert_eq!(reasons(&kernel), BTreeMap::from([("pipelined".to_owned(), 2)]));
        assert_eq!(reasons(&proxy), BTreeMap::from([("header-match".to_owned(), 5)]));
        let mut none = Counted { path: "kernel-l7", services: Vec::new() };
        let mut alone = counted("proxy", &[("not-taken", 2)]);
        settle(&mut none, &mut alone);
        assert_eq!(reasons(&alone)["not-taken"], 2, "where the kernel routes nothing it says nothing");
    }
}
