//! The API: what the agent answers, over the unix socket and, in part, over the port of the metrics.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use alize_datapath::Scope;
use alize_datapath::observe::{Kinds, Method, Rate};
use alize_model::api::{Event, Refusal, TrialRule};
use alize_model::{Diagnostic, Mode, Severity};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::timeout;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tokio_stream::{Stream, StreamExt};

use crate::events::{Kind, event};
use crate::mesh::{ModeRefused, Rejected};
use crate::metrics::{Dialect, Names, Rendering};
use crate::observer::{self, Refused, Wanted};
use crate::owner::{Handle, Stopping};
use crate::routes::{Counted, settle};
use crate::scrape::Scrape;
use crate::source::LARGEST;
use crate::{proxy, status};

/// Answers at once that hold a whole scrape; the next wait.
const SCRAPES: usize = 4;
/// Clients that follow events at once.
const WATCHERS: usize = 16;
/// How long a client may take to hand over a file, or to take a whole scrape.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// The owner answers within this time, or the agent is not well.
const WELL: Duration = Duration::from_secs(1);
/// Services are sent in pieces of about this many bytes.
const CHUNK: usize = 16 * 1024;

const OPENAPI: &str = include_str!("../../../docs/reference/openapi.json");

/// What all handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    mesh: Handle,
    observer: observer::Handle,
    proxy: proxy::Handle,
    scrapes: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
    applying: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(mesh: Handle, observer: observer::Handle, proxy: proxy::Handle) -> Self {
        Self {
            mesh,
            observer,
            proxy,
            scrapes: Arc::new(Semaphore::new(SCRAPES)),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
            applying: Arc::new(Semaphore::new(1)),
        }
    }

    /// What was counted of requests on every path.
    async fn counted(&self) -> Vec<Counted> {
        let mut kernel = self.mesh.ask(|mesh| mesh.routed()).await.ok().flatten();
        let mut proxy = self.proxy.counters().await.map(Counted::by_proxy);
        if let (Some(kernel), Some(proxy)) = (&mut kernel, &mut proxy) {
            settle(kernel, proxy);
        }
        kernel.into_iter().chain(proxy).collect()
    }

    /// A scrape, and the right to hold it while it is being sent.
    async fn scrape(&self) -> Result<(Arc<Scrape>, OwnedSemaphorePermit), Response> {
        let place = turn(&self.scrapes).await?;
        let asked = Instant::now();
        match self.mesh.ask(move |mesh| mesh.scrape(asked)).await? {
            Ok(scrape) => Ok((scrape, place)),
            Err(error) => {
                Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read the counters: {error}")))
            }
        }
    }
}

/// Everything, for the unix socket.
pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status_now))
        .route("/v1/services", get(services))
        .route("/v1/services/{*name}", get(service))
        .route("/v1/events", get(events))
        .route("/v1/trace", get(trace))
        .route("/v1/requests", get(requests))
        .route("/v1/traffic", get(traffic))
        .route("/v1/config", get(config))
        .route("/v1/apply", post(apply))
        .route("/v1/mode", post(mode))
        .route("/v1/upgrade", post(upgrade))
        .route("/v1/rollback", post(rollback))
        .route("/v1/trial", get(trial).post(try_out))
        .route("/v1/trial/promote", post(promote))
        .route("/v1/trial/abort", post(abort))
        .route("/v1/openapi.json", get(openapi))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .with_state(api)
}

/// What everybody on the host may see.
pub(crate) fn metrics_router(api: Api) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .with_state(api)
}

async fn status_now(State(api): State<Api>) -> Result<Response, Response> {
    let mut status = api.mesh.ask(|mesh| mesh.status()).await?;
    status.proxy = api.proxy.status();
    Ok(Json(status).into_response())
}

#[derive(Deserialize)]
struct Filter {
    /// Only services whose name begins with this.
    #[serde(default)]
    name: String,
}

async fn services(
    State(api): State<Api>,
    filter: Result<Query<Filter>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Response> {
    let Query(filter) = filter.map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))?;
    let counted = api.counted().await;
    let (scrape, place) = api.scrape().await?;
    let mut array = ServiceArray { scrape, counted, prefix: filter.name, next: 0, state: ArrayState::Begin };
    let body = Chunks::new(place, move || array.next_chunk());
    Ok(([(CONTENT_TYPE, "application/json")], Body::new(body)).into_response())
}

async fn service(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Response> {
    let counted = api.counted().await;
    let (scrape, _place) = api.scrape().await?;
    let found = scrape.service(&name).and_then(|scraped| status::service(&scrape, scraped, &counted));
    let missing =
        || refuse(StatusCode::NOT_FOUND, format!("there is no service {name:?}; see GET /v1/services"));
    Ok(Json(found.ok_or_else(missing)?).into_response())
}

#[derive(Deserialize)]
struct Recent {
    /// How many of the last events come first.
    #[serde(default)]
    recent: usize,
}

async fn events(
    State(api): State<Api>,
    recent: Result<Query<Recent>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Response> {
    let Query(Recent { recent }) =
        recent.map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))?;
    let place = Arc::clone(&api.watchers).try_acquire_owned().map_err(|_| {
        let error = format!("{WATCHERS} clients follow events already; close one of them");
        refuse(StatusCode::SERVICE_UNAVAILABLE, error)
    })?;
    let (recent, next) = api.mesh.ask(move |mesh| mesh.events.watch(recent)).await?;
    let lines = event_lines(recent, next, place);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// One JSON object a line; a reader that is too slow is told how much it missed.
fn event_lines(
    recent: Vec<Arc<Event>>,
    next: broadcast::Receiver<Arc<Event>>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let next = BroadcastStream::new(next).map(move |received| {
        let _held = &place;
        received.unwrap_or_else(|BroadcastStreamRecvError::Lagged(missed)| {
            Arc::new(event(Kind::Agent, format!("{missed} events were missed: this reader is too slow")))
        })
    });
    tokio_stream::iter(recent).chain(next).map(|event| Ok(json_line(&event)))
}

fn json_line(event: &Event) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// What a trace asks for. All conditions must hold; what is absent is not asked for.
#[derive(Deserialize)]
struct TraceQuery {
    kinds: Option<String>,
    service: Option<String>,
    status: Option<String>,
    method: Option<String>,
    path_prefix: Option<String>,
    min_latency: Option<f64>,
    pid: Option<u32>,
    comm: Option<String>,
    unit: Option<String>,
    cgroup: Option<String>,
    sample: Option<u32>,
    rate_limit: Option<u32>,
}

impl TraceQuery {
    fn wanted(self) -> Result<Wanted, String> {
        let status = self.status.as_deref().map(status_range).transpose()?;
        let methods = self.method.as_deref().map(methods).transpose()?.unwrap_or_default();
        let min_latency = Duration::try_from_secs_f64(self.min_latency.unwrap_or_default())
            .map_err(|_| "min_latency is no number of seconds".to_owned())?;
        let filter = alize_datapath::observe::Filter {
            status,
            methods,
            kinds: self.kinds.as_deref().map(kinds).transpose()?.unwrap_or_default(),
            path_prefix: self.path_prefix.unwrap_or_default(),
            min_latency,
            pid: self.pid,
            comm: self.comm.unwrap_or_default(),
            one_in: self.sample.unwrap_or_default(),
            // A second's worth may come at once.
            rate: self.rate_limit.map(|rate| Rate { per_second: rate, burst: rate }),
            ..Default::default()
        };
        Ok(Wanted { filter, service: self.service, unit: self.unit, cgroup: self.cgroup })
    }
}

/// `404`, `5xx` or `400-499`.
fn status_range(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("status {text:?} is none of the forms 404, 5xx and 400-499");
    let number = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=999).contains(code));
    let range = match (text.strip_suffix("xx"), text.split_once('-')) {
        (Some(class), _) => class
            .parse::<u16>()
            .ok()
            .filter(|class| (1..=9).contains(class))
            .map(|class| (class * 100, class * 100 + 99)),
        (None, Some((from, to))) => number(from).zip(number(to)),
        (None, None) => number(text).map(|code| (code, code)),
    };
    range.ok_or_else(wrong)
}

/// `http`, `tcp` and `dns`, separated by commas.
fn kinds(text: &str) -> Result<Kinds, String> {
    let mut kinds = Kinds { requests: false, tcp: false, dns: false };
    for name in text.split(',') {
        match name.trim() {
            "http" => kinds.requests = true,
            "tcp" => kinds.tcp = true,
            "dns" => kinds.dns = true,
            other => return Err(format!("kind {other:?} is none of http, tcp and dns")),
        }
    }
    Ok(kinds)
}

/// Separated by commas.
fn methods(text: &str) -> Result<Vec<Method>, String> {
    let method = |name: &str| {
        let name = name.trim();
        let found = Method::ALL.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("method {name:?} is not known; use _OTHER for all that are not standard"))
    };
    text.split(',').map(method).collect()
}

async fn trace(
    State(api): State<Api>,
    query: Result<Query<TraceQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Response> {
    let Query(query) = query.map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))?;
    let wanted = query.wanted().map_err(|error| refuse(StatusCode::BAD_REQUEST, error))?;
    let lines = ReceiverStream::new(api.observer.trace(wanted).await?).map(Ok::<_, Infallible>);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn requests(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Response> {
    if let Some(id) = query.as_deref().and_then(|query| query.strip_prefix("id=")) {
        return Ok(Json(api.observer.request_by_id(id.to_owned()).await?).into_response());
    }
    let failed = match query.as_deref() {
        Some("slowest" | "slowest=") => false,
        Some("failed" | "failed=") => true,
        _ => {
            let error = "ask for /v1/requests?slowest, /v1/requests?failed or /v1/requests?id=ID".to_owned();
            return Err(refuse(StatusCode::BAD_REQUEST, error));
        }
    };
    Ok(Json(api.observer.requests(failed).await?).into_response())
}

#[derive(Deserialize)]
struct TrafficQuery {
    /// Whether requests of different paths are different series.
    #[serde(default)]
    paths: bool,
}

async fn traffic(
    State(api): State<Api>,
    query: Result<Query<TrafficQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Response> {
    let Query(query) = query.map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))?;
    let text = api.observer.traffic(query.paths).await?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

async fn config(State(api): State<Api>) -> Result<Response, Response> {
    let Some(text) = api.mesh.ask(|mesh| mesh.text_in_force()).await? else {
        let error = "the text of what is in force is not known; apply a file to make it known";
        return Err(refuse(StatusCode::NOT_FOUND, error.into()));
    };
    Ok(([(CONTENT_TYPE, "application/yaml")], text).into_response())
}

#[derive(Deserialize)]
struct Named {
    /// The name of the file, for errors.
    name: Option<String>,
}

async fn apply(
    State(api): State<Api>,
    named: Result<Query<Named>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Response> {
    let Query(Named { name }) = named.map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))?;
    let _place = turn(&api.applying).await?;
    let bytes = read_body(&headers, body).await?;
    if name.is_none() && bytes.is_empty() {
        let applied = api.mesh.ask(|mesh| mesh.reload()).await?;
        return Ok(
            Json(applied.map_err(|rejected| refuse_text("the watched file", &rejected))?).into_response()
        );
    }
    let name = name.unwrap_or_else(|| "-".into());
    let asked = name.clone();
    let applied = api.mesh.ask(move |mesh| mesh.apply(&asked, bytes)).await?;
    Ok(Json(applied.map_err(|rejected| refuse_text(&name, &rejected))?).into_response())
}

async fn upgrade(State(api): State<Api>, headers: HeaderMap, body: Body) -> Result<Response, Response> {
    let _place = turn(&api.applying).await?;
    let bytes = read_body(&headers, body).await?;
    Ok(upgraded(api.mesh.ask(move |mesh| mesh.upgrade(&bytes)).await?))
}

#[derive(Deserialize)]
struct RollbackQuery {
    /// Absent: what was in force before.
    version: Option<String>,
}

async fn rollback(
    State(api): State<Api>,
    query: Result<Query<RollbackQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Response> {
    let Query(RollbackQuery { version }) =
        query.map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))?;
    let _place = turn(&api.applying).await?;
    Ok(upgraded(api.mesh.ask(move |mesh| mesh.roll_back(version.as_deref())).await?))
}

#[derive(Deserialize)]
struct TrialQuery {
    cgroup: Option<PathBuf>,
    #[serde(default)]
    share: u32,
    promote_after: Option<f64>,
    max_errors: Option<u64>,
    max_slower: Option<u32>,
    max_fallbacks: Option<u32>,
}

async fn try_out(
    State(api): State<Api>,
    query: Result<Query<TrialQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Response> {
    let Query(TrialQuery { cgroup, share, promote_after, max_errors, max_slower, max_fallbacks }) =
        query.map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))?;
    if share > 100 || (share == 0 && cgroup.is_none()) {
        let why = "say who gets the new programs: cgroup, share (1 to 100 per cent), or both";
        return Err(refuse(StatusCode::BAD_REQUEST, why.into()));
    }
    let scope = Scope { cgroup, share };
    let rule = TrialRule { promote_after, max_errors, max_slower, max_fallbacks };
    let _place = turn(&api.applying).await?;
    let bytes = read_body(&headers, body).await?;
    match api.mesh.ask(move |mesh| mesh.try_out(&bytes, &scope, rule)).await? {
        Ok(trial) => Ok(Json(trial).into_response()),
        Err(error) => Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())),
    }
}

async fn trial(State(api): State<Api>) -> Result<Response, Response> {
    match api.mesh.ask(|mesh| mesh.trial_now()).await? {
        Ok(Some(trial)) => Ok(Json(trial).into_response()),
        Ok(None) => Err(refuse(StatusCode::NOT_FOUND, alize_datapath::Error::NoTrial.to_string())),
        Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn promote(State(api): State<Api>) -> Result<Response, Response> {
    let _place = turn(&api.applying).await?;
    Ok(upgraded(api.mesh.ask(|mesh| mesh.promote()).await?))
}

async fn abort(State(api): State<Api>) -> Result<Response, Response> {
    let _place = turn(&api.applying).await?;
    match api.mesh.ask(|mesh| mesh.abort_trial("somebody said so")).await? {
        Ok(bundle) => Ok(Json(serde_json::json!({ "aborted": bundle })).into_response()),
        Err(error) => Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())),
    }
}

fn upgraded(result: Result<alize_datapath::Upgraded, alize_datapath::Error>) -> Response {
    match result {
        Ok(upgraded) => Json(alize_model::api::Upgraded::from(upgraded)).into_response(),
        Err(error) => refuse(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    }
}

#[derive(Deserialize)]
struct ModeQuery {
    service: String,
    /// Absent: what the file says.
    mode: Option<Mode>,
    /// For how many seconds; for ever when absent.
    seconds: Option<f64>,
}

async fn mode(
    State(api): State<Api>,
    query: Result<Query<ModeQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Response> {
    let Query(ModeQuery { service, mode, seconds }) =
        query.map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))?;
    if seconds.is_some_and(|seconds| !(seconds.is_finite() && seconds > 0.0)) {
        return Err(refuse(StatusCode::BAD_REQUEST, "seconds must be a number above 0".into()));
    }
    let name = service.clone();
    let changed = api.mesh.ask(move |mesh| mesh.set_mode(&name, mode, seconds)).await?;
    let changed = changed.map_err(|refused| match refused {
        ModeRefused::Unknown => {
            refuse(StatusCode::NOT_FOUND, format!("there is no service {service:?}; see GET /v1/services"))
        }
        ModeRefused::Kernel(error) => refuse(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    })?;
    Ok(Json(changed).into_response())
}

async fn read_body(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Response> {
    let too_large = || {
        let error = format!("the file is larger than {} MiB", LARGEST >> 20);
        refuse(StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > LARGEST as u64) {
        return Err(too_large());
    }
    match timeout(PATIENCE, Limited::new(body, LARGEST).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(refuse(StatusCode::BAD_REQUEST, format!("the file broke off: {error}"))),
        Err(_) => {
            let error = format!("the file did not arrive within {} s", PATIENCE.as_secs());
            Err(refuse(StatusCode::REQUEST_TIMEOUT, error))
        }
    }
}

fn refuse_text(name: &str, rejected: &Rejected) -> Response {
    let diagnostics = rejected.diagnostics(name);
    let (status, error) = match rejected {
        Rejected::Text(_) => {
            let errors =
                diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
            let errors = if errors == 1 { "1 error".to_owned() } else { format!("{errors} errors") };
            let error = format!("{name} was refused for {errors}; what was in force stays");
            (StatusCode::UNPROCESSABLE_ENTITY, error)
        }
        Rejected::Kernel(error) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        Rejected::NothingToRead => {
            let error = "this agent watches no file; hand one over as the body, with ?name=FILE";
            (StatusCode::CONFLICT, error.into())
        }
    };
    refuse_with(status, error, diagnostics)
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// How `/metrics` is asked.
#[derive(Deserialize)]
struct Scraped {
    /// `prometheus` or `opentelemetry`.
    #[serde(default)]
    names: Names,
}

async fn metrics(
    State(api): State<Api>,
    scraped: Result<Query<Scraped>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let Query(Scraped { names }) = scraped
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "names is prometheus or opentelemetry".into()))?;
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let dialect = Dialect::accepted(accept);
    let counted = api.counted().await;
    let (scrape, place) = api.scrape().await?;
    let http = if api.observer.feeds_metrics() { Some(api.observer.metrics().await?) } else { None };
    let mut rendering = Rendering::new(scrape, http, counted, dialect).named(names);
    let body = Chunks::new(place, move || rendering.next_chunk());
    Ok(([(CONTENT_TYPE, dialect.content_type())], Body::new(body)).into_response())
}

/// Well means: the owner of the mesh answers.
async fn health(State(api): State<Api>) -> Response {
    match timeout(WELL, api.mesh.ask(|_| ())).await {
        Ok(Ok(())) => "ok\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the agent is busy or ending\n").into_response(),
    }
}

async fn unknown_path() -> Response {
    refuse(StatusCode::NOT_FOUND, "there is nothing at this path; see GET /v1/openapi.json".into())
}

async fn wrong_method() -> Response {
    refuse(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method; see GET /v1/openapi.json".into())
}

async fn turn(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Response> {
    match timeout(TURN, Arc::clone(places).acquire_owned()).await {
        Ok(Ok(place)) => Ok(place),
        _ => {
            let error = "too many clients ask for this at once; try again";
            Err(refuse(StatusCode::SERVICE_UNAVAILABLE, error.into()))
        }
    }
}

fn refuse(status: StatusCode, error: String) -> Response {
    refuse_with(status, error, Vec::new())
}

fn refuse_with(status: StatusCode, error: String, diagnostics: Vec<Diagnostic>) -> Response {
    (status, Json(Refusal { error, diagnostics })).into_response()
}

impl From<Refused> for Response {
    fn from(refused: Refused) -> Self {
        let off = "this agent observes no HTTP: it was started with --observe off";
        match refused {
            Refused::Off => refuse(StatusCode::CONFLICT, off.into()),
            Refused::Busy(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error),
            Refused::Wrong(error) => refuse(StatusCode::BAD_REQUEST, error),
            Refused::Unknown(error) => refuse(StatusCode::NOT_FOUND, error),
            Refused::Kernel(error) => {
                refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot observe HTTP: {error}"))
            }
            Refused::Stopping => Stopping.into(),
        }
    }
}

impl From<Stopping> for Response {
    fn from(_: Stopping) -> Self {
        refuse(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending".into())
    }
}

/// Services as a JSON array, written piece by piece.
struct ServiceArray {
    scrape: Arc<Scrape>,
    counted: Vec<Counted>,
    prefix: String,
    next: usize,
    state: ArrayState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ArrayState {
    Begin,
    First,
    Further,
    Ended,
}

impl ServiceArray {
    fn next_chunk(&mut self) -> Option<String> {
        if self.state == ArrayState::Ended {
            return None;
        }
        let mut text = String::with_capacity(CHUNK);
        if self.state == ArrayState::Begin {
            text.push('[');
            self.state = ArrayState::First;
        }
        while let Some(scraped) = self.scrape.services.get(self.next) {
            self.next += 1;
            if !scraped.name.as_str().starts_with(&self.prefix) {
                continue;
            }
            let Some(service) = status::service(&self.scrape, scraped, &self.counted) else { continue };
            if self.state == ArrayState::Further {
                text.push(',');
            }
            self.state = ArrayState::Further;
            text.push_str(&serde_json::to_string(&service).unwrap_or_default());
            if text.len() >= CHUNK {
                return Some(text);
            }
        }
        self.state = ArrayState::Ended;
        text.push(']');
        Some(text)
    }
}

/// A body that is written while it is being sent, never faster than the client reads.
struct Chunks<F> {
    next: F,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

impl<F: FnMut() -> Option<String> + Unpin> Chunks<F> {
    fn new(place: OwnedSemaphorePermit, next: F) -> Self {
        Self { next, until: Instant::now() + PATIENCE, _place: place }
    }
}

impl<F: FnMut() -> Option<String> + Unpin> hyper::body::Body for Chunks<F> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if Instant::now() > self.until {
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "the client reads too slowly");
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready((self.next)().map(|text| Ok(Frame::data(text.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_code_a_class_or_a_range() {
        assert_eq!(status_range("404"), Ok((404, 404)));
        assert_eq!(status_range("5xx"), Ok((500, 599)));
        assert_eq!(status_range("400-499"), Ok((400, 499)));
        for wrong in ["", "xx", "0xx", "55xx", "99", "1000", "4-5", "400-", "-400", "ok", "-1xx"] {
            assert!(status_range(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn methods_are_told_apart_by_commas() {
        assert_eq!(methods("get,POST"), Ok(vec![Method::Get, Method::Post]));
        assert_eq!(methods("_OTHER"), Ok(vec![Method::Other]));
        assert!(methods("").is_err() && methods("GET;POST").is_err());
    }
}
