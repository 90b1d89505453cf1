//! A report for people: tables for a terminal, and the same for documents.

use std::fmt::Write as _;

use anyhow::Result;

use super::report::Figure;
use super::report::{Curve, Report};
use super::summary::{Compared, Row, Verdict, noise, rows};
use super::targets::targets;
use crate::documents::write_between;
use crate::sheet::Sheet;
use crate::statistics::{estimate, median};
use crate::units::{bytes, nanoseconds, thousands};

/// Where the documents show the figures.
const FIGURES: (&str, &str) = ("docs/benchmarks.md", "http");

pub(crate) fn for_people(report: &Report) -> String {
    let mut text = String::new();
    for line in machine(report) {
        let _ = writeln!(text, "{line}");
    }
    sheets(report).iter().for_each(|sheet| sheet.aligned(&mut text));
    for one in &report.left_out {
        let _ = writeln!(text, "\nLEFT OUT: {}: {}", one.what, one.reason);
    }
    text
}

/// Writes the figures into the documents of the working directory.
pub(crate) fn write_docs(report: &Report) -> Result<()> {
    let mut text = machine(report).join("  \n");
    text.push('\n');
    sheets(report).iter().for_each(|sheet| sheet.markdown(&mut text, "###"));
    if !report.left_out.is_empty() {
        text.push_str("\nLeft out:\n\n");
        for one in &report.left_out {
            let _ = writeln!(text, "- {}: {}", one.what, one.reason);
        }
    }
    write_between(FIGURES, &text)
}

/// What the figures were made on and with.
pub(crate) fn machine(report: &Report) -> Vec<String> {
    let (machine, settings) = (&report.machine, &report.settings);
    vec![
        format!(
            "alize bench {}, {}{}",
            report.version,
            report.date,
            if settings.quick { ", quick run: intervals are wide" } else { "" }
        ),
        format!(
            "{}, {} CPUs, {} of memory, {}, Linux {}, load average before the run {:.2}, {:.2} CPUs busy with other things",
            machine.processor,
            machine.cpus,
            bytes(machine.memory),
            machine.distribution,
            machine.kernel,
            machine.load_average,
            report.idle_rate()
        ),
        format!("Server: {}; beside: {}", settings.server, machine.tools.join(", ")),
        format!(
            "{} interleaved rounds, slices of {} s, {} taken again because something else held the CPU; medians over rounds, \
             percentiles of all rounds together; ratios are to direct, with [95 % interval]; a difference no larger than \
             that between two equals is inside noise",
            settings.rounds, settings.slice_seconds, report.retaken
        ),
    ]
}

/// All tables, targets first.
pub(crate) fn sheets(report: &Report) -> Vec<Sheet> {
    let mut sheets = vec![of_targets(report)];
    sheets.extend(report.rows().into_iter().map(|(view, workload)| {
        let all = rows(report, view, workload);
        let title = format!("{}; {}", workload.label(), view.label());
        let rate = all
            .iter()
            .find_map(|row| row.due)
            .map(|due| format!("{} requests/s due; ", thousands(due as u64)));
        let equals = |figure| {
            noise(report, view, workload, figure)
                .map_or("unknown".into(), |noise| format!("{:.1} %", noise * 100.0))
        };
        let figure = if workload.is_saturation() { Figure::Rate } else { Figure::P99 };
        let name = if workload.is_saturation() { "requests/s" } else { "p99" };
        let note = format!(
            "{}equals (direct, direct again) differ by up to {} in {name}, {} in CPU",
            rate.unwrap_or_default(),
            equals(figure),
            equals(Figure::ProcessCpu)
        );
        let ratio = if workload.is_saturation() { "requests/s over direct's" } else { "p99 over direct's" };
        let head = vec![
            "",
            "requests/s",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "CPU s/100k, machine",
            "processes",
            "switches",
            "IP bytes",
            ratio,
            "CPU over direct's",
        ];
        Sheet { title, note: Some(note), head, rows: all.iter().map(cells).collect() }
    }));
    sheets.extend(of_roles(report));
    sheets.extend(of_memory(report));
    sheets.extend(Curve::ALL.into_iter().filter_map(|curve| of_curve(report, curve)));
    sheets.extend(of_chain(report));
    sheets
}

fn cells(row: &Row) -> Vec<String> {
    let time = |of: fn(&super::latency::Percentiles) -> f64| {
        row.latency.as_ref().map_or_else(|| "-".into(), |latency| nanoseconds(of(latency)))
    };
    let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.1}"));
    let mut wrong = String::new();
    if row.errors > 0 {
        let _ = write!(wrong, "; {} ERRORS", row.errors);
    }
    if row.unfinished > 0 {
        let _ = write!(wrong, "; {} UNFINISHED", row.unfinished);
    }
    if row.due.is_some_and(|due| row.rate < due * 0.95) {
        wrong.push_str("; OVERLOADED");
    }
    vec![
        row.subject.label().to_owned(),
        thousands(row.rate as u64),
        time(|latency| latency.p50),
        time(|latency| latency.p90),
        time(|latency| latency.p99),
        time(|latency| latency.p999),
        per_100k(row.machine_cpu),
        per_100k(row.process_cpu),
        number(row.switches),
        row.octets.map_or_else(|| "-".into(), |octets| thousands(octets as u64)),
        compared(row.rate_ratio.or(row.p99_ratio)),
        format!("{}{wrong}", compared(row.cpu_ratio)),
    ]
}

/// Nanoseconds for one request as seconds for a hundred thousand.
fn per_100k(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |nanoseconds| format!("{:.2}", nanoseconds / 1e4))
}

fn compared(compared: Option<Compared>) -> String {
    let Some(Compared { ratio, verdict }) = compared else { return "-".into() };
    let verdict = if verdict == Verdict::Noise { "inside noise" } else { verdict.label() };
    format!("{:.2} [{:.2}, {:.2}] {verdict}", ratio.value, ratio.low, ratio.high)
}

fn of_targets(report: &Report) -> Sheet {
    let rows = targets(report)
        .into_iter()
        .map(|target| vec![target.what, target.outcome.label().to_owned(), target.measured])
        .collect();
    Sheet { title: "Targets".into(), note: None, head: vec!["target", "", "measured"], rows }
}

/// CPU by process, under the first workload.
fn of_roles(report: &Report) -> Option<Sheet> {
    let (view, workload) = report.rows().into_iter().find(|(_, workload)| workload.connections == 64)?;
    let mut cells: Vec<_> =
        report.cells.iter().filter(|cell| cell.view == view && cell.workload == workload).collect();
    cells.sort_by_key(|cell| cell.subject);
    let row = |cell: &&super::report::Cell| {
        let mut roles: Vec<&String> = cell.rounds.iter().flat_map(|slice| slice.spent.roles.keys()).collect();
        roles.sort();
        roles.dedup();
        let each = roles.into_iter().map(|role| {
            let values: Vec<f64> = cell
                .rounds
                .iter()
                .filter(|slice| slice.completed > 0)
                .map(|slice| {
                    slice.spent.roles.get(role).copied().unwrap_or(0.0) * 1e9 / slice.completed as f64
                })
                .collect();
            format!("{role} {}", per_100k(median(&values)))
        });
        vec![cell.subject.label().to_owned(), each.collect::<Vec<_>>().join(", ")]
    };
    Some(Sheet {
        title: format!("CPU seconds for 100k requests by process: {}; {}", workload.label(), view.label()),
        note: Some("kernel threads are those of the whole machine".into()),
        head: vec!["", "process"],
        rows: cells.iter().map(row).collect(),
    })
}

fn of_memory(report: &Report) -> Option<Sheet> {
    let rows: Vec<Vec<String>> = report
        .memory
        .iter()
        .map(|one| {
            let each = one.held.processes.iter().map(|(role, held)| format!("{role} {}", bytes(*held)));
            let kernel = if one.held.kernel > 0 { bytes(one.held.kernel) } else { "-".into() };
            vec![
                one.subject.label().to_owned(),
                one.view.label(),
                one.when.clone(),
                bytes(one.held.bytes()),
                kernel,
                each.collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    (!rows.is_empty()).then(|| Sheet {
        title: "Memory of what stands between client and server".into(),
        note: Some("PSS of processes; kernel maps and programs by the agent's account".into()),
        head: vec!["", "view", "when", "PSS", "kernel", "by process"],
        rows,
    })
}

fn of_curve(report: &Report, curve: Curve) -> Option<Sheet> {
    let points: Vec<_> = report.curves.iter().filter(|point| point.curve == curve).collect();
    let mut keys: Vec<_> = points.iter().map(|point| (point.subject, point.x)).collect();
    keys.sort_unstable();
    keys.dedup();
    let row = |&(subject, x): &(super::subject::Subject, u64)| {
        let of: Vec<_> = points.iter().filter(|point| point.subject == subject && point.x == x).collect();
        let middle = |value: fn(&super::report::Point) -> f64| {
            estimate(&of.iter().map(|point| value(point)).collect::<Vec<_>>())
        };
        let range = |it: Option<crate::statistics::Estimate>, show: fn(f64) -> String| {
            it.map_or_else(
                || "-".into(),
                |it| format!("{} [{}, {}]", show(it.value), show(it.low), show(it.high)),
            )
        };
        vec![
            subject.label().to_owned(),
            thousands(x),
            range(middle(|point| point.cpu), nanoseconds),
            range(middle(|point| point.p50), nanoseconds),
            range(middle(|point| point.rate), |rate| thousands(rate as u64)),
        ]
    };
    (!keys.is_empty()).then(|| Sheet {
        title: format!("How cost grows with {}", curve.label()),
        note: Some(curve.note().into()),
        head: vec!["", curve.label(), "CPU/request", "p50", "requests/s"],
        rows: keys.iter().map(row).collect(),
    })
}

fn of_chain(report: &Report) -> Option<Sheet> {
    let mut subjects: Vec<_> = report.chain.iter().map(|slice| slice.subject).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let hops = report.chain.first()?.hops;
    let row = |subject: &super::subject::Subject| {
        let of: Vec<_> = report.chain.iter().filter(|slice| slice.subject == *subject).collect();
        let latency = super::latency::Recorded::merged(of.iter().map(|slice| &slice.latency)).percentiles();
        let rates: Vec<f64> = of.iter().map(|slice| slice.completed as f64 / slice.seconds).collect();
        let show = |value: Option<f64>| value.map_or_else(|| "-".into(), nanoseconds);
        vec![
            subject.label().to_owned(),
            show(latency.map(|it| it.p50)),
            show(latency.map(|it| it.p99)),
            median(&rates).map_or_else(|| "-".into(), |rate| thousands(rate as u64)),
        ]
    };
    Some(Sheet {
        title: format!("A request through a chain of {hops} services, each calls the next, one request at a time"),
        note: Some(
            "the services alternate between two namespaces; with two proxies a hop each namespace has one sidecar for all its \
             services, which spares the proxies 48 processes"
                .into(),
        ),
        head: vec!["", "p50", "p99", "chains/s"],
        rows: subjects.iter().map(row).collect(),
    })
}
