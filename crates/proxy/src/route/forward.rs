//! A request on its way to an endpoint: one try after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alize_model::http::{Forward, Found, Retry, RetryCause, Route, Upstream};
use http::{Method, Response, Version, request};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::mesh::{Mesh, Outstanding};
use super::mirror::Copies;
use super::outlier::{self, Sign};
use super::pick::{Asking, Picked, pick};
use super::replay::Tape;
use super::tracked::{Ending, Tracked};
use super::{Call, Own, edit, reply};
use crate::back::{Failure, Place, Stream, Terms, Tunnel, lock};
use crate::body::{Body, Broken};
use crate::kernel::Netns;
use crate::proxy::Proxy;
use crate::reason::Reason;
use crate::wire::head::Upgrade;

/// Forwards a request by `route`, and gives the response whose head has come.
pub(super) async fn forward(
    proxy: &Arc<Proxy>,
    mesh: &Arc<Mesh>,
    call: &Call,
    found: Found,
    rules: &Forward,
    request: Box<http::Request<Body>>,
) -> Result<Response<Body>, Own> {
    let (parts, body) = request.into_parts();
    let mut parts = Box::new(parts);
    edit::headers(&mut parts.headers, &rules.request_headers);
    edit::rewrite(&mut parts, &rules.rewrite, call.service.table.matched(found));
    let copies = Copies::of(proxy, mesh, call, rules, &parts);
    let deadline = rules.timeouts.request.map(|request| Instant::from_std(call.started) + request);
    let is_kept = rules.retry.is_some() || idempotent(&parts.method) || copies.is_some();
    let most = if is_kept { proxy.limits.replay_bytes } else { 0 };
    let mut run = Run {
        proxy,
        mesh,
        call,
        found,
        rules,
        route: call.service.table.route(found),
        parts,
        tape: Tape::new(body, most, copies),
        deadline,
        tried: Vec::new(),
        further: 0,
    };
    let Some(deadline) = deadline else { return run.tries().await };
    match Box::pin(timeout_at(deadline, run.tries())).await {
        Ok(outcome) => outcome,
        Err(_) => Err(call.refused(Reason::RequestTimeout)),
    }
}

/// A request that is being forwarded.
struct Run<'a> {
    proxy: &'a Arc<Proxy>,
    mesh: &'a Arc<Mesh>,
    call: &'a Call,
    found: Found,
    rules: &'a Forward,
    route: &'a Route,
    parts: Box<request::Parts>,
    tape: Arc<Tape>,
    deadline: Option<Instant>,
    tried: Vec<SocketAddr>,
    further: u32,
}

impl Run<'_> {
    async fn tries(&mut self) -> Result<Response<Body>, Own> {
        if let Some(tries) = self.call.service.tries.get(&self.found.rule) {
            tries.request(self.second());
        }
        loop {
            let (picked, outstanding) = self.pick()?;
            let address = picked.address();
            let began = std::time::Instant::now();
            let try_ = Try {
                parts: &self.parts,
                body: self.tape.play(),
                repeatable: idempotent(&self.parts.method),
                per_try: self.rules.timeouts.per_try,
            };
            let outcome = attempt(self.proxy, self.call.origin.netns, &picked, try_).await;
            self.judge(&picked, &outcome, began.elapsed());
            self.tried.push(address);
            match outcome {
                Ok(response) if self.again_after_status(&response) => {}
                Ok(response) => return Ok(self.track(response, &picked, outstanding)),
                Err(failure) if self.again_after(&failure) => {
                    tracing::debug!(%failure, %address, "trying again");
                }
                Err(failure) => {
                    tracing::debug!(%failure, %address, "a request failed");
                    return Err(self.call.refused(reason(&failure)));
                }
            }
            drop(outstanding);
            self.call.service.live.counters.retry();
            self.back_off().await;
        }
    }

    fn pick(&self) -> Result<(Picked, Outstanding), Own> {
        let asking = Asking {
            kernel: &*self.proxy.kernel,
            mesh: self.mesh,
            own: &self.call.service,
            origin: &self.call.origin,
            headers: &self.parts.headers,
            avoid: &self.tried,
        };
        pick(&asking, &self.rules.backends).map_err(|reason| self.call.refused(reason))
    }

    /// Seconds since some point, for budgets.
    fn second(&self) -> u64 {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        // The windows of a process that has just begun are at second 0, which has to look long ago.
        START.get_or_init(std::time::Instant::now).elapsed().as_secs() + 100
    }

    /// Whether the request may be sent again by the policy of the route, and that is worth a try now.
    fn policy_allows(&mut self, untouched: bool, wanted: impl Fn(&Retry) -> bool) -> bool {
        let Some(retry) = &self.rules.retry else { return false };
        let allowed = wanted(retry)
            && self.further < u32::from(retry.attempts.get())
            && (untouched || idempotent(&self.parts.method))
            && self.tape.is_whole();
        let tries = self.call.service.tries.get(&self.found.rule);
        if !allowed || !tries.is_none_or(|tries| tries.further(retry.budget.as_ref(), self.second())) {
            return false;
        }
        self.further += 1;
        true
    }

    fn again_after_status(&mut self, response: &Response<Body>) -> bool {
        let status = response.status().as_u16();
        self.policy_allows(false, |retry| retry.statuses.binary_search(&status).is_ok())
    }

    fn again_after(&mut self, failure: &Failure) -> bool {
        let cause = match failure {
            Failure::Connect(_) | Failure::ConnectTimeout => Some(RetryCause::Connect),
            Failure::Reset { .. } | Failure::Refused => Some(RetryCause::Reset),
            Failure::TryTimeout => Some(RetryCause::Timeout),
            Failure::Exhausted | Failure::Response(_) | Failure::Client(_) | Failure::Silent => None,
        };
        let untouched = failure.untouched();
        if self.is_our_own_doing(failure)
            && (untouched || idempotent(&self.parts.method))
            && self.tape.is_whole()
        {
            return true;
        }
        self.policy_allows(untouched, |retry| cause.is_some_and(|cause| retry.causes.contains(&cause)))
    }

    /// A failure that the client would not have seen without the mesh: it reused no connection, and knows of no second
    /// endpoint. One further try, whatever the route says.
    fn is_our_own_doing(&self, failure: &Failure) -> bool {
        match failure {
            Failure::Reset { stale: true, .. } | Failure::Refused => self.tried.len() <= 2,
            Failure::Connect(_) => self.rules.retry.is_none() && self.tried.len() == 1,
            _ => false,
        }
    }

    async fn back_off(&self) {
        let Some(retry) = self.rules.retry.as_ref().filter(|_| self.further > 0) else { return };
        let doubled = retry.backoff.saturating_mul(1 << (self.further - 1).min(16)).min(retry.max_backoff);
        sleep(doubled.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }

    /// What the try says about the endpoint.
    fn judge(&self, picked: &Picked, outcome: &Result<Response<Body>, Failure>, took: Duration) {
        let Some(rules) = &picked.service.http().outlier else { return };
        let sign = match outcome {
            Ok(response) => Sign::Status(response.status(), took),
            Err(Failure::Client(_) | Failure::Exhausted | Failure::Refused) => return,
            Err(Failure::Reset { stale: true, .. }) => return,
            Err(_) => Sign::Broken,
        };
        let now = std::time::Instant::now();
        if !lock(&picked.live().record).note(rules, sign) {
            return;
        }
        let endpoints = picked.service.endpoints();
        let number = endpoints.len();
        let ejected = endpoints.filter(|(_, other)| lock(&other.record).is_ejected(now)).count();
        if outlier::may_eject(rules, number, ejected) {
            lock(&picked.live().record).eject(rules, now);
            self.proxy.anomaly("endpoint-ejected");
            tracing::info!(endpoint = %picked.address(), ?sign, "ejected an endpoint for its answers");
        }
    }

    /// The response, watched to its end.
    fn track(&self, response: Response<Body>, picked: &Picked, outstanding: Outstanding) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        let ending = Ending {
            service: Arc::clone(&self.call.service),
            route: Arc::clone(&self.route.name),
            endpoint: picked.address(),
            status: parts.status,
            request: Arc::clone(&self.tape),
            response_bytes: 0,
            started: self.call.started,
            _outstanding: outstanding,
            _stream: parts.extensions.remove::<Arc<Stream>>(),
        };
        if parts.extensions.get::<Tunnel>().is_some() {
            parts.extensions.insert(Arc::new(ending));
            return Response::from_parts(parts, body);
        }
        let silence = picked.service.http().pool.response_timeout;
        Response::from_parts(parts, Tracked::watch(body, ending, self.deadline, silence))
    }
}

/// One try.
pub(super) struct Try<'a> {
    pub(super) parts: &'a request::Parts,
    pub(super) body: Body,
    /// Whether sending it twice does no harm.
    pub(super) repeatable: bool,
    pub(super) per_try: Option<Duration>,
}

/// Sends a request to an endpoint, in the protocol that it takes.
pub(super) async fn attempt(
    proxy: &Arc<Proxy>,
    netns: Netns,
    picked: &Picked,
    try_: Try<'_>,
) -> Result<Response<Body>, Failure> {
    let Try { parts, body, repeatable, per_try } = try_;
    let http = picked.service.http();
    let pool = proxy.backs.pool(Place { netns, endpoint: picked.address() });
    let circuit = http.circuit.as_ref();
    let max_connections = circuit.and_then(|circuit| circuit.max_connections).map(|max| max.get() as usize);
    let max_pending = circuit.and_then(|circuit| circuit.max_pending).map(|max| max as usize);
    let terms = Terms {
        pool: http.pool,
        max_connections: max_connections.unwrap_or(usize::MAX),
        max_pending: max_pending.unwrap_or(usize::MAX),
        repeatable,
    };
    let in_http2 = match http.upstream {
        // Only HTTP/1 can become another protocol here.
        Upstream::H2c => parts.extensions.get::<Upgrade>().is_none() && parts.method != Method::CONNECT,
        Upstream::Http1 => parts.version == Version::HTTP_2 && reply::is_grpc(&parts.headers),
    };
    // Boxed where it is large and rare: each request under way has room for all that it may have to do.
    let run = async {
        if in_http2 {
            Box::pin(pool.http2(parts, body, &terms)).await
        } else {
            pool.http1(parts, body, &terms).await
        }
    };
    let silence = http.pool.response_timeout;
    let bound = match (per_try, silence) {
        (None, None) => return run.await,
        (Some(per_try), Some(silence)) if silence < per_try => (silence, Failure::Silent),
        (Some(per_try), _) => (per_try, Failure::TryTimeout),
        (None, Some(silence)) => (silence, Failure::Silent),
    };
    Box::pin(timeout(bound.0, run)).await.unwrap_or(Err(bound.1))
}

/// What a client is told of it.
pub(crate) fn reason(failure: &Failure) -> Reason {
    match failure {
        Failure::Connect(_) => Reason::ConnectFailed,
        Failure::ConnectTimeout => Reason::ConnectTimeout,
        Failure::Exhausted => Reason::PoolExhausted,
        Failure::Reset { .. } | Failure::Refused => Reason::EndpointClosed,
        Failure::Response(_) => Reason::BadResponse,
        Failure::Client(Broken::Malformed(fault)) => Reason::from(*fault),
        Failure::Client(_) => Reason::ClientGone,
        Failure::TryTimeout => Reason::TryTimeout,
        Failure::Silent => Reason::EndpointSilent,
    }
}

/// RFC 9110 section 9.2.2.
fn idempotent(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}
