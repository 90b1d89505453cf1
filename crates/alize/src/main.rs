//! `alize`: one binary for the agent and for everything that people do with it.

mod cli;
mod client;
mod failure;
mod output;
mod source;
mod style;
mod table;
mod units;

use std::process::ExitCode;

use clap::Parser;

use cli::args::Cli;
use failure::Exit;
use output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(&cli.global);
    let exit = match cli::dispatch(cli, output) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            output.failure(&failure);
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}
