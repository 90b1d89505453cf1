//! The state of the mesh and its one owner: what is in force, what is known of endpoints, and the data path.
//!
//! Everything here runs on one task, start to end without waiting, so that no one ever sees half a change.

mod answers;
mod availability;
mod kernel;
mod modes;
mod programs;
mod proxied;
mod trial;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use alize_datapath::{Availability, DataPath, Desired, Opened};
use alize_model::api::{self, ConfigStatus};
use alize_model::{Diagnostic, Diagnostics, ServiceName, Severity, Snapshot, Source};
use tokio::sync::watch;
use tracing::warn;

use crate::difference::endpoint_changes;
use crate::ejection::{Ejections, Key};
use crate::events::{Events, Kind, unix_time};
use crate::flood::Flood;
use crate::health::Checks;
use crate::kept::{Keep, Kept, Origin};
use crate::modes as modes_kept;
use crate::modes::Modes;
use crate::proxy::Wanted;
use crate::scrape::Scrape;
use crate::source::{self, Identity, Text, Unreadable, host_facts, refusal, text_of};
use crate::{Error, Options, notify};

pub(crate) use self::modes::ModeRefused;
use availability::{resumed, still_meant, unavailable_in_kernel};

/// Changes of endpoints that are told one by one after a reload.
const CHANGES_TOLD: usize = 32;

/// All that the agent knows and owns.
pub(crate) struct Mesh {
    /// A version of the kernel programs that some have.
    trial: Option<trial::UnderTrial>,
    options: Arc<Options>,
    started: f64,
    opened: Opened,
    datapath: DataPath,
    /// What the file says.
    declared: Snapshot,
    /// What is in force: with the modes that were set by hand.
    snapshot: Snapshot,
    modes: Modes,
    kept_modes: modes_kept::Kept,
    config: ConfigStatus,
    keep: Keep,
    /// Of the watched file when it was last read.
    seen: Option<Identity>,
    pub(crate) checks: Checks,
    ejections: Ejections,
    unavailable: Availability,
    /// Endpoints that an adopted kernel holds for unavailable, until a state says how they are checked.
    adopted_unavailable: Vec<Key>,
    /// Why endpoints are unavailable.
    reasons: HashMap<Key, String>,
    /// The kernel does not know of `unavailable` yet; and when to write, if that must wait.
    unwritten: bool,
    write_at: Option<Instant>,
    /// The last write failed, and that has been told.
    write_failed: bool,
    /// What the proxy has to serve.
    proxy: watch::Sender<Wanted>,
    pub(crate) events: Events,
    flood: Flood<(Kind, u32, Option<u32>)>,
    last_scrape: Weak<Scrape>,
    /// What serving HTTP in the kernel relies on, once it is known.
    conformance: Option<alize_datapath::conformance::Report>,
    /// Memory of a large scrape or of many changes is still to be given back; and when that was last done.
    untrimmed: bool,
    trimmed_at: Instant,
}

/// Service, endpoint, and what changed.
type EndpointChange = (ServiceName, SocketAddr, &'static str);

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
        let (datapath, opened) = programs::open(&options)?;
        let adopted = matches!(opened, Opened::Adopted { .. });
        let config = ConfigStatus {
            file: options.config.as_ref().map(|path| path.display().to_string()),
            source: if adopted { "adopted" } else { "none" }.into(),
            ..ConfigStatus::default()
        };
        let adopted_unavailable = if adopted { unavailable_in_kernel(&datapath) } else { Vec::new() };
        Ok(Self {
            started: unix_time(),
            opened,
            datapath,
            adopted_unavailable,
            declared: Snapshot::default(),
            snapshot: Snapshot::default(),
            modes: Modes::default(),
            kept_modes: modes_kept::Kept::new(&options.datapath.run_dir, &options.datapath.instance),
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
            proxy: watch::Sender::new(Wanted::Unknown),
            events: Events::new(),
            flood: Flood::new(Instant::now()),
            last_scrape: Weak::new(),
            conformance: None,
            untrimmed: false,
            trimmed_at: Instant::now(),
            trial: None,
            options,
        })
    }

    /// Brings the first state into force: what was applied if it still overrides the file, else the file.
    ///
    /// A file that is wrong ends a fresh start; beside an adopted data path the adopted state goes on.
    pub(crate) fn load_first(&mut self) -> Result<(), Error> {
        let adopted = matches!(self.opened, Opened::Adopted { .. });
        self.resume_modes(adopted);
        // Without pins the host was restarted or unloaded: then the file counts, whatever was applied before.
        let kept = if adopted { self.keep.read() } else { None };
        let config = self.options.config.clone();
        let identity = config.as_deref().and_then(Identity::of);
        if let Some(kept) = &kept
            && kept.overrides(config.as_deref(), identity.as_ref())
        {
            match self.take(&kept.text, kept.origin.clone(), "applied") {
                Ok(_) => {
                    self.seen = identity;
                    return Ok(());
                }
                Err(rejected) => self.note_rejected(&kept.origin.name, &rejected),
            }
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
        let declared = snapshot.sharing(&self.declared);
        let snapshot = self.modes.laid_over(&declared).sharing(&self.snapshot);
        let parsed = began.elapsed();
        let (applied, changes) = self.put(snapshot).map_err(Rejected::Kernel)?;
        self.declared = declared;
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

    /// Writes `snapshot` to the kernel; on success it is what is in force.
    fn put(
        &mut self,
        snapshot: Snapshot,
    ) -> Result<(alize_datapath::Applied, Vec<EndpointChange>), alize_datapath::Error> {
        let mut unavailable = still_meant(&self.unavailable, &snapshot);
        let resumed = resumed(&self.adopted_unavailable, &snapshot);
        unavailable.extend(resumed.iter().cloned());
        let desired = Desired { snapshot: &snapshot, unavailable: &unavailable };
        let applied = self.datapath.apply(desired)?;
        self.unavailable = unavailable;
        self.unwritten = false;
        let changes = endpoint_changes(&self.snapshot, &snapshot);
        self.snapshot = snapshot;
        self.checks.reload(&self.snapshot, Instant::now());
        self.ejections.reload(&self.snapshot);
        self.resume(resumed);
        self.review_availability();
        self.tell_proxy();
        Ok((applied, changes))
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

    fn tell_changes(&mut self, changes: &[EndpointChange]) {
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

    /// Lets the data path finish what earlier changes left behind.
    pub(crate) fn settle(&mut self) {
        if let Err(error) = self.datapath.settle() {
            warn!("the data path cannot tidy up after earlier changes, trying again: {error}");
        }
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

impl Rejected {
    pub(crate) fn diagnostics(&self, name: &str) -> Vec<Diagnostic> {
        match self {
            Rejected::Text(diagnostics) => diagnostics.clone(),
            Rejected::Kernel(error) => vec![refusal(name, error.to_string())],
            Rejected::NothingToRead => Vec::new(),
        }
    }
}

fn unreadable(name: &str, error: &io::Error) -> Diagnostic {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "the file is gone; what was loaded from it stays in force".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    refusal(name, message)
}
