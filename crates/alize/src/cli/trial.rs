//! `alize upgrade --canary`, `--share`, `--trial`, `--promote`, `--abort`: a version of the kernel programs for some first.

use std::path::{Path, PathBuf};

use alize_model::api::{Trial, TrialInstead, TrialLane};

use super::args::{Global, TrialArgs, UpgradeArgs};
use super::{block_on, client, upgrade};
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Paint, Tone};
use crate::table::Align::{Left, Right};
use crate::table::{Cell, Table};
use crate::units::{count, seconds, utc};

/// What of a trial is asked for.
pub(super) fn is_asked(args: &TrialArgs) -> bool {
    args.canary.is_some() || args.share.is_some() || args.show || args.promote || args.abort
}

pub(super) fn trial(global: &Global, args: &UpgradeArgs, output: Output) -> Result<(), Failure> {
    let word = &args.trial;
    let client = client(global);
    if word.promote {
        let done = block_on(async { Ok(client.promote().await?) })?;
        return output.answer(&done, || upgrade::report(&done));
    }
    if word.abort {
        let done = block_on(async { Ok(client.abort_trial().await?) })?;
        let bundle = done["aborted"].as_str().unwrap_or_default().to_owned();
        return output.answer(&done, || format!("{bundle} was given up; all have the programs of before\n"));
    }
    let trial = match word.show {
        true => block_on(async { Ok(client.trial().await?) })?,
        false => {
            let bytes = upgrade::bundle_bytes(args)?;
            let query = query(word)?;
            block_on(async { Ok(client.try_out(bytes, &query).await?) })?
        }
    };
    output.answer(&trial, || report(&trial, output.paint, output.width()))
}

fn query(word: &TrialArgs) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut query = Vec::new();
    if let Some(cgroup) = &word.canary {
        query.push(("cgroup", folder(cgroup)?.display().to_string()));
    }
    let numbers = [
        ("share", word.share.map(|share| share.to_string())),
        ("promote_after", word.promote_after.map(|time| time.as_secs_f64().to_string())),
        ("max_errors", word.max_errors.map(|errors| errors.to_string())),
        ("max_slower", word.max_slower.map(|slower| slower.to_string())),
        ("max_fallbacks", word.max_fallbacks.map(|percent| percent.to_string())),
    ];
    query.extend(numbers.into_iter().filter_map(|(name, value)| Some((name, value?))));
    Ok(query)
}

/// A folder as it is, or a path below the mount of cgroup2, as `systemd-cgls` shows it.
fn folder(cgroup: &Path) -> Result<PathBuf, Failure> {
    if cgroup.is_dir() {
        return std::path::absolute(cgroup).map_err(|error| Failure::Other(error.into()));
    }
    let root = alize_datapath::cgroup2_root().ok_or(alize_datapath::Error::NoCgroup2)?;
    let below = cgroup.strip_prefix("/").unwrap_or(cgroup);
    Ok(root.join(below))
}

fn report(trial: &Trial, paint: Paint, width: Option<usize>) -> String {
    let version = trial.version.as_deref().unwrap_or("an unknown version");
    let digest = trial
        .digest
        .as_deref()
        .map_or(String::new(), |digest| format!(" ({})", &digest[..digest.len().min(12)]));
    let mut who: Vec<String> = trial.cgroup.iter().map(|cgroup| format!("cgroup {cgroup}")).collect();
    if trial.share > 0 {
        who.push(format!("{} % of the addresses", trial.share));
    }
    let mut text = format!(
        "{version}{digest} is on trial since {}, for {}; {} errors\n{}",
        utc(trial.begun),
        who.join(" and "),
        count(trial.errors),
        rule(trial)
    );
    if trial.hooks.is_empty() {
        return text + "no program has run since\n";
    }
    let mut table = Table::new(&[
        ("PROGRAM", Left),
        ("CALLS", Right),
        ("NEW", Right),
        ("TIME/CALL", Right),
        ("NEW", Right),
        ("REFUSED", Right),
        ("NEW", Right),
    ]);
    let mean = |lane: &TrialLane| lane.mean_ns().map_or("-".into(), |ns| seconds(ns / 1e9));
    for hook in &trial.hooks {
        let tone = if hook.new.refused > 0 { Tone::Bad } else { Tone::Plain };
        table.row(vec![
            hook.program.as_str().into(),
            count(hook.old.calls).into(),
            count(hook.new.calls).into(),
            mean(&hook.old).into(),
            mean(&hook.new).into(),
            count(hook.old.refused).into(),
            Cell::new(count(hook.new.refused), tone),
        ]);
    }
    text.push('\n');
    text += &table.render(paint, width);
    text + &reasons(trial, paint, width)
}

/// What either did not do itself, and why; a version that does not count that has a `-`.
fn reasons(trial: &Trial, paint: Paint, width: Option<usize>) -> String {
    if trial.reasons.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[("INSTEAD", Left), ("REASON", Left), ("TIMES", Right), ("NEW", Right)]);
    let times = |times: Option<u64>| times.map_or("-".into(), count);
    for each in &trial.reasons {
        let instead = match each.instead {
            TrialInstead::Refused => "refused",
            TrialInstead::FellBack => "left to the proxy",
        };
        table.row(vec![
            instead.into(),
            each.reason.as_str().into(),
            times(each.old).into(),
            times(each.new).into(),
        ]);
    }
    let share = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{share:.1} %"));
    let (old, new) = trial.fell_back();
    let shares = match (old, new) {
        (None, None) => String::new(),
        _ => format!("of HTTP {} were left to the proxy, by the new version {}\n", share(old), share(new)),
    };
    format!("\n{}{shares}", table.render(paint, width))
}

fn rule(trial: &Trial) -> String {
    let rule = trial.rule;
    let mut words = Vec::new();
    words.extend(rule.promote_after.map(|after| format!("for all {} after that", seconds(after))));
    words.extend(rule.max_errors.map(|most| format!("given up after more than {most} errors")));
    words.extend(rule.max_slower.map(|most| format!("given up if it is more than {most} % slower")));
    words.extend(
        rule.max_fallbacks.map(|most| format!("given up if it leaves {most} % more of HTTP to the proxy")),
    );
    match words.is_empty() {
        true => "it ends with `alize upgrade --promote` or `alize upgrade --abort`\n".into(),
        false => format!("{}\n", words.join("; ")),
    }
}
