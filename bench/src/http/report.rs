//! What is kept of a run: every round's figures with their histograms, the machine, and what was left out and why.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::latency::Recorded;
use super::mesh::Paths;
use super::meter::Spent;
use super::place::View;
use super::scene::{Held, Measured};
use super::subject::Subject;
use super::workload::Workload;
use crate::machine::Machine;

/// Of the file's form; a reader refuses what it does not know.
pub(crate) const SCHEMA: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    /// Of Alizé.
    pub(crate) version: String,
    /// UTC, RFC 3339.
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) cells: Vec<Cell>,
    /// Busy CPUs of the machine while nothing of the bench ran, in CPU seconds a second, each time it was looked at.
    pub(crate) idle: Vec<f64>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) curves: Vec<Point>,
    pub(crate) chain: Vec<ChainSlice>,
    /// Slices that were taken again because something else held the CPU all the time.
    pub(crate) retaken: u64,
    /// Configurations of peers by their name.
    pub(crate) configurations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) rounds: usize,
    /// Measured length of one slice.
    pub(crate) slice_seconds: f64,
    pub(crate) quick: bool,
    /// `nginx` with its version, or `built-in`.
    pub(crate) server: String,
}

/// Something that was to be measured and was not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) what: String,
    pub(crate) reason: String,
}

/// One way under one workload. Round `n` of all cells of a workload and view belong together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) view: View,
    pub(crate) workload: Workload,
    pub(crate) subject: Subject,
    /// Requests a second that were due; absent at saturation.
    pub(crate) rate: Option<f64>,
    pub(crate) rounds: Vec<Slice>,
}

/// One slice of load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slice {
    pub(crate) completed: u64,
    pub(crate) seconds: f64,
    pub(crate) unfinished: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) latency: Recorded,
    pub(crate) spent: Spent,
    /// Requests by the label of the path that Alizé says they took.
    pub(crate) paths: Option<Paths>,
}

/// What a way held after its load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) view: View,
    pub(crate) subject: Subject,
    /// `idle`, or with how many connections.
    pub(crate) when: String,
    pub(crate) held: Held,
}

/// One point of a curve, one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) curve: Curve,
    pub(crate) subject: Subject,
    pub(crate) x: u64,
    /// Nanoseconds of CPU time of client, server and all between, for one request.
    pub(crate) cpu: f64,
    pub(crate) p50: f64,
    pub(crate) rate: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Curve {
    Services,
    Routes,
    Connections,
    HeaderBytes,
}

impl Curve {
    pub(crate) const ALL: [Curve; 4] =
        [Curve::Services, Curve::Routes, Curve::Connections, Curve::HeaderBytes];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Curve::Services => "services",
            Curve::Routes => "routes of the service",
            Curve::Connections => "connections",
            Curve::HeaderBytes => "bytes of the request's head",
        }
    }

    /// Why it is as it is.
    pub(crate) fn note(self) -> &'static str {
        match self {
            Curve::Services => {
                "requests to one of them; flat where a service is found by one look-up of its address"
            }
            Curve::Routes => {
                "the request takes the last of them; grows where routes are tried one after the other"
            }
            Curve::Connections => "grows for all ways alike with what the processor's caches no longer hold",
            Curve::HeaderBytes => {
                "every byte is copied, and parsed by whoever reads HTTP on the way and by the server"
            }
        }
    }
}

/// One round through a chain of services.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChainSlice {
    pub(crate) subject: Subject,
    pub(crate) hops: usize,
    pub(crate) latency: Recorded,
    pub(crate) completed: u64,
    pub(crate) seconds: f64,
}

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Requests a second: more is better. Less is better in all others.
    Rate,
    P50,
    P99,
    /// Nanoseconds for a request of the whole machine, less what it does when idle.
    MachineCpu,
    /// Nanoseconds for a request of client, server and all between; kernel threads are not in it.
    ProcessCpu,
    Switches,
    Octets,
}

impl Report {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let report: Report = serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of `alize bench`", path.display()))?;
        let schema = report.schema;
        ensure!(schema == SCHEMA, "{} has schema {schema}, this bench reads {SCHEMA}", path.display());
        Ok(report)
    }

    /// Says once that something was not measured, and why; `true` the first time.
    pub(crate) fn leave_out(&mut self, what: &str, error: &anyhow::Error) -> bool {
        let is_new = self.left_out.iter().all(|one| one.what != what);
        if is_new {
            self.left_out.push(LeftOut { what: what.to_owned(), reason: format!("{error:#}") });
        }
        is_new
    }

    pub(crate) fn cell(&self, view: View, workload: Workload, subject: Subject) -> Option<&Cell> {
        let is_it = |cell: &&Cell| cell.view == view && cell.workload == workload && cell.subject == subject;
        self.cells.iter().find(is_it)
    }

    /// Views and workloads in the order in which they were measured.
    pub(crate) fn rows(&self) -> Vec<(View, Workload)> {
        let mut rows = Vec::new();
        for cell in &self.cells {
            if !rows.contains(&(cell.view, cell.workload)) {
                rows.push((cell.view, cell.workload));
            }
        }
        rows
    }

    /// CPU seconds a second of a machine without load.
    pub(crate) fn idle_rate(&self) -> f64 {
        crate::statistics::median(&self.idle).unwrap_or(0.0)
    }
}

impl Cell {
    pub(crate) fn errors(&self) -> u64 {
        self.rounds.iter().map(|slice| slice.errors).sum()
    }

    pub(crate) fn unfinished(&self) -> u64 {
        self.rounds.iter().map(|slice| slice.unfinished).sum()
    }

    pub(crate) fn latency(&self) -> Recorded {
        Recorded::merged(self.rounds.iter().map(|slice| &slice.latency))
    }

    /// One figure of each round; rounds without it are NaN, so that rounds of several cells stay in step.
    pub(crate) fn each(&self, figure: Figure, idle: f64) -> Vec<f64> {
        self.rounds.iter().map(|slice| slice.figure(figure, idle).unwrap_or(f64::NAN)).collect()
    }
}

impl Slice {
    pub(crate) fn of(Measured { loaded, spent, paths }: Measured) -> Self {
        Self {
            completed: loaded.completed,
            seconds: loaded.seconds,
            unfinished: loaded.unfinished,
            errors: loaded.errors,
            first_error: loaded.first_error,
            latency: loaded.latency,
            spent,
            paths,
        }
    }

    pub(crate) fn figure(&self, figure: Figure, idle: f64) -> Option<f64> {
        let spent = &self.spent;
        let each = |whole: f64| (self.completed > 0).then(|| whole / self.completed as f64);
        let latency = |share| self.latency.quantile(share).map(|value| value as f64);
        match figure {
            Figure::Rate => Some(self.completed as f64 / self.seconds),
            Figure::P50 => latency(0.5),
            Figure::P99 => latency(0.99),
            Figure::MachineCpu => each((spent.machine - idle * spent.seconds).max(0.0) * 1e9),
            Figure::ProcessCpu => each(self.own_cpu() * 1e9),
            Figure::Switches => each(spent.own_switches as f64),
            Figure::Octets => each(spent.octets as f64),
        }
    }

    fn own_cpu(&self) -> f64 {
        self.spent
            .roles
            .iter()
            .filter(|(role, _)| *role != "kernel threads")
            .map(|(_, seconds)| seconds)
            .sum()
    }
}
