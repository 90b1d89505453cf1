//! Each file in `parse/` beside the diagnostics that it must give, exactly.
//!
//! `ALIZE_BLESS=1 cargo test -p alize-model` writes the expectations anew; read the difference before committing it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use alize_model::{Budgets, HostFacts, Source, parse};

fn host() -> HostFacts {
    let address = |ip: &str, name: &str| (ip.parse().unwrap(), name.to_string());
    HostFacts {
        local_addresses: vec![
            address("127.0.0.1", "lo"),
            address("192.0.2.7", "eth0"),
            address("2001:db8::7", "eth0"),
        ],
    }
}

/// For `budgets.yaml` to exceed.
const SMALL: Budgets = Budgets { services: 8, endpoints: 24, slots: 1024, affinity: 16 };

fn outcome(name: &str, text: &str) -> String {
    let budgets = if name == "budgets.yaml" { SMALL } else { Budgets::default() };
    match parse(Source { name, text }, &budgets, &host()) {
        Err(diagnostics) => format!("{diagnostics}\nrefused\n"),
        Ok((snapshot, warnings)) => {
            let mut out = String::new();
            for warning in &warnings {
                writeln!(out, "{warning}").unwrap();
            }
            writeln!(out, "accepted").unwrap();
            for service in snapshot.services() {
                writeln!(out, "{service:?}").unwrap();
            }
            out
        }
    }
}

fn fixtures() -> Vec<PathBuf> {
    let folder = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parse")).unwrap();
    let mut all: Vec<_> = folder
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.extension() == Some("yaml".as_ref()))
        .collect();
    all.sort();
    assert!(all.len() > 20, "only {} fixtures", all.len());
    all
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let text = " ".repeat((64 << 20) + 1);
    let found = outcome("large.yaml", &text);
    let expected = "large.yaml:1:1: error: the file has 67108865 bytes, 67108864 are allowed";
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn every_file_gives_what_is_written_beside_it() {
    let mut differing = Vec::new();
    for path in fixtures() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let found = outcome(name, &fs::read_to_string(&path).unwrap());
        let expected = path.with_extension("txt");
        if std::env::var_os("ALIZE_BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != found {
            differing.push(format!("{name} gives:\n{found}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
