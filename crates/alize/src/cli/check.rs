//! `alize check`: is a file right, without touching anything.

use std::path::Path;

use alize_model::{Budgets, Diagnostic, HostFacts, Severity, Source};
use serde::Serialize;

use super::args::{CheckArgs, Form};
use super::notes::notes;
use crate::failure::Failure;
use crate::output::{Output, print, say};
use crate::source::{self, excerpt, line};
use crate::style::Tone;

/// What was found out about one file.
#[derive(Serialize)]
struct Verdict {
    file: String,
    ok: bool,
    services: usize,
    endpoints: usize,
    diagnostics: Vec<Diagnostic>,
    /// What may surprise, although nothing is wrong with it.
    notes: Vec<String>,
    #[serde(skip)]
    text: String,
}

pub(crate) fn check(args: CheckArgs, output: Output) -> Result<(), Failure> {
    let budgets = args.budgets.budgets();
    let host = if args.no_host { HostFacts::default() } else { alize_agent::host_facts() };
    let verdicts: Vec<Verdict> = args.files.iter().map(|path| judge(path, &budgets, &host)).collect();
    let shown = match output.form() {
        Form::Table => show(&verdicts, output),
        Form::Json | Form::Yaml => output.answer(&verdicts, String::new),
    };
    match (shown, verdicts.iter().all(|verdict| verdict.ok)) {
        // The verdict stands even if nobody wanted to read all of it.
        (Ok(()) | Err(Failure::OutputClosed), false) => Err(Failure::BadFile),
        (shown, _) => shown,
    }
}

fn judge(path: &Path, budgets: &Budgets, host: &HostFacts) -> Verdict {
    let file = path.display().to_string();
    let refused = |diagnostics, text| Verdict {
        file: file.clone(),
        ok: false,
        services: 0,
        endpoints: 0,
        diagnostics,
        notes: Vec::new(),
        text,
    };
    let read = match source::read(path) {
        Ok(read) => read,
        Err(diagnostic) => return refused(vec![diagnostic], String::new()),
    };
    match alize_model::parse(Source { name: &read.name, text: &read.text }, budgets, host) {
        Ok((snapshot, warnings)) => Verdict {
            ok: true,
            services: snapshot.services().len(),
            endpoints: snapshot.services().iter().map(|service| service.endpoints.len()).sum(),
            diagnostics: warnings,
            notes: notes(&snapshot),
            text: read.text,
            file,
        },
        Err(errors) => refused(errors.0, read.text),
    }
}

fn show(verdicts: &[Verdict], output: Output) -> Result<(), Failure> {
    for verdict in verdicts {
        remarks(&verdict.diagnostics, &verdict.text, output);
        verdict.notes.iter().for_each(|note| say(&format!("{}: note: {note}", verdict.file)));
        print(&format!("{}: {}\n", verdict.file, summary(verdict, output)))?;
    }
    Ok(())
}

fn summary(verdict: &Verdict, output: Output) -> String {
    if verdict.ok {
        let good = output.paint.tone(Tone::Good, "ok");
        let warnings = match verdict.diagnostics.len() {
            0 => String::new(),
            some => format!(", {}", plural(some, "warning")),
        };
        let services = plural(verdict.services, "service");
        return format!("{services}, {}{warnings}: {good}", plural(verdict.endpoints, "endpoint"));
    }
    let errors = verdict.diagnostics.iter().filter(|found| found.severity == Severity::Error).count();
    format!("{}: {}", plural(errors, "error"), output.paint.tone(Tone::Bad, "refused"))
}

/// Shows `diagnostics` about `text` on standard error; with the lines they are about where a person reads.
pub(crate) fn remarks(diagnostics: &[Diagnostic], text: &str, output: Output) {
    for diagnostic in diagnostics {
        say(&match output.for_eyes() {
            true => excerpt(diagnostic, text, output.error_paint),
            false => line(diagnostic, output.error_paint),
        });
    }
}

pub(crate) fn plural(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
