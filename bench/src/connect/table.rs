//! A report for people: aligned text for a terminal, Markdown for the documents.

use std::fmt::Write as _;

use anyhow::Result;

use super::report::{Change, Loading, Report, Subject, Workload};
use super::summary::{Outcome, Row, Summary, count, describe};
use crate::documents::write_between;
use crate::sheet::Sheet;
use crate::statistics::{Estimate, Verdict, median};
use crate::units::{bytes, nanoseconds, seconds, thousands};

/// Where documents show the figures: the file, and the name in its `<!-- name:begin -->` and `<!-- name:end -->`.
const ALL_FIGURES: (&str, &str) = ("docs/benchmarks.md", "benchmarks");
const MAIN_FIGURES: (&str, &str) = ("README.md", "figures");

pub(crate) fn for_people(report: &Report) -> String {
    let mut text = String::new();
    for line in machine(report) {
        let _ = writeln!(text, "{line}");
    }
    tables(report).for_each(|table| table.aligned(&mut text));
    for one in &report.left_out {
        let _ = writeln!(text, "\nLEFT OUT: {}: {}", one.what, one.reason);
    }
    text
}

/// Writes the figures into the documents of the working directory.
pub(crate) fn write_docs(report: &Report) -> Result<()> {
    let all: Vec<Sheet> = tables(report).collect();
    write_between(ALL_FIGURES, &markdown(report, &all, "###"))?;
    let main: Vec<Sheet> = [main_table(report), goals(report)].into_iter().flatten().collect();
    write_between(MAIN_FIGURES, &markdown(report, &main, "####"))
}

fn markdown(report: &Report, tables: &[Sheet], level: &str) -> String {
    let mut text = machine(report).join("  \n");
    text.push('\n');
    tables.iter().for_each(|table| table.markdown(&mut text, level));
    if !report.left_out.is_empty() {
        let _ = writeln!(text, "\nLeft out:\n");
        for one in &report.left_out {
            let _ = writeln!(text, "- {}: {}", one.what, one.reason);
        }
    }
    text
}

fn machine(report: &Report) -> Vec<String> {
    let (machine, settings) = (&report.machine, &report.settings);
    vec![
        format!(
            "Alizé {}, {}{}",
            report.version.as_deref().unwrap_or("was not measured"),
            report.date,
            if settings.quick { ", quick run: intervals are wide" } else { "" }
        ),
        format!(
            "{}, {} CPUs, {} of memory, {}, Linux {}, load average before the run {:.2}",
            machine.processor,
            machine.cpus,
            bytes(machine.memory),
            machine.distribution,
            machine.kernel,
            machine.load_average
        ),
        format!("Compared with: {}; iptables is {}", machine.tools.join(", "), report.iptables),
        format!(
            "{} interleaved rounds, slices of {} s; medians over rounds; [95 % interval]",
            settings.rounds, settings.slice_seconds
        ),
    ]
}

fn tables(report: &Report) -> impl Iterator<Item = Sheet> {
    let summary = Summary::of(report);
    let mut tables = Vec::new();
    for workload in Workload::ALL {
        for &services in &report.settings.sizes {
            let rows: Vec<&Row> = summary
                .rows
                .iter()
                .filter(|row| row.workload == workload && row.services == services)
                .collect();
            if !rows.is_empty() {
                tables.push(connect_table(workload, services, &rows));
            }
        }
    }
    tables.extend(loading(report));
    tables.extend(memory(report));
    tables.extend(goals(report));
    tables.into_iter()
}

fn connect_table(workload: Workload, services: u32, rows: &[&Row]) -> Sheet {
    let time = |value: Option<f64>| value.map_or_else(|| "-".into(), nanoseconds);
    let title = format!("{}, {}", workload.label(), count(services));
    if workload.is_hook() {
        let rows = rows
            .iter()
            .map(|row| vec![row.subject.label().into(), time(row.connect_p50), more(row), against(row)])
            .collect();
        return Sheet {
            title,
            note: None,
            head: vec!["", "connect()", "more than direct", "cost over Alizé's"],
            rows,
        };
    }
    let unit = if workload.connects() { "CPU/connection" } else { "CPU/request" };
    let rows = rows
        .iter()
        .map(|row| {
            let mut cells = vec![row.subject.label().to_owned(), thousands(row.rate as u64)];
            if workload.connects() {
                cells.extend([time(row.connect_p50), time(row.connect_p99)]);
            }
            cells.extend([time(row.whole_p50), time(row.whole_p99), nanoseconds(row.cpu), more(row)]);
            cells.push(if row.errors == 0 {
                against(row)
            } else {
                format!("{}; {} ERRORS", against(row), row.errors)
            });
            cells
        })
        .collect();
    let mut head = vec!["", "per second"];
    if workload.connects() {
        head.extend(["connect() p50", "p99"]);
    }
    head.extend(["whole p50", "p99", unit, "more than direct", "CPU over Alizé's"]);
    Sheet { title, note: None, head, rows }
}

/// In connect() where there is one, else in the whole.
fn more(row: &Row) -> String {
    let Some(Estimate { value, low, high }) = row.more_than_direct else { return "-".into() };
    format!("{value:+.0} ns [{low:+.0}, {high:+.0}]")
}

fn against(row: &Row) -> String {
    let Some(against) = row.against_alize else { return "-".into() };
    let Estimate { value, low, high } = against.ratio;
    // Not a rival but the floor.
    let verdict = match (row.subject, against.verdict) {
        (Subject::Direct | Subject::DirectAgain | Subject::Bystander, Verdict::Behind) => {
            "Alizé costs more".to_owned()
        }
        (Subject::Direct | Subject::DirectAgain | Subject::Bystander, Verdict::Ahead) => {
            "Alizé costs less".to_owned()
        }
        (_, verdict) => verdict.to_string(),
    };
    format!("{value:.3} [{low:.3}, {high:.3}] {verdict}")
}

fn loading(report: &Report) -> Option<Sheet> {
    if report.loading.is_empty() {
        return None;
    }
    let order = [Change::LoadAll, Change::LoadAllTables, Change::OneEndpoint, Change::OneEndpointVisible];
    let mut sorted: Vec<&Loading> = report.loading.iter().collect();
    sorted.sort_by_key(|one| (order.iter().position(|what| *what == one.what), one.services));
    let rows = sorted
        .into_iter()
        .map(|one| {
            let low = one.seconds.iter().copied().fold(f64::INFINITY, f64::min);
            let high = one.seconds.iter().copied().fold(0.0, f64::max);
            vec![
                describe(one.what).into(),
                thousands(u64::from(one.services)),
                one.subject.clone(),
                median(&one.seconds).map_or_else(|| "-".into(), seconds),
                format!("{} to {}", seconds(low), seconds(high)),
                one.seconds.len().to_string(),
                one.how.clone(),
            ]
        })
        .collect();
    Some(Sheet {
        title: "Loading and changing tables, services of 3 endpoints".into(),
        note: None,
        head: vec!["change", "services", "by", "median", "range", "runs", "what is timed"],
        rows,
    })
}

fn memory(report: &Report) -> Option<Sheet> {
    if report.memory.is_empty() {
        return None;
    }
    let rows = report
        .memory
        .iter()
        .map(|one| {
            vec![
                count(one.services),
                thousands(u64::from(one.usage_endpoints)),
                bytes(one.pss),
                bytes(one.rss),
                bytes(one.kernel),
                one.maps_by_bpftool.map_or_else(|| "-".into(), bytes),
            ]
        })
        .collect();
    let note = report.agents_cpu.map(|share| {
        format!("after the load; CPU of all agents together while it ran: {:.3} % of one CPU", share * 100.0)
    });
    Some(Sheet {
        title: "Memory of the agent".into(),
        note,
        head: vec!["", "endpoints", "PSS", "RSS", "kernel maps and programs", "maps by bpftool"],
        rows,
    })
}

fn goals(report: &Report) -> Option<Sheet> {
    let goals = Summary::of(report).goals;
    if goals.iter().all(|goal| goal.outcome == Outcome::NotMeasured) {
        return None;
    }
    let rows = goals
        .into_iter()
        .map(|goal| {
            let outcome = match goal.outcome {
                Outcome::Met => "met",
                Outcome::Missed => "MISSED",
                Outcome::Undecided => "inside noise",
                Outcome::NotMeasured => "not measured",
            };
            vec![goal.what, outcome.into(), goal.measured]
        })
        .collect();
    Some(Sheet { title: "Goals".into(), note: None, head: vec!["goal", "", "measured"], rows })
}

/// For a first look: short connections at the largest size.
fn main_table(report: &Report) -> Option<Sheet> {
    let services = *report.settings.sizes.iter().max()?;
    let summary = Summary::of(report);
    let rows: Vec<&Row> = summary
        .rows
        .iter()
        .filter(|row| {
            row.workload == Workload::Short && row.services == services && row.subject != Subject::DirectAgain
        })
        .collect();
    (!rows.is_empty()).then(|| connect_table(Workload::Short, services, &rows))
}
