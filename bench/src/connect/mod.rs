//! Balancing at connect(): Alizé beside no mesh, iptables and nftables.
//!
//! Everything happens in network namespaces and cgroups that the bench makes and removes; the host's own tables are
//! not touched. Subjects take turns, slice by slice and round by round, so that what slows the machine slows all.
mod alize;
mod arguments;
mod contest;
mod generator;
mod histogram;
mod layout;
mod loading;
mod order;
mod report;
mod rounds;
mod rulesets;
mod server;
mod sides;
mod summary;
mod table;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use alize::{unload, unload_leftovers};

use anyhow::{Context, Result, bail};
use clap::Parser;

use arguments::{Arguments, Role};
use contest::{Contest, Entries};
use report::{Report, SCHEMA};

use crate::machine::{Machine, rfc3339};
use crate::process;
use crate::world::Ground;

/// The command `alize-bench`.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.role {
        Some(Role::Generate) => generator::run(),
        Some(Role::Serve { threads, cpu }) => server::run(*threads, *cpu),
        None => bench(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("alize-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    let report = match &arguments.from {
        Some(path) => Report::read(path)?,
        None => {
            let report = measure(arguments)?;
            let path = keep(&report, &arguments.out)?;
            eprintln!("kept as {}", path.display());
            report
        }
    };
    print!("{}", table::for_people(&report));
    if arguments.write_docs {
        table::write_docs(&report)?;
    }
    if report.version.is_none() {
        bail!("Alizé itself was not measured");
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<Report> {
    if !rustix::process::geteuid().is_root() {
        bail!("the bench makes network namespaces and cgroups and loads kernel programs: run it as root");
    }
    process::catch_interrupts()?;
    let settings = arguments.settings()?;
    let machine = Machine::look(tools());
    let ground = Ground::new()?;
    alize::unload_leftovers(&ground);
    let program = arguments.alize_program();
    let entries = Entries { alize: program.as_deref().ok(), workloads: &arguments.workloads() };
    let mut contest = Contest::prepare(&ground, &settings, &entries)?;
    if let Err(reason) = &program {
        contest.leave_out("Alizé".into(), reason);
    }
    let cells = contest.measure(entries.workloads)?;
    let memory = contest.memory();
    if arguments.wants_loading() {
        loading::measure(&mut contest, entries.alize)?;
    }
    let version = entries.alize.and_then(|program| version(program).ok());
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(Report {
        schema: SCHEMA,
        version,
        date: rfc3339(seconds),
        machine,
        settings: settings.clone(),
        left_out: std::mem::take(&mut contest.left_out),
        cells,
        loading: std::mem::take(&mut contest.loading),
        memory,
        agents_cpu: contest.agents_cpu(),
        iptables: contest.iptables.into(),
    })
}

fn version(program: &Path) -> Result<String> {
    let said = process::run(std::process::Command::new(program).arg("--version"), None)?.stdout;
    Ok(said.trim().trim_start_matches("alize ").to_owned())
}

/// Versions of what Alizé is compared with.
fn tools() -> Vec<String> {
    let asked: [&[&str]; 4] = [
        &["iptables-legacy", "--version"],
        &["iptables-nft", "--version"],
        &["nft", "--version"],
        &["nginx", "-v"],
    ];
    asked
        .iter()
        .filter_map(|words| {
            let output = std::process::Command::new(words[0]).args(&words[1..]).output().ok()?;
            // nginx says its version on standard error.
            let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            Some(String::from_utf8_lossy(&said).lines().next()?.trim().to_owned())
        })
        .collect()
}

fn keep(report: &Report, folder: &Path) -> Result<std::path::PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("connect-{}.json", report.date.replace(':', "")));
    let kept = serde_json::json!({ "report": report, "summary": summary::Summary::of(report) });
    fs::write(&path, serde_json::to_string_pretty(&kept)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
