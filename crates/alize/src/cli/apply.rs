//! `alize apply`: put a file in force.

use alize_model::api::Applied;

use super::args::ApplyArgs;
use super::check::remarks;
use crate::client::{Client, Error};
use crate::failure::Failure;
use crate::output::Output;
use crate::source;
use crate::units;

pub(crate) async fn apply(client: &Client, args: ApplyArgs, output: Output) -> Result<(), Failure> {
    let Some(file) = args.file else {
        return report(client.reload().await, "", output);
    };
    let read = source::read(&file).map_err(|diagnostic| {
        remarks(&[diagnostic], "", output);
        Failure::BadFile
    })?;
    report(client.apply(&read.name, read.text.clone()).await, &read.text, output)
}

/// Says what came of `text`.
fn report(answer: Result<Applied, Error>, text: &str, output: Output) -> Result<(), Failure> {
    match answer {
        Ok(applied) => {
            remarks(&applied.warnings, text, output);
            output.answer(&applied, || summary(&applied))
        }
        Err(Error::Refused(refusal, _)) if !refusal.diagnostics.is_empty() => {
            remarks(&refusal.diagnostics, text, output);
            output.remark(&refusal.error);
            Err(Failure::BadFile)
        }
        Err(error) => Err(error.into()),
    }
}

fn summary(applied: &Applied) -> String {
    format!(
        "+{} ~{} -{} ={} services in {} (generation {})\n",
        applied.added,
        applied.changed,
        applied.removed,
        applied.unchanged,
        units::seconds(applied.seconds),
        applied.generation
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line() {
        let (added, changed, removed, unchanged, seconds) = (1, 2, 0, 997, 0.0008);
        let applied =
            Applied { generation: 7, added, changed, removed, unchanged, seconds, warnings: Vec::new() };
        assert_eq!(summary(&applied), "+1 ~2 -0 =997 services in 800 us (generation 7)\n");
    }
}
