//! `alize explain`: what would come of a connect, step by step. Asks the kernel's tables, not the agent; the agent, if
//! it runs, adds why endpoints are not well.

mod http;
mod seen;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use alize_datapath::explain::{self, Candidate, Explanation, Question, Target, Verdict};
use alize_model::api::ObservedRequest;
use alize_model::{Budgets, Transport};
use serde::Serialize;

use super::args::{ExplainArgs, Global};
use super::caller::{self, Caller};
use super::{block_on, client};
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Paint, Tone, visible};
use crate::table::Align::{Left, Right};
use crate::table::{Cell, Table, wrapped};
use crate::units::{count, percent};

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    explanation: Explanation,
    /// What the agent, if one runs, knows of endpoints that are not well.
    reasons: BTreeMap<SocketAddr, String>,
    /// Of a request: which route it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<http::Routed>,
    /// What really became of it, if it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<ObservedRequest>,
}

pub(crate) fn explain(global: &Global, args: ExplainArgs, output: Output) -> Result<(), Failure> {
    let asked = match &args.trace {
        Some(id) => seen::asked(block_on(async { Ok(client(global).request(id).await?) })?)?,
        None => Asked::of(&args)?,
    };
    let options = alize_datapath::Options {
        instance: global.instance.clone(),
        bpffs: args.place.bpffs,
        run_dir: args.place.run_dir,
        cgroups: Vec::new(),
        budgets: Budgets::default(),
    };
    let question = Question {
        cgroup: asked.caller.cgroup,
        pid: asked.caller.pid,
        target: match asked.to.parse() {
            Ok(address) => Target::Address(address),
            Err(_) => Target::Service(asked.to),
        },
        transport: if args.udp { Transport::Udp } else { Transport::Tcp },
    };
    let explanation = explain::explain(&options, &question)?;
    let reasons = reasons(global, &explanation);
    let http = match (&asked.request, &asked.seen) {
        (None, _) => None,
        (Some(request), None) => routed(&options, &explanation, request)?,
        // Of a request that was seen the service may be one that nobody routes.
        (Some(request), Some(_)) => routed(&options, &explanation, request).unwrap_or(None),
    };
    let answer = Answer { explanation, reasons, http, seen: asked.seen };
    output.answer(&answer, || report(&answer, output.paint, output.width()))
}

/// Who dials what, and what is asked then.
struct Asked {
    caller: Caller,
    to: String,
    request: Option<http::Request>,
    seen: Option<ObservedRequest>,
}

impl Asked {
    fn of(args: &ExplainArgs) -> Result<Self, Failure> {
        let request =
            args.http.as_deref().map(|line| http::Request::read(line, &args.headers)).transpose()?;
        let from = args.from.as_deref().unwrap_or_default();
        let to = args.to.clone().unwrap_or_default();
        Ok(Self { caller: caller::find(from)?, to, request, seen: None })
    }
}

/// What the routes do with the request, if the service has any and acts by them.
fn routed(
    options: &alize_datapath::Options,
    explanation: &Explanation,
    request: &http::Request,
) -> Result<Option<http::Routed>, Failure> {
    let Some(facts) = &explanation.service else { return Ok(None) };
    let snapshot = http::state(&options.run_dir, &options.instance)?;
    let service = snapshot.get(&facts.name).ok_or_else(|| {
        Failure::Other(anyhow::anyhow!(
            "the text in force has no service {:?}, which the kernel has",
            facts.name
        ))
    })?;
    match http::route(&snapshot, service, request) {
        Some(routed) => Ok(Some(routed)),
        None => Err(Failure::Other(anyhow::anyhow!(
            "service {:?} is not of `protocol: http`: nobody looks at its requests; leave --http out",
            facts.name
        ))),
    }
}

/// Nobody has to run for an explanation, so that silence is no failure.
fn reasons(global: &Global, explanation: &Explanation) -> BTreeMap<SocketAddr, String> {
    let Some(service) = &explanation.service else { return BTreeMap::new() };
    let asked = block_on(async { Ok(client(global).service(&service.name).await?) });
    let endpoints = asked.map(|status| status.endpoints).unwrap_or_default();
    let told = endpoints.into_iter().filter_map(|endpoint| {
        let reason = endpoint.reason?;
        Some((endpoint.address, format!("{}: {reason}", endpoint.state)))
    });
    told.collect()
}

fn report(answer: &Answer, paint: Paint, width: Option<usize>) -> String {
    let explanation = &answer.explanation;
    let caller = &explanation.caller;
    let who = match caller.pid {
        Some(pid) => format!("process {pid} in {}", caller.cgroup.display()),
        None => caller.cgroup.display().to_string(),
    };
    let how = if explanation.transport == Transport::Udp { "UDP" } else { "TCP" };
    let mut text = match &answer.seen {
        Some(request) => {
            seen::report(request, explanation) + "\nThe steps, with the tables as they are now:\n"
        }
        None => String::new(),
    };
    text += &format!("{} dials {} over {how}\n\n", visible(&who), explanation.target);
    let longest = explanation.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
    for step in &explanation.steps {
        let tone = if step.name == "outcome" { tone(explanation) } else { Tone::Plain };
        let name = format!("{:longest$}", step.name);
        let found = visible(&step.found);
        let room = width.map(|width| width.saturating_sub(longest + 4)).filter(|room| *room >= 40);
        let lines = room.map_or_else(|| vec![found.clone()], |room| wrapped(&found, room));
        for (at, line) in lines.iter().enumerate() {
            let head = if at == 0 { paint.tone(Tone::Heading, &name) } else { " ".repeat(longest) };
            text.push_str(&format!("  {head}  {}\n", paint.tone(tone, line)));
        }
    }
    if let Some(routed) = &answer.http {
        text.push_str(&routes(routed, paint, width));
    }
    if !explanation.endpoints.is_empty() {
        text.push('\n');
        text.push_str(&endpoints(answer).render(paint, width));
    }
    text
}

fn routes(routed: &http::Routed, paint: Paint, width: Option<usize>) -> String {
    let mut table = Table::new(&[("ROUTE", Left), ("ASKS FOR", Left), ("", Left)]);
    for rule in &routed.rules {
        let verdict = match rule.misses.is_empty() {
            true => Cell::new("is for it", Tone::Good),
            false => Cell::new(format!("no: {}", rule.misses.join("; ")), Tone::Faint),
        };
        table.row(vec![rule.route.as_str().into(), rule.asks.as_str().into(), verdict]);
    }
    let reason = routed.reason.map_or(String::new(), |reason| format!(", reason {reason}"));
    format!(
        "\n{}\n  {}\n  {} (path {}{reason})\n",
        table.render(paint, width).trim_end(),
        visible(&routed.action),
        visible(&routed.because),
        if routed.way == "kernel" { "kernel-l7" } else { "proxy" },
    )
}

fn tone(explanation: &Explanation) -> Tone {
    match (explanation.outcome.verdict, explanation.outcome.would) {
        (Verdict::Refused, _) | (_, Some(Verdict::Refused)) => Tone::Bad,
        (Verdict::Balanced, _) => Tone::Good,
        (Verdict::AsDialled, _) => Tone::Caution,
    }
}

fn endpoints(answer: &Answer) -> Table {
    let mut table = Table::new(&[
        ("ENDPOINT", Left),
        ("STATE", Left),
        ("ODDS", Right),
        ("SHARE", Right),
        ("SLOTS", Right),
        ("OPEN", Right),
        ("FAILED IN A ROW", Right),
        ("LEFT OUT BECAUSE", Left),
    ]);
    for candidate in &answer.explanation.endpoints {
        table.row(vec![
            candidate.address.to_string().into(),
            state(candidate),
            odds(candidate),
            percent(candidate.share).into(),
            candidate.slots.to_string().into(),
            count(candidate.open.into()).into(),
            if candidate.failures == 0 { String::new() } else { candidate.failures.to_string() }.into(),
            answer
                .reasons
                .get(&candidate.address)
                .or(candidate.left_out.as_ref())
                .cloned()
                .unwrap_or_default()
                .into(),
        ]);
    }
    table
}

fn state(candidate: &Candidate) -> Cell {
    let tone = match candidate.state {
        "active" => Tone::Plain,
        "unavailable" => Tone::Bad,
        _ => Tone::Caution,
    };
    Cell::new(candidate.state, tone)
}

fn odds(candidate: &Candidate) -> Cell {
    Cell::new(percent(candidate.odds), if candidate.odds > 0.0 { Tone::Good } else { Tone::Faint })
}
