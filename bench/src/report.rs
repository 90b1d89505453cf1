//! What is kept of a run: every round's figures, the machine they were made on, and what was left out and why.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::histogram::Quantiles;

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
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cpus: usize,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) kernel: String,
    pub(crate) distribution: String,
    /// Over one minute, before the bench began: what else ran.
    pub(crate) load_average: f64,
    /// Name and version of what Alizé is compared with.
    pub(crate) tools: Vec<String>,
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

impl Machine {
    pub(crate) fn look(tools: Vec<String>) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| -> Option<String> {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line[key.len()..].trim_start_matches([' ', '\t', ':', '=']).trim_matches('"').to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let kilobytes =
            memory.as_deref().and_then(|text| text.split(' ').next()).and_then(|word| word.parse().ok());
        Self {
            processor: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: kilobytes.unwrap_or(0u64) * 1024,
            kernel: format!("{} {}", read("/proc/sys/kernel/osrelease").trim(), std::env::consts::ARCH),
            distribution: after(&read("/etc/os-release"), "PRETTY_NAME").unwrap_or_else(|| "unknown".into()),
            load_average: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0.0),
            tools,
        }
    }
}

/// Seconds since the epoch as UTC: `2026-02-28T23:59:59Z`.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to date by Hinnant's algorithm (chrono-Compatible Low-Level Date Algorithms, civil_from_days); years begin
    // in March, so that the leap day is the last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_599), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::look(Vec::new());
        assert!(machine.memory > 1 << 20);
        assert_ne!(machine.processor, "unknown");
        assert!(machine.kernel.contains('.'));
    }
}
