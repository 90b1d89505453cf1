//! `make demo`: real servers, real clients, and what the clients saw: connections that are balanced, then requests that are
//! routed, then the same requests through two proxies.
//!
//! Everything happens in cgroups and in network namespaces of the demo's own; nothing else on the machine is meshed.
//! Ends with success only if every client saw what was asked for, within the bounds of chance, and no request failed.
#![allow(clippy::print_stdout, reason = "showing is its purpose")]

mod beside;
mod connections;
mod requests;

use std::process::ExitCode;
use std::time::Instant;

use alize_tests::leftovers;
use anyhow::Result;

fn main() -> ExitCode {
    clean_up_when_interrupted();
    let begin = Instant::now();
    match connections::show().and_then(|()| requests::show()) {
        Ok(()) => {
            println!("\nAll as asked, {} s. Try it yourself: alize run FILE", begin.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C and `kill` end the process before any destructor runs.
fn clean_up_when_interrupted() {
    std::thread::spawn(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut interrupt, mut terminate) =
                (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            let _ = leftovers::remove_own();
            eprintln!("\ndemo: interrupted; everything it made is removed");
            std::process::exit(130);
        })
    });
}

fn title(text: &str) {
    println!("\n{text}\n");
}

fn indented(text: &str) {
    text.lines().for_each(|line| println!("    {line}"));
}

/// With a comma every three digits.
fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
