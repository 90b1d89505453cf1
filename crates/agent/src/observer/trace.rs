//! Traces: from the kernel's records to lines of JSON, each reader with a queue of its own that may overflow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alize_datapath::observe::{DnsQuery, Event, Filter, Grpc, Identity, Request, Side, TcpEvent, TraceId};
use alize_model::api::{
    Lost, ObservedCall, ObservedConnection, ObservedLookup, ObservedRequest, Peer, TraceLine, Workload,
};
use axum::body::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::warn;

use super::cgroups::Cgroups;
use super::commands::Commands;
use super::names::Names;
use super::{LOOK, Refused, Watcher};
use crate::events::clock_offset;

/// Lines are handed on in pieces of about this many bytes.
const PIECE: usize = 32 * 1024;
/// Pieces that wait for a reader.
const PIECES: usize = 64;

/// Requests that can be asked for again by their id: 2 MiB at most.
const KEPT: usize = 4096;

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

/// A running trace.
pub(super) struct Trace {
    id: TraceId,
    wanted: Wanted,
    /// What the kernel looks for now: the names in `wanted` as numbers.
    filter: Filter,
    lines: mpsc::Sender<Bytes>,
    limited: bool,
    piece: Vec<u8>,
    in_piece: u64,
    lost: Lost,
}

impl Trace {
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
        let filter = self.resolve(wanted)?;
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
            wanted: wanted.clone(),
            lines,
            limited: filter.rate.is_some(),
            filter,
            piece: Vec::new(),
            in_piece: 0,
            lost: Lost::default(),
        });
        Ok(receiver)
    }

    /// Names become numbers.
    fn resolve(&mut self, wanted: &Wanted) -> Result<Filter, Refused> {
        let mut filter = wanted.filter.clone();
        if let Some(name) = &wanted.service {
            self.names_asked = None;
            self.renew_names();
            let Some(number) = self.names.number(name) else {
                let error = format!("there is no service {name:?}; see GET /v1/services");
                return Err(Refused::Unknown(error));
            };
            filter.service = Some(number);
            let mut endpoints = self.names.endpoints_of(name);
            endpoints.sort();
            filter.endpoints = Some(endpoints);
        }
        let mut found = match (&wanted.unit, &wanted.cgroup) {
            (None, None) => return Ok(filter),
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
        if found.is_empty() {
            let what = wanted.unit.as_ref().or(wanted.cgroup.as_ref());
            let what = what.map(String::as_str).unwrap_or_default();
            let error = format!(
                "no unit, container or cgroup {what:?} is meshed here; `systemd-cgls` lists units and cgroups, \
                 `alize map` those that speak HTTP"
            );
            return Err(Refused::Unknown(error));
        }
        found.sort_unstable();
        filter.cgroups = Some(found);
        Ok(filter)
    }

    /// Endpoints and cgroups come and go while a trace runs; what it asks for by name stays the same.
    fn renew_filters(&mut self) {
        for place in 0..self.traces.len() {
            let wanted = self.traces[place].wanted.clone();
            if wanted.service.is_none() && wanted.unit.is_none() && wanted.cgroup.is_none() {
                continue;
            }
            // A service or unit that is gone for now is still asked for.
            let Ok(filter) = self.resolve(&wanted) else { continue };
            let trace = &mut self.traces[place];
            let Some(observer) = self.observer.as_mut() else { return };
            if filter != trace.filter {
                match observer.change_trace(trace.id, &filter) {
                    Ok(()) => trace.filter = filter,
                    Err(error) => warn!("a trace goes on with what it asked for before: {error}"),
                }
            }
        }
    }

    /// Hands over what came in the ring, and ends traces whose reader has gone.
    pub(super) fn deliver(&mut self) {
        self.end_traces_of(|trace| trace.lines.is_closed());
        if self.traces.is_empty() {
            self.count_http2();
            return;
        }
        self.last_asked = Instant::now();
        self.renew_names();
        let Some(observer) = self.observer.as_mut() else { return };
        let offset = clock_offset();
        let (traces, kept) = (&mut self.traces, &mut self.kept);
        let mut words =
            Words { cgroups: &mut self.cgroups, commands: &mut self.commands, names: &self.names, offset };
        let mut malformed = None;
        let polled = observer.poll(&mut |event| match event {
            Ok(event) => hand_out(&event, traces, kept, &mut words),
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
            self.renew_filters();
        }
        self.traces.iter_mut().for_each(Trace::tell_lost);
    }

    /// Nobody traces; what the kernel tells of HTTP/2 is counted all the same.
    fn count_http2(&mut self) {
        if let Some(observer) = self.observer.as_mut()
            && let Err(error) = observer.poll(&mut |_| {})
        {
            warn!("{error}");
        }
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

    /// The request with this id: one that a trace has shown, or one of the flight recorder.
    pub(super) fn request_by_id(&mut self, id: &str) -> Result<ObservedRequest, Refused> {
        if let Some(request) = self.kept.iter().rev().find(|request| request.id == id) {
            return Ok(ObservedRequest::clone(request));
        }
        for failed in [true, false] {
            if let Some(request) = self.recorded(failed)?.into_iter().find(|request| request.id == id) {
                return Ok(request);
            }
        }
        let error = format!(
            "no request {id:?} is known: the last {KEPT} that a trace has shown are, and those of the flight recorder; \
             `alize trace --ids` and `alize trace --last 10 --ids` show them"
        );
        Err(Refused::Unknown(error))
    }

    /// From the flight recorder.
    pub(super) fn recorded(&mut self, failed: bool) -> Result<Vec<ObservedRequest>, Refused> {
        self.renew_names();
        let (observer, _) = self.attach()?;
        let requests = if failed { observer.failed()? } else { observer.slowest()? };
        let offset = clock_offset();
        let mut words =
            Words { cgroups: &mut self.cgroups, commands: &mut self.commands, names: &self.names, offset };
        Ok(requests.iter().map(|request| words.request(request)).collect())
    }
}

/// A unit may be written without `.service`, a container as the beginning of its id.
fn is_unit(workload: &Workload, wanted: &str) -> bool {
    let unit = |unit: &String| unit == wanted || unit.strip_suffix(".service") == Some(wanted);
    let container = |id: &String| wanted.len() >= 4 && id.starts_with(wanted);
    workload.name == wanted
        || workload.container_name.as_deref() == Some(wanted)
        || workload.unit.as_ref().is_some_and(unit)
        || workload.container.as_ref().is_some_and(container)
}

fn hand_out(
    event: &Event,
    traces: &mut [Trace],
    kept: &mut VecDeque<Box<ObservedRequest>>,
    words: &mut Words<'_>,
) {
    let mut line = None;
    for trace in traces.iter_mut().filter(|trace| trace.id.wants(event)) {
        // A reader that takes nothing costs no more than this.
        if trace.lines.capacity() == 0 {
            trace.lost.reader += 1;
            continue;
        }
        trace.add(line.get_or_insert_with(|| words.line(event)));
    }
    if let Some(TraceLine::Request(request)) = line {
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(request);
    }
}

/// From numbers to the words of the API.
struct Words<'a> {
    cgroups: &'a mut Cgroups,
    commands: &'a mut Commands,
    names: &'a Names,
    /// See [`clock_offset`].
    offset: f64,
}

impl Words<'_> {
    fn line(&mut self, event: &Event) -> TraceLine {
        match event {
            Event::Request(request) => TraceLine::Request(Box::new(self.request(request))),
            Event::Tcp(event) => TraceLine::Tcp(Box::new(self.connection(event))),
            Event::Dns(query) => TraceLine::Dns(Box::new(self.lookup(query))),
        }
    }

    fn request(&mut self, request: &Request) -> ObservedRequest {
        let (endpoint, ended) = (request.server_address, request.started + request.latency);
        ObservedRequest {
            id: request_id(request),
            time: request.started.as_secs_f64() + self.offset,
            client: self.peer(request.client.as_ref(), ended),
            client_address: request.client_address,
            server: self.peer(request.server.as_ref(), ended),
            endpoint,
            service: self.names.service(request.service, endpoint).map(|name| name.to_string()),
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
            path_label: request.path_label.as_str().into(),
            side: side(request.side),
            reused: request.reused,
            pipelined: request.pipelined,
            broken: request.broken,
            protocol: request.protocol.as_str().into(),
            grpc: request.grpc.as_ref().map(call),
            partial: request.partial,
            trace_parent: request.trace_parent.clone(),
        }
    }

    fn connection(&mut self, event: &TcpEvent) -> ObservedConnection {
        ObservedConnection {
            time: event.time.as_secs_f64() + self.offset,
            event: event.kind.as_str().into(),
            reason: event.reason.map(|reason| reason.as_str().into()),
            side: side(event.side),
            owner: self.peer(event.owner.as_ref(), event.time),
            local: event.local,
            remote: event.remote,
            service: self.names.service(None, event.server()).map(|name| name.to_string()),
            duration: event.duration.as_ref().map(Duration::as_secs_f64),
            bytes_sent: event.bytes_sent,
            bytes_received: event.bytes_received,
            retransmits: event.retransmits,
            rtt: event.rtt.as_ref().map(Duration::as_secs_f64),
        }
    }

    fn lookup(&mut self, query: &DnsQuery) -> ObservedLookup {
        ObservedLookup {
            time: query.time.as_secs_f64() + self.offset,
            client: self.peer(query.client.as_ref(), query.time + query.latency),
            client_address: query.client_address,
            server: query.server_address,
            name: query.name.clone(),
            name_cut: query.name_cut,
            query_type: query_type(query.query_type),
            code: query.code.map(code),
            answers: query.answers,
            latency: query.latency.as_secs_f64(),
            transport: if query.tcp { "tcp" } else { "udp" }.into(),
            truncated: query.truncated,
            repeated: query.repeated,
        }
    }

    /// Who had this identity at `time` of the monotonic clock.
    fn peer(&mut self, identity: Option<&Identity>, time: Duration) -> Option<Peer> {
        let identity = identity?;
        Some(Peer {
            workload: Arc::unwrap_or_clone(self.cgroups.workload(identity.cgroup)),
            pid: identity.pid,
            uid: identity.pid.map(|_| identity.uid),
            comm: identity.pid.map(|_| identity.comm.clone()),
            command: identity.pid.and_then(|pid| self.commands.first_word(pid, time)),
        })
    }
}

fn call(call: &Grpc) -> ObservedCall {
    ObservedCall {
        service: call.service.clone(),
        method: call.method.clone(),
        status: call.status,
        status_name: call.status_name().map(str::to_owned),
    }
}

/// The same for every reader, and in the flight recorder.
fn request_id(request: &Request) -> String {
    format!("{:x}-{:x}", request.started.as_nanos(), request.client_address.port())
}

fn side(side: Side) -> String {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
    .into()
}

/// IANA's names of the types that are asked for at all; the rest as RFC 3597 writes them.
fn query_type(number: u16) -> String {
    let name = match number {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        48 => "DNSKEY",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        number => return format!("TYPE{number}"),
    };
    name.into()
}

/// IANA's names.
fn code(number: u8) -> String {
    const NAMES: [&str; 11] = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET",
        "NOTAUTH", "NOTZONE",
    ];
    NAMES.get(usize::from(number)).map_or_else(|| format!("RCODE{number}"), |name| (*name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_is_told_by_the_names_of_its_registry() {
        assert_eq!((query_type(28).as_str(), query_type(65_280).as_str()), ("AAAA", "TYPE65280"));
        assert_eq!((code(3).as_str(), code(15).as_str()), ("NXDOMAIN", "RCODE15"));
    }
}
