//! `alize explain`: what would come of a connect, step by step. Asks the kernel's tables, not the agent; the agent, if
//! it runs, adds why endpoints are not well.

mod http;
mod seen;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use alize_datapath::explain::{self, Candidate, Explanation, Question, RequestFacts, Step, Target, Verdict};
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
    let request = asked.request.as_ref().map(http::Request::in_kernel);
    let explanation = explain::explain(&options, &question, request.as_ref())?;
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
    let longest = longest(&explanation.steps);
    for step in &explanation.steps {
        let tone = if step.name == "outcome" { tone(explanation) } else { Tone::Plain };
        text.push_str(&told(step, longest, tone, paint, width));
    }
    if let Some(routed) = &answer.http {
        text.push_str(&routes(routed, explanation.request.as_ref(), paint, width));
    }
    let endpoints = match (&explanation.request, explanation.outcome.verdict) {
        (Some(request), _) if !request.endpoints.is_empty() => requested(request),
        (_, Verdict::Proxied) => known(answer),
        _ => endpoints(answer),
    };
    if !explanation.endpoints.is_empty() {
        text.push('\n');
        text.push_str(&endpoints.render(paint, width));
    }
    if answer.http.is_none() && explanation.outcome.verdict == Verdict::Proxied {
        text.push_str("\n  ask with --http 'GET /path' what becomes of a request\n");
    }
    text
}

fn longest(steps: &[Step]) -> usize {
    steps.iter().map(|step| step.name.len()).max().unwrap_or(0)
}

fn told(step: &Step, longest: usize, tone: Tone, paint: Paint, width: Option<usize>) -> String {
    let name = format!("{:longest$}", step.name);
    let found = visible(&step.found);
    let room = width.map(|width| width.saturating_sub(longest + 4)).filter(|room| *room >= 40);
    let lines = room.map_or_else(|| vec![found.clone()], |room| wrapped(&found, room));
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let head = if at == 0 { paint.tone(Tone::Heading, &name) } else { " ".repeat(longest) };
        text.push_str(&format!("  {head}  {}\n", paint.tone(tone, line)));
    }
    text
}

/// Of the routes as they were written, which one is for the request; then what the kernel's tables do with it.
fn routes(
    routed: &http::Routed,
    kernel: Option<&RequestFacts>,
    paint: Paint,
    width: Option<usize>,
) -> String {
    let mut table = Table::new(&[("ROUTE", Left), ("ASKS FOR", Left), ("", Left)]);
    for rule in &routed.rules {
        let verdict = match rule.misses.is_empty() {
            true => Cell::new("is for it", Tone::Good),
            false => Cell::new(format!("no: {}", rule.misses.join("; ")), Tone::Faint),
        };
        table.row(vec![rule.route.as_str().into(), rule.asks.as_str().into(), verdict]);
    }
    let mut text = format!("\n{}\n  {}\n", table.render(paint, width).trim_end(), visible(&routed.action));
    let steps = kernel.map_or(&[][..], |kernel| kernel.steps.as_slice());
    for step in steps {
        text.push_str(&told(step, longest(steps), Tone::Plain, paint, width));
    }
    // Why a rule is not the kernel's the routes say; what is so at this moment its tables.
    let (path, reason, because) = match (routed.way, kernel) {
        ("kernel", Some(RequestFacts { path, reason: Some(reason), .. })) => {
            (*path, Some(*reason), at_present(reason).to_owned())
        }
        (way, _) => {
            (if way == "kernel" { "kernel-l7" } else { "proxy" }, routed.reason, routed.because.clone())
        }
    };
    let reason = reason.map_or(String::new(), |reason| format!(", reason {reason}"));
    text.push_str(&format!("  {} (path {path}{reason})\n", visible(&because)));
    text
}

/// Why the proxy gets a request that the kernel could route.
fn at_present(reason: &str) -> &'static str {
    match reason {
        "kernel-off" => {
            "this kernel was not tried yet, or does not do what routing takes: the proxy serves it"
        }
        "rate-limited" => "at this moment it is over a rate limit: the proxy answers 429",
        "circuit-open" => {
            "at this moment each endpoint has as many requests as it may: the proxy answers 503"
        }
        "pool-empty" => {
            "at this moment no connection to an endpoint is idle: the proxy serves it, and makes some"
        }
        "no-endpoint" => "no endpoint takes requests: the proxy answers 503",
        _ => "the kernel's tables leave it to the proxy",
    }
}

/// The endpoints of a request's rule.
fn requested(request: &RequestFacts) -> Table {
    let mut table = Table::new(&[
        ("ENDPOINT", Left),
        ("SHARE", Right),
        ("IN THE KERNEL", Right),
        ("IN THE PROXY", Right),
        ("AT MOST", Right),
        ("IDLE CONNECTIONS", Right),
        ("CIRCUIT", Left),
    ]);
    for candidate in &request.endpoints {
        let full = match candidate.max_requests {
            Some(_) if candidate.is_full() => Cell::new("full", Tone::Caution),
            Some(_) => "has room".into(),
            None => String::new().into(),
        };
        table.row(vec![
            candidate.address.to_string().into(),
            percent(candidate.share).into(),
            count(candidate.routed.into()).into(),
            count(candidate.proxied.into()).into(),
            candidate.max_requests.map_or(String::new(), |most| count(most.into())).into(),
            candidate.idle.map_or("unknown".to_owned(), |idle| count(idle.into())).into(),
            full,
        ]);
    }
    table
}

/// The endpoints of a service whose connections go to none of them.
fn known(answer: &Answer) -> Table {
    let mut table = Table::new(&[("ENDPOINT", Left), ("STATE", Left), ("LEFT OUT BECAUSE", Left)]);
    for candidate in &answer.explanation.endpoints {
        // Of one that is well, what keeps connections from it keeps no request.
        let left_out = candidate.left_out.as_ref().filter(|_| candidate.state != "active");
        let why = answer.reasons.get(&candidate.address).or(left_out).cloned().unwrap_or_default();
        table.row(vec![candidate.address.to_string().into(), state(candidate), why.into()]);
    }
    table
}

fn tone(explanation: &Explanation) -> Tone {
    match (explanation.outcome.verdict, explanation.outcome.would) {
        (Verdict::Refused, _) | (_, Some(Verdict::Refused)) => Tone::Bad,
        (Verdict::Balanced | Verdict::Proxied, _) => Tone::Good,
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
