//! What is kept of a run: every round's figures, the machine they were made on, and what was left out and why.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::histogram::Quantiles;
use crate::machine::Machine;

/// Of the file's form; a reader refuses what it does not know.
pub(crate) const SCHEMA: u32 = 1;

/// The whole of a run, as it is kept in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    /// Version of Alizé that was measured.
    pub(crate) version: Option<String>,
    /// UTC, RFC 3339.
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) loading: Vec<Loading>,
    pub(crate) memory: Vec<Memory>,
    /// CPU time of all agents while load ran, as a share of one CPU.
    pub(crate) agents_cpu: Option<f64>,
    /// The variant of iptables that was measured.
    pub(crate) iptables: String,
}

/// What is read of a kept file; the summary beside it is worked out again.
#[derive(Deserialize)]
struct Kept {
    report: Report,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) rounds: usize,
    /// Measured length of one slice.
    pub(crate) slice_seconds: f64,
    pub(crate) sizes: Vec<u32>,
    /// Client and server share it.
    pub(crate) cpu: usize,
    pub(crate) quick: bool,
}

/// Something that was asked for and not measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) what: String,
    pub(crate) reason: String,
}

/// The way from client to endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// The client dials the endpoints; no mesh.
    Direct,
    /// The same once more: what this machine's noise looks like between equals.
    DirectAgain,
    Alize,
    /// A meshed client that dials an address of no service.
    Bystander,
    Iptables,
    Nftables,
}

impl Subject {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Subject::Direct => "direct",
            Subject::DirectAgain => "direct again",
            Subject::Alize => "Alizé",
            Subject::Bystander => "Alizé, no service",
            Subject::Iptables => "iptables",
            Subject::Nftables => "nftables",
        }
    }
}

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Connect, request, response, close; client and server on one CPU
    Short,
    /// The same from and on all CPUs
    ShortParallel,
    /// Requests over open connections; client and server on one CPU
    KeepAlive,
    /// The same with nginx as the server
    KeepAliveNginx,
    /// connect() of one UDP socket again and again: the hook alone, no packet
    Hook,
    /// UDP socket, connect(), close(): the hook and what it keeps on a socket
    HookSocket,
}

impl Workload {
    pub(crate) const ALL: [Workload; 6] = [
        Workload::Short,
        Workload::ShortParallel,
        Workload::KeepAlive,
        Workload::KeepAliveNginx,
        Workload::Hook,
        Workload::HookSocket,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Workload::Short => "Short connections (connect, request, close), one CPU",
            Workload::ShortParallel => "Short connections, all CPUs",
            Workload::KeepAlive => "Keep-alive requests, one CPU",
            Workload::KeepAliveNginx => "Keep-alive requests to nginx, one CPU",
            Workload::Hook => "connect() of one UDP socket, again and again: no packet, the hook alone",
            Workload::HookSocket => {
                "UDP socket(), connect(), close(): the hook and what it keeps on the socket"
            }
        }
    }

    /// Whether connections are made while the clock runs.
    pub(crate) fn connects(self) -> bool {
        !matches!(self, Workload::KeepAlive | Workload::KeepAliveNginx)
    }

    pub(crate) fn is_hook(self) -> bool {
        matches!(self, Workload::Hook | Workload::HookSocket)
    }
}

/// One subject under one workload with so many services loaded. Round `n` of all cells of a workload belong together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) workload: Workload,
    pub(crate) services: u32,
    pub(crate) subject: Subject,
    pub(crate) rounds: Vec<Slice>,
}

/// One slice of load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slice {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// In connect(), nanoseconds.
    pub(crate) connect: Option<Quantiles>,
    /// The whole operation, nanoseconds.
    pub(crate) whole: Option<Quantiles>,
    /// CPU time of client and server for one operation, nanoseconds. Their kernel work counts, soft interrupts on
    /// their CPU included.
    pub(crate) cpu: f64,
}

/// Times to change tables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Loading {
    pub(crate) what: Change,
    /// `Alizé`, or the tool.
    pub(crate) subject: String,
    pub(crate) services: u32,
    /// What was timed.
    pub(crate) how: String,
    /// Each run, in seconds.
    pub(crate) seconds: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Change {
    /// All services into empty tables.
    LoadAll,
    /// Only the kernel's part of it.
    LoadAllTables,
    /// One endpoint of one service, all others loaded.
    OneEndpoint,
    /// Only the kernel's part of it, up to the first connect that sees it.
    OneEndpointVisible,
}

/// What an agent holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) services: u32,
    /// Proportional and resident set of the agent, in bytes.
    pub(crate) pss: u64,
    pub(crate) rss: u64,
    /// Kernel memory of maps and programs by the agent's own account.
    pub(crate) kernel: u64,
    /// Of the pinned maps by bpftool.
    pub(crate) maps_by_bpftool: Option<u64>,
    pub(crate) usage_services: u32,
    pub(crate) usage_endpoints: u32,
}

impl Report {
    pub(crate) fn cell(&self, workload: Workload, services: u32, subject: Subject) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.workload == workload && cell.services == services && cell.subject == subject)
    }

    /// Reads a report that an earlier run kept.
    pub(crate) fn read(path: &std::path::Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let kept: Kept = serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of this bench", path.display()))?;
        let report = kept.report;
        anyhow::ensure!(
            report.schema == SCHEMA,
            "{} has schema {}, this bench reads {SCHEMA}",
            path.display(),
            report.schema
        );
        Ok(report)
    }
}

impl Cell {
    pub(crate) fn errors(&self) -> u64 {
        self.rounds.iter().map(|round| round.errors).sum()
    }

    /// One figure of each round; rounds without it are NaN, so that rounds of several cells stay in step.
    pub(crate) fn each(&self, figure: Figure) -> Vec<f64> {
        self.rounds.iter().map(|round| figure.of(round).unwrap_or(f64::NAN)).collect()
    }
}

/// What can be compared; less is better in all but `Rate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    Rate,
    ConnectP50,
    ConnectP99,
    WholeP50,
    WholeP99,
    Cpu,
}

impl Figure {
    fn of(self, round: &Slice) -> Option<f64> {
        match self {
            Figure::Rate => Some(round.operations as f64 / round.seconds),
            Figure::ConnectP50 => round.connect.map(|connect| connect.p50),
            Figure::ConnectP99 => round.connect.map(|connect| connect.p99),
            Figure::WholeP50 => round.whole.map(|whole| whole.p50),
            Figure::WholeP99 => round.whole.map(|whole| whole.p99),
            Figure::Cpu => Some(round.cpu),
        }
    }
}
