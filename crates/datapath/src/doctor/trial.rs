//! Every object, loaded into the kernel without a pin and without being attached, and let go again.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use alize_model::Budgets;
use libbpf_rs::Object;

use super::{Accepted, Area, Finding, State};
use crate::conformance::{self, Outcome};
use crate::effort::Statistics;
use crate::inspect::{fdinfo, fdinfo_text};
use crate::layout::Words;
use crate::load::{FILES, File, Role, load_and_ask, load_bytes_and_ask};
use crate::log::Log;
use crate::observe::tls;
use crate::variant;
use crate::{Effort, Refused};

/// The verifier's verdict does not depend on the size of maps.
const BUDGETS: Budgets = Budgets { services: 16, endpoints: 16, slots: 16, affinity: 16 };

/// A verifier's log may be megabytes, and all of it is wanted.
const LINES_KEPT: usize = 1 << 20;

/// Objects that are in no bundle: what this binary tries the kernel with.
const OTHERS: [File; 2] = [
    File {
        name: "conformance",
        bytes: conformance::OBJECT,
        feature: Some("HTTP is not served in the kernel"),
        needs: None,
        role: Role::Asked,
    },
    File {
        name: "conformance_back",
        bytes: conformance::BACK_OBJECT,
        feature: Some(crate::http::programs::LOST_REMOTE),
        needs: Some("conformance"),
        role: Role::Asked,
    },
];

pub(super) fn files() -> impl Iterator<Item = &'static File> {
    FILES.iter().chain(&OTHERS)
}

pub(super) fn load_all(root: bool) -> Vec<Finding> {
    if !root {
        return files().map(untried).collect();
    }
    let log = Log::begin(LINES_KEPT);
    let mut findings: Vec<Finding> = Vec::new();
    for file in files() {
        let finding = match file.needs.and_then(|needed| lacking(needed, &findings)) {
            Some(needed) => off(file, format!("it needs {needed}, which is off")),
            None if file.name == "observe_tls" => load_tls(file, &log),
            None => load(file, &log),
        };
        findings.push(match (file.name, finding.state) {
            ("conformance", State::On) => try_out(file, finding),
            _ => finding,
        });
    }
    findings
}

/// What the verifier spends on the programs of an object file, such as another compiler has made it; or why it is refused.
pub fn verify_object(name: &str, bytes: &[u8]) -> Result<Vec<Accepted>, Box<Refused>> {
    let log = Log::begin(LINES_KEPT);
    let bytes = Words::of(bytes);
    let loaded = load_bytes_and_ask(name, bytes.as_bytes(), &BUDGETS, &log);
    let (object, statistics) = loaded.map_err(|lines| Box::new(Refused::from_log(lines)))?;
    Ok(accepted(&object, &statistics))
}

/// What the verifier spends on each program, by its name and its tag; of those that this kernel takes.
pub(crate) fn efforts() -> Vec<(String, String, Effort)> {
    let log = Log::begin(0);
    let mut efforts = Vec::new();
    for file in files() {
        let Ok((object, statistics)) = load_and_ask(file, &BUDGETS, &log) else { continue };
        for program in object.progs() {
            let name = program.name().to_string_lossy().into_owned();
            if let (Some(tag), Some(effort)) =
                (fdinfo_text(program.as_fd(), "prog_tag"), statistics.of(&name))
            {
                efforts.push((name, tag, effort));
            }
        }
    }
    efforts
}

/// That the programs load says little: what they rely on is tried.
fn try_out(file: &File, loaded: Finding) -> Finding {
    let report = conformance::probe();
    let limits: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| !check.essential && !check.remote && check.outcome != Outcome::Passed)
        .map(|check| check.name.as_str())
        .collect();
    let finding = match report.http_path() {
        Ok(()) => {
            let passed = report.checks.iter().filter(|check| check.outcome == Outcome::Passed).count();
            let limits = if limits.is_empty() { "none".into() } else { limits.join(", ") };
            let elsewhere = match report.remote_path() {
                Ok(()) => String::new(),
                Err(why) => format!("; requests to other hosts are the proxy's: {why}"),
            };
            let took = report.took * 1e3;
            let detail = format!("{passed} checks passed in {took:.0} ms; known limits: {limits}{elsewhere}");
            Finding { detail, ..loaded }
        }
        Err(why) => Finding { programs: loaded.programs, ..off(file, why) }
            .mend("use a newer kernel; HTTP is balanced per connection or served by the proxy meanwhile"),
    };
    Finding { checks: report.checks, ..finding }
}

/// The title of the object `needed`, if it is off.
fn lacking(needed: &str, findings: &[Finding]) -> Option<&'static str> {
    let title = title(needed);
    findings.iter().any(|finding| finding.name == title && finding.state == State::Off).then_some(title)
}

/// What an object is for, in a few words.
fn title(object: &str) -> &'static str {
    match object {
        "conformance" => "HTTP in the kernel",
        "conformance_back" => "HTTP in the kernel, to other hosts",
        "connect" => "balancing at connect()",
        "getpeername" => "getpeername()",
        "http_back" => "HTTP in the kernel: responses from other hosts",
        "http_back_entry" => "HTTP in the kernel: entry of the proxy's sockets",
        "http_client" => "HTTP in the kernel: requests",
        "http_entry" => "HTTP in the kernel: entries",
        "http_far" => "HTTP in the kernel: responses",
        "http_limit" => "HTTP in the kernel: rate limits",
        "http_sockops" => "HTTP in the kernel: sockets",
        "http_told" => "HTTP in the kernel: traced",
        "names" => "names of services",
        "observe" => "HTTP observed",
        "observe_dns" => "DNS traced",
        "observe_release" => "HTTP observed: sockets that close",
        "observe_tcp" => "TCP traced",
        "observe_tls" => "HTTP within TLS",
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
    match load_and_ask(file, &BUDGETS, log) {
        Ok((object, statistics)) => on(file, &object, &statistics, begun.elapsed()),
        Err(lines) => {
            let refused = Refused::from_log(lines);
            let mend = refused.mend.clone();
            Finding { mend, ..off(file, refused.to_string()) }.refused(refused)
        }
    }
}

/// Its probes need more than that the programs load, and cost something that is best known before.
fn load_tls(file: &File, log: &Log) -> Finding {
    if let Some(why) = tls::obstacle() {
        return off(file, why.into());
    }
    let begun = Instant::now();
    let (object, statistics) = match load_and_ask(file, &BUDGETS, log) {
        Ok(loaded) => loaded,
        Err(lines) => return off(file, Refused::from_log(lines).to_string()),
    };
    let mut finding = on(file, &object, &statistics, begun.elapsed());
    match tls::on_this_machine(&object) {
        Ok(detail) => finding.detail = format!("{}; {detail}", finding.detail),
        Err(error) => return off(file, error.to_string()),
    }
    finding
}

fn accepted(object: &Object, statistics: &Statistics) -> Vec<Accepted> {
    let accepted = |program: libbpf_rs::Program<'_>| Accepted {
        name: program.name().to_string_lossy().into_owned(),
        verified: fdinfo(program.as_fd(), "verified_insns"),
        effort: statistics.of(&program.name().to_string_lossy()),
    };
    object.progs().map(accepted).collect()
}

fn on(file: &File, object: &Object, statistics: &Statistics, elapsed: Duration) -> Finding {
    let programs = accepted(object, statistics);
    let walked: u64 = programs.iter().filter_map(|program| program.verified).sum();
    let detail = match programs.len() {
        0 => "its map can be made".to_owned(),
        1 => format!("1 program; {walked} instructions verified in {} ms", elapsed.as_millis()),
        number => format!("{number} programs; {walked} instructions verified in {} ms", elapsed.as_millis()),
    };
    let losses = variant::losses(file.name);
    let finding = match losses.as_slice() {
        [] => Finding::new(Area::Feature, title(file.name), State::On, detail),
        losses => Finding::new(Area::Feature, title(file.name), State::Degraded, losses.join("; ")),
    };
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
        let mut titles: Vec<&str> = files().map(|file| title(file.name)).collect();
        assert!(!titles.contains(&"other"), "{titles:?}");
        titles.sort();
        titles.dedup();
        assert_eq!(titles.len(), files().count());
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
