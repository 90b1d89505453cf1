//! `alize bench`: the same HTTP requests by every way from a client to a server that there is on this machine.

mod answer;
mod arguments;
mod chain;
mod chart;
mod compare;
mod curves;
mod driver;
#[cfg(test)]
mod fixture;
mod hop;
mod latency;
mod load;
#[cfg(test)]
mod measured;
mod mesh;
mod meter;
mod origin;
mod page;
mod peers;
mod place;
mod progress;
mod report;
mod rounds;
mod scene;
mod subject;
mod summary;
mod table;
mod targets;
mod workload;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

pub use answer::Answer;
pub use arguments::Arguments;
use arguments::{Amount, Part};
use peers::Installed;
use place::{Own, View};
use progress::Progress;
use report::{LeftOut, Report, SCHEMA, Settings};
use rounds::Field;
use scene::Means;
use subject::{Peer, Subject, Way};
use workload::Workload;

use crate::machine::{Machine, rfc3339};
use crate::process;
use crate::world::Ground;

/// Services in the files of Alizé's ways, of which one is dialled.
const SERVICES: u32 = 1_000;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, cgroups and kernel programs are made by root only.
    #[error("the bench makes network namespaces and cgroups and loads kernel programs, which needs root")]
    NotRoot,
    /// A report of an earlier run that cannot be read or is none.
    #[error("{0:#}")]
    File(anyhow::Error),
    /// All else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// Does what the command line says; `None` where this process played a part of a bench.
pub fn run(arguments: &Arguments, version: &str) -> Result<Option<Answer>, Error> {
    match arguments.part {
        Some(Part::Generate) => return Ok(load::run().map(|()| None)?),
        Some(Part::Serve) => return Ok(origin::run().map(|()| None)?),
        Some(Part::Chain) => return Ok(hop::run(&arguments.words).map(|()| None)?),
        None => {}
    }
    // Read first: what cannot be compared with should not cost minutes.
    let earlier = arguments.compare.as_deref().map(Report::read).transpose().map_err(Error::File)?;
    let (report, kept) = match &arguments.from {
        Some(path) => (Report::read(path).map_err(Error::File)?, Vec::new()),
        None => {
            let report = measure(arguments, version)?;
            let kept = keep(&report, &arguments.out)?;
            (report, kept)
        }
    };
    if arguments.write_docs {
        table::write_docs(&report)?;
    }
    let compared = earlier.map(|earlier| compare::compare(&earlier, &report)).transpose()?;
    Ok(Some(Answer::new(&report, compared, kept)))
}

/// As JSON with every histogram, and as a page.
fn keep(report: &Report, folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let stem = format!("http-{}", report.date.replace(':', ""));
    let mut kept = Vec::new();
    for (ending, text) in [("json", serde_json::to_string(report)?), ("html", page::page(report))] {
        let path = folder.join(format!("{stem}.{ending}"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        kept.push(path);
    }
    Ok(kept)
}

fn measure(arguments: &Arguments, version: &str) -> Result<Report, Error> {
    let amount = arguments.amount()?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if arguments.install_envoy && peers::find(Peer::Envoy, arguments.envoy.as_deref()).is_err() {
        peers::install_envoy()?;
    }
    process::catch_interrupts()?;
    place::allow_many_files();
    let ground = Ground::new()?;
    crate::connect::unload_leftovers(&ground);
    let own = Own::find()?;
    let origin = peers::find(Peer::Nginx, None).ok().filter(|_| !arguments.built_in_server);
    let (found, missing) = find_peers(arguments);
    let mut report = begin(arguments, version, &amount, origin.as_ref(), &found);
    report.left_out = missing;
    let subjects: Vec<Subject> =
        arguments.subjects().into_iter().filter(|subject| is_there(*subject, &found)).collect();
    place::stay_off(amount.cpu)?;
    let progress = Progress::new();
    let means = Means {
        ground: &ground,
        own: &own,
        view: View::OneCpu(amount.cpu),
        origin: origin.as_ref(),
        peers: &found,
        more_services: SERVICES - 1,
        routes_before: 0,
    };
    let measured = measure_all(arguments, &amount, &means, &subjects, &mut report, &progress);
    progress.end();
    measured?;
    Ok(report)
}

/// Part by part, each with its share of the progress.
fn measure_all(
    arguments: &Arguments,
    amount: &Amount,
    means: &Means<'_>,
    subjects: &[Subject],
    report: &mut Report,
    progress: &Progress,
) -> Result<()> {
    let rounds = |means: &Means<'_>, workloads: &[Workload], report: &mut Report| {
        let mut field = Field::prepare(means, subjects, report, progress)?;
        field.measure(workloads, amount.rounds, amount.seconds)
    };
    if arguments.quick {
        return rounds(means, &workload::quick(), report);
    }
    progress.span((0.0, 0.7));
    rounds(means, &workload::full(), report)?;
    progress.span((0.7, 0.85));
    rounds(&Means { view: View::AllCpus, ..*means }, &workload::unpinned(), report)?;
    progress.span((0.85, 0.92));
    chain::measure(means, subjects, amount, report, progress)?;
    if arguments.curves {
        progress.span((0.92, 1.0));
        curves::measure(means, subjects, amount, report, progress)?;
    }
    Ok(())
}

fn find_peers(arguments: &Arguments) -> (Vec<(Peer, Installed)>, Vec<LeftOut>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for peer in Peer::ALL {
        let given = arguments.envoy.as_deref().filter(|_| peer == Peer::Envoy);
        match peers::find(peer, given) {
            Ok(installed) => found.push((peer, installed)),
            Err(error) => missing.push(LeftOut { what: peer.name().into(), reason: format!("{error:#}") }),
        }
    }
    (found, missing)
}

fn is_there(subject: Subject, found: &[(Peer, Installed)]) -> bool {
    match subject.way() {
        Way::Sidecars { peer, .. } => found.iter().any(|(one, _)| *one == peer),
        _ => true,
    }
}

fn begin(
    arguments: &Arguments,
    version: &str,
    amount: &Amount,
    origin: Option<&Installed>,
    found: &[(Peer, Installed)],
) -> Report {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let tools = found.iter().map(|(_, installed)| installed.version.clone()).collect();
    Report {
        schema: SCHEMA,
        version: version.to_owned(),
        date: rfc3339(seconds),
        machine: Machine::look(tools),
        settings: Settings {
            rounds: amount.rounds,
            slice_seconds: amount.seconds,
            quick: arguments.quick,
            server: origin.map_or_else(|| "built-in".into(), |nginx| nginx.version.clone()),
        },
        left_out: Vec::new(),
        cells: Vec::new(),
        idle: Vec::new(),
        retaken: 0,
        memory: Vec::new(),
        curves: Vec::new(),
        chain: Vec::new(),
        configurations: BTreeMap::new(),
    }
}
