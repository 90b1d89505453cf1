//! One route.

use std::sync::Arc;

use crate::http::{
    Action, Backend, Forward, Match, Mirror, PathMatch, Redirect, Respond, Retry, Rewrite, Route, Target,
    Timeouts,
};
use crate::{Position, ServiceName};

use super::super::keys::http::{MirrorKey, RouteKey};
use super::super::keys::{Keys, Kind};
use super::super::names::Names;
use super::super::remarks::{Remarks, Stop};
use super::super::service::read_name;
use super::super::value::What;
use super::super::yaml::{At, Reader, Token};
use super::filter::{self, PrefixAt};
use super::settings::read_rate_limit;
use super::{backend, matching};

const ROUTE: What<'static> = What { name: &"route", expected: &Kind::Table(RouteKey::TABLE) };
const MIRROR: What<'static> = What { name: &"mirror", expected: &Kind::Table(MirrorKey::TABLE) };

/// A route, with the places of what can only be judged later.
pub(super) struct RouteDraft {
    /// Its backends are those of the service if `to` is not written.
    pub(super) route: Route,
    to: bool,
    pub(super) name_at: Position,
    /// Of every match.
    pub(super) matches_at: Vec<Position>,
    /// Of backends and mirrors.
    pub(super) targets: Vec<At<Target>>,
}

impl RouteDraft {
    pub(super) fn into_route(self, own: &ServiceName, everywhere: &[Backend]) -> Route {
        let mut route = self.route;
        let Action::Forward(forward) = &mut route.action else { return route };
        if !self.to {
            forward.backends = everywhere.to_vec();
        }
        let backends = forward.backends.iter_mut().map(|backend| &mut backend.target);
        for target in backends.chain(forward.mirrors.iter_mut().map(|mirror| &mut mirror.target)) {
            if target.service.as_ref() == Some(own) {
                target.service = None;
            }
        }
        route
    }
}

/// The keys of a route as they are read.
#[derive(Default)]
struct Parts {
    name: Option<At<ServiceName>>,
    matches: Option<Vec<At<Match>>>,
    to: Vec<At<Backend>>,
    rewrite: Rewrite,
    redirect: Option<Redirect>,
    respond: Option<Respond>,
    mirrors: Vec<At<Mirror>>,
    timeouts: Timeouts,
    retry: Option<Retry>,
    retry_on_timeout: Option<Position>,
    prefix_at: PrefixAt,
    /// Where each key's value stands.
    places: Vec<(RouteKey, Position)>,
}

impl Parts {
    fn place(&self, wanted: RouteKey) -> Option<Position> {
        self.places.iter().find(|(key, _)| *key as u8 == wanted as u8).map(|(_, at)| *at)
    }
}

/// Reads the route that begins with `token`, the `number`th of its service.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    number: usize,
    names: &mut Names,
) -> Result<Option<RouteDraft>, Stop> {
    let mut parts = Parts::default();
    let mut route = Route::to("", Vec::new());
    let at = reader.mapping(token, ROUTE, |reader, key| {
        let what = What::of(key);
        let token = reader.next()?;
        parts.places.push((key, token.at));
        match key {
            RouteKey::Name => parts.name = reader.scalar_from(token, what, read_name)?,
            RouteKey::Match => parts.matches = Some(matching::read(reader, token, what)?),
            RouteKey::To => parts.to = backend::read(reader, token, what, names)?,
            RouteKey::RequestHeaders => {
                let edit = filter::read_headers(reader, token, what)?;
                if let Action::Forward(forward) = &mut route.action {
                    forward.request_headers = edit;
                }
            }
            RouteKey::ResponseHeaders => route.response_headers = filter::read_headers(reader, token, what)?,
            RouteKey::Rewrite => {
                let (rewrite, prefix_at) = filter::read_rewrite(reader, token, what)?;
                parts.rewrite = rewrite;
                parts.prefix_at = parts.prefix_at.or(prefix_at);
            }
            RouteKey::Redirect => {
                let (redirect, prefix_at) = filter::read_redirect(reader, token, what)?;
                parts.redirect = Some(redirect);
                parts.prefix_at = parts.prefix_at.or(prefix_at);
            }
            RouteKey::Respond => parts.respond = filter::read_respond(reader, token, what)?,
            RouteKey::Mirror => parts.mirrors = read_mirrors(reader, token, what, names)?,
            RouteKey::Cors => route.cors = Some(filter::read_cors(reader, token, what)?),
            RouteKey::Fault => route.fault = Some(filter::read_fault(reader, token, what)?),
            RouteKey::Timeout => parts.timeouts = filter::read_timeout(reader, token, what)?,
            RouteKey::Retry => {
                let (retry, on_timeout) = filter::read_retry(reader, token, what)?;
                (parts.retry, parts.retry_on_timeout) = (Some(retry), on_timeout);
            }
            RouteKey::RateLimit => route.rate_limit = read_rate_limit(reader, token, what)?,
        }
        Ok(())
    })?;
    let Some(at) = at else { return Ok(None) };
    parts.check(&mut reader.remarks);
    Ok(Some(parts.into_draft(route, at, number)))
}

impl Parts {
    fn check(&self, remarks: &mut Remarks<'_>) {
        self.check_actions(remarks);
        if let (Some(at), None) = (self.retry_on_timeout, self.timeouts.per_try) {
            remarks.error(
                at,
                "retry on timeout needs to know when a try takes too long",
                "add `timeout: {try: 500ms}`",
            );
        }
        let prefixes = |condition: &At<Match>| matches!(condition.value.path, PathMatch::Prefix(_));
        if let Some(at) = self.prefix_at.filter(|_| !self.matches.iter().flatten().all(prefixes)) {
            remarks.error(
                at,
                "a prefix can be changed only where a prefix matched",
                "write `path` for the whole path, or match by prefix",
            );
        }
    }

    /// A route forwards, redirects or answers; what belongs to one is of no use to another.
    fn check_actions(&self, remarks: &mut Remarks<'_>) {
        let (redirect, respond) = (self.place(RouteKey::Redirect), self.place(RouteKey::Respond));
        let (does, at) = match (redirect, respond) {
            (Some(a), Some(b)) => {
                let help = "keep one of the two";
                return remarks.error(a.max(b), "route has both `redirect` and `respond`", help);
            }
            (Some(at), None) => ("redirects", at),
            (None, Some(at)) => ("answers itself", at),
            (None, None) => return,
        };
        let only_forward = [
            RouteKey::To,
            RouteKey::RequestHeaders,
            RouteKey::Rewrite,
            RouteKey::Mirror,
            RouteKey::Timeout,
            RouteKey::Retry,
        ];
        for key in only_forward {
            let Some(place) = self.place(key) else { continue };
            let action = remarks.place(at);
            remarks.error(
                place,
                format!("{} is of no use to a route that {does}", key.field().key),
                format!("it {does} at {action}: take one out"),
            );
        }
    }

    fn into_draft(self, mut route: Route, at: Position, number: usize) -> RouteDraft {
        let targets = self.to.iter().map(|backend| (backend.at, &backend.value.target));
        let mirrors = self.mirrors.iter().map(|mirror| (mirror.at, &mirror.value.target));
        let targets = targets.chain(mirrors).map(|(at, target)| At { at, value: target.clone() }).collect();
        let name_at = self.name.as_ref().map_or(at, |name| name.at);
        let to = self.place(RouteKey::To).is_some();
        route.name = match &self.name {
            Some(name) => name.value.as_str().into(),
            None => Arc::from(format!("route-{number}")),
        };
        let (matches_at, matches) = match self.matches {
            None => (vec![at], vec![Match::default()]),
            Some(matches) => matches.into_iter().map(|found| (found.at, found.value)).unzip(),
        };
        route.matches = matches;
        route.action = match (self.redirect, self.respond, route.action) {
            (Some(redirect), _, _) => Action::Redirect(redirect),
            (None, Some(respond), _) => Action::Respond(respond),
            (None, None, Action::Forward(forward)) => Action::Forward(Forward {
                backends: self.to.into_iter().map(|backend| backend.value).collect(),
                rewrite: self.rewrite,
                mirrors: self.mirrors.into_iter().map(|mirror| mirror.value).collect(),
                timeouts: self.timeouts,
                retry: self.retry,
                ..forward
            }),
            (None, None, action) => action,
        };
        RouteDraft { route, to, name_at, matches_at, targets }
    }
}

fn read_mirrors<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
    names: &mut Names,
) -> Result<Vec<At<Mirror>>, Stop> {
    let mut all = Vec::new();
    if !matches!(token.value, Token::List) {
        all.extend(read_mirror(reader, token, names)?);
        return Ok(all);
    }
    let mut empty = true;
    let at = reader.list(token, what, |reader, item| {
        empty = false;
        all.extend(read_mirror(reader, item, names)?);
        Ok(())
    })?;
    if let (Some(at), true) = (at, empty) {
        reader.refuse_empty(at, what);
    }
    Ok(all)
}

fn read_mirror<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    names: &mut Names,
) -> Result<Option<At<Mirror>>, Stop> {
    let (mut target, mut fraction) = (None, crate::http::Fraction::ALL);
    reader.mapping(token, MIRROR, |reader, key| {
        let what = What::of(key);
        match key {
            MirrorKey::To => {
                let token = reader.next()?;
                target = backend::read_target(reader, token, what, names)?;
            }
            MirrorKey::Percent => fraction = filter::read_percent(reader, what)?,
        }
        Ok(())
    })?;
    Ok(target.map(|target| target.map(|target| Mirror { target, fraction })))
}
