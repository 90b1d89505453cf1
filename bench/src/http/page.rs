//! A report as one HTML page that needs nothing but itself.

use std::fmt::Write as _;

use super::chart::{Bar, Line, bars, escape, lines};
use super::place::View;
use super::report::{Cell, Curve, Figure, Report};
use super::subject::{Subject, Way};
use super::table::{machine, sheets};
use super::workload::Workload;
use crate::sheet::Sheet;
use crate::statistics::{estimate, median};
use crate::units::{nanoseconds, thousands};

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1b1f24; --dim: #59636e; --line: #d5dae0; --back: #fff; --good: #0a7a3c; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ed; --dim: #9aa4af; --line: #3a424b; --back: #14181d; --good: #4cc38a; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 2rem auto; max-width: 1560px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-top: 1px solid var(--line); padding-top: 1rem; }
p, .note { color: var(--dim); } .note { margin: .2rem 0 .6rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; } svg { width: 620px; max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--text); } svg text.title { font-weight: 600; font-size: 13px; }
.grid { stroke: var(--line); fill: none; } .whisker { stroke: var(--text); fill: none; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td:last-child, th:last-child { text-align: left; } td.text { white-space: normal; text-align: left; max-width: 46rem; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
pre { font-size: 12px; overflow-x: auto; border: 1px solid var(--line); padding: .6rem; }
";

pub(crate) fn page(report: &Report) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>alize bench, {}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>alize bench</h1>\n",
        escape(&report.date)
    );
    for line in machine(report) {
        let _ = writeln!(html, "<p>{}</p>", escape(&line));
    }
    let rows = report.rows();
    for (number, sheet) in sheets(report).iter().enumerate() {
        let _ = writeln!(html, "<h2>{}</h2>", escape(&sheet.title));
        if let Some(note) = &sheet.note {
            let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(note));
        }
        // The targets come first, then one sheet for each row.
        if let Some((view, workload)) = number.checked_sub(1).and_then(|number| rows.get(number)) {
            let _ = writeln!(html, "<div class=\"charts\">{}</div>", charts(report, *view, *workload));
        }
        for curve in Curve::ALL.into_iter().filter(|curve| sheet.title.ends_with(curve.label())) {
            let _ = writeln!(html, "<div class=\"charts\">{}</div>", grown(report, curve));
        }
        table(&mut html, sheet);
    }
    rest(&mut html, report);
    html.push_str("</body>\n</html>\n");
    html
}

fn table(html: &mut String, sheet: &Sheet) {
    html.push_str("<div class=\"wide\"><table><thead><tr>");
    sheet.head.iter().for_each(|name| {
        let _ = write!(html, "<th>{}</th>", escape(name));
    });
    html.push_str("</tr></thead><tbody>\n");
    for row in &sheet.rows {
        html.push_str("<tr>");
        for cell in row {
            let class = match cell.as_str() {
                "met" => "good",
                text if text.ends_with(" better") => "good",
                text if ["MISSED", "WORSE", "ERRORS", "UNFINISHED", "OVERLOADED"]
                    .iter()
                    .any(|bad| text.contains(bad)) =>
                {
                    "bad"
                }
                text if text.chars().count() > 60 => "text",
                _ => "",
            };
            let _ = write!(html, "<td class=\"{class}\">{}</td>", escape(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
}

fn rest(html: &mut String, report: &Report) {
    if !report.left_out.is_empty() {
        html.push_str("<h2>Left out</h2>\n<ul>\n");
        for one in &report.left_out {
            let _ = writeln!(html, "<li><b>{}</b>: {}</li>", escape(&one.what), escape(&one.reason));
        }
        html.push_str("</ul>\n");
    }
    if !report.configurations.is_empty() {
        html.push_str("<h2>Configurations</h2>\n");
        for (name, text) in &report.configurations {
            let _ = writeln!(
                html,
                "<details><summary>{}</summary><pre>{}</pre></details>",
                escape(name),
                escape(text)
            );
        }
    }
}

/// Bars of throughput and CPU, and percentiles as lines.
fn charts(report: &Report, view: View, workload: Workload) -> String {
    let mut cells: Vec<&Cell> =
        report.cells.iter().filter(|cell| cell.view == view && cell.workload == workload).collect();
    cells.sort_by_key(|cell| cell.subject);
    let mut html = String::new();
    if workload.is_saturation() {
        html.push_str(&bars(
            "requests/s (more is better)",
            &figure_bars(report, &cells, Figure::Rate),
            |value| thousands(value as u64),
        ));
    } else {
        html.push_str(&percentiles(&cells));
    }
    html.push_str(&bars(
        "CPU seconds for 100k requests, client and server included (less is better)",
        &figure_bars(report, &cells, Figure::ProcessCpu),
        |value| format!("{:.2} s", value / 1e4),
    ));
    html
}

fn figure_bars(report: &Report, cells: &[&Cell], figure: Figure) -> Vec<Bar> {
    let bar = |cell: &&Cell| {
        let it = estimate(&cell.each(figure, report.idle_rate()))?;
        let (label, colour) = (cell.subject.label().to_owned(), colour(cell.subject));
        Some(Bar { label, value: it.value, low: it.low, high: it.high, colour })
    };
    cells.iter().filter_map(bar).collect()
}

/// Latency over the share of requests that were slower.
fn percentiles(cells: &[&Cell]) -> String {
    let line = |cell: &&Cell| {
        let shares = cell.latency().shares();
        let points = shares.iter().filter(|(_, share)| (0.0..=0.9999).contains(share));
        let points: Vec<(f64, f64)> =
            points.map(|(value, share)| (1.0 / (1.0 - share), *value as f64)).collect();
        Line {
            label: cell.subject.label().into(),
            points: thinned(&points),
            colour: colour(cell.subject),
            dashed: dashed(cell.subject),
        }
    };
    let marks = [(2.0, "50 %"), (10.0, "90 %"), (100.0, "99 %"), (1_000.0, "99.9 %"), (10_000.0, "99.99 %")];
    let marks = marks.map(|(place, name)| (place, name.to_owned())).to_vec();
    let all: Vec<Line> = cells.iter().map(line).collect();
    lines("latency by percentile (less is better)", &all, &marks, nanoseconds)
}

/// Two hundred points are enough for any line.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(200).max(1);
    let last = points.last().into_iter().copied();
    points.iter().step_by(step).copied().chain(last).collect()
}

fn grown(report: &Report, curve: Curve) -> String {
    let mut subjects: Vec<Subject> =
        report.curves.iter().filter(|point| point.curve == curve).map(|point| point.subject).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let mut marks: Vec<u64> =
        report.curves.iter().filter(|point| point.curve == curve).map(|point| point.x).collect();
    marks.sort_unstable();
    marks.dedup();
    let line = |&subject: &Subject| {
        let at = |x: u64| {
            let of = report.curves.iter().filter(|p| p.curve == curve && p.subject == subject && p.x == x);
            Some((x as f64, median(&of.map(|point| point.cpu).collect::<Vec<_>>())?))
        };
        let points = marks.iter().filter_map(|&x| at(x)).collect();
        Line { label: subject.label().into(), points, colour: colour(subject), dashed: dashed(subject) }
    };
    let all: Vec<Line> = subjects.iter().map(line).collect();
    let marks = marks.iter().map(|x| (*x as f64, thousands(*x))).collect();
    lines(&format!("CPU of a request over {}", curve.label()), &all, &marks, nanoseconds)
}

fn dashed(subject: Subject) -> bool {
    matches!(subject.way(), Way::Sidecars { both: false, .. }) || subject == Subject::DirectAgain
}

fn colour(subject: Subject) -> &'static str {
    match subject {
        Subject::Direct | Subject::DirectAgain => "#8b949e",
        Subject::Observed => "#5aa9e6",
        Subject::AlizeL4 => "#2f81f7",
        Subject::AlizeLocal => "#0f9d8a",
        Subject::AlizeRemote => "#5cc8b0",
        Subject::AlizeProxy => "#1f5fa8",
        Subject::Iptables => "#b08968",
        Subject::Nftables => "#d4a373",
        Subject::HaproxyOne | Subject::HaproxyTwo => "#e0912f",
        Subject::NginxOne | Subject::NginxTwo => "#d65f5f",
        Subject::EnvoyOne | Subject::EnvoyTwo => "#a05fc4",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fixture;

    #[test]
    fn the_page_needs_nothing_but_itself_and_shows_everything() {
        let html = page(&fixture::report());
        for outside in ["http://", "https://", "src=", "<link", "@import", "url("] {
            assert!(!html.contains(outside), "the page asks for {outside}");
        }
        for part in [
            "Envoy, two in series",
            "Alizé kernel, same host",
            "WORSE",
            "better",
            "MISSED",
            "not measured",
            "<svg",
            "Left out",
        ] {
            assert!(html.contains(part), "no {part}");
        }
        assert!(html.contains("no &lt;envoy&gt; in PATH") && !html.contains("<envoy>"));
        assert!(html.contains("bind &lt;:80&gt;"));
        assert!(!html.contains("NaN"));
    }

    #[test]
    fn every_tag_that_opens_closes() {
        let html = page(&fixture::report());
        for tag in ["svg", "table", "tr", "td", "th", "div", "p", "text", "pre", "details", "ul", "li", "h2"]
        {
            let open = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
            assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
