//! `alize status`: the agent, its file, its budgets and its kernel programs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alize_model::api::{ConfigStatus, Conformance, ConformanceCheck, Program, ProxyStatus, Status, Trial};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::source;
use crate::style::{Paint, Tone, visible};
use crate::units;

pub(crate) async fn status(client: &Client, output: Output) -> Result<(), Failure> {
    let status = client.status().await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    output.answer(&status, || report(&status, now, output.paint))
}

fn report(status: &Status, now: f64, paint: Paint) -> String {
    let title = format!("alize {}, instance {}", status.version, status.instance);
    let mut text = format!("{}\n", paint.tone(Tone::Heading, &visible(&title)));
    let mut fact = |name: &str, value: String| text.push_str(&format!("  {name:<14} {value}\n"));

    let found = if status.adopted { "adopted what it found" } else { "began afresh" };
    fact("agent", format!("pid {}, for {}, {found}", status.pid, since(status.started, now)));
    fact("config", config(&status.config, now));
    fact("cgroups", visible(&status.cgroups.join(", ")));
    fact("pins", visible(&status.pins));
    let (usage, budgets) = (&status.usage, &status.budgets);
    fact("services", used(usage.services, budgets.services, paint));
    fact("addresses", units::count(usage.frontends.into()));
    fact("endpoints", used(usage.endpoints, budgets.endpoints, paint));
    fact("slots", used(usage.slots, budgets.slots, paint));
    fact("kernel memory", units::bytes(status.kernel_memory));
    fact("programs", programs(&status.programs, paint));
    if let Some(trial) = &status.trial {
        fact("on trial", on_trial(trial, now, paint));
    }
    if let Some(found) = &status.proxy {
        fact("proxy", proxy(found, paint));
    }
    fact("HTTP in kernel", conformance(status.conformance.as_ref(), paint));
    fact("anomalies", anomalies(status, paint));
    if let Some(refused) = refused(&status.config, now, paint) {
        text.push_str(&refused);
    }
    for warning in &status.config.warnings {
        text.push_str(&format!("  {}\n", source::line(warning, paint)));
    }
    text
}

/// Two versions are at work, and somebody should know.
fn on_trial(trial: &Trial, now: f64, paint: Paint) -> String {
    let version = trial.version.as_deref().map_or_else(|| "a version without a name".into(), visible);
    let cgroup = trial.cgroup.as_deref().map(visible);
    let share = (trial.share > 0).then(|| format!("{} % of the addresses", trial.share));
    let who: Vec<String> = cgroup.into_iter().chain(share).collect();
    let errors = match trial.errors {
        0 => "no errors".to_owned(),
        count => paint.tone(Tone::Bad, &format!("{count} errors")),
    };
    format!(
        "{version} for {}, {}, {errors}; `alize upgrade --trial` tells more",
        who.join(" and "),
        since(trial.begun, now)
    )
}

fn config(config: &ConfigStatus, now: f64) -> String {
    let file = config.file.as_deref().map(visible).unwrap_or_else(|| "no file".into());
    let from = match config.source.as_str() {
        "file" => file,
        "applied" => format!("applied by hand, instead of {file}"),
        "adopted" => format!("as found in the kernel; {file} is not in force"),
        other => format!("{}, {file}", visible(other)),
    };
    let age = config.applied.map_or(String::new(), |applied| format!(", for {}", since(applied, now)));
    format!("{from}{age} (generation {})", config.generation)
}

/// What the user wrote and the agent did not take.
fn refused(config: &ConfigStatus, now: f64, paint: Paint) -> Option<String> {
    if config.refused.is_empty() {
        return None;
    }
    let age = config.refused_at.map_or(String::new(), |at| format!(" {} ago", since(at, now)));
    let title = format!("The last change was refused{age}; the one before it is in force:");
    let mut text = format!("{}\n", paint.tone(Tone::Bad, &title));
    for diagnostic in &config.refused {
        text.push_str(&format!("  {}\n", source::line(diagnostic, paint)));
    }
    Some(text)
}

fn used(used: u32, budget: u32, paint: Paint) -> String {
    let part = f64::from(used) / f64::from(budget.max(1));
    let tone = match part {
        p if p >= 0.95 => Tone::Bad,
        p if p >= 0.8 => Tone::Caution,
        _ => Tone::Plain,
    };
    paint.tone(tone, &format!("{used} of {budget} ({})", units::percent(part)))
}

fn programs(programs: &[Program], paint: Paint) -> String {
    let off: Vec<&Program> = programs.iter().filter(|program| program.state != "on").collect();
    let mut text = format!("{} on", programs.len() - off.len());
    for program in off {
        let line = format!("{}: {}", program.name, program.state);
        text.push_str(&format!("\n{:17}{}", "", paint.tone(Tone::Bad, &visible(&line))));
    }
    for program in programs.iter().filter(|program| program.skipped > 0) {
        let times = units::count(program.skipped);
        let line = format!("{}: skipped {times} times, because it ran on that CPU already", program.name);
        text.push_str(&format!("\n{:17}{}", "", paint.tone(Tone::Caution, &visible(&line))));
    }
    text
}

fn proxy(proxy: &ProxyStatus, paint: Paint) -> String {
    let problem = |problem: &str| paint.tone(Tone::Bad, &visible(problem));
    match (proxy.pid, proxy.problem.as_deref()) {
        (Some(pid), None) => format!("pid {pid}, state {} in force", proxy.generation),
        (Some(pid), Some(error)) => {
            format!("pid {pid}, state {} in force: {}", proxy.generation, problem(error))
        }
        (None, error) => format!("off: {}", problem(error.unwrap_or("it is being started"))),
    }
}

/// Whether the kernel could; that it does is another matter.
fn conformance(found: Option<&Conformance>, paint: Paint) -> String {
    let Some(found) = found else { return "not known yet".into() };
    match &found.obstacle {
        Some(why) => paint.tone(Tone::Caution, &visible(&format!("not possible: {why}"))),
        None => {
            let passed = found.checks.iter().filter(|check| check.result == "passed").count();
            let is_limit = |check: &&ConformanceCheck| !check.essential && !check.remote;
            let limits =
                found.checks.iter().filter(is_limit).filter(|check| check.result != "passed").count();
            let possible = format!(
                "possible: {passed} checks passed, {limits} known limits (`alize doctor` names them)"
            );
            match &found.remote_obstacle {
                None => possible,
                Some(why) => {
                    let but = visible(&format!("; to other hosts not: {why}"));
                    format!("{possible}{}", paint.tone(Tone::Caution, &but))
                }
            }
        }
    }
}

fn anomalies(status: &Status, paint: Paint) -> String {
    let some = status.anomalies.iter().filter(|(_, number)| **number > 0);
    let all: Vec<String> =
        some.map(|(name, number)| format!("{} {}", units::count(*number), visible(name))).collect();
    match all.is_empty() {
        true => "none".into(),
        false => paint.tone(Tone::Caution, &all.join(", ")),
    }
}

fn since(then: f64, now: f64) -> String {
    // The clock may have been set back.
    units::age(Duration::try_from_secs_f64(now - then).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_or_was_skipped_is_named() {
        let program = |name: &str, state: &str, skipped| Program {
            name: name.into(),
            id: 1,
            state: state.into(),
            skipped,
        };
        let all = [
            program("alize_connect4", "on", 0),
            program("alize_sendmsg4", "on", 3),
            program("getpeername", "off: not there (why)", 0),
        ];
        assert_eq!(
            programs(&all, Paint::PLAIN),
            "2 on\n                 getpeername: off: not there (why)\n                 alize_sendmsg4: skipped 3 times, \
             because it ran on that CPU already"
        );
        assert_eq!(programs(&all[..1], Paint::PLAIN), "1 on");
    }
}
