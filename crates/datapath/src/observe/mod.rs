//! HTTP seen from the kernel: passive programs that follow HTTP/1 and HTTP/2 in the meshed cgroups.
//!
//! [`Observer`] has those of the bundle in force at work beside the data path's own, reads what they counted ([`Series`]) and
//! recorded ([`Observer::slowest`], [`Observer::failed`]), and hands over single requests to whoever asks
//! ([`Observer::start_trace`]). The programs only ever let packets pass, whatever happens to this process.
//!
//! - Each exchange is counted once a host: at the client's socket where that is observed, else at the server's.
//! - What could not be followed is counted with its reason ([`Observer::tallies`]), never guessed.
//! - While nobody traces, single requests cost the kernel one load more.
//! - What goes within TLS is seen where a library of the process hands it over, for the services that ask for it
//!   ([`Observer::watch_tls`]).
//! - Heads of HTTP/2 are decoded here: its requests are counted and recorded while this process lives and polls.

mod abi;
mod counted;
mod dns;
mod event;
mod filter;
mod http2;
mod latency;
mod load;
mod recorder;
mod ring;
mod series;
mod tcp;
mod template;
pub mod tls;
pub(crate) mod told;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::SystemTime;

use libbpf_rs::{Link, OpenObject};

use crate::abi::{Plain, address_words};
use crate::environment;
use crate::in_force::Turn;
use crate::maps::Map;
use crate::pin::Pins;
use crate::upgrade::{self, Site};
use crate::{Error, InForce, Options, attach, outermost};

use counted::Counted;
pub use counted::fold;
use dns::Dns;
pub use dns::DnsQuery;
pub use event::{Grpc, Identity, Malformed, Method, PathLabel, Protocol, Request, Side, shown};
use filter::Sieve;
pub use filter::{Filter, FilterError, Kinds, Rate};
pub use http2::Decoder;
use http2::Heads;
pub use latency::Latencies;
pub(crate) use load::{is_of_the_data_path, is_of_the_programs, lost, size_of_map};
pub use ring::Event;
pub use series::{Destination, Series, SeriesKey};
pub use tcp::{TcpEvent, TcpKind, TcpReason};
pub use template::{PathTemplate, TemplateError};
use tls::Tls;

use abi::{filter_cgroup, filter_endpoint, path, record};
use ring::Ring;

/// Sizes of the maps when they are made. What does not fit is counted and shown, never lost in silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series: combinations of who, whom, method, path and status. Each takes about 1 kB a CPU once it is used.
    pub series: u32,
    /// Paths with a text of their own; the rest are `None`.
    pub paths: u32,
    /// Bytes of the ring for traces; a power of two and of pages.
    pub ring_bytes: u32,
    /// Connections between two processes of this host whose server is remembered; oldest go first.
    pub links: u32,
}

impl Limits {
    /// Those of the agent.
    pub const DEFAULT: Self = Self { series: 4096, paths: 1024, ring_bytes: 4 << 20, links: 16_384 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A running trace: its place among the filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(u32);

impl TraceId {
    /// Whether the trace wants this event; several traces share one ring.
    pub fn wants(self, event: &Event) -> bool {
        event.matched() >> self.0 & 1 == 1
    }
}

/// Why a trace could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// All places are taken.
    #[error("{} traces run already, which is all there can be; stop one of them first", abi::FILTERS)]
    TooMany,
    /// The filter asks for what the kernel cannot look for.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// There are more path templates than the kernel compares.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] Error),
}

/// What happened how often since the programs were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Connections that are not followed, by reason (such as `tls`).
    pub unfollowed: Vec<(&'static str, u64)>,
    /// Everything else (such as `exchange`, `event-lost`).
    pub events: Vec<(&'static str, u64)>,
}

impl Tallies {
    /// The count under `name`, of either kind.
    pub fn get(&self, name: &str) -> Option<u64> {
        let both = self.unfollowed.iter().chain(&self.events);
        both.copied().find(|(known, _)| *known == name).map(|(_, count)| count)
    }

    fn add(&mut self, name: &str, count: u64) {
        if let Some((_, sum)) = self.events.iter_mut().find(|(known, _)| *known == name) {
            *sum += count;
        }
    }
}

/// The names of `enum tally`, in its order; the reasons why a connection is not followed come first.
const TALLIES: [&str; abi::TALLIES] = [
    "joined",
    "not-http",
    "tls",
    "http2",
    "bad-request-line",
    "bad-status-line",
    "bad-field",
    "bad-length",
    "bad-coding",
    "bad-chunk",
    "line-too-long",
    "upgraded",
    "tunnel",
    "unsolicited",
    "gap",
    "raced",
    "budget",
    "unpaired",
    "no-memory",
    "tls-http2",
    "tls-unplaced",
    "followed",
    "resynchronised",
    "unseen-exchange",
    "request",
    "exchange",
    "unanswered",
    "pipeline-overflow",
    "series-overflow",
    "path-overflow",
    "event",
    "event-lost",
    "event-limited",
    "no-window",
    "dns-query",
    "dns-malformed",
    "dns-unmatched",
    "http2-followed",
    "http2-joined",
    "http2-frame",
    "http2-gap",
    "http2-record",
    "http2-lost",
    "tls-session",
    "tls-peer",
    "dns-unfollowed",
];

/// The loaded programs of one instance. They are pinned, and go on counting when it is dropped; only heads of HTTP/2 are
/// handed over no longer, as nobody would decode them.
pub struct Observer {
    maps: Maps,
    /// In this process's memory while a trace runs.
    ring: Option<Ring>,
    /// What the traces of this process ask for, by the place of their filter.
    traces: [Option<Sieve>; abi::FILTERS],
    heads: Heads,
    /// Records of HTTP/2 that there had been when `heads` was looked at first.
    records: u64,
    counted: Counted,
    opened: SystemTime,
    options: Options,
    limits: Limits,
    in_force: InForce,
    /// How often another bundle had been put in force when this was opened or last looked.
    changes: u64,
    /// Attached while a trace asks for it.
    dns: Option<Dns>,
    /// Attached while some service asks for it.
    tls: Option<Tls>,
    templates: Vec<PathTemplate>,
}

/// The maps that user space reads or writes.
struct Maps {
    /// When `series` was, which lives as long as what is counted in it.
    made: SystemTime,
    series: Map<abi::series_key, abi::series>,
    series_overflow: Map<u32, abi::series>,
    paths: Map<u64, path>,
    tallies: Map<u32, u64>,
    tracing: Map<u32, u64>,
    filters: Map<u32, abi::filter>,
    templates: Map<u32, abi::template>,
    templated_paths: Map<u64, u64>,
    filter_endpoints: Map<filter_endpoint, u32>,
    filter_cgroups: Map<filter_cgroup, u32>,
    slowest: Map<u32, record>,
    failed: Map<u32, record>,
    http2_readers: Map<u32, u64>,
}

impl Maps {
    /// Records of HTTP/2 that the kernel has written.
    fn http2_records(&self) -> Result<u64, Error> {
        Ok(self.tallies.get_run(abi::HTTP2_RECORD, 1)?.iter().sum())
    }
}

/// Puts `wanted` into a set and takes out what else is `ours` in it.
fn write_set<K: Plain>(
    set: &Map<K, u32>,
    ours: impl Fn(&K) -> bool,
    wanted: impl Iterator<Item = K>,
) -> Result<(), Error> {
    // Keys are known by their bytes, which have no padding.
    let wanted: BTreeMap<Vec<u8>, K> = wanted.map(|key| (key.bytes().to_vec(), key)).collect();
    let mut over = Vec::new();
    set.for_each(|key, _| {
        if ours(&key) && !wanted.contains_key(key.bytes()) {
            over.push(key);
        }
    })?;
    set.put_all(wanted.into_values().map(|key| (key, 1)))?;
    set.delete_all(over.into_iter())
}

/// Whether a program that is attached to a cgroup observes.
pub(crate) fn is_observing(program: &str) -> bool {
    program.starts_with(load::PROGRAMS)
}

/// Takes programs out of the kernel's way, those whose names begin so.
fn detach_programs(pins: &Pins, begin: &str) -> Result<(), Error> {
    for path in crate::pin::entries(&pins.links())? {
        if crate::pin::program_of(&path).starts_with(begin) {
            let error = |e| Error::path("cannot detach", &path, crate::error::io_error(e));
            Link::open(&path).and_then(|link| link.detach()).map_err(error)?;
            attach::unpin(&path)?;
        }
    }
    Ok(())
}

/// Where the observing programs of `options` go.
fn with_site<T>(
    options: &Options,
    limits: &Limits,
    then: impl FnOnce(&Site<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let pins = Pins::new(options)?;
    let cgroups = outermost(&options.cgroups)?;
    let budgets = &options.budgets;
    then(&Site { pins: &pins, budgets, limits, cgroups: &cgroups, bpffs: &options.bpffs })
}

/// Gives an object of another feature the maps that `bpf/observe/emit.h` writes to; call it before the object is loaded,
/// with the pins' folders made. What it emits comes out of [`Observer::poll`], [`Observer::slowest`] and
/// [`Observer::failed`] like what the observer sees itself.
pub fn share_maps(object: &mut OpenObject, options: &Options, limits: &Limits) -> Result<(), Error> {
    let pins = Pins::new(options)?;
    pins.make_folders()?;
    load::share_maps(object, &pins, limits)
}

impl Drop for Observer {
    fn drop(&mut self) {
        // If that fails the ring fills up, and what has no room in it is counted.
        let _ = self.maps.http2_readers.put_all([(0, 0)].into_iter());
    }
}

impl Observer {
    /// Loads, verifies, attaches and pins the programs of the bundle in force, or adopts them where they are at work already:
    /// maps are kept, programs are replaced through an atomic link update. Traces of a process that is gone are stopped.
    ///
    /// The pins lie beside the data path's, so that [`crate::unload`] removes both. Who opens an observer must be the
    /// holder of the instance's lock, that is of its [`crate::DataPath`], of which `in_force` is then, or otherwise the only
    /// one of the instance.
    pub fn open(options: &Options, limits: &Limits, in_force: &InForce) -> Result<Self, Error> {
        environment::check_root()?;
        environment::ensure_bpffs(&options.bpffs)?;
        let pins = Pins::new(options)?;
        pins.check_version()?;
        pins.make_folders()?;
        let turn = in_force.turn();
        with_site(options, limits, |site| upgrade::observe(site, &turn.bundle()?))?;
        let maps = Maps::open(&pins)?;
        maps.http2_readers.put_all([(0, 0)].into_iter())?;
        let observer = Self {
            ring: None,
            records: maps.http2_records()?,
            maps,
            traces: [const { None }; abi::FILTERS],
            heads: Heads::new(pins.open("http2_heads")?)?,
            counted: Counted::new(limits),
            opened: SystemTime::now(),
            options: options.clone(),
            limits: *limits,
            changes: in_force.changes(),
            in_force: in_force.clone(),
            dns: None,
            tls: None,
            templates: Vec::new(),
        };
        // Of a process that was killed while it traced.
        detach_programs(&pins, load::DNS_PROGRAMS)?;
        observer.maps.tracing.put_all([(0, 0)].into_iter())?;
        observer.maps.http2_readers.put_all([(0, 1)].into_iter())?;
        Ok(observer)
    }

    /// Takes the programs out of the kernel's way, for good; what they counted stays until [`crate::unload`].
    pub fn detach(options: &Options, in_force: &InForce) -> Result<(), Error> {
        let _turn = in_force.turn();
        let pins = Pins::new(options)?;
        told::look_away(&pins)?;
        detach_programs(&pins, load::PROGRAMS)
    }

    /// After a change of the bundle in force: the programs in the kernel are its own already, and some maps may be others.
    fn keep_up(&mut self, turn: &Turn<'_>) -> Result<(), Error> {
        let changes = self.in_force.changes();
        if changes == self.changes {
            return Ok(());
        }
        self.changes = changes;
        let pins = Pins::new(&self.options)?;
        self.maps = Maps::open(&pins)?;
        if let Some(dns) = &mut self.dns {
            dns.keep_up(&pins)?;
        }
        if let Some(tls) = &self.tls {
            let servers = tls.servers().to_vec();
            // On an error the probes of before go on. Both at once would count twice.
            let new = Tls::attach(&self.options, &self.limits, &turn.bundle()?)?;
            let tls = self.tls.insert(new);
            tls.serve(&servers)?;
            tls.look()?;
        }
        Ok(())
    }

    /// Has the kernel send the events that `filter` describes; [`Observer::poll`] hands them over.
    pub fn start_trace(&mut self, filter: &Filter) -> Result<TraceId, TraceError> {
        let entry = filter.pack()?;
        let in_force = self.in_force.clone();
        let turn = in_force.turn();
        self.keep_up(&turn)?;
        let place = self.traces.iter().position(Option::is_none).ok_or(TraceError::TooMany)?;
        if filter.kinds.dns && self.dns.is_none() {
            self.dns = Some(Dns::attach(&self.options, &self.limits, &turn.bundle()?)?);
        }
        if self.ring.is_none() {
            self.ring = Some(Ring::open(Pins::new(&self.options)?.open("traces")?)?);
        }
        self.write_sets(place as u32, filter)?;
        self.maps.filters.put_all([(place as u32, entry)].into_iter())?;
        self.traces[place] = Some(Sieve::new(filter));
        self.switch_traces()?;
        Ok(TraceId(place as u32))
    }

    /// Ends a trace. What it had sent before is handed over by the next [`Observer::poll`].
    pub fn stop_trace(&mut self, trace: TraceId) -> Result<(), Error> {
        let in_force = self.in_force.clone();
        let turn = in_force.turn();
        self.keep_up(&turn)?;
        self.traces[trace.0 as usize] = None;
        if !self.traces.iter().flatten().any(|sieve| sieve.kinds().dns) && self.dns.take().is_some() {
            detach_programs(&Pins::new(&self.options)?, load::DNS_PROGRAMS)?;
        }
        self.switch_traces()?;
        self.maps.filters.put_all([(trace.0, abi::filter::default())].into_iter())?;
        self.write_sets(trace.0, &Filter::default())
    }

    /// Has a running trace ask for something else, without a gap.
    pub fn change_trace(&mut self, trace: TraceId, filter: &Filter) -> Result<(), TraceError> {
        let entry = filter.pack()?;
        let in_force = self.in_force.clone();
        let turn = in_force.turn();
        self.keep_up(&turn)?;
        self.write_sets(trace.0, filter)?;
        self.maps.filters.put_all([(trace.0, entry)].into_iter())?;
        if let Some(sieve) = &mut self.traces[trace.0 as usize] {
            sieve.change(filter);
        }
        Ok(())
    }

    /// What is in the sets at `place` becomes what `filter` asks for; an earlier process may have left something.
    fn write_sets(&self, place: u32, filter: &Filter) -> Result<(), Error> {
        let endpoint = |endpoint: &SocketAddr| filter_endpoint {
            address: address_words(endpoint.ip()),
            port: endpoint.port().to_be(),
            place: place as u16,
        };
        let at_place = |key: &filter_endpoint| u32::from(key.place) == place;
        let endpoints = filter.endpoints.iter().flatten().map(endpoint);
        write_set(&self.maps.filter_endpoints, at_place, endpoints)?;
        // A single one is in the filter itself.
        let cgroups = filter.cgroups.iter().filter(|cgroups| cgroups.len() != 1).flatten();
        let cgroups = cgroups.map(|&cgroup| filter_cgroup { cgroup, place: place.into() });
        write_set(&self.maps.filter_cgroups, |key| key.place == u64::from(place), cgroups)
    }

    fn switch_traces(&self) -> Result<(), Error> {
        let active = self
            .traces
            .iter()
            .enumerate()
            .fold(0, |mask, (place, trace)| mask | u64::from(trace.is_some()) << place);
        self.maps.tracing.put_all([(0, active)].into_iter())
    }

    /// Has the plaintext of TLS to these servers looked at, at their own ends and at those of their clients; without any all
    /// probes are taken out. Places probes in what has been started since the last call, so call it every second. What it
    /// returns has changed since then.
    pub fn watch_tls(&mut self, servers: &[SocketAddr]) -> Result<Vec<tls::Change>, Error> {
        if servers.is_empty() {
            self.tls = None;
            return Ok(Vec::new());
        }
        let in_force = self.in_force.clone();
        let turn = in_force.turn();
        self.keep_up(&turn)?;
        let tls = match self.tls.take() {
            Some(tls) => tls,
            None => Tls::attach(&self.options, &self.limits, &turn.bundle()?)?,
        };
        let tls = self.tls.insert(tls);
        tls.serve(servers)?;
        tls.look()
    }

    /// What probes cost, measured here when they were placed; `None`: there are none.
    pub fn tls_cost(&self) -> Option<tls::Cost> {
        self.tls.as_ref().map(Tls::cost)
    }

    /// The files with a TLS library that are in use.
    pub fn tls_files(&self) -> impl Iterator<Item = &tls::Probed> {
        self.tls.iter().flat_map(Tls::files)
    }

    /// Hands over what has come in the ring since the last call, oldest first. Does not block. Nobody is woken when
    /// something comes: call it on a timer, every 20 to 50 ms. Requests of HTTP/2 are counted by this call, so that it is
    /// needed while no trace runs, too.
    pub fn poll(&mut self, each: &mut dyn FnMut(Result<Event, Malformed>)) -> Result<(), Error> {
        if self.in_force.changes() != self.changes {
            let in_force = self.in_force.clone();
            self.keep_up(&in_force.turn())?;
        }
        if let Some(ring) = &mut self.ring {
            ring.drain(each)?;
            if self.traces.iter().all(Option::is_none) {
                self.ring = None;
            }
        }
        if !self.heads.is_open() && self.maps.http2_records()? != self.records {
            self.heads.open()?;
        }
        let (counted, traces, templates) = (&mut self.counted, &mut self.traces, &self.templates);
        self.heads.drain(&mut |request| match request {
            Ok(mut request) => {
                counted.add(&request, templates);
                for (place, sieve) in traces.iter_mut().enumerate() {
                    let wanted =
                        sieve.as_mut().is_some_and(|sieve| sieve.lets(&request, &mut counted.limited));
                    request.matched |= u32::from(wanted) << place;
                }
                if request.matched != 0 {
                    counted.events += 1;
                    each(Ok(Event::Request(request)));
                }
            }
            Err(malformed) => each(Err(malformed)),
        })?;
        match &mut self.dns {
            Some(dns) => dns.unanswered(each),
            None => Ok(()),
        }
    }

    /// Hands over all series with what was counted so far, added up over the CPUs. Series change while they are read.
    pub fn series(&self, each: &mut dyn FnMut(Series)) -> Result<(), Error> {
        let paths = self.paths()?;
        series::read(&self.maps, &paths, each)?;
        self.counted.series().cloned().for_each(each);
        Ok(())
    }

    /// What was counted of exchanges for which there was no room for a series, by what they spoke.
    pub fn series_overflow(&self) -> Result<[Series; 2], Error> {
        Ok([series::overflow(&self.maps)?, self.counted.overflow().clone()])
    }

    /// Since when series of this protocol count, by the wall clock: those of the kernel from the first observer on, over
    /// restarts and upgrades; those of this process since it was opened.
    pub fn counting_since(&self, protocol: Protocol) -> SystemTime {
        match protocol {
            Protocol::Http1 => self.maps.made,
            Protocol::Http2 => self.opened,
        }
    }

    /// Texts of the paths that series have.
    fn paths(&self) -> Result<HashMap<u64, String>, Error> {
        let mut paths = HashMap::new();
        self.maps.paths.for_each(|key, value| {
            if let Some(path) = value.first() {
                paths.insert(key, series::path_text(path));
            }
        })?;
        Ok(paths)
    }

    /// Has requests counted under the first of these templates that their path matches; the others as before. What was
    /// counted stays.
    pub fn set_templates(&mut self, templates: &[PathTemplate]) -> Result<(), TraceError> {
        if templates.len() > abi::TEMPLATES {
            return Err(TraceError::Template(TemplateError::TooMany(templates.len())));
        }
        let in_force = self.in_force.clone();
        let turn = in_force.turn();
        self.keep_up(&turn)?;
        // The texts come first: a path whose text is not there is given that of the request.
        self.maps.paths.put_all(templates.iter().map(|template| (template.key(), template.path())))?;
        let entries = templates.iter().map(PathTemplate::entry).chain(std::iter::repeat(Default::default()));
        self.maps.templates.put_all((0..).zip(entries.take(abi::TEMPLATES)))?;
        let mut cached = Vec::new();
        self.maps.templated_paths.for_each(|key, _| cached.push(key))?;
        self.maps.templated_paths.delete_all(cached.into_iter())?;
        self.templates = templates.to_vec();
        Ok(())
    }

    /// What happened how often.
    pub fn tallies(&self) -> Result<Tallies, Error> {
        let mut tallies = tallies(&self.maps.tallies)?;
        let (undecoded, unpaired) = self.heads.missed();
        let counted = &self.counted;
        tallies.add("exchange", counted.exchanges);
        tallies.add("unanswered", counted.unanswered);
        tallies.add("series-overflow", counted.series_overflow);
        tallies.add("path-overflow", counted.path_overflow);
        tallies.add("event", counted.events);
        tallies.add("event-limited", counted.limited);
        tallies.events.push(("http2-exchange", counted.exchanges + counted.unanswered));
        tallies.events.push(("http2-undecoded", undecoded));
        tallies.events.push(("http2-unpaired", unpaired));
        Ok(tallies)
    }

    /// The slowest requests of about the last ten minutes, slowest first; kept although nobody was watching.
    pub fn slowest(&self) -> Result<Vec<Request>, Error> {
        let mut requests = recorder::read(&self.maps.slowest)?;
        requests.extend_from_slice(self.counted.slowest());
        requests.sort_by_key(|request| std::cmp::Reverse(request.latency));
        requests.truncate(abi::RECORDS);
        Ok(requests)
    }

    /// The last requests that failed (5xx, or no response), latest first.
    pub fn failed(&self) -> Result<Vec<Request>, Error> {
        let mut requests = recorder::read(&self.maps.failed)?;
        requests.extend(self.counted.failed().cloned());
        requests.sort_by_key(|request| std::cmp::Reverse(request.started + request.latency));
        requests.truncate(abi::RECORDS);
        Ok(requests)
    }
}

/// Requests that were counted with a status at pins of their own, for the self-test.
pub(crate) fn answered(pins: &Pins) -> Result<u64, Error> {
    let series: Map<abi::series_key, abi::series> = Map::new(pins.open("series")?)?;
    let mut sum = 0;
    series.for_each(|key, values| {
        if key.status != 0 {
            sum += values.iter().map(|series| series.count).sum::<u64>();
        }
    })?;
    Ok(sum)
}

/// How often something had no place in a map of the observing programs, by the name of its pin.
pub(crate) fn failed_updates(pins: &Pins) -> Result<HashMap<String, u64>, Error> {
    const PLACES: [(&str, &str); 4] = [
        ("conversations", "no-memory"),
        ("paths", "path-overflow"),
        ("series", "series-overflow"),
        ("traces", "event-lost"),
    ];
    if !pins.map("tallies").exists() {
        return Ok(HashMap::new());
    }
    let tallies = tallies(&Map::new(pins.open("tallies")?)?)?;
    let failed = |(map, tally): (&str, &str)| (map.to_owned(), tallies.get(tally).unwrap_or(0));
    Ok(PLACES.into_iter().map(failed).collect())
}

fn tallies(counts: &Map<u32, u64>) -> Result<Tallies, Error> {
    let mut tallies = Tallies::default();
    counts.for_each(|number, values| {
        if let Some(&name) = TALLIES.get(number as usize) {
            let unfollowed = (number as usize) < abi::UNFOLLOWED;
            let list = if unfollowed { &mut tallies.unfollowed } else { &mut tallies.events };
            list.push((name, values.iter().sum()));
        }
    })?;
    Ok(tallies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tally_has_its_own_name() {
        let mut names = TALLIES.to_vec();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), TALLIES.len());
        assert_eq!(TALLIES[abi::UNFOLLOWED - 1], "tls-unplaced");
        assert_eq!(TALLIES[abi::UNFOLLOWED], "followed");
    }
}
