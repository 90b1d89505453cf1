//! `alize apply`: put a file in force.

use std::path::PathBuf;

use alize_model::api::Applied;

use super::args::ApplyArgs;
use super::check::remarks;
use crate::client::{Client, Error};
use crate::failure::Failure;
use crate::output::Output;
use crate::source;
use crate::units;

pub(crate) async fn apply(client: &Client, args: ApplyArgs, output: Output) -> Result<(), Failure> {
    let file = match args.file {
        Some(file) => file,
        None => watched(client).await?,
    };
    let read = source::read(&file).map_err(|diagnostic| {
        remarks(&[diagnostic], "", output);
        Failure::BadFile
    })?;
    match client.apply(&read.name, read.text.clone()).await {
        Ok(applied) => {
            remarks(&applied.warnings, &read.text, output);
            output.answer(&applied, || summary(&applied))
        }
        Err(Error::Refused(refusal, _)) if !refusal.diagnostics.is_empty() => {
            remarks(&refusal.diagnostics, &read.text, output);
            output.remark(&format!("{} was refused; what was in force stays in force", read.name));
            Err(Failure::BadFile)
        }
        Err(error) => Err(error.into()),
    }
}

/// The file that the agent watches.
async fn watched(client: &Client) -> Result<PathBuf, Failure> {
    match client.status().await?.config.file {
        Some(file) => Ok(file.into()),
        None => Err(anyhow::anyhow!("the agent watches no file; name one: alize apply FILE").into()),
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
