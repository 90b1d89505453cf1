//! `alize shadow report`: what really happened in mode shadow beside what enforce would have done, ready to decide on.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use alize_model::Mode;
use alize_model::api::{EndpointStatus, ServiceStatus, ShadowSeen};
use serde::Serialize;

use super::args::ShadowArgs;
use super::mode::word;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Paint, Tone, visible};
use crate::table::Align::{Left, Right};
use crate::table::{Table, wrapped};
use crate::units::{count, percent};

/// Whether a service can be enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Readiness {
    /// All connects would have been balanced.
    Ready,
    /// Some would have been refused, or would be now.
    NotReady,
    /// Nobody has dialled it in mode shadow.
    Unseen,
}

/// One service.
#[derive(Debug, Serialize)]
struct Report {
    service: String,
    mode: Mode,
    readiness: Readiness,
    /// For people, in a sentence.
    verdict: String,
    /// What really happened.
    seen: ShadowSeen,
    /// What enforce would have done.
    would: Would,
    endpoints: Vec<Share>,
}

#[derive(Debug, Default, Serialize)]
struct Would {
    balanced: u64,
    /// By reason.
    refused: BTreeMap<String, u64>,
}

/// What an endpoint would have got.
#[derive(Debug, Serialize)]
struct Share {
    address: SocketAddr,
    state: String,
    reason: Option<String>,
    /// Its share as the balancing table has it now, 0 to 1.
    wanted: f64,
    /// Connections that it would have got.
    would: u64,
    /// Of all that would have been balanced, 0 to 1.
    share: f64,
}

pub(crate) async fn report(client: &Client, args: ShadowArgs, output: Output) -> Result<(), Failure> {
    let services = match &args.service {
        Some(name) => vec![client.service(name).await?],
        None => client.services().await?,
    };
    let told = |service: &&ServiceStatus| {
        args.service.is_some() || service.mode == Mode::Shadow || service.shadow_seen.connections > 0
    };
    let reports: Vec<Report> = services.iter().filter(told).map(of_service).collect();
    output.answer(&reports, || text(&reports, output.paint, output.width()))
}

fn of_service(service: &ServiceStatus) -> Report {
    let mut refused = service.shadow.clone();
    let balanced = refused.remove("balanced").unwrap_or(0);
    let would = Would { balanced, refused };
    let (readiness, verdict) = judge(service, &would);
    let endpoints = service.endpoints.iter().map(|endpoint| share(endpoint, balanced)).collect();
    Report {
        service: service.name.clone(),
        mode: service.mode,
        readiness,
        verdict,
        seen: service.shadow_seen.clone(),
        would,
        endpoints,
    }
}

fn share(endpoint: &EndpointStatus, balanced: u64) -> Share {
    Share {
        address: endpoint.address,
        state: endpoint.state.clone(),
        reason: endpoint.reason.clone(),
        wanted: endpoint.share,
        would: endpoint.would,
        share: if balanced == 0 { 0.0 } else { endpoint.would as f64 / balanced as f64 },
    }
}

fn judge(service: &ServiceStatus, would: &Would) -> (Readiness, String) {
    let name = &service.name;
    let refused: u64 = would.refused.values().sum();
    let all = would.balanced + refused;
    if all == 0 {
        let next = match service.mode {
            Mode::Shadow => "let clients use it for a while, then ask again".to_owned(),
            mode => format!("it is in mode {}: `alize mode {name} shadow` begins to count", word(mode)),
        };
        return (
            Readiness::Unseen,
            format!("Nothing to decide on yet: nobody has dialled it in mode shadow; {next}."),
        );
    }
    if refused > 0 {
        let usable = match service.usable {
            0 => "no endpoint is usable now".to_owned(),
            usable => format!("{usable} endpoints are usable now"),
        };
        let why = reasons(&would.refused);
        let verdict = format!(
            "Not ready: enforce would have refused {} of {} connects ({why}); {usable}, see `alize endpoints {name}`.",
            count(refused),
            count(all)
        );
        return (Readiness::NotReady, verdict);
    }
    if service.usable == 0 {
        let verdict = format!(
            "Not ready: no endpoint is usable now, so that enforce would refuse; see `alize endpoints {name}`."
        );
        return (Readiness::NotReady, verdict);
    }
    (Readiness::Ready, ready(service, all))
}

/// What is good to know before the word is said.
fn ready(service: &ServiceStatus, all: u64) -> String {
    let mut said = format!(
        "Ready: enforce would have balanced all {} connects over {} endpoints",
        count(all),
        service.endpoints.iter().filter(|endpoint| endpoint.would > 0).count()
    );
    let failed: u64 = service.shadow_seen.failures.values().sum();
    if failed > 0 {
        said += &format!(
            "; {} of {} failed where they were dialled to ({}), which enforce replaces",
            count(failed),
            count(service.shadow_seen.connections),
            reasons(&service.shadow_seen.failures)
        );
    }
    let idle: Vec<String> = service
        .endpoints
        .iter()
        .filter(|endpoint| !matches!(endpoint.state.as_str(), "active" | "removed"))
        .map(|endpoint| format!("{} is {}", endpoint.address, endpoint.state))
        .collect();
    if !idle.is_empty() {
        said += &format!("; mind that {}", idle.join(", "));
    }
    match service.mode {
        Mode::Enforce => said + "; it is in mode enforce already.",
        _ => said + &format!(". `alize mode {} enforce` does it.", service.name),
    }
}

fn reasons(by_reason: &BTreeMap<String, u64>) -> String {
    let some = by_reason.iter().filter(|(_, number)| **number > 0);
    let all: Vec<String> = some.map(|(reason, number)| format!("{} {reason}", count(*number))).collect();
    all.join(", ")
}

fn text(reports: &[Report], paint: Paint, width: Option<usize>) -> String {
    if reports.is_empty() {
        return "no service is or was in mode shadow: `alize mode SERVICE shadow` begins\n".into();
    }
    let mut text = String::new();
    for (at, report) in reports.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        text.push_str(&section(report, paint, width));
    }
    text
}

fn section(report: &Report, paint: Paint, width: Option<usize>) -> String {
    let tone = match report.readiness {
        Readiness::Ready => Tone::Good,
        Readiness::NotReady => Tone::Bad,
        Readiness::Unseen => Tone::Caution,
    };
    let mut text =
        format!("{} (mode {})\n", paint.tone(Tone::Heading, &visible(&report.service)), word(report.mode));
    for line in wrapped(&visible(&report.verdict), width.unwrap_or(usize::MAX)) {
        text.push_str(&format!("{}\n", paint.tone(tone, &line)));
    }
    if report.readiness == Readiness::Unseen {
        return text;
    }
    let seen = &report.seen;
    let failed = reasons(&seen.failures);
    text.push_str(&format!(
        "  really   {} connections, {} established, {}\n",
        count(seen.connections),
        count(seen.established),
        if failed.is_empty() { "none failed".to_owned() } else { format!("failed: {failed}") }
    ));
    let refused = reasons(&report.would.refused);
    text.push_str(&format!(
        "  enforce  {} balanced, {}\n",
        count(report.would.balanced),
        if refused.is_empty() { "none refused".to_owned() } else { format!("refused: {refused}") }
    ));
    let mut table = Table::new(&[
        ("ENDPOINT", Left),
        ("STATE", Left),
        ("WANTED", Right),
        ("WOULD GET", Right),
        ("SHARE", Right),
        ("REASON", Left),
    ]);
    for endpoint in &report.endpoints {
        table.row(vec![
            endpoint.address.to_string().into(),
            endpoint.state.as_str().into(),
            percent(endpoint.wanted).into(),
            count(endpoint.would).into(),
            percent(endpoint.share).into(),
            endpoint.reason.clone().unwrap_or_default().into(),
        ]);
    }
    text + &table.render(paint, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(mode: Mode, usable: u32, shadow: &[(&str, u64)], failures: &[(&str, u64)]) -> ServiceStatus {
        let counts = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let all: u64 = shadow.iter().map(|(_, count)| count).sum();
        let endpoint = |host: u8, would| EndpointStatus {
            address: ([10, 0, 0, host], 80).into(),
            id: host.into(),
            weight: 1,
            share: 0.5,
            labels: BTreeMap::new(),
            state: "active".into(),
            reason: None,
            would,
            traffic: Default::default(),
        };
        ServiceStatus {
            routes: Vec::new(),
            name: "web".into(),
            id: 0,
            protocol: Default::default(),
            mode,
            addresses: Vec::new(),
            balance: "round-robin".into(),
            affinity: None,
            usable,
            traffic: Default::default(),
            refused: BTreeMap::new(),
            shadow: counts(shadow),
            shadow_seen: ShadowSeen { connections: all, established: all, failures: counts(failures) },
            mode_override: None,
            endpoints: vec![endpoint(1, all / 2), endpoint(2, all - all / 2)],
        }
    }

    fn verdict(service: &ServiceStatus) -> (Readiness, String) {
        let report = of_service(service);
        (report.readiness, report.verdict)
    }

    #[test]
    fn the_verdict_is_a_plain_sentence() {
        let (readiness, said) = verdict(&service(Mode::Shadow, 2, &[("balanced", 10)], &[]));
        assert_eq!(readiness, Readiness::Ready);
        assert_eq!(
            said,
            "Ready: enforce would have balanced all 10 connects over 2 endpoints. `alize mode web enforce` does it."
        );
        let (readiness, said) = verdict(&service(Mode::Shadow, 2, &[("balanced", 10)], &[("timeout", 3)]));
        assert_eq!(readiness, Readiness::Ready);
        assert!(said.contains("3 of 10 failed where they were dialled to (3 timeout)"), "{said}");
        let (readiness, said) =
            verdict(&service(Mode::Shadow, 1, &[("balanced", 8), ("no-endpoint", 2)], &[]));
        assert_eq!(readiness, Readiness::NotReady);
        assert!(
            said.starts_with(
                "Not ready: enforce would have refused 2 of 10 connects (2 no-endpoint); 1 endpoints"
            ),
            "{said}"
        );
        assert_eq!(verdict(&service(Mode::Shadow, 0, &[("balanced", 8)], &[])).0, Readiness::NotReady);
        let (readiness, said) = verdict(&service(Mode::Enforce, 2, &[], &[]));
        assert_eq!(readiness, Readiness::Unseen);
        assert!(said.contains("`alize mode web shadow`"), "{said}");
        assert_eq!(verdict(&service(Mode::Shadow, 2, &[], &[])).0, Readiness::Unseen);
    }
}
