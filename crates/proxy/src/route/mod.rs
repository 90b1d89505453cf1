//! What becomes of a request: the route table and everything that routes say, carried out.
//!
//! ```text
//! find ─▶ fault ─▶ rate limits ─▶ CORS preflight ─▶ redirect | respond | forward ─▶ edits of the response
//!                                                                        │
//!        edits, rewrite ─▶ mirrors ─▶ tries: pick an endpoint, send, read the head, judge ─▶ tracked body
//! ```

mod cors;
mod edit;
mod forward;
mod limit;
mod mesh;
mod mirror;
mod outlier;
mod pick;
mod replay;
mod reply;
mod spec;
mod tracked;

use std::sync::Arc;
use std::time::Instant;

use alize_model::http::{Action, Fault, Found, Head, Headers, Route};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use crate::body::Body;
use crate::counters;
use crate::front::{Last, Origin};
use crate::proxy::Proxy;
use crate::reason::Reason;
use mesh::Service;

pub(crate) use forward::reason;
pub(crate) use mesh::Mesh;
pub(crate) use mirror::Lost;
pub(crate) use replay::Replay;
pub(crate) use spec::Plan;
pub(crate) use tracked::Tracked;

/// The fields of a request, as the route table asks for them.
struct Fields<'a>(&'a HeaderMap);

impl Headers for Fields<'_> {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

/// What is known of a request before and after it is forwarded.
struct Call {
    service: Arc<Service>,
    origin: Origin,
    started: Instant,
    grpc: bool,
}

/// The answer to a request: an endpoint's or our own. There always is one.
pub(crate) async fn answer(
    proxy: &Arc<Proxy>,
    origin: &Origin,
    request: Box<Request<Body>>,
) -> Response<Body> {
    let mesh = proxy.mesh();
    let grpc = reply::is_grpc(request.headers());
    let Some(service) = mesh.service(origin.client.service) else {
        proxy.anomaly(Reason::NoService.name());
        let mut response = reply::refuse(Reason::NoService, grpc, true);
        // The connection is for a service that was removed, whatever is in force under its name now: that is for new ones.
        response.extensions_mut().insert(Last);
        return response;
    };
    let call = Call { service: Arc::clone(service), origin: *origin, started: Instant::now(), grpc };
    let Some(found) = find(&call.service, &request) else {
        return call.refuse(None, Reason::NoRoute);
    };
    let route = call.service.table.route(found);
    call.service.live.counters.came_because(came_because(&call.service, route, &request));
    let cors = route.cors.as_ref().map(|cors| cors::Words::of(cors, &request));
    let unanswered = Unanswered { call: &call, route: &route.name };
    let outcome = match enter(proxy, &call, found, &request).await {
        Ok(()) => act(proxy, &mesh, &call, found, request).await,
        Err(response) => Err(response),
    };
    std::mem::forget(unanswered);
    let mut response = outcome.unwrap_or_else(|refused| call.own(Some(&route.name), refused));
    edit::headers(response.headers_mut(), &route.response_headers);
    if let Some(cors) = cors {
        cors.say(response.headers_mut());
    }
    response
}

/// The answer to what is no request.
pub(crate) fn refusal(proxy: &Arc<Proxy>, origin: &Origin, reason: Reason) -> Response<Body> {
    let mesh = proxy.mesh();
    let Some(service) = mesh.service(origin.client.service) else {
        proxy.anomaly(reason.name());
        return reply::refuse(reason, false, true);
    };
    let call = Call { service: Arc::clone(service), origin: *origin, started: Instant::now(), grpc: false };
    call.refuse(None, reason)
}

/// Counts a request whose client went away before there was an answer: dropped only then.
struct Unanswered<'a> {
    call: &'a Call,
    route: &'a Arc<str>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.call.service.live.counters.refused(Reason::ClientGone);
        self.call.count(Some(self.route), None, 0);
    }
}

/// An answer of our own, before what is common to all answers.
struct Own {
    reason: Reason,
    response: Box<Response<Body>>,
}

impl Call {
    fn refused(&self, reason: Reason) -> Own {
        Own {
            reason,
            response: Box::new(reply::refuse(reason, self.grpc, self.service.http().reason_header)),
        }
    }

    fn refuse(&self, route: Option<&Arc<str>>, reason: Reason) -> Response<Body> {
        self.own(route, self.refused(reason))
    }

    /// Counts it.
    fn own(&self, route: Option<&Arc<str>>, own: Own) -> Response<Body> {
        self.service.live.counters.refused(own.reason);
        let status = (own.reason != Reason::ClientGone).then(|| own.response.status());
        self.count(route, status, http_body::Body::size_hint(own.response.body()).lower());
        *own.response
    }

    fn count(&self, route: Option<&Arc<str>>, status: Option<StatusCode>, response_bytes: u64) {
        self.service.live.counters.request(counters::Request {
            route: route.cloned(),
            endpoint: None,
            status,
            request_bytes: 0,
            response_bytes,
            took: self.started.elapsed(),
        });
    }
}

fn find(service: &Service, request: &Request<Body>) -> Option<Found> {
    let target = request.uri().path_and_query();
    service.table.find(&Head {
        method: request.method().as_str(),
        path: target.map_or("*", |target| target.path()),
        query: target.and_then(|target| target.query()),
        headers: &Fields(request.headers()),
    })
}

/// Why a request is here and not in the kernel, as far as can be said here.
fn came_because(service: &Service, route: &Route, request: &Request<Body>) -> &'static str {
    if request.version() == http::Version::HTTP_2 {
        return alize_model::http::Reason::Http2.name();
    }
    let reason = service.http().proxy_reason().or_else(|| route.proxy_reason());
    reason.map_or("not-taken", alize_model::http::Reason::name)
}

/// What comes before the action: faults, limits, and what browsers ask first.
async fn enter(proxy: &Proxy, call: &Call, found: Found, request: &Request<Body>) -> Result<(), Own> {
    let route = call.service.table.route(found);
    if let Some(fault) = &route.fault {
        inject(call, fault).await?;
    }
    if let Err(wait) = call.service.limits.take(found.rule, &call.origin, &*proxy.kernel) {
        let mut own = call.refused(Reason::RateLimited);
        let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
        own.response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        return Err(own);
    }
    if route.cors.is_some() && cors::is_preflight(request) {
        let mut response = Box::new(Response::new(Body::Empty));
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Err(Own { reason: Reason::CorsPreflight, response });
    }
    Ok(())
}

async fn inject(call: &Call, fault: &Fault) -> Result<(), Own> {
    if let Some((delay, fraction)) = fault.delay
        && fraction.takes(fastrand::u32(..))
    {
        tokio::time::sleep(delay).await;
    }
    match fault.abort {
        Some((status, fraction)) if fraction.takes(fastrand::u32(..)) => {
            let mut own = call.refused(Reason::InjectedFault);
            if !call.grpc {
                *own.response.status_mut() =
                    StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            }
            Err(own)
        }
        _ => Ok(()),
    }
}

async fn act(
    proxy: &Arc<Proxy>,
    mesh: &Arc<Mesh>,
    call: &Call,
    found: Found,
    request: Box<Request<Body>>,
) -> Result<Response<Body>, Own> {
    match &call.service.table.route(found).action {
        Action::Redirect(redirect) => {
            let response = edit::redirect(redirect, call.service.table.matched(found), &request);
            Err(Own { reason: Reason::RouteRedirects, response: Box::new(response) })
        }
        Action::Respond(respond) => {
            Err(Own { reason: Reason::RouteResponds, response: Box::new(reply::respond(respond)) })
        }
        Action::Forward(forward) => forward::forward(proxy, mesh, call, found, forward, request).await,
    }
}
