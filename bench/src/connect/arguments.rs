//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use super::layout::MOST_SERVICES;
use super::report::{Settings, Workload};

/// Measure Alizé beside no mesh, iptables and nftables, on this machine
///
/// Prints tables with ratios and their 95 % intervals, keeps every round as JSON, and says what was left out and why.
/// Works in network namespaces and cgroups of its own.
#[derive(Debug, Parser)]
#[command(name = "alize-bench", version, max_term_width = 110)]
pub(crate) struct Arguments {
    /// About a minute: few short rounds, 1 and 1,000 services. For a look, and for tests of the bench itself
    #[arg(long)]
    quick: bool,
    /// Rounds; every subject has one slice in each [default: 25, quick: 7]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Length of a slice in seconds [default: 0.05]
    #[arg(long, value_name = "SECONDS")]
    slice: Option<f64>,
    /// Numbers of services [default: 1,1000,10000]
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    services: Vec<u32>,
    /// Only these, and nothing of tables and memory unless `loading` is among them
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',')]
    only: Vec<Only>,
    /// CPU for client and server [default: the last]
    #[arg(long, value_name = "CPU")]
    cpu: Option<usize>,
    /// Alizé's binary [default: `alize` beside this program]
    #[arg(long, value_name = "PATH")]
    alize: Option<PathBuf>,
    /// Folder for the JSON file
    #[arg(long, value_name = "DIR", default_value = "bench/out")]
    pub(crate) out: PathBuf,
    /// Measure nothing, show what an earlier run kept
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Put the tables into docs/benchmarks.md and README.md, between their markers
    #[arg(long)]
    pub(crate) write_docs: bool,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// What the bench starts itself as.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// A load generator
    #[command(hide = true)]
    Generate,
    /// A server
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        cpu: Option<usize>,
    },
}

/// A workload, or the loading of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Only {
    Workload(Workload),
    Loading,
}

impl clap::ValueEnum for Only {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Only; 7] = {
            let w = Workload::ALL;
            [
                Only::Workload(w[0]),
                Only::Workload(w[1]),
                Only::Workload(w[2]),
                Only::Workload(w[3]),
                Only::Workload(w[4]),
                Only::Workload(w[5]),
                Only::Loading,
            ]
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Only::Workload(workload) => workload.to_possible_value(),
            Only::Loading => {
                Some(clap::builder::PossibleValue::new("loading").help("Tables loaded and changed"))
            }
        }
    }
}

impl Arguments {
    pub(crate) fn settings(&self) -> Result<Settings> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut sizes = self.services.clone();
        if sizes.is_empty() {
            sizes = if self.quick { vec![1, 1_000] } else { vec![1, 1_000, 10_000] };
        }
        sizes.sort_unstable();
        sizes.dedup();
        ensure!(
            sizes.iter().all(|size| (1..=MOST_SERVICES).contains(size)),
            "--services takes numbers from 1 to {MOST_SERVICES}"
        );
        let rounds = self.rounds.unwrap_or(if self.quick { 7 } else { 25 });
        ensure!((1..=1_000).contains(&rounds), "--rounds takes a number from 1 to 1000");
        let slice_seconds = self.slice.unwrap_or(0.05);
        ensure!((0.01..=60.0).contains(&slice_seconds), "--slice takes 0.01 to 60 seconds");
        let cpu = self.cpu.unwrap_or(cpus - 1);
        ensure!(cpu < cpus, "there is no CPU {cpu}: the last is {}", cpus - 1);
        Ok(Settings { rounds, slice_seconds, sizes, cpu, quick: self.quick })
    }

    pub(crate) fn workloads(&self) -> Vec<Workload> {
        Workload::ALL
            .into_iter()
            .filter(|workload| self.only.is_empty() || self.only.contains(&Only::Workload(*workload)))
            .collect()
    }

    pub(crate) fn wants_loading(&self) -> bool {
        self.only.is_empty() || self.only.contains(&Only::Loading)
    }

    pub(crate) fn alize_program(&self) -> Result<PathBuf> {
        let path = match &self.alize {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("alize"),
        };
        path.canonicalize().with_context(|| {
            format!("no binary at {}; build it: cargo build --release -p alize", path.display())
        })
    }
}
