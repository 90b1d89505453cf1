//! What a report says: comparisons with their noise, and the goals, met or missed.

use serde::Serialize;

use super::report::{Cell, Change, Figure, Report, Subject, Workload};
use crate::statistics::{Estimate, Verdict, estimate, median, paired_differences, paired_ratios};

/// The most that Alizé may cost per connect.
const CONNECT_GOAL_NS: f64 = 1_000.0;
const TABLES_GOAL_S: f64 = 0.1;
const RELOAD_GOAL_S: f64 = 1.0;
const VISIBLE_GOAL_S: f64 = 0.001;
const MEMORY_GOAL: f64 = 8.0 * 1024.0 * 1024.0;
const MEMORY_GOAL_SERVICES: u32 = 1_000;

/// Worked out of a [`Report`]; kept beside it for readers that do not want to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) rows: Vec<Row>,
    pub(crate) goals: Vec<Goal>,
}

/// One subject under one workload: medians over rounds, nanoseconds and operations per second.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) workload: Workload,
    pub(crate) services: u32,
    pub(crate) subject: Subject,
    pub(crate) rate: f64,
    pub(crate) connect_p50: Option<f64>,
    pub(crate) connect_p99: Option<f64>,
    pub(crate) whole_p50: Option<f64>,
    pub(crate) whole_p99: Option<f64>,
    pub(crate) cpu: f64,
    pub(crate) errors: u64,
    /// Nanoseconds more than direct: in connect() where there is one, else in the whole operation.
    pub(crate) more_than_direct: Option<Estimate>,
    /// Its cost over Alizé's, by CPU time; for the hook alone by time in connect().
    pub(crate) against_alize: Option<Against>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Against {
    pub(crate) ratio: Estimate,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Met,
    Missed,
    /// The interval holds the limit.
    Undecided,
    NotMeasured,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) outcome: Outcome,
    /// The figures, for people.
    pub(crate) measured: String,
}

impl Summary {
    pub(crate) fn of(report: &Report) -> Self {
        let mut rows: Vec<Row> = report.cells.iter().map(|cell| row(report, cell)).collect();
        rows.sort_by_key(|row| row.subject);
        let goals = goals(report, &rows);
        Self { rows, goals }
    }
}

/// By what subjects are compared.
pub(crate) fn cost(workload: Workload) -> Figure {
    if workload.is_hook() { Figure::ConnectP50 } else { Figure::Cpu }
}

fn row(report: &Report, cell: &Cell) -> Row {
    let middle = |figure| median(&cell.each(figure)).filter(|value| !value.is_nan());
    let beside = |subject| report.cell(cell.workload, cell.services, subject);
    let time = if cell.workload.connects() { Figure::ConnectP50 } else { Figure::WholeP50 };
    Row {
        workload: cell.workload,
        services: cell.services,
        subject: cell.subject,
        rate: middle(Figure::Rate).unwrap_or(0.0),
        connect_p50: middle(Figure::ConnectP50),
        connect_p99: middle(Figure::ConnectP99),
        whole_p50: middle(Figure::WholeP50),
        whole_p99: middle(Figure::WholeP99),
        cpu: middle(Figure::Cpu).unwrap_or(0.0),
        errors: cell.errors(),
        more_than_direct: beside(Subject::Direct)
            .filter(|_| cell.subject != Subject::Direct)
            .and_then(|direct| estimate(&paired_differences(&cell.each(time), &direct.each(time)))),
        against_alize: beside(Subject::Alize).filter(|_| cell.subject != Subject::Alize).and_then(|alize| {
            let figure = cost(cell.workload);
            let ratio = estimate(&paired_ratios(&cell.each(figure), &alize.each(figure)))?;
            Some(Against { ratio, verdict: Verdict::of(ratio) })
        }),
    }
}

fn goals(report: &Report, rows: &[Row]) -> Vec<Goal> {
    let mut goals = vec![
        connect_goal(
            rows,
            Workload::Short,
            "at most 1 µs more than direct per connect (TCP, median time in connect())",
        ),
        connect_goal(rows, Workload::Hook, "at most 1 µs more than direct per connect (the hook alone)"),
        connect_goal(
            rows,
            Workload::HookSocket,
            "at most 1 µs more than direct per connect (with a new socket's record)",
        ),
        growth_goal(report),
        time_goal(report, Change::LoadAllTables, TABLES_GOAL_S, "kernel tables written in under 100 ms"),
        time_goal(report, Change::LoadAll, RELOAD_GOAL_S, "whole reload of the file under 1 s"),
        time_goal(
            report,
            Change::OneEndpointVisible,
            VISIBLE_GOAL_S,
            "one change visible to connects in under 1 ms",
        ),
    ];
    goals.push(ahead_goal(report, rows));
    goals.push(never_behind_goal(rows));
    goals.push(memory_goal(report));
    goals
}

fn not_measured(what: &str) -> Goal {
    Goal { what: what.into(), outcome: Outcome::NotMeasured, measured: String::new() }
}

fn connect_goal(rows: &[Row], workload: Workload, what: &str) -> Goal {
    let of_alize: Vec<(u32, Estimate)> = rows
        .iter()
        .filter(|row| row.workload == workload && row.subject == Subject::Alize)
        .filter_map(|row| Some((row.services, row.more_than_direct?)))
        .collect();
    if of_alize.is_empty() {
        return not_measured(what);
    }
    let outcome = if of_alize.iter().all(|(_, more)| more.high <= CONNECT_GOAL_NS) {
        Outcome::Met
    } else if of_alize.iter().any(|(_, more)| more.low > CONNECT_GOAL_NS) {
        Outcome::Missed
    } else {
        Outcome::Undecided
    };
    let measured: Vec<String> = of_alize
        .iter()
        .map(|(services, more)| {
            format!("{:+.0} ns [{:+.0}, {:+.0}] with {}", more.value, more.low, more.high, count(*services))
        })
        .collect();
    Goal { what: what.into(), outcome, measured: measured.join("; ") }
}

/// Both sides dial more addresses when there are more services: direct shows what that alone costs.
fn growth_goal(report: &Report) -> Goal {
    let what = "10,000 services no slower than 1 (CPU of short connections, growth over that of direct)";
    let growth = |subject: Subject| -> Option<Vec<f64>> {
        let (one, most) =
            (report.cell(Workload::Short, 1, subject)?, report.cell(Workload::Short, 10_000, subject)?);
        Some(paired_ratios(&most.each(Figure::Cpu), &one.each(Figure::Cpu)))
    };
    let (Some(alize), Some(direct)) = (growth(Subject::Alize), growth(Subject::Direct)) else {
        return not_measured(what);
    };
    let Some(ratio) = estimate(&paired_ratios(&alize, &direct)) else { return not_measured(what) };
    let outcome = if ratio.low > 1.0 { Outcome::Missed } else { Outcome::Met };
    let (alize, direct) = (median(&alize).unwrap_or(f64::NAN), median(&direct).unwrap_or(f64::NAN));
    let measured = format!(
        "{:.3} [{:.3}, {:.3}]: Alizé grows by {alize:.3}, direct by {direct:.3}",
        ratio.value, ratio.low, ratio.high
    );
    Goal { what: what.into(), outcome, measured }
}

fn time_goal(report: &Report, what: Change, limit: f64, text: &str) -> Goal {
    let of_alize: Vec<_> = report
        .loading
        .iter()
        .filter(|one| one.what == what && one.subject == Subject::Alize.label())
        .collect();
    if of_alize.is_empty() {
        return not_measured(text);
    }
    let middles: Vec<f64> = of_alize.iter().filter_map(|one| median(&one.seconds)).collect();
    let outcome = if middles.iter().all(|middle| *middle < limit) { Outcome::Met } else { Outcome::Missed };
    let measured: Vec<String> = of_alize
        .iter()
        .zip(&middles)
        .map(|(one, middle)| {
            format!("{} with {} ({})", crate::units::seconds(*middle), count(one.services), one.how)
        })
        .collect();
    Goal { what: text.into(), outcome, measured: measured.join("; ") }
}

fn rivals(rows: &[Row]) -> impl Iterator<Item = (&Row, Against)> {
    rows.iter()
        .filter(|row| matches!(row.subject, Subject::Iptables | Subject::Nftables))
        .filter_map(|row| Some((row, row.against_alize?)))
}

fn name(row: &Row) -> String {
    format!("{} in {:?} with {}", row.subject.label(), row.workload, count(row.services))
}

fn ahead_goal(report: &Report, rows: &[Row]) -> Goal {
    let what = "ahead of iptables and nftables in every row at 10,000 services (CPU, tables)";
    let at_most: Vec<_> = rivals(rows).filter(|(row, _)| row.services == 10_000).collect();
    if at_most.is_empty() {
        return not_measured(what);
    }
    let slower = slower_tables(report);
    let behind = !slower.is_empty() || at_most.iter().any(|(_, against)| against.verdict == Verdict::Behind);
    let not_ahead: Vec<String> = at_most
        .iter()
        .filter(|(_, against)| against.verdict != Verdict::Ahead)
        .map(|(row, against)| format!("{}: {} ({:.3})", name(row), against.verdict, against.ratio.value))
        .chain(slower)
        .collect();
    let outcome = match (not_ahead.is_empty(), behind) {
        (true, _) => Outcome::Met,
        (false, true) => Outcome::Missed,
        (false, false) => Outcome::Undecided,
    };
    let measured =
        if not_ahead.is_empty() { format!("all {} rows", at_most.len()) } else { not_ahead.join("; ") };
    Goal { what: what.into(), outcome, measured }
}

/// Tools that load or change tables faster than Alizé does.
fn slower_tables(report: &Report) -> Vec<String> {
    let mut slower = Vec::new();
    for what in [Change::LoadAll, Change::OneEndpoint] {
        let of = |alize: bool| {
            report
                .loading
                .iter()
                .filter(move |one| one.what == what && (one.subject == Subject::Alize.label()) == alize)
                .filter_map(|one| Some((one, median(&one.seconds)?)))
        };
        for (alize, its) in of(true) {
            for (tool, other) in
                of(false).filter(|(tool, other)| tool.services == alize.services && *other < its)
            {
                slower.push(format!(
                    "{}: {} takes {}, Alizé {} ({})",
                    describe(what),
                    tool.subject,
                    crate::units::seconds(other),
                    crate::units::seconds(its),
                    alize.how
                ));
            }
        }
    }
    slower
}

pub(crate) fn describe(what: Change) -> &'static str {
    match what {
        Change::LoadAll => "all services",
        Change::LoadAllTables => "all services, kernel's part",
        Change::OneEndpoint => "one endpoint",
        Change::OneEndpointVisible => "one endpoint, kernel's part",
    }
}

fn never_behind_goal(rows: &[Row]) -> Goal {
    let what = "never behind iptables or nftables beyond noise (CPU, all sizes)";
    let all: Vec<_> = rivals(rows).collect();
    if all.is_empty() {
        return not_measured(what);
    }
    let behind: Vec<String> = all
        .iter()
        .filter(|(_, against)| against.verdict == Verdict::Behind)
        .map(|(row, against)| format!("{}: {:.3}", name(row), against.ratio.value))
        .collect();
    let outcome = if behind.is_empty() { Outcome::Met } else { Outcome::Missed };
    let measured = if behind.is_empty() { format!("all {} rows", all.len()) } else { behind.join("; ") };
    Goal { what: what.into(), outcome, measured }
}

fn memory_goal(report: &Report) -> Goal {
    let what = "agent below 8 MB (8,388,608 bytes) at 1,000 services x 3 endpoints";
    let Some(memory) = report.memory.iter().find(|memory| memory.services == MEMORY_GOAL_SERVICES) else {
        return not_measured(what);
    };
    let held = memory.pss.max(memory.rss) as f64;
    let outcome = if held < MEMORY_GOAL { Outcome::Met } else { Outcome::Missed };
    let measured =
        format!("PSS {}, RSS {}", crate::units::bytes(memory.pss), crate::units::bytes(memory.rss));
    Goal { what: what.into(), outcome, measured }
}

/// `1 service`, `10,000 services`.
pub(crate) fn count(services: u32) -> String {
    if services == 1 {
        "1 service".into()
    } else {
        format!("{} services", crate::units::thousands(u64::from(services)))
    }
}
