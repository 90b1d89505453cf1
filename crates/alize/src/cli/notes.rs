//! What is right in a file, and may still surprise: rules that keep requests of others from the kernel.

use alize_model::http::{KernelPattern, Match, PathMatch, Reason, Route, RouteTable, Way};
use alize_model::{Mode, Service, ServiceName, Snapshot};

/// Remarks for people about every HTTP service of `snapshot`.
pub(super) fn notes(snapshot: &Snapshot) -> Vec<String> {
    snapshot.services().iter().flat_map(|service| of_service(snapshot, service)).collect()
}

fn of_service(snapshot: &Snapshot, service: &Service) -> Vec<String> {
    let Some(http) = service.http.as_ref().filter(|_| service.mode != Mode::Observe) else {
        return Vec::new();
    };
    let name = &service.name;
    if let Some(reason) = http.proxy_reason() {
        let because = reason.sentence();
        return vec![format!(
            "every request of service {name:?} goes through the proxy: {because}",
            name = name.as_str()
        )];
    }
    let elsewhere = |name: &ServiceName| snapshot.get(name.as_str())?.http.as_ref()?.reason_as_target();
    let ways = RouteTable::compile(http).ways(elsewhere);
    let routes = http.routes.iter().zip(ways);
    routes.filter(|(route, _)| is_plain(route)).flat_map(|(route, way)| of_route(name, route, &way)).collect()
}

/// Nothing in the route itself keeps its requests from the kernel.
fn is_plain(route: &Route) -> bool {
    let plain = |condition: &Match| {
        condition.headers.is_empty()
            && condition.query.is_empty()
            && !matches!(condition.path, PathMatch::Regex(_))
    };
    route.proxy_reason().is_none() && route.matches.iter().all(plain)
}

fn of_route(service: &ServiceName, route: &Route, way: &Way) -> Vec<String> {
    let by_others = |reason: &Reason| {
        matches!(
            reason,
            Reason::HeaderMatch
                | Reason::QueryMatch
                | Reason::RegexMatch
                | Reason::LongPath
                | Reason::OddPath
        )
    };
    let told = way.proxy.iter().filter(|(reason, _)| by_others(reason)).map(|(reason, patterns)| {
        let paths: Vec<String> = patterns.iter().map(shown).collect();
        format!(
            "requests of route {route:?} of service {service:?} for {paths} go through the proxy: {because}",
            route = &*route.name,
            service = service.as_str(),
            paths = paths.join(", "),
            because = reason.sentence()
        )
    });
    told.collect()
}

fn shown(pattern: &KernelPattern) -> String {
    match pattern {
        KernelPattern::Exact(path) => PathMatch::Exact(path.clone()).to_string(),
        KernelPattern::Prefix(path) => PathMatch::Prefix(path.clone()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use alize_model::{Budgets, HostFacts, Source, parse};

    use super::*;

    fn told(routes: &str) -> Vec<String> {
        let text = format!(
            "services: [{{name: web, protocol: http, address: '10.96.0.1:80', endpoints: ['10.0.0.1:80'], {routes}}}]"
        );
        notes(
            &parse(Source { name: "-", text: &text }, &Budgets::default(), &HostFacts::default()).unwrap().0,
        )
    }

    #[test]
    fn a_route_that_suffers_from_another_is_told() {
        let routes =
            "routes: [{name: beta, match: {path: /api, query: {x: '1'}}, to: {v: '2'}}, {name: rest}]";
        assert_eq!(
            told(routes),
            [
                "requests of route \"rest\" of service \"web\" for /api/* go through the proxy: a route that may be for \
                 them looks at the query"
            ]
        );
        assert_eq!(
            told("routes: [{match: /a, timeout: 1s}, {match: /}]"),
            Vec::<String>::new(),
            "as it says itself"
        );
        assert_eq!(told("http: {circuit: {max-connections: 9}}").len(), 1);
        assert_eq!(told("mode: observe, http: {circuit: {max-connections: 9}}").len(), 0);
    }
}
