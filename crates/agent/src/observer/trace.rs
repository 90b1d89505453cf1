//! Traces: from the kernel's records to lines of JSON, each reader with a queue of its own that may overflow.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alize_datapath::observe::{Filter, Identity, Request, Side, TraceId};
use alize_model::api::{Lost, ObservedRequest, Peer, TraceLine, Workload};
use axum::body::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::warn;

use super::cgroups::Cgroups;
use super::names::Names;
use super::{LOOK, Refused, Watcher};
use crate::events::unix_time;

/// Lines are handed on in pieces of about this many bytes.
const PIECE: usize = 32 * 1024;
/// Pieces that wait for a reader.
const PIECES: usize = 64;

/// What a trace asks for, in the words of the API.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// What the kernel looks for, as far as it needs no name to be looked up.
    pub(crate) filter: Filter,
    /// Name of the service.
    pub(crate) service: Option<String>,
    /// Unit, container or workload of either end.
    pub(crate) unit: Option<String>,
    /// Path of the cgroup of either end, or of one above it.
    pub(crate) cgroup: Option<String>,
}

/// What the agent looks for itself, because the kernel cannot.
#[derive(Default)]
struct Kept {
    /// Cgroups of which one must be an end; the kernel looks for a single one.
    cgroups: Option<HashSet<u64>>,
    /// Name of the service. The kernel does not know what was dialled: it sees the connection after balancing.
    service: Option<String>,
}

/// A running trace.
pub(super) struct Trace {
    id: TraceId,
    lines: mpsc::Sender<Bytes>,
    kept: Kept,
    limited: bool,
    piece: Vec<u8>,
    in_piece: u64,
    lost: Lost,
}

impl Trace {
    fn wants(&self, request: &Request, names: &Names) -> bool {
        let is = |name: &String| {
            names.service(request.service, request.server_address).as_deref() == Some(name.as_str())
        };
        let among = |cgroups: &HashSet<u64>| {
            [&request.client, &request.server].into_iter().flatten().any(|end| cgroups.contains(&end.cgroup))
        };
        self.id.wants(request)
            && self.kept.cgroups.as_ref().is_none_or(among)
            && self.kept.service.as_ref().is_none_or(is)
    }

    fn add(&mut self, line: &TraceLine) {
        if self.piece.len() >= PIECE {
            self.hand_over();
        }
        // Writing to memory cannot fail, nor can these types.
        let _ = serde_json::to_writer(&mut self.piece, line);
        self.piece.push(b'\n');
        self.in_piece += 1;
    }

    /// Gives the reader what there is, or counts it as lost.
    fn hand_over(&mut self) {
        let lines = std::mem::take(&mut self.in_piece);
        if lines == 0 {
            return;
        }
        match self.lines.try_send(std::mem::take(&mut self.piece).into()) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => self.lost.reader += lines,
        }
    }

    /// Tells what was lost, if the reader can be told.
    fn tell_lost(&mut self) {
        if self.lost != Lost::default() && self.lines.capacity() > 0 {
            let lost = std::mem::take(&mut self.lost);
            self.add(&TraceLine::Lost(lost));
            self.hand_over();
        }
    }
}

impl Watcher {
    pub(super) fn start_trace(&mut self, wanted: &Wanted) -> Result<mpsc::Receiver<Bytes>, Refused> {
        let (filter, kept) = self.resolve(wanted)?;
        self.attach()?;
        // What is in the ring was asked for by a trace that had this place before, maybe of another agent.
        self.deliver();
        let none_runs = self.traces.is_empty();
        let (observer, _) = self.attach()?;
        if none_runs {
            observer.poll(&mut |_| {})?;
        }
        let id = observer.start_trace(&filter)?;
        let tallies = observer.tallies()?;
        let count = |name| tallies.get(name).unwrap_or(0);
        if self.traces.is_empty() {
            self.told_lost = (count("event-lost"), count("event-limited"));
        }
        let (lines, receiver) = mpsc::channel(PIECES);
        self.traces.push(Trace {
            id,
            lines,
            kept,
            limited: filter.rate.is_some(),
            piece: Vec::new(),
            in_piece: 0,
            lost: Lost::default(),
        });
        Ok(receiver)
    }

    /// Names become numbers.
    fn resolve(&mut self, wanted: &Wanted) -> Result<(Filter, Kept), Refused> {
        let mut filter = wanted.filter.clone();
        if let Some(name) = &wanted.service {
            self.names_asked = None;
            self.renew_names();
            if !self.names.has(name) {
                let error = format!("there is no service {name:?}; see GET /v1/services");
                return Err(Refused::Unknown(error));
            }
        }
        let mut kept = Kept { service: wanted.service.clone(), cgroups: None };
        let found = match (&wanted.unit, &wanted.cgroup) {
            (None, None) => return Ok((filter, kept)),
            (Some(_), Some(_)) => {
                return Err(Refused::Wrong("ask for a unit or for a cgroup, not for both".into()));
            }
            (Some(unit), None) => self.cgroups.find(|workload| is_unit(workload, unit)),
            (None, Some(path)) => {
                let path = self.cgroups.inner_path(path);
                let below = format!("{}/", path.trim_end_matches('/'));
                self.cgroups.find(|workload| workload.cgroup == path || workload.cgroup.starts_with(&below))
            }
        };
        match found[..] {
            [] => {
                let what = wanted.unit.as_ref().or(wanted.cgroup.as_ref());
                let what = what.map(String::as_str).unwrap_or_default();
                Err(Refused::Unknown(format!("no unit, container or cgroup {what:?} is meshed here")))
            }
            [only] => {
                filter.cgroup = Some(only);
                Ok((filter, kept))
            }
            _ => {
                kept.cgroups = Some(found.into_iter().collect());
                Ok((filter, kept))
            }
        }
    }

    /// Hands over what came in the ring, and ends traces whose reader has gone.
    pub(super) fn deliver(&mut self) {
        self.end_traces_of(|trace| trace.lines.is_closed());
        if self.traces.is_empty() {
            return;
        }
        self.last_asked = Instant::now();
        self.renew_names();
        let Some(observer) = self.observer.as_mut() else { return };
        let offset = clock_offset();
        let (traces, cgroups, names) = (&mut self.traces, &mut self.cgroups, &self.names);
        let mut malformed = None;
        let polled = observer.poll(&mut |request| match request {
            Ok(request) => hand_out(&request, traces, cgroups, names, offset),
            Err(error) => malformed = Some(error),
        });
        if let Err(error) = polled {
            warn!("{error}");
        }
        if let Some(error) = malformed {
            warn!("{error}");
        }
        self.traces.iter_mut().for_each(Trace::hand_over);
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.count_lost();
        }
        self.traces.iter_mut().for_each(Trace::tell_lost);
    }

    fn count_lost(&mut self) {
        let Some(Ok(tallies)) = self.observer.as_ref().map(|observer| observer.tallies()) else { return };
        let count = |name| tallies.get(name).unwrap_or(0);
        let now = (count("event-lost"), count("event-limited"));
        for trace in &mut self.traces {
            trace.lost.ring += now.0.saturating_sub(self.told_lost.0);
            if trace.limited {
                trace.lost.limited += now.1.saturating_sub(self.told_lost.1);
            }
        }
        self.told_lost = now;
    }

    pub(super) fn end_traces(&mut self) {
        self.end_traces_of(|_| true);
    }

    fn end_traces_of(&mut self, over: impl Fn(&Trace) -> bool) {
        let Some(observer) = self.observer.as_mut() else { return };
        let before = self.traces.len();
        self.traces.retain(|trace| {
            let over = over(trace);
            if over && let Err(error) = observer.stop_trace(trace.id) {
                warn!("cannot stop a trace: {error}");
            }
            !over
        });
        if self.traces.len() < before {
            alize_datapath::trim_memory();
        }
    }

    /// From the flight recorder.
    pub(super) fn recorded(&mut self, failed: bool) -> Result<Vec<ObservedRequest>, Refused> {
        self.renew_names();
        let (observer, _) = self.attach()?;
        let requests = if failed { observer.failed()? } else { observer.slowest()? };
        let offset = clock_offset();
        let (cgroups, names) = (&mut self.cgroups, &self.names);
        Ok(requests.iter().map(|request| observed(request, cgroups, names, offset)).collect())
    }
}

/// A unit may be written without `.service`, a container as the beginning of its id.
fn is_unit(workload: &Workload, wanted: &str) -> bool {
    let unit = |unit: &String| unit == wanted || unit.strip_suffix(".service") == Some(wanted);
    let container = |id: &String| wanted.len() >= 4 && id.starts_with(wanted);
    workload.name == wanted
        || workload.unit.as_ref().is_some_and(unit)
        || workload.container.as_ref().is_some_and(container)
}

fn hand_out(request: &Request, traces: &mut [Trace], cgroups: &mut Cgroups, names: &Names, offset: f64) {
    let mut line = None;
    for trace in traces.iter_mut().filter(|trace| trace.wants(request, names)) {
        // A reader that takes nothing costs no more than this.
        if trace.lines.capacity() == 0 {
            trace.lost.reader += 1;
            continue;
        }
        let line = line
            .get_or_insert_with(|| TraceLine::Request(Box::new(observed(request, cgroups, names, offset))));
        trace.add(line);
    }
}

/// Seconds from the monotonic clock's zero to the Unix epoch's.
fn clock_offset() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    unix_time() - (now.tv_sec as f64 + now.tv_nsec as f64 / 1e9)
}

fn observed(request: &Request, cgroups: &mut Cgroups, names: &Names, offset: f64) -> ObservedRequest {
    let endpoint = request.server_address;
    ObservedRequest {
        time: request.started.as_secs_f64() + offset,
        client: peer(request.client.as_ref(), cgroups),
        client_address: request.client_address,
        server: peer(request.server.as_ref(), cgroups),
        endpoint,
        service: names.service(request.service, endpoint).map(|name| name.to_string()),
        dialled: request.service.is_some(),
        method: request.method.as_str().into(),
        host: Some(request.host.clone()).filter(|host| !host.is_empty()),
        target: request.target.clone(),
        target_cut: request.target_cut,
        status: request.status,
        latency: request.latency.as_secs_f64(),
        first_byte: request.first_byte.as_ref().map(Duration::as_secs_f64),
        request_bytes: request.request_bytes,
        response_bytes: request.response_bytes,
        path_label: "observed".into(),
        side: match request.side {
            Side::Client => "client",
            Side::Server => "server",
        }
        .into(),
        reused: request.reused,
        pipelined: request.pipelined,
    }
}

fn peer(identity: Option<&Identity>, cgroups: &mut Cgroups) -> Option<Peer> {
    let identity = identity?;
    Some(Peer {
        workload: Arc::unwrap_or_clone(cgroups.workload(identity.cgroup)),
        pid: identity.pid,
        uid: identity.pid.map(|_| identity.uid),
        comm: identity.pid.map(|_| identity.comm.clone()),
    })
}
