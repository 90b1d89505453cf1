//! Every object, loaded into the kernel without a pin and without being attached, and let go again.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use alize_model::Budgets;
use libbpf_rs::Object;

use super::{Accepted, Area, Finding, State};
use crate::Refused;
use crate::inspect::fdinfo;
use crate::load::{FILES, File, load_object};
use crate::log::Log;

/// The verifier's verdict does not depend on the size of maps.
const BUDGETS: Budgets = Budgets { services: 16, endpoints: 16, slots: 16, affinity: 16 };

/// A verifier's log may be megabytes, and all of it is wanted.
const LINES_KEPT: usize = 1 << 20;

pub(super) fn load_all(root: bool) -> Vec<Finding> {
    if !root {
        return FILES.iter().map(untried).collect();
    }
    let log = Log::begin(LINES_KEPT);
    let mut findings: Vec<Finding> = Vec::new();
    for file in &FILES {
        let finding = match file.needs.and_then(|needed| lacking(needed, &findings)) {
            Some(needed) => off(file, format!("it needs {needed}, which is off")),
            None => load(file, &log),
        };
        findings.push(finding);
    }
    findings
}

/// The title of the object `needed`, if it is off.
fn lacking(needed: &str, findings: &[Finding]) -> Option<&'static str> {
    let title = title(needed);
    findings.iter().any(|finding| finding.name == title && finding.state == State::Off).then_some(title)
}

/// What an object is for, in a few words.
fn title(object: &str) -> &'static str {
    match object {
        "connect" => "balancing at connect()",
        "getpeername" => "getpeername()",
        "names" => "names of services",
        "recvmsg" => "UDP: replies",
        "release" => "UDP: sockets that close",
        "sendmsg" => "UDP: sendto()",
        "sockops" => "following TCP connections",
        "sweep" => "counting open connections",
        "terminate" => "removal: terminate",
        _ => "other",
    }
}

fn untried(file: &File) -> Finding {
    let finding =
        Finding::new(Area::Feature, title(file.name), State::Unknown, "loading on trial needs root");
    Finding { essential: file.feature.is_none(), ..finding }
}

fn off(file: &File, why: String) -> Finding {
    let detail = match file.feature {
        Some(lost) => format!("{lost}; {why}"),
        None => why,
    };
    let finding = Finding::new(Area::Feature, title(file.name), State::Off, detail);
    Finding { essential: file.feature.is_none(), ..finding }
}

fn load(file: &File, log: &Log) -> Finding {
    let begun = Instant::now();
    match load_object(file, &BUDGETS, log) {
        Ok(object) => on(file, &object, begun.elapsed()),
        Err(lines) => {
            let refused = Refused::from_log(lines);
            let mend = refused.mend.clone();
            Finding { mend, ..off(file, refused.to_string()) }.refused(refused)
        }
    }
}

fn on(file: &File, object: &Object, elapsed: Duration) -> Finding {
    let programs: Vec<Accepted> = object
        .progs()
        .map(|program| Accepted {
            name: program.name().to_string_lossy().into_owned(),
            verified: fdinfo(program.as_fd(), "verified_insns"),
        })
        .collect();
    let walked: u64 = programs.iter().filter_map(|program| program.verified).sum();
    let detail = match programs.len() {
        0 => "its map can be made".to_owned(),
        1 => format!("1 program; {walked} instructions verified in {} ms", elapsed.as_millis()),
        number => format!("{number} programs; {walked} instructions verified in {} ms", elapsed.as_millis()),
    };
    let finding = Finding::new(Area::Feature, title(file.name), State::On, detail);
    Finding { essential: file.feature.is_none(), programs, ..finding }
}

impl Finding {
    fn refused(self, refused: Refused) -> Self {
        Self { refused: Some(refused), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_has_a_title_of_its_own() {
        let mut titles: Vec<&str> = FILES.iter().map(|file| title(file.name)).collect();
        assert!(!titles.contains(&"other"), "{titles:?}");
        titles.sort();
        titles.dedup();
        assert_eq!(titles.len(), FILES.len());
    }

    #[test]
    fn without_root_nothing_is_claimed() {
        let findings = load_all(false);
        assert!(findings.iter().all(|finding| finding.state == State::Unknown));
        assert!(findings.iter().any(|finding| finding.essential));
    }

    #[test]
    fn a_refusal_names_what_is_lost_and_the_mend() {
        let file = &FILES.iter().find(|file| file.name == "terminate").unwrap();
        // Not an object file: libbpf refuses it before the kernel is asked.
        let broken = File { bytes: b"nonsense", ..**file };
        let finding = load(&broken, &Log::begin(LINES_KEPT));
        assert_eq!((finding.state, finding.prevents()), (State::Off, false));
        assert!(
            finding.detail.starts_with("`removal: terminate` closes no connection"),
            "{}",
            finding.detail
        );
        let essential = load(&File { feature: None, ..broken }, &Log::begin(LINES_KEPT));
        assert!(essential.prevents() && !essential.refused.unwrap().log.is_empty());
    }
}
