//! The state of the mesh and its one owner: what is in force, what is known of endpoints, and the data path.
//!
//! Everything here runs on one task, start to end without waiting, so that no one ever sees half a change.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use alize_datapath::{
    Availability, DataPath, Desired, Failure, KernelEvent, KernelEventKind, Opened, Refusal, Unavailable,
};
use alize_model::api::{self, ConfigStatus, Event, Program, Status};
use alize_model::{Diagnostic, Diagnostics, ServiceName, Severity, Snapshot, Source};
use rustix::time::{ClockId, clock_gettime};
use tracing::{error, warn};

use crate::difference::endpoint_changes;
use crate::ejection::{Ejections, Key, Verdict, has_endpoint};
use crate::events::{Events, Kind, event, unix_time};
use crate::flood::Flood;
use crate::health::{Change, Checks};
use crate::kept::{Keep, Kept, Origin};
use crate::observer::Names;
use crate::probe::seconds;
use crate::scrape::{Scrape, ScrapedService};
use crate::source::{self, Identity, Text, Unreadable, host_facts, refusal, text_of};
use crate::{Error, Options, notify, process};

/// A write that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// After a write of availability, this many times as long passes until the next.
const WRITE_PAUSE: u32 = 4;

/// Changes of endpoints that are told one by one after a reload.
const CHANGES_TOLD: usize = 32;

/// All that the agent knows and owns.
pub(crate) struct Mesh {
    options: Arc<Options>,
    started: f64,
    opened: Opened,
    datapath: DataPath,
    snapshot: Snapshot,
    config: ConfigStatus,
    keep: Keep,
    /// Of the watched file when it was last read.
    seen: Option<Identity>,
    pub(crate) checks: Checks,
    ejections: Ejections,
    unavailable: Availability,
    /// Why endpoints are unavailable.
    reasons: HashMap<Key, String>,
    /// The kernel does not know of `unavailable` yet; and when to write, if that must wait.
    unwritten: bool,
    write_at: Option<Instant>,
    /// The last write failed, and that has been told.
    write_failed: bool,
    pub(crate) events: Events,
    flood: Flood<(Kind, u32, Option<u32>)>,
    last_scrape: Weak<Scrape>,
    /// Memory of a large scrape is still to be given back.
    untrimmed: bool,
}

/// Why a state was not taken; what was in force still is.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// Its text is wrong.
    Text(Vec<Diagnostic>),
    /// The kernel did not take it.
    Kernel(alize_datapath::Error),
    /// No file is watched that could be read.
    NothingToRead,
}

impl Mesh {
    /// Opens the data path; nothing is in force yet but what was adopted.
    pub(crate) fn open(options: Arc<Options>) -> Result<Self, Error> {
        let (datapath, opened) = DataPath::open(&options.datapath)?;
        let adopted = matches!(opened, Opened::Adopted { .. });
        let config = ConfigStatus {
            file: options.config.as_ref().map(|path| path.display().to_string()),
            source: if adopted { "adopted" } else { "none" }.into(),
            ..ConfigStatus::default()
        };
        Ok(Self {
            started: unix_time(),
            opened,
            datapath,
            snapshot: Snapshot::default(),
            config,
            keep: Keep::new(&options.datapath.run_dir, &options.datapath.instance),
            seen: None,
            checks: Checks::new(fastrand::u64(..)),
            ejections: Ejections::default(),
            unavailable: Availability::new(),
            reasons: HashMap::new(),
            unwritten: false,
            write_at: None,
            write_failed: false,
            events: Events::new(),
            flood: Flood::new(Instant::now()),
            last_scrape: Weak::new(),
            untrimmed: false,
            options,
        })
    }

    /// Brings the first state into force: what was applied if it still overrides the file, else the file.
    ///
    /// A file that is wrong ends a fresh start; beside an adopted data path the adopted state goes on.
    pub(crate) fn load_first(&mut self) -> Result<(), Error> {
        let adopted = matches!(self.opened, Opened::Adopted { .. });
        // Without pins the host was restarted or unloaded: then the file counts, whatever was applied before.
        let kept = if adopted { self.keep.read() } else { None };
        let config = self.options.config.clone();
        let identity = config.as_deref().and_then(Identity::of);
        if let Some(kept) = &kept
            && kept.overrides(config.as_deref(), identity.as_ref())
            && self.take(&kept.text, kept.origin.clone(), "applied").is_ok()
        {
            self.seen = identity;
            return Ok(());
        }
        let Some(path) = config else {
            return self.fall_back(kept, adopted);
        };
        let rejected = match self.read_watched(&path) {
            Ok(text) => match self.take_watched(&path, text) {
                Ok(_) => return Ok(()),
                Err(rejected) => rejected,
            },
            Err(Unreadable::Io(source)) => return Err(Error::Unreadable { path, source }),
            Err(Unreadable::Refused(diagnostic)) => Rejected::Text(vec![diagnostic]),
        };
        if !adopted {
            return Err(match rejected {
                Rejected::Kernel(error) => Error::DataPath(error),
                Rejected::Text(diagnostics) => Error::Refused(Diagnostics(diagnostics)),
                Rejected::NothingToRead => Error::Refused(Diagnostics::default()),
            });
        }
        self.note_rejected(&path.display().to_string(), &rejected);
        let refused = (std::mem::take(&mut self.config.refused), self.config.refused_at.take());
        self.fall_back(kept, adopted)?;
        (self.config.refused, self.config.refused_at) = refused;
        Ok(())
    }

    /// The adopted state goes on. If its text is still there it is taken too, which changes nothing in the kernel and
    /// tells the agent what its endpoints and checks are.
    fn fall_back(&mut self, kept: Option<Kept>, adopted: bool) -> Result<(), Error> {
        let Some(kept) = kept.filter(|_| adopted) else { return Ok(()) };
        if let Err(rejected) = self.take(&kept.text, kept.origin.clone(), "adopted") {
            self.note_rejected(&kept.origin.name, &rejected);
        }
        Ok(())
    }

    /// Puts the text of `bytes` in force, in place of the watched file until that changes.
    pub(crate) fn apply(&mut self, name: &str, bytes: Vec<u8>) -> Result<api::Applied, Rejected> {
        let watched = self.options.config.as_deref().and_then(Identity::of);
        self.seen.clone_from(&watched);
        let origin = Origin { name: name.to_owned(), applied: true, watched };
        notify::reloading();
        let result = match text_of(name, bytes) {
            Ok(text) => self.take(&text, origin, "applied"),
            Err(diagnostic) => Err(Rejected::Text(vec![diagnostic])),
        };
        self.end_attempt(name, &result);
        result
    }

    /// Reads the watched file now and puts it in force.
    pub(crate) fn reload(&mut self) -> Result<api::Applied, Rejected> {
        let path = self.options.config.clone().ok_or(Rejected::NothingToRead)?;
        let name = path.display().to_string();
        notify::reloading();
        let result = match self.read_watched(&path) {
            Ok(text) => self.take_watched(&path, text),
            Err(Unreadable::Refused(diagnostic)) => Err(Rejected::Text(vec![diagnostic])),
            Err(Unreadable::Io(error)) => Err(Rejected::Text(vec![unreadable(&name, &error)])),
        };
        self.end_attempt(&name, &result);
        result
    }

    /// Reads the watched file if it is another than the one that was read last.
    pub(crate) fn reload_if_changed(&mut self) {
        let Some(path) = &self.options.config else { return };
        if Identity::of(path) != self.seen {
            // What comes of it is in the status, in the log and among the events.
            let _ = self.reload();
        }
    }

    /// What the watched file is now; none if it is what was read last.
    pub(crate) fn unread_file(&self) -> Option<Option<Identity>> {
        let now = Identity::of(self.options.config.as_deref()?);
        (now != self.seen).then_some(now)
    }

    fn read_watched(&mut self, path: &Path) -> Result<Text, Unreadable> {
        self.seen = Identity::of(path);
        let text = source::read(path)?;
        self.seen = Some(text.identity.clone());
        Ok(text)
    }

    fn take_watched(&mut self, path: &Path, text: Text) -> Result<api::Applied, Rejected> {
        let name = path.display().to_string();
        let origin = Origin { name, applied: false, watched: Some(text.identity) };
        self.take(&text.text, origin, "file")
    }

    /// Parses `text` and writes it to the kernel; on success it is what is in force.
    fn take(&mut self, text: &str, origin: Origin, source: &str) -> Result<api::Applied, Rejected> {
        let began = Instant::now();
        let source_text = Source { name: &origin.name, text };
        let (snapshot, warnings) = alize_model::parse(source_text, &self.datapath.budgets(), &host_facts())
            .map_err(|diagnostics| Rejected::Text(diagnostics.0))?;
        let snapshot = snapshot.sharing(&self.snapshot);
        let parsed = began.elapsed();
        let unavailable = still_meant(&self.unavailable, &snapshot);
        let desired = Desired { snapshot: &snapshot, unavailable: &unavailable };
        let applied = self.datapath.apply(desired).map_err(Rejected::Kernel)?;
        self.unavailable = unavailable;
        self.unwritten = false;
        let changes = endpoint_changes(&self.snapshot, &snapshot);
        self.snapshot = snapshot;
        self.checks.reload(&self.snapshot, Instant::now());
        self.ejections.reload(&self.snapshot);
        self.review_availability();
        self.config.generation += 1;
        self.config.source = source.to_owned();
        self.config.applied = Some(unix_time());
        self.config.refused.clear();
        self.config.refused_at = None;
        self.config.warnings.clone_from(&warnings);
        if source != "adopted" {
            self.keep_text(text, &origin);
        }
        self.tell_taken(&origin.name, &applied, parsed);
        self.tell_changes(&changes);
        alize_datapath::trim_memory();
        Ok(api::Applied {
            generation: self.config.generation,
            added: applied.added,
            changed: applied.changed,
            removed: applied.removed,
            unchanged: applied.unchanged,
            seconds: applied.elapsed.as_secs_f64(),
            warnings,
        })
    }

    fn keep_text(&mut self, text: &str, origin: &Origin) {
        if let Err(error) = self.keep.write(text, origin) {
            let message = format!(
                "{} is in force but cannot be kept in {}: {error}; after a restart the watched file counts",
                origin.name,
                self.options.datapath.run_dir.display()
            );
            self.events.tell(Kind::Agent, message);
        }
    }

    fn tell_taken(&mut self, name: &str, applied: &alize_datapath::Applied, parsed: Duration) {
        let alize_datapath::Applied { added, changed, removed, unchanged, terminated, elapsed } = *applied;
        let mut message = format!(
            "{name} is in force: {added} services added, {changed} changed, {removed} removed, {unchanged} left \
             alone; read in {:.1} ms, written in {:.1} ms",
            parsed.as_secs_f64() * 1e3,
            elapsed.as_secs_f64() * 1e3
        );
        if terminated > 0 {
            message += &format!("; {terminated} connections of removed endpoints closed");
        }
        self.events.tell(Kind::Config, message);
    }

    fn tell_changes(&mut self, changes: &[(ServiceName, SocketAddr, &'static str)]) {
        for (service, address, what) in changes.iter().take(CHANGES_TOLD) {
            self.events.tell_endpoint(Kind::Endpoint, service, *address, (*what).to_owned());
        }
        if let Some(more) = changes.len().checked_sub(CHANGES_TOLD).filter(|more| *more > 0) {
            self.events.tell(Kind::Endpoint, format!("and {more} more endpoints changed"));
        }
    }

    fn end_attempt(&mut self, name: &str, result: &Result<api::Applied, Rejected>) {
        if let Err(rejected) = result {
            self.note_rejected(name, rejected);
        }
        notify::ready(&self.summary());
    }

    fn note_rejected(&mut self, name: &str, rejected: &Rejected) {
        let diagnostics = rejected.diagnostics(name);
        for diagnostic in &diagnostics {
            warn!("{diagnostic}");
        }
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
        let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
        let more = if errors > 1 { format!(", and {} more errors", errors - 1) } else { String::new() };
        self.events.tell(Kind::Config, format!("{name} was refused, what was in force stays: {first}{more}"));
        self.config.refused = diagnostics;
        self.config.refused_at = Some(unix_time());
    }

    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        let usage = self.datapath.usage();
        let refused = if self.config.refused.is_empty() { "" } else { "; the last change was refused" };
        format!("{} services, {} endpoints in force{refused}", usage.services, usage.endpoints)
    }

    /// The text that is in force, from where it is kept.
    pub(crate) fn text_in_force(&self) -> Option<String> {
        self.keep.read().map(|kept| kept.text)
    }
}

/// Availability of endpoints.
impl Mesh {
    /// The answer to a health check.
    pub(crate) fn answered(&mut self, ticket: u64, answer: Result<(), String>) {
        let Some(change) = self.checks.answered(ticket, answer) else { return };
        let Change { service, address, healthy, reason } = change;
        let key = (service.clone(), address);
        let message = format!("{}: {reason}", if healthy { "healthy" } else { "unhealthy" });
        self.events.tell_endpoint(Kind::Health, &service, address, message);
        match healthy {
            false => self.set_unavailable(key, Unavailable::Unhealthy, reason),
            true if self.ejections.is_ejected(&service, address) => {
                self.set_unavailable(key, Unavailable::Ejected, "connects in a row failed".into());
            }
            true => self.set_available(&key),
        }
    }

    /// Returns ejected endpoints whose time is over.
    pub(crate) fn expire_ejections(&mut self, now: Instant) {
        for key in self.ejections.expire(now) {
            let message = "returned: its ejection is over".to_owned();
            self.events.tell_endpoint(Kind::Ejection, &key.0, key.1, message);
            // It may have become unhealthy meanwhile.
            if self.unavailable.get(&key) == Some(&Unavailable::Ejected) {
                self.set_available(&key);
            }
        }
    }

    /// An endpoint failed the connection of a client. Called for each of a flood of failures, so it asks the kernel
    /// only where an ejection may come of it.
    fn endpoint_failed(&mut self, service: u32, endpoint: u32) {
        let name = self.datapath.service_name(service);
        let Some(service) = name.and_then(|name| self.snapshot.get(name.as_str())) else { return };
        if service.ejection.is_none() {
            return;
        }
        let service = Arc::clone(service);
        let Some(address) = self.datapath.endpoint_address(endpoint) else { return };
        let failures = self.datapath.consecutive_failures(endpoint);
        let unavailable = &self.unavailable;
        let is_usable = |address: SocketAddr| {
            let declared = service.endpoints.iter().find(|endpoint| endpoint.address == address);
            declared.is_some_and(|endpoint| !endpoint.draining && endpoint.weight > 0)
                && !unavailable.contains_key(&(service.name.clone(), address))
        };
        let message = match self.ejections.failed(&service, address, failures, is_usable, Instant::now()) {
            None => return,
            Some(Verdict::Ejected(rest)) => {
                let reason = format!("{failures} connects in a row failed");
                let message = format!("ejected for {}: {reason}", seconds(rest));
                self.set_unavailable((service.name.clone(), address), Unavailable::Ejected, reason);
                message
            }
            Some(Verdict::Spared) => {
                format!(
                    "not ejected although {failures} connects in a row failed: too many others are unavailable"
                )
            }
        };
        self.events.tell_endpoint(Kind::Ejection, &service.name, address, message);
    }

    fn set_unavailable(&mut self, key: Key, why: Unavailable, reason: String) {
        self.reasons.insert(key.clone(), reason);
        self.unavailable.insert(key, why);
        self.unwritten = true;
    }

    fn set_available(&mut self, key: &Key) {
        self.reasons.remove(key);
        self.unavailable.remove(key);
        self.unwritten = true;
    }

    /// Works out anew who is unavailable, after a reload. An endpoint that is both unhealthy and ejected counts as
    /// unhealthy: that lasts longer.
    fn review_availability(&mut self) {
        let ejected = self.ejections.ejected().map(|key| (key.clone(), Unavailable::Ejected));
        let mut unavailable: Availability = ejected.collect();
        let unhealthy = self.checks.unhealthy().map(|(service, address)| (service.clone(), address));
        unavailable.extend(unhealthy.map(|key| (key, Unavailable::Unhealthy)));
        self.reasons.retain(|key, _| unavailable.contains_key(key));
        if unavailable != self.unavailable {
            self.unavailable = unavailable;
            self.unwritten = true;
        }
    }

    /// Tells the kernel who is available, if that changed. When thousands of endpoints change one after the other, most of
    /// the time is left for everything else.
    pub(crate) fn write_availability(&mut self, now: Instant) {
        if !self.unwritten || self.write_at.is_some_and(|at| now < at) {
            return;
        }
        let desired = Desired { snapshot: &self.snapshot, unavailable: &self.unavailable };
        let result = self.datapath.apply(desired);
        self.unwritten = result.is_err();
        self.write_at =
            Some(Instant::now() + if result.is_err() { RETRY } else { now.elapsed() * WRITE_PAUSE });
        let failed_before = std::mem::replace(&mut self.write_failed, result.is_err());
        if let Err(error) = result
            && !failed_before
        {
            let message = format!("cannot write the availability of endpoints, trying again: {error}");
            self.events.tell(Kind::Agent, message);
        }
    }

    /// Lets the data path finish what earlier changes left behind.
    pub(crate) fn settle(&mut self) {
        if let Err(error) = self.datapath.settle() {
            warn!("the data path cannot tidy up after earlier changes, trying again: {error}");
        }
    }

    /// When there is something to do, whatever happens until then.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [
            self.checks.deadline(),
            self.ejections.deadline(),
            self.flood.deadline(),
            self.write_at.filter(|_| self.unwritten),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// What the kernel tells.
impl Mesh {
    /// The event ring's file descriptor, readable when there is something to hear.
    pub(crate) fn kernel_events(&self) -> io::Result<std::os::fd::OwnedFd> {
        use std::os::fd::AsFd;
        self.datapath.as_fd().try_clone_to_owned()
    }

    /// Hears what is in the event ring; whether there may be more.
    pub(crate) fn hear_kernel(&mut self) -> bool {
        let mut heard = Vec::new();
        if let Err(error) = self.datapath.drain_events(&mut |event| heard.push(event)) {
            error!("cannot read the kernel's events: {error}");
        }
        if heard.is_empty() {
            return false;
        }
        let offset = unix_time() - monotonic_seconds();
        for event in heard {
            self.hear(&event, offset);
        }
        true
    }

    fn hear(&mut self, heard: &KernelEvent, offset: f64) {
        if let (KernelEventKind::ConnectFailed(failure), Some(endpoint)) = (heard.what, heard.endpoint)
            && blames_the_endpoint(failure)
        {
            self.endpoint_failed(heard.service, endpoint);
        }
        let (kind, message) = in_words(heard.what);
        if !self.flood.passes((kind, heard.service, heard.endpoint)) {
            return;
        }
        let event = Event {
            time: heard.time.as_secs_f64() + offset,
            service: self.datapath.service_name(heard.service).map(ToString::to_string),
            endpoint: heard.endpoint.and_then(|endpoint| self.datapath.endpoint_address(endpoint)),
            pid: Some(heard.pid).filter(|pid| *pid != 0),
            comm: process::name_of(heard.pid),
            ..event(kind, message.to_owned())
        };
        self.events.publish(kind, event);
    }

    /// Tells how many events were held back, if the window is over.
    pub(crate) fn sum_up_flood(&mut self, now: Instant) {
        for (what, count) in self.flood.end_window(now) {
            let Some((kind, service, endpoint)) = what else {
                self.events.tell(
                    Kind::Agent,
                    format!("and {count} more connect failures and refusals of many services"),
                );
                continue;
            };
            let name = self.datapath.service_name(service);
            let event = Event {
                service: name.map(ToString::to_string),
                endpoint: endpoint.and_then(|endpoint| self.datapath.endpoint_address(endpoint)),
                ..event(kind, format!("and {count} more within a second"))
            };
            self.events.publish(kind, event);
        }
    }
}

/// Answers.
impl Mesh {
    pub(crate) fn status(&self) -> Status {
        let datapath = &self.options.datapath;
        let anomalies = self.datapath.anomalies().unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            instance: datapath.instance.clone(),
            started: self.started,
            cgroups: datapath.cgroups.iter().map(|path| path.display().to_string()).collect(),
            pins: self.datapath.pins().display().to_string(),
            adopted: matches!(self.opened, Opened::Adopted { .. }),
            config: self.config.clone(),
            budgets: self.datapath.budgets(),
            usage: self.datapath.usage(),
            programs: self.programs(),
            kernel_memory: self.datapath.kernel_memory(),
            anomalies: anomalies.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
        }
    }

    fn programs(&self) -> Vec<Program> {
        let state = |off: Option<String>| off.map_or_else(|| "on".to_owned(), |why| format!("off: {why}"));
        let programs = self.datapath.programs().into_iter();
        programs
            .map(|program| Program { name: program.name, id: program.id, state: state(program.off) })
            .collect()
    }

    /// What the services in force are called; `known` itself while that is right.
    pub(crate) fn names(&self, known: Names) -> Names {
        if known.are_of(self.config.generation) {
            return known;
        }
        let mut names = Names::new(self.config.generation);
        for service in self.scrape_services() {
            let endpoints = service.endpoints.iter().map(|endpoint| endpoint.address);
            names.add(service.id, service.name.as_str(), endpoints);
        }
        names
    }

    /// Reads everything from the kernel; shared with everybody who asked before it was read.
    pub(crate) fn scrape(&mut self, asked: Instant) -> Result<Arc<Scrape>, alize_datapath::Error> {
        if let Some(last) = self.last_scrape.upgrade().filter(|last| last.taken >= asked) {
            return Ok(last);
        }
        let scrape = Arc::new(Scrape {
            taken: Instant::now(),
            counters: self.datapath.counters()?,
            status: self.status(),
            last_reload_successful: self.config.refused.is_empty(),
            checks: self.checks.answers,
            services: self.scrape_services(),
        });
        self.last_scrape = Arc::downgrade(&scrape);
        self.untrimmed |= scrape.is_large();
        Ok(scrape)
    }

    fn scrape_services(&self) -> Vec<ScrapedService> {
        if self.snapshot.services().is_empty() && self.datapath.usage().services > 0 {
            return self.scrape_unknown_services();
        }
        let known = self.snapshot.services().iter().filter_map(|service| {
            let id = self.datapath.service_id(service.name.as_str())?;
            let endpoints = self.datapath.endpoints(id);
            Some(ScrapedService::new(service.name.clone(), id, Some(Arc::clone(service)), endpoints))
        });
        let mut services: Vec<_> = known.collect();
        for ((name, address), reason) in &self.reasons {
            let found = services.binary_search_by(|service| service.name.cmp(name));
            if let Some(service) = found.ok().and_then(|index| services.get_mut(index)) {
                service.reasons.push((*address, reason.clone()));
            }
        }
        services
    }

    /// What an adopted data path holds when nothing tells what it was made from.
    fn scrape_unknown_services(&self) -> Vec<ScrapedService> {
        let numbers = 0..self.datapath.budgets().services;
        let named = numbers.filter_map(|id| Some((id, self.datapath.service_name(id)?)));
        let mut services: Vec<_> = named
            .take(self.datapath.usage().services as usize)
            .map(|(id, name)| ScrapedService::new(name.clone(), id, None, self.datapath.endpoints(id)))
            .collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services
    }

    /// Gives memory of large answers back to the system once they are written.
    pub(crate) fn trim(&mut self) {
        if self.untrimmed && self.last_scrape.strong_count() == 0 {
            self.untrimmed = false;
            alize_datapath::trim_memory();
        }
    }

    pub(crate) fn ready(&self, socket: &Path, metrics: Option<SocketAddr>) -> crate::Ready {
        let usage = self.datapath.usage();
        crate::Ready {
            opened: self.opened,
            pins: self.datapath.pins(),
            socket: socket.to_owned(),
            metrics,
            services: usage.services,
            endpoints: usage.endpoints,
            source: self.config.source.clone(),
            warnings: self.config.warnings.clone(),
            refused: self.config.refused.clone(),
        }
    }

    /// Whether this agent made the data path, which is then its own to remove if it cannot start.
    pub(crate) fn is_fresh(&self) -> bool {
        self.opened == Opened::Fresh
    }
}

impl Rejected {
    pub(crate) fn diagnostics(&self, name: &str) -> Vec<Diagnostic> {
        match self {
            Rejected::Text(diagnostics) => diagnostics.clone(),
            Rejected::Kernel(error) => vec![refusal(name, error.to_string())],
            Rejected::NothingToRead => Vec::new(),
        }
    }
}

/// The entries that the new state still means: their endpoint is there and still checked that way.
fn still_meant(unavailable: &Availability, snapshot: &Snapshot) -> Availability {
    let meant = unavailable.iter().filter(|((name, address), why)| {
        snapshot.get(name.as_str()).is_some_and(|service| {
            let checked = match why {
                Unavailable::Unhealthy => service.health.is_some(),
                Unavailable::Ejected => service.ejection.is_some(),
            };
            checked && has_endpoint(service, *address)
        })
    });
    meant.map(|(key, why)| (key.clone(), *why)).collect()
}

fn unreadable(name: &str, error: &io::Error) -> Diagnostic {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "the file is gone; what was loaded from it stays in force".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    refusal(name, message)
}

/// A caller that gave up says nothing about the endpoint.
fn blames_the_endpoint(failure: Failure) -> bool {
    matches!(failure, Failure::Refused | Failure::Timeout | Failure::Unreachable | Failure::Reset)
}

fn in_words(what: KernelEventKind) -> (Kind, &'static str) {
    match what {
        KernelEventKind::ConnectFailed(failure) => {
            let message = match failure {
                Failure::Refused => "the endpoint refused the connection",
                Failure::Timeout => "the endpoint did not answer",
                Failure::Unreachable => "the endpoint cannot be reached",
                Failure::Reset => "the endpoint reset the connection",
                Failure::Aborted => "the client gave up before the endpoint answered",
                Failure::Other => "the connection failed",
            };
            (Kind::ConnectFailed, message)
        }
        KernelEventKind::Refused(refusal) => {
            let message = match refusal {
                Refusal::NoEndpoint => "refused: no endpoint is usable",
                Refusal::Stale => "refused: the kernel's tables name an endpoint that does not exist",
            };
            (Kind::Refused, message)
        }
    }
}

fn monotonic_seconds() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
