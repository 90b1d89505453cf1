//! What is made from the definition of the command line or of the file: completions, man pages, schema, version.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use serde::Serialize;

use super::args::Cli;
use crate::failure::Failure;
use crate::output::{Output, print};

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "alize", &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub(crate) fn man(dir: Option<PathBuf>) -> Result<(), Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.context("cannot make the man page")?;
        return print(&String::from_utf8_lossy(&page));
    };
    let written = clap_mangen::generate_to(Cli::command(), &dir);
    Ok(written
        .with_context(|| format!("cannot write man pages to {}; does the folder exist?", dir.display()))?)
}

pub(crate) fn schema() -> Result<(), Failure> {
    let schema =
        serde_json::to_string_pretty(&alize_model::json_schema()).context("cannot print the schema")?;
    print(&(schema + "\n"))
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

pub(crate) fn version(output: Output) -> Result<(), Failure> {
    let version = Version { version: env!("CARGO_PKG_VERSION") };
    output.answer(&version, || format!("alize {}\n", version.version))
}
