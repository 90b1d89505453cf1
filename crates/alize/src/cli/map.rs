//! `alize map`: who talks to whom over HTTP.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::args::{Form, MapArgs, MapForm};
use super::live::output_closed;
use super::traffic::{Ends, Flow, between};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, print};
use crate::style::{Paint, Tone};
use crate::table::Align::{Left, Right};
use crate::table::{Cell, Table, cut};
use crate::units::{bytes, percent, rate, seconds};

/// Who talked to whom, and how.
#[derive(Serialize)]
struct Edge {
    #[serde(flatten)]
    ends: Ends,
    /// How long it was watched, in seconds.
    seconds: f64,
    requests: u64,
    errors: u64,
    requests_per_second: f64,
    request_bytes: u64,
    response_bytes: u64,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
}

impl Edge {
    fn new(ends: Ends, flow: &Flow, seconds: f64) -> Self {
        Self {
            ends,
            seconds,
            requests: flow.count,
            errors: flow.errors,
            requests_per_second: flow.count as f64 / seconds,
            request_bytes: flow.request_bytes,
            response_bytes: flow.response_bytes,
            p50: flow.quantile(0.5),
            p90: flow.quantile(0.9),
            p99: flow.quantile(0.99),
        }
    }

    fn error_share(&self) -> f64 {
        self.errors as f64 / self.requests.max(1) as f64
    }

    /// The server: its service and address, and who it is.
    fn server(&self) -> String {
        let endpoint = self.ends.endpoint;
        match self.ends.destination_name() {
            "" => endpoint.to_string(),
            name => format!("{name} {endpoint}"),
        }
    }

    fn label(&self) -> String {
        let mut label = format!("{}/s", rate(self.requests_per_second));
        if self.errors > 0 {
            let _ = write!(label, ", {} errors", percent(self.error_share()));
        }
        if let Some(p99) = self.p99 {
            let _ = write!(label, ", p99 {}", seconds(p99));
        }
        label
    }
}

pub(crate) async fn map(client: &Client, args: MapArgs, output: Output) -> Result<(), Failure> {
    let earlier = client.traffic().await?;
    tokio::select! {
        () = tokio::time::sleep(args.time) => {}
        () = output_closed() => return Err(Failure::OutputClosed),
    }
    let now = client.traffic().await?;
    let elapsed = (now.time - earlier.time).max(1e-3);
    let flows = between(&earlier, &now);
    let edges: Vec<Edge> = flows.into_iter().map(|(ends, flow)| Edge::new(ends, &flow, elapsed)).collect();
    let overflow = now.overflow.saturating_sub(earlier.overflow);
    if overflow > 0 {
        output.remark(&format!("{overflow} requests are not shown: there was no room for more series"));
    }
    match args.format {
        Some(MapForm::Json) => output.with(Form::Json).answer(&edges, String::new),
        Some(MapForm::Dot) => print(&dot(&edges)),
        Some(MapForm::Html) => print(&html(&edges, elapsed)),
        Some(MapForm::Text) | None => {
            output.answer(&edges, || text(&edges, elapsed, output.paint, output.width()))
        }
    }
}

fn text(edges: &[Edge], elapsed: f64, paint: Paint, width: Option<usize>) -> String {
    if edges.is_empty() {
        return format!("no HTTP was seen in {elapsed:.1} s\n");
    }
    let mut table = Table::new(&[
        ("SOURCE", Left),
        ("SERVICE", Left),
        ("ENDPOINT", Left),
        ("SERVER", Left),
        ("REQUESTS/S", Right),
        ("ERRORS", Right),
        ("P50", Right),
        ("P99", Right),
        ("SENT/S", Right),
        ("RECEIVED/S", Right),
    ]);
    for edge in edges {
        let per_second = |value: u64| bytes((value as f64 / edge.seconds) as u64);
        let time = |value: Option<f64>| value.map(seconds).unwrap_or_default();
        let tone = if edge.errors > 0 { Tone::Bad } else { Tone::Plain };
        table.row(vec![
            edge.ends.source_name().into(),
            edge.ends.service_name().into(),
            edge.ends.endpoint.to_string().into(),
            edge.ends.destination_name().into(),
            rate(edge.requests_per_second).into(),
            Cell::new(percent(edge.error_share()), tone),
            time(edge.p50).into(),
            time(edge.p99).into(),
            per_second(edge.request_bytes).into(),
            per_second(edge.response_bytes).into(),
        ]);
    }
    table.render(paint, width)
}

/// For Graphviz: sources, services and servers from left to right.
fn dot(edges: &[Edge]) -> String {
    let drawing = Drawing::new(edges);
    let mut text =
        "digraph alize {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n".to_owned();
    for node in &drawing.nodes {
        let shape = if node.column == 1 { ", style=rounded" } else { "" };
        let _ = writeln!(text, "  n{} [label={}{shape}];", node.number, dot_quoted(&node.name));
    }
    for line in &drawing.lines {
        let colour = if line.errors > 0 { ", color=red" } else { "" };
        let _ =
            writeln!(text, "  n{} -> n{} [label={}{colour}];", line.from, line.to, dot_quoted(&line.label()));
    }
    text + "}\n"
}

/// A quoted string of the DOT language: only quote and backslash are special, and control characters would be of no
/// use.
fn dot_quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            c if c.is_control() => quoted.push(char::REPLACEMENT_CHARACTER),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Nodes in three columns, and lines between neighbours.
struct Drawing {
    nodes: Vec<Node>,
    lines: Vec<Line>,
}

struct Node {
    number: usize,
    column: usize,
    row: usize,
    name: String,
}

struct Line {
    from: usize,
    to: usize,
    requests_per_second: f64,
    requests: u64,
    errors: u64,
}

impl Line {
    fn label(&self) -> String {
        let rate = rate(self.requests_per_second);
        match self.errors {
            0 => format!("{rate}/s"),
            errors => format!("{rate}/s, {} errors", percent(errors as f64 / self.requests as f64)),
        }
    }
}

impl Drawing {
    fn new(edges: &[Edge]) -> Self {
        let mut numbers: BTreeMap<(usize, String), usize> = BTreeMap::new();
        let mut nodes: Vec<Node> = Vec::new();
        let mut lines: BTreeMap<(usize, usize), Line> = BTreeMap::new();
        let mut node = |column: usize, name: String| {
            *numbers.entry((column, name.clone())).or_insert_with(|| {
                let row = nodes.iter().filter(|node| node.column == column).count();
                nodes.push(Node { number: nodes.len(), column, row, name });
                nodes.len() - 1
            })
        };
        let mut connect = |from: usize, to: usize, edge: &Edge| {
            let line = lines.entry((from, to)).or_insert(Line {
                from,
                to,
                requests_per_second: 0.0,
                requests: 0,
                errors: 0,
            });
            line.requests_per_second += edge.requests_per_second;
            line.requests += edge.requests;
            line.errors += edge.errors;
        };
        for edge in edges {
            let source = node(0, edge.ends.source_name().to_owned());
            let server = node(2, edge.server());
            match &edge.ends.service {
                Some(service) => {
                    let service = node(1, service.clone());
                    connect(source, service, edge);
                    connect(service, server, edge);
                }
                None => connect(source, server, edge),
            }
        }
        Self { nodes, lines: lines.into_values().collect() }
    }
}

/// Of the drawing on the page, in pixels.
const NODE: (usize, usize) = (250, 34);
/// Characters that fit into one; all of its name is in its title.
const FITS: usize = 34;
const COLUMN: usize = 420;
const ROW: usize = 56;

/// A page that needs no script and nothing from elsewhere.
fn html(edges: &[Edge], elapsed: f64) -> String {
    let drawing = Drawing::new(edges);
    let rows = drawing.nodes.iter().map(|node| node.row + 1).max().unwrap_or(0);
    let busiest = drawing.lines.iter().map(|line| line.requests_per_second).fold(f64::MIN_POSITIVE, f64::max);
    let mut page = String::from(PAGE_HEAD);
    let _ = write!(
        page,
        "<h1>Who talks to whom</h1>\n<p>HTTP seen by the kernel in {elapsed:.1} s. Lines are as thick as they are busy, \
         and red where requests fail.</p>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"map\">\n",
        2 * COLUMN + NODE.0 + 20,
        rows * ROW + 20,
    );
    for line in &drawing.lines {
        write_line(&mut page, &drawing, line, busiest);
    }
    for node in &drawing.nodes {
        let (x, y) = place(node);
        let _ = writeln!(
            page,
            "<g><title>{name}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"{}\"/>\
             <text x=\"{}\" y=\"{}\">{short}</text></g>",
            NODE.0,
            NODE.1,
            if node.column == 1 { 17 } else { 4 },
            x + 10,
            y + 22,
            name = escaped(&node.name),
            short = escaped(&cut(&node.name, FITS)),
        );
    }
    page.push_str("</svg>\n<table>\n<tr><th>source<th>service<th>server<th>requests, errors, latency</tr>\n");
    for edge in edges {
        let class = if edge.errors > 0 { " class=\"bad\"" } else { "" };
        let _ = writeln!(
            page,
            "<tr{class}><td>{}<td>{}<td>{}<td>{}</tr>",
            escaped(edge.ends.source_name()),
            escaped(edge.ends.service_name()),
            escaped(&edge.server()),
            escaped(&edge.label()),
        );
    }
    page + "</table>\n</html>\n"
}

const PAGE_HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">
<title>Who talks to whom</title>
<style>
body { font: 14px sans-serif; margin: 2em; color: #222; background: #fff }
svg { max-width: 1110px; width: 100% }
rect { fill: #eef3f8; stroke: #56789a }
path { fill: none; stroke: #789; opacity: .7 }
.bad path { stroke: #c22 }
svg text { font-size: 13px; fill: #222 }
table { border-collapse: collapse; margin-top: 2em }
th, td { text-align: left; padding: .3em 1em; border-bottom: 1px solid #ddd }
tr.bad { color: #a00 }
</style>
";

fn place(node: &Node) -> (usize, usize) {
    (10 + node.column * COLUMN, 10 + node.row * ROW)
}

fn write_line(page: &mut String, drawing: &Drawing, line: &Line, busiest: f64) {
    let (from, to) = (place(&drawing.nodes[line.from]), place(&drawing.nodes[line.to]));
    let (x1, y1, x2, y2) = (from.0 + NODE.0, from.1 + NODE.1 / 2, to.0, to.1 + NODE.1 / 2);
    let middle = usize::midpoint(x1, x2);
    let width = 1.0 + 7.0 * (line.requests_per_second / busiest).sqrt();
    let class = if line.errors > 0 { " class=\"bad\"" } else { "" };
    let label = escaped(&line.label());
    let _ = writeln!(
        page,
        "<g{class}><title>{label}</title><path d=\"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}\" \
         stroke-width=\"{width:.1}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{label}</text></g>",
        middle,
        usize::midpoint(y1, y2) - 6,
    );
}

/// Text between tags and in attributes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::traffic::tests::report;
    use super::*;

    fn edges() -> Vec<Edge> {
        let flows = between(&report(0, 0), &report(90, 10));
        flows.into_iter().map(|(ends, flow)| Edge::new(ends, &flow, 10.0)).collect()
    }

    #[test]
    fn the_text_has_rates_and_errors() {
        let shown = text(&edges(), 10.0, Paint::PLAIN, None);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(
            lines[0].starts_with("SOURCE        SERVICE  ENDPOINT        SERVER         REQUESTS/S  ERRORS")
        );
        assert!(
            lines[1].starts_with("shop.service  web      127.0.0.1:8080  nginx.service        10.0  10.0 %")
        );
        assert_eq!(text(&[], 5.0, Paint::PLAIN, None), "no HTTP was seen in 5.0 s\n");
    }

    #[test]
    fn dot_has_three_nodes_and_two_lines() {
        assert_eq!(
            dot(&edges()),
            "digraph alize {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n  \
             n0 [label=\"shop.service\"];\n  n1 [label=\"nginx.service 127.0.0.1:8080\"];\n  \
             n2 [label=\"web\", style=rounded];\n  \
             n0 -> n2 [label=\"10.0/s, 10.0 % errors\", color=red];\n  \
             n2 -> n1 [label=\"10.0/s, 10.0 % errors\", color=red];\n}\n"
        );
        assert_eq!(dot_quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\u{fffd}\"");
    }

    #[test]
    fn the_page_is_whole_and_names_cannot_break_out() {
        let mut edges = edges();
        edges[0].ends.service = Some("<script>alert('x')</script>\"&".into());
        let page = html(&edges, 10.0);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;"));
        for foreign in ["http://", "https://", "src=", "url(", "@import"] {
            assert!(!page.contains(foreign), "{foreign} would be fetched from elsewhere");
        }
        assert!(html(&[], 1.0).ends_with("</html>\n"));
    }
}
