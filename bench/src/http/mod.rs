//! `alize bench`: the same HTTP requests by every way from a client to a server that there is on this machine.

mod arguments;
mod latency;
mod load;
mod mesh;
mod meter;
mod origin;
mod peers;
mod place;
mod progress;
mod report;
mod rounds;
mod scene;
mod subject;
mod workload;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

pub use arguments::Arguments;
use arguments::{Amount, Part};
use peers::Installed;
use place::{Own, View};
use progress::Progress;
use report::{LeftOut, Report, SCHEMA, Settings};
use rounds::Field;
use scene::Means;
use subject::{Peer, Subject, Way};

use crate::machine::{Machine, rfc3339};
use crate::process;
use crate::world::Ground;

/// Does what the command line says.
pub fn run(arguments: &Arguments, version: &str) -> Result<()> {
    match arguments.part {
        Some(Part::Generate) => return load::run(),
        Some(Part::Serve) => return origin::run(),
        Some(Part::Chain) => return Ok(()),
        None => {}
    }
    let report = measure(arguments, version)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

fn measure(arguments: &Arguments, version: &str) -> Result<Report> {
    if !rustix::process::geteuid().is_root() {
        bail!("the bench makes network namespaces and cgroups and loads kernel programs: run it as root");
    }
    let amount = arguments.amount()?;
    if arguments.install_envoy && peers::find(Peer::Envoy, arguments.envoy.as_deref()).is_err() {
        peers::install_envoy()?;
    }
    process::catch_interrupts()?;
    place::allow_many_files();
    let ground = Ground::new()?;
    crate::connect::unload_leftovers(&ground);
    let own = Own::find()?;
    let progress = Progress::new();
    let origin = peers::find(Peer::Nginx, None).ok();
    let (found, missing) = find_peers(arguments);
    let mut report = begin(arguments, version, &amount, origin.as_ref(), &found);
    report.left_out = missing;
    let subjects: Vec<Subject> = arguments.subjects().into_iter().filter(|subject| is_there(*subject, &found)).collect();
    place::stay_off(amount.cpu)?;
    let means = Means {
        ground: &ground,
        own: &own,
        view: View::OneCpu(amount.cpu),
        origin: origin.as_ref(),
        peers: &found,
        more_services: 0,
        routes_before: 0,
    };
    let workloads = if arguments.quick { workload::quick() } else { workload::full() };
    let mut field = Field::prepare(&means, &subjects, &mut report, &progress)?;
    field.measure(&workloads, amount.rounds, amount.seconds)?;
    drop(field);
    progress.end();
    Ok(report)
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
        memory: Vec::new(),
        curves: Vec::new(),
        chain: Vec::new(),
        configurations: BTreeMap::new(),
    }
}
