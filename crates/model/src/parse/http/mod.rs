//! The HTTP side of a service: its settings and its routes.

mod backend;
mod filter;
mod matching;
mod route;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;

use crate::http::{Backend, HashOn, Http, HttpBalance, Match, Route, Target};
use crate::{Balance, Endpoint, Labels, Position, ServiceName, Split};

use super::names::Names;
use super::remarks::{Remarks, Stop};
use super::scalar::quote;
use super::value::What;
use super::yaml::{At, Reader, Token};
use route::RouteDraft;

pub(super) use settings::{Settings, read as read_settings};

/// The routes of a service as far as they are written and right.
pub(super) struct Routes(Vec<RouteDraft>);

/// Reads the value of `routes`.
pub(super) fn read_routes<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
    names: &mut Names,
) -> Result<Routes, Stop> {
    let mut all = Vec::new();
    let mut number = 0;
    let at = reader.list(token, what, |reader, item| {
        number += 1;
        if number == Http::MOST_ROUTES + 1 {
            let help =
                format!("at most {}: put those that differ in a path only into one", Http::MOST_ROUTES);
            reader.remarks.error(item.at, "the service has too many routes", help);
        }
        all.extend(route::read(reader, item, number, names)?);
        Ok(())
    })?;
    if let (Some(at), 0) = (at, number) {
        reader.remarks.error(
            at,
            "routes is empty",
            "no request would have an answer: add a route, or take it out to send every request to the endpoints",
        );
    }
    Ok(Routes(all))
}

impl Routes {
    /// What can be said of routes when the whole service is read.
    pub(super) fn check(
        &self,
        own: Option<&ServiceName>,
        endpoints: Option<&[At<Endpoint>]>,
        remarks: &mut Remarks<'_>,
    ) {
        self.check_names(remarks);
        self.check_matches(remarks);
        let Some(endpoints) = endpoints else { return };
        let targets = self.0.iter().flat_map(|route| &route.targets);
        for target in targets.filter(|target| is_own(&target.value, own)) {
            let labels = &target.value.labels;
            if !labels.is_empty() && !endpoints.iter().any(|e| target.value.selects(&e.value.labels)) {
                refuse_labels(target.at, labels, own, remarks);
            }
        }
    }

    fn check_names(&self, remarks: &mut Remarks<'_>) {
        let mut seen: HashMap<&str, Position> = HashMap::new();
        for route in &self.0 {
            let name = &route.route.name;
            if let Some(first) = seen.insert(name, route.name_at) {
                let first = remarks.place(first);
                remarks.error(
                    route.name_at,
                    format!("a second route has the name {}", quote(name)),
                    format!("first at {first}; names are unique in a service"),
                );
            }
        }
    }

    /// Of two equal matches the second would never be found.
    fn check_matches(&self, remarks: &mut Remarks<'_>) {
        let mut seen: HashMap<&Match, Position> = HashMap::new();
        let all = self.0.iter().flat_map(|route| route.route.matches.iter().zip(&route.matches_at));
        for (number, (condition, at)) in all.enumerate() {
            if number == Http::MOST_MATCHES {
                let help = format!("at most {} in all routes together", Http::MOST_MATCHES);
                remarks.error(*at, "the service has too many matches", help);
            }
            match seen.get(condition) {
                Some(first) => {
                    let first = remarks.place(*first);
                    remarks.error(
                        *at,
                        "this match stands there already: no request would ever come to this one",
                        format!("first at {first}; take one out"),
                    );
                }
                None => {
                    seen.insert(condition, *at);
                }
            }
        }
    }

    /// Endpoints of other services that routes lead to.
    pub(super) fn elsewhere(&self, own: Option<&ServiceName>) -> Vec<At<Target>> {
        let targets = self.0.iter().flat_map(|route| &route.targets);
        targets.filter(|target| !is_own(&target.value, own)).cloned().collect()
    }
}

fn is_own(target: &Target, own: Option<&ServiceName>) -> bool {
    target.service.is_none() || target.service.as_ref() == own
}

/// Warns that a backend has no endpoint.
pub(super) fn refuse_labels(
    at: Position,
    labels: &Labels,
    service: Option<&ServiceName>,
    remarks: &mut Remarks<'_>,
) {
    let title = service.map_or("the service".into(), |name| format!("service {}", quote(name.as_str())));
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let help = match labels.first() {
        Some(first) if first.starts_with("service: ") => {
            "another service is written by its name alone: `to: name`, or in a list: `to: [{service: name}]`"
        }
        _ => "its share goes to the other backends; without one its requests are answered 503",
    };
    remarks.warning(at, format!("no endpoint of {title} has {{{}}}", labels.join(", ")), help);
}

/// What is known of a service when its HTTP side is put together.
pub(super) struct Service<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) split: Option<&'a Split>,
    /// What `balance` says, if it is written.
    pub(super) balance: Option<Balance>,
}

/// The HTTP side of a service.
pub(super) fn build(settings: Option<Settings>, routes: Option<Routes>, service: &Service<'_>) -> Arc<Http> {
    if settings.is_none() && routes.is_none() && service.split.is_none() && service.balance.is_none() {
        return Http::plain();
    }
    let settings = settings.unwrap_or_default();
    let everywhere = default_backends(service.split);
    let routes = match routes {
        None => vec![Route::to(Http::DEFAULT_ROUTE, everywhere)],
        Some(routes) => {
            routes.0.into_iter().map(|route| route.into_route(service.name, &everywhere)).collect()
        }
    };
    Arc::new(Http {
        upstream: settings.upstream,
        balance: settings.balance.unwrap_or_else(|| balance_like(service.balance)),
        pool: settings.pool,
        circuit: settings.circuit,
        outlier: settings.outlier,
        rate_limit: settings.rate_limit,
        reason_header: !settings.silent,
        routes,
    })
}

/// Every endpoint, by the shares of a split.
fn default_backends(split: Option<&Split>) -> Vec<Backend> {
    let Some(split) = split else { return vec![Backend::all()] };
    let backend = |(value, weight): (&Arc<str>, &u16)| Backend {
        target: Target {
            service: None,
            labels: Labels::from([(Arc::clone(&split.label), Arc::clone(value))]),
        },
        weight: *weight,
    };
    split.shares.iter().map(backend).collect()
}

/// Requests are balanced as connections are, where it was said how.
fn balance_like(balance: Option<Balance>) -> HttpBalance {
    match balance {
        None | Some(Balance::LeastConnections) => HttpBalance::LeastRequests,
        Some(Balance::WeightedRandom) => HttpBalance::WeightedRandom,
        Some(Balance::RoundRobin) => HttpBalance::RoundRobin,
        Some(Balance::Maglev { .. }) => HttpBalance::ConsistentHash(HashOn::Source),
    }
}
