//! Servers and clients for worlds.

use std::process::ExitCode;

use alize_tests::inside::Command;
use clap::Parser;

fn main() -> ExitCode {
    match Command::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("alize-world: {error:#}");
            ExitCode::FAILURE
        }
    }
}
