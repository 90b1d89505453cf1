//! `alize services`: all of them in a table, or one with everything about it.

use std::collections::BTreeMap;
use std::time::Duration;

use alize_model::api::{ServiceStatus, Traffic};
use serde::Serialize;

use super::args::LookArgs;
use super::check::plural;
use super::live::{self, View, failed};
use super::{endpoints, routes};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Paint, Tone};
use crate::table::Align::{Left, Right};
use crate::table::{Cell, Table};
use crate::units::{age, bytes, count, rate, seconds, utc};

/// All services, or the one that was named.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    All(Vec<ServiceStatus>),
    One(Box<ServiceStatus>),
}

pub(crate) async fn services(client: &Client, args: LookArgs, output: Output) -> Result<(), Failure> {
    let one = args.service.is_some();
    let select = |services: &[ServiceStatus]| match services {
        [service] if one => Answer::One(Box::new(service.clone())),
        all => Answer::All(all.to_vec()),
    };
    let table = |view: &View<'_>| match view.services {
        [service] if one => detail(service, view, output.paint, output.width()),
        [] => "no services\n".to_owned(),
        _ => overview(view, output.paint, output.width()),
    };
    live::look(client, &args, output, select, table).await
}

fn overview(view: &View<'_>, paint: Paint, width: Option<usize>) -> String {
    let table = match view.seconds {
        None => totals(view.services),
        Some(seconds) => rates(view, seconds),
    };
    table.render(paint, width)
}

fn totals(services: &[ServiceStatus]) -> Table {
    let mut table = Table::new(&[
        ("SERVICE", Left),
        ("ADDRESSES", Left),
        ("PROTOCOL", Left),
        ("MODE", Left),
        ("BALANCE", Left),
        ("USABLE", Right),
        ("CONNECTIONS", Right),
        ("OPEN", Right),
        ("FAILED", Right),
        ("REFUSED", Right),
        ("WOULD", Left),
        ("SENT", Right),
        ("RECEIVED", Right),
        ("RTT", Right),
    ]);
    for service in services {
        let traffic = &service.traffic;
        table.row(vec![
            service.name.as_str().into(),
            addresses(service).into(),
            word(&service.protocol).into(),
            mode(service),
            service.balance.as_str().into(),
            usable(service),
            count(traffic.connections).into(),
            count(traffic.open).into(),
            bad_if_any(failed(traffic), count(failed(traffic))),
            bad_if_any(refused(service), count(refused(service))),
            reasons(&service.shadow).into(),
            bytes(traffic.bytes_sent).into(),
            bytes(traffic.bytes_received).into(),
            round_trip(traffic).into(),
        ]);
    }
    table
}

fn rates(view: &View<'_>, seconds: f64) -> Table {
    let mut table = Table::new(&[
        ("SERVICE", Left),
        ("MODE", Left),
        ("USABLE", Right),
        ("CONNECTS/S", Right),
        ("OPEN", Right),
        ("FAILED/S", Right),
        ("REFUSED/S", Right),
        ("SENT/S", Right),
        ("RECEIVED/S", Right),
        ("RTT", Right),
        ("CONNECTIONS", Right),
    ]);
    for service in view.services {
        let traffic = &service.traffic;
        let growth = |value| view.growth(service, value);
        let per_second = |growth: u64| growth as f64 / seconds;
        let failures = growth(|service| failed(&service.traffic));
        let refusals = growth(refused);
        table.row(vec![
            service.name.as_str().into(),
            mode(service),
            usable(service),
            rate(per_second(growth(|service| service.traffic.connections))).into(),
            count(traffic.open).into(),
            bad_if_any(failures, rate(per_second(failures))),
            bad_if_any(refusals, rate(per_second(refusals))),
            bytes(per_second(growth(|service| service.traffic.bytes_sent)) as u64).into(),
            bytes(per_second(growth(|service| service.traffic.bytes_received)) as u64).into(),
            round_trip(traffic).into(),
            count(traffic.connections).into(),
        ]);
    }
    table
}

fn detail(service: &ServiceStatus, view: &View<'_>, paint: Paint, width: Option<usize>) -> String {
    let traffic = &service.traffic;
    let mut text = format!("{}\n", paint.tone(Tone::Heading, &service.name));
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<12} {value}\n"));
        }
    };
    fact("addresses", addresses(service));
    fact("protocol", word(&service.protocol));
    fact("mode", mode_in_full(service));
    fact("balance", service.balance.clone());
    fact("affinity", service.affinity.map_or(String::new(), timeout));
    fact("usable", format!("{} of {}", service.usable, plural(service.endpoints.len(), "endpoint")));
    fact("connections", connections(traffic));
    let growth = view.growth(service, |service| service.traffic.connections);
    let now = |seconds| format!("{} connects/s", rate(growth as f64 / seconds));
    fact("now", view.seconds.map_or(String::new(), now));
    fact("failed", reasons(&traffic.failures));
    fact("refused", reasons(&service.refused));
    fact("would", reasons(&service.shadow));
    fact("sent", bytes(traffic.bytes_sent));
    fact("received", bytes(traffic.bytes_received));
    fact("retransmits", if traffic.retransmits == 0 { String::new() } else { count(traffic.retransmits) });
    fact("round trip", round_trip(traffic));
    if !service.routes.is_empty() {
        text.push('\n');
        text.push_str(&routes::of_one(service, paint, width));
    }
    if !service.endpoints.is_empty() {
        text.push('\n');
        text.push_str(&endpoints::of_one(service, view, paint, width));
    }
    text
}

fn timeout(seconds: f64) -> String {
    age(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

fn connections(traffic: &Traffic) -> String {
    let established = match traffic.established {
        0 => String::new(),
        some => format!(", {} established", count(some)),
    };
    format!("{}{established}, {} open", count(traffic.connections), count(traffic.open))
}

fn addresses(service: &ServiceStatus) -> String {
    let all: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// The word of the API for `value`: its enums are plain words.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn mode(service: &ServiceStatus) -> Cell {
    let tone = match service.mode {
        alize_model::Mode::Enforce => Tone::Plain,
        alize_model::Mode::Observe | alize_model::Mode::Shadow => Tone::Faint,
    };
    // Who looks for it in the file would not find it.
    let by_hand = if service.mode_override.is_some() { " (by hand)" } else { "" };
    Cell::new(word(&service.mode) + by_hand, tone)
}

/// With who says so, where that is not the file.
fn mode_in_full(service: &ServiceStatus) -> String {
    match &service.mode_override {
        None => word(&service.mode),
        Some(set) => {
            let until = set
                .until
                .map_or_else(|| "until it is set again".to_owned(), |time| format!("until {}", utc(time)));
            format!("{} by hand, {until}; the file says {}", word(&service.mode), word(&set.declared))
        }
    }
}

fn usable(service: &ServiceStatus) -> Cell {
    let all = service.endpoints.iter().filter(|endpoint| endpoint.state != "removed").count();
    let tone = match service.usable as usize {
        0 => Tone::Bad,
        some if some < all => Tone::Caution,
        _ => Tone::Plain,
    };
    Cell::new(format!("{}/{all}", service.usable), tone)
}

fn refused(service: &ServiceStatus) -> u64 {
    service.refused.values().sum()
}

fn bad_if_any(number: u64, text: String) -> Cell {
    Cell::new(text, if number == 0 { Tone::Plain } else { Tone::Bad })
}

/// `12 refused, 3 timeout`, without those that never happened.
pub(super) fn reasons(by_reason: &BTreeMap<String, u64>) -> String {
    let some = by_reason.iter().filter(|(_, number)| **number > 0);
    let all: Vec<String> = some.map(|(reason, number)| format!("{} {reason}", count(*number))).collect();
    all.join(", ")
}

/// Empty when no connection has been measured.
pub(crate) fn round_trip(traffic: &Traffic) -> String {
    traffic.smoothed_rtt.map_or(String::new(), seconds)
}
