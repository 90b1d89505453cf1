//! `alize programs --versions`: whose programs run, as the kernel tells, and what is kept for the way back.

use std::path::Path;
use std::time::UNIX_EPOCH;

use alize_datapath::bundle::Store;
use alize_datapath::{Options, Running, Trial};
use serde::Serialize;

use super::check::plural;
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Paint, Tone};
use crate::table::Align::Left;
use crate::table::{Cell, Table};
use crate::units::utc;

#[derive(Serialize)]
struct Answer {
    instance: String,
    /// More than one while a switch was broken off.
    running: Vec<Running>,
    /// Of the programs that observe: those of this binary where the bundle in force has none; nothing while nobody observes.
    observing: Vec<Running>,
    /// A version that some have beside that.
    trial: Option<Trial>,
    kept: Vec<Kept>,
}

#[derive(Serialize)]
struct Kept {
    version: String,
    build: String,
    digest: String,
    file: String,
    /// When it was last put in force, in seconds since the Unix epoch.
    used: f64,
    running: bool,
}

pub(crate) fn versions(options: &Options, folder: &Path, output: Output) -> Result<(), Failure> {
    let running = alize_datapath::running_bundles(options)?;
    let observing = alize_datapath::observing_bundles(options)?;
    let kept = Store::new(folder, Store::KEEP).list()?.into_iter().map(|stored| Kept {
        running: running.iter().any(|each| each.digest == Some(stored.digest)),
        version: stored.version,
        build: stored.build,
        digest: stored.digest.to_string(),
        file: stored.path.display().to_string(),
        used: stored.used.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
    });
    let trial = alize_datapath::trial(options)?;
    let answer =
        Answer { instance: options.instance.clone(), kept: kept.collect(), running, observing, trial };
    output.answer(&answer, || report(&answer, output.paint, output.width()))
}

fn report(answer: &Answer, paint: Paint, width: Option<usize>) -> String {
    let mut text = match answer.running.len() {
        0 => format!("no kernel program of instance {} is in force\n", answer.instance),
        1 => String::new(),
        _ => "an upgrade was broken off: programs of several versions are in force; `alize upgrade` or `alize rollback` ends \
              that\n"
            .to_owned(),
    };
    if !answer.running.is_empty() {
        let mut table = Table::new(&[
            ("IN FORCE", Left),
            ("SHA-256", Left),
            ("PROGRAMS", Left),
            ("LOADED", Left),
            ("BY USER", Left),
        ]);
        let balancing = answer.running.iter().map(|each| (each, ""));
        let observing = answer.observing.iter().map(|each| (each, ", which observe"));
        for (each, what) in balancing.chain(observing) {
            table.row(vec![
                Cell::new(each.version.clone().unwrap_or_else(|| "of before bundles".into()), Tone::Good),
                each.digest.map_or(String::new(), |digest| digest.short()).into(),
                format!("{}{what}", plural(each.programs.len(), "program")).into(),
                utc(each.loaded).into(),
                each.uid.to_string().into(),
            ]);
        }
        text += &table.render(paint, width);
    }
    if let ([running], [observing]) = (&answer.running[..], &answer.observing[..])
        && running.digest != observing.digest
    {
        text += "\nthe bundle in force has no programs that observe: those of the alize that loaded it do\n";
    }
    if let Some(trial) = &answer.trial {
        let version = trial.version.as_deref().unwrap_or("an unknown version");
        text += &format!("\n{version} is on trial beside it; `alize upgrade --trial` shows how it does\n");
    }
    if !answer.kept.is_empty() {
        text.push('\n');
        let mut table = Table::new(&[
            ("KEPT", Left),
            ("SHA-256", Left),
            ("BUILD", Left),
            ("LAST IN FORCE", Left),
            ("", Left),
        ]);
        for each in &answer.kept {
            table.row(vec![
                each.version.as_str().into(),
                each.digest[..12].into(),
                each.build.as_str().into(),
                utc(each.used).into(),
                if each.running { "runs" } else { "" }.into(),
            ]);
        }
        text += &table.render(paint, width);
    }
    text
}
