//! `alize doctor`: what this machine can do for the mesh, and what to do where it cannot.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;

use alize_datapath::conformance::Outcome;
use alize_datapath::doctor::{self, Area, Finding, State};
use alize_datapath::{Options, Refused, inspect};
use alize_model::Budgets;
use anyhow::Context;
use serde::Serialize;

use super::args::{DoctorArgs, Global};
use super::{block_on, client, surroundings};
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Paint, Tone, visible};
use crate::table::wrapped;

#[derive(Serialize)]
struct Answer {
    version: &'static str,
    kernel: String,
    architecture: &'static str,
    /// Whether nothing prevents meshing, as far as could be checked.
    possible: bool,
    findings: Vec<Finding>,
}

pub(crate) fn doctor(global: &Global, args: DoctorArgs, output: Output) -> Result<(), Failure> {
    let cgroups = match args.cgroups.is_empty() {
        false => args.cgroups,
        true => alize_datapath::cgroup2_root().into_iter().collect(),
    };
    let options = Options {
        instance: global.instance.clone(),
        bpffs: args.bpffs,
        run_dir: "/run/alize".into(),
        cgroups,
        budgets: Budgets::default(),
    };
    let mut findings = doctor::examine(&options);
    findings.extend(surroundings::examine());
    let answer = answer(findings);
    output.answer(&answer, || report(&answer, output.paint, output.width()))?;
    if let Some(path) = &args.log {
        fs::write(path, log(&answer)).with_context(|| format!("cannot write {}", path.display()))?;
        output.remark(&format!("wrote what the kernel said to {}", path.display()));
    }
    if let Some(path) = &args.report {
        archive(path, global, &options, &answer)?;
        output.remark(&format!("wrote {}; look through it before you send it", path.display()));
    }
    verdict(&answer)
}

fn answer(findings: Vec<Finding>) -> Answer {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Answer {
        version: env!("CARGO_PKG_VERSION"),
        kernel: kernel.trim().to_owned(),
        architecture: std::env::consts::ARCH,
        possible: !findings.iter().any(Finding::prevents),
        findings,
    }
}

/// Without root the trial could not be made: that is neither yes nor no.
fn verdict(answer: &Answer) -> Result<(), Failure> {
    let untried = |finding: &Finding| finding.area == Area::Feature && finding.state == State::Unknown;
    if answer.findings.iter().any(untried) {
        return Err(alize_datapath::Error::NotRoot.into());
    }
    let off: Vec<&str> = answer
        .findings
        .iter()
        .filter(|finding| finding.prevents())
        .map(|finding| finding.name.as_str())
        .collect();
    match off.as_slice() {
        [] => Ok(()),
        [one] => Err(Failure::Other(anyhow::anyhow!("nothing can be meshed because of: {one}"))),
        [first, rest @ ..] => Err(Failure::Other(anyhow::anyhow!(
            "nothing can be meshed because of: {first}, and {} more",
            rest.len()
        ))),
    }
}

fn report(answer: &Answer, paint: Paint, width: Option<usize>) -> String {
    let title = format!("alize {} on Linux {}, {}", answer.version, answer.kernel, answer.architecture);
    let mut text = format!("{}\n", paint.tone(Tone::Heading, &visible(&title)));
    let names = answer.findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    for (area, title) in [
        (Area::Machine, "the machine"),
        (Area::Feature, "features, by the kernel's own verdict"),
        (Area::Neighbour, "other programs on the same hooks"),
        (Area::Surroundings, "what is installed"),
    ] {
        text.push_str(&format!("\n{}\n", paint.tone(Tone::Heading, title)));
        for finding in answer.findings.iter().filter(|finding| finding.area == area) {
            text.push_str(&lines(finding, names, paint, width));
        }
    }
    for finding in &answer.findings {
        if let Some(refused) = &finding.refused {
            text.push_str(&refusal(&finding.name, refused, paint));
        }
        text.push_str(&shortcomings(finding, paint));
    }
    text
}

/// What was tried and did not come out as it should.
fn shortcomings(finding: &Finding, paint: Paint) -> String {
    let mut text = String::new();
    for check in &finding.checks {
        let (tone, how, why) = match &check.outcome {
            Outcome::Passed => continue,
            Outcome::Failed(why) if check.essential => (Tone::Bad, "failed", why),
            Outcome::Failed(why) if check.remote => (Tone::Caution, "not to other hosts", why),
            Outcome::Failed(why) => (Tone::Caution, "known limit", why),
            Outcome::NotRun(why) => (Tone::Faint, "not tried", why),
        };
        if text.is_empty() {
            let title = format!("{}: what was tried and is not so", finding.name);
            text.push_str(&format!("\n{}\n", paint.tone(Tone::Heading, &visible(&title))));
        }
        let line = format!("{}: {}", check.name, check.what);
        text.push_str(&format!("  {line}\n    {}, {}\n", paint.tone(tone, how), visible(why)));
    }
    text
}

/// State, name and detail, and below it what to do.
fn lines(finding: &Finding, names: usize, paint: Paint, width: Option<usize>) -> String {
    let (word, tone) = match finding.state {
        State::On => ("on", Tone::Good),
        State::Degraded => ("degraded", Tone::Caution),
        State::Off if finding.essential => ("off", Tone::Bad),
        State::Off => ("off", Tone::Caution),
        State::Unknown => ("unknown", Tone::Faint),
    };
    let indent = 2 + 8 + 2 + names + 2;
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(30));
    let newline = format!("\n{}", " ".repeat(indent));
    let detail = wrapped(&visible(&finding.detail), room).join(&newline);
    let state = format!("{}{}", paint.tone(tone, word), " ".repeat(8 - word.len()));
    let mut text = format!("  {state}  {:<names$}  {detail}\n", visible(&finding.name));
    if let Some(mend) = finding.mend.as_ref().filter(|_| finding.state != State::On) {
        let mend = wrapped(&format!("-> {}", visible(mend)), room).join(&newline);
        text.push_str(&format!("{}{mend}\n", &newline[1..]));
    }
    text
}

/// The end of what the kernel said of a program.
fn refusal(name: &str, refused: &Refused, paint: Paint) -> String {
    let program = refused.program.as_ref().map_or(String::new(), |program| format!(", program {program}"));
    let title = format!("{name}{program}: {}", refused.rule);
    let mut text = format!("\n{}\n", paint.tone(Tone::Heading, &visible(&title)));
    if let Some(source) = &refused.source {
        text.push_str(&format!("  at  {}\n", visible(source)));
    }
    for line in &refused.lines {
        text.push_str(&format!("  |   {}\n", visible(line)));
    }
    text
}

/// All that was said of each program.
fn log(answer: &Answer) -> String {
    let mut text = format!("alize {} on Linux {}, {}\n", answer.version, answer.kernel, answer.architecture);
    for finding in answer.findings.iter().filter(|finding| finding.area == Area::Feature) {
        match &finding.refused {
            Some(refused) => {
                text.push_str(&format!("\n=== {}: refused\n{}\n", finding.name, refused.log.join("\n")));
            }
            None => text.push_str(&format!("\n=== {}: {}\n", finding.name, finding.detail)),
        }
    }
    text
}

/// Packs what a reader of a bug report needs. Nothing is taken from the file of services but how many there are.
fn archive(path: &Path, global: &Global, options: &Options, answer: &Answer) -> Result<(), Failure> {
    let folder = std::env::temp_dir().join(format!("alize-report-{}", std::process::id()));
    // Not one that somebody else has put there.
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let packed = fill(&folder, global, options, answer).and_then(|()| pack(path, &folder));
    let _ = fs::remove_dir_all(&folder);
    Ok(packed?)
}

fn fill(folder: &Path, global: &Global, options: &Options, answer: &Answer) -> anyhow::Result<()> {
    let put = |name: &str, text: String| {
        fs::write(folder.join(name), text)
            .with_context(|| format!("cannot write {name} in {}", folder.display()))
    };
    put("doctor.txt", report(answer, Paint::new(false), None))?;
    put("doctor.json", serde_json::to_string_pretty(answer)?)?;
    put("verifier.log", log(answer))?;
    put("kernel.txt", fs::read_to_string("/proc/version").unwrap_or_default())?;
    refused(folder, global)?;
    match inspect::inspect(options) {
        Ok(inspection) => put("programs.json", serde_json::to_string_pretty(&inspection)?)?,
        Err(error) => put("programs.txt", error.to_string())?,
    }
    match block_on(async { Ok(client(global).status().await?) }) {
        Ok(status) => {
            let mut status = serde_json::to_value(status)?;
            if let Some(fields) = status.as_object_mut() {
                // Its remarks quote the file.
                fields.remove("config");
            }
            put("status.json", serde_json::to_string_pretty(&status)?)
        }
        Err(failure) => put("status.txt", failure.message().map_or(String::new(), |(what, _)| what)),
    }
}

/// What the agent kept of programs that the kernel refused it; beside its socket, unless that is elsewhere.
fn refused(folder: &Path, global: &Global) -> anyhow::Result<()> {
    let run_dir = global.socket.as_deref().and_then(Path::parent).unwrap_or(Path::new("/run/alize"));
    let Ok(entries) = fs::read_dir(run_dir.join("refused")) else { return Ok(()) };
    let to = folder.join("refused");
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(&format!("{}.", global.instance)) {
            continue;
        }
        fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
        fs::copy(entry.path(), to.join(name))
            .with_context(|| format!("cannot copy {}", entry.path().display()))?;
    }
    Ok(())
}

fn pack(path: &Path, folder: &Path) -> anyhow::Result<()> {
    let output = Command::new("tar").arg("-czf").arg(path).arg("-C").arg(folder).arg(".").output();
    let output = output.context("cannot run tar, which packs the report")?;
    match output.status.success() {
        true => Ok(()),
        false => anyhow::bail!(
            "cannot write {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(area: Area, name: &str, state: State) -> Finding {
        Finding::new(area, name, state, "some words about it")
    }

    fn example() -> Answer {
        let findings = vec![
            finding(Area::Machine, "kernel", State::On).essential().mend("not shown"),
            finding(Area::Feature, "removal", State::Off).mend("run a newer kernel"),
            finding(Area::Neighbour, "Cilium", State::Degraded),
            finding(Area::Surroundings, "systemd", State::Unknown),
        ];
        Answer { version: "1.2.3", kernel: "6.1.0".into(), architecture: "x86_64", possible: true, findings }
    }

    #[test]
    fn findings_are_listed_by_area() {
        assert_eq!(
            report(&example(), Paint::PLAIN, None),
            "\
alize 1.2.3 on Linux 6.1.0, x86_64

the machine
  on        kernel   some words about it

features, by the kernel's own verdict
  off       removal  some words about it
                     -> run a newer kernel

other programs on the same hooks
  degraded  Cilium   some words about it

what is installed
  unknown   systemd  some words about it
"
        );
    }

    #[test]
    fn refusals_follow_with_their_last_lines() {
        let refused = Refused {
            program: Some("alize_x".into()),
            source: Some("if (!sk) @ x.bpf.c:5".into()),
            rule: "a rule".into(),
            mend: None,
            lines: vec!["R2 \u{1b}[31m".into()],
            log: vec!["all".into(), "of it".into()],
        };
        let mut answer = example();
        answer.findings[1].refused = Some(refused);
        let text = report(&answer, Paint::PLAIN, Some(80));
        let end = "\nremoval, program alize_x: a rule\n  at  if (!sk) @ x.bpf.c:5\n  |   R2 \u{fffd}[31m\n";
        assert!(text.ends_with(end), "{text}");
        assert!(log(&answer).contains("=== removal: refused\nall\nof it\n"));
        assert!(serde_json::to_string(&answer).unwrap().contains(r#""rule":"a rule""#));
    }

    #[test]
    fn the_verdict_depends_on_what_is_essential() {
        assert!(verdict(&example()).is_ok());
        let off = answer(vec![finding(Area::Feature, "balancing", State::Off).essential()]);
        assert!(!off.possible);
        let failure = verdict(&off).unwrap_err();
        assert_eq!(failure.exit() as u8, 1);
        assert!(failure.message().unwrap().0.contains("balancing"));
        let untried = answer(vec![finding(Area::Feature, "balancing", State::Unknown).essential()]);
        assert_eq!(verdict(&untried).unwrap_err().exit() as u8, 5);
    }
}
