//! The reference of reasons is current. `ALIZE_BLESS=1 cargo test -p alize-proxy --test reference` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use alize_proxy::Reason;

fn reference() -> String {
    let mut text = "# Reasons of the proxy\n\
        Answers that the proxy makes itself carry `server: alize` and `x-alize-reason`, unless the service says `reason-header: false`. The\n\
        same names are on the metrics. A client of gRPC gets status 200 with `grpc-status` and `grpc-message` in place of the status.\n\n\
        | reason | status | gRPC | what happened |\n|---|--:|--:|---|\n"
        .to_owned();
    let mut reasons = Reason::ALL;
    reasons.sort_by_key(|reason| (reason.status(), reason.name()));
    for reason in reasons {
        let (name, status, grpc) = (reason.name(), reason.status().as_u16(), reason.grpc());
        let _ = writeln!(text, "| `{name}` | {status} | {grpc} | {} |", reason.sentence());
    }
    text
}

#[test]
fn the_reference_of_reasons_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/reasons.md");
    if std::env::var_os("ALIZE_BLESS").is_some() {
        std::fs::write(&file, reference()).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == reference(), "docs/reference/reasons.md is out of date: run with ALIZE_BLESS=1");
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let mut names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Reason::ALL.len());
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
}
