//! `alize endpoints`: the real servers, their state, and the share of connections they should get and got.

use alize_model::api::{EndpointStatus, ServiceStatus};
use serde::Serialize;

use super::args::LookArgs;
use super::live::{self, View, failed};
use super::services::round_trip;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Paint, Tone};
use crate::table::Align::{Left, Right};
use crate::table::{Cell, Table};
use crate::units::{bytes, count, percent, rate};

/// An endpoint as the API has it, with its service.
#[derive(Serialize)]
struct Row {
    service: String,
    #[serde(flatten)]
    endpoint: EndpointStatus,
}

pub(crate) async fn endpoints(client: &Client, args: LookArgs, output: Output) -> Result<(), Failure> {
    let select = |services: &[ServiceStatus]| -> Vec<Row> {
        let rows = services.iter().flat_map(|service| {
            let row =
                |endpoint: &EndpointStatus| Row { service: service.name.clone(), endpoint: endpoint.clone() };
            service.endpoints.iter().map(row)
        });
        rows.collect()
    };
    let table = |view: &View<'_>| match view.services.iter().all(|service| service.endpoints.is_empty()) {
        true => "no endpoints\n".to_owned(),
        false => of_all(view, output.paint, output.width()),
    };
    live::look(client, &args, output, select, table).await
}

fn of_all(view: &View<'_>, paint: Paint, width: Option<usize>) -> String {
    let mut table = columns(view);
    for service in view.services {
        rows(&mut table, &service.name, service, view);
    }
    table.render(paint, width)
}

/// The endpoints of `service`, without saying whose they are.
pub(crate) fn of_one(service: &ServiceStatus, view: &View<'_>, paint: Paint, width: Option<usize>) -> String {
    let mut table = columns(view);
    rows(&mut table, "", service, view);
    table.render(paint, width)
}

fn columns(view: &View<'_>) -> Table {
    let (connections, failures, sent, received) = match view.seconds {
        None => ("CONNECTIONS", "FAILED", "SENT", "RECEIVED"),
        Some(_) => ("CONNECTS/S", "FAILED/S", "SENT/S", "RECEIVED/S"),
    };
    Table::new(&[
        ("SERVICE", Left),
        ("ENDPOINT", Left),
        ("STATE", Left),
        ("WEIGHT", Right),
        ("WANTED", Right),
        ("SEEN", Right),
        (connections, Right),
        ("OPEN", Right),
        (failures, Right),
        (sent, Right),
        (received, Right),
        ("RTT", Right),
        ("LABELS", Left),
        ("REASON", Left),
    ])
}

fn rows(table: &mut Table, name: &str, service: &ServiceStatus, view: &View<'_>) {
    let before = view.endpoints_before(service);
    let number =
        |grown: u64| view.seconds.map_or_else(|| count(grown), |seconds| rate(grown as f64 / seconds));
    let size = |grown: u64| bytes(view.seconds.map_or(grown, |seconds| (grown as f64 / seconds) as u64));

    let all: u64 = service.endpoints.iter().map(|endpoint| before.growth(endpoint, connections)).sum();
    for endpoint in &service.endpoints {
        let mine = before.growth(endpoint, connections);
        let failures = before.growth(endpoint, |endpoint| failed(&endpoint.traffic));
        table.row(vec![
            name.into(),
            endpoint.address.to_string().into(),
            Cell::new(endpoint.state.as_str(), tone(&endpoint.state)),
            endpoint.weight.to_string().into(),
            percent(endpoint.share).into(),
            if all == 0 { String::new() } else { percent(mine as f64 / all as f64) }.into(),
            number(mine).into(),
            count(endpoint.traffic.open).into(),
            Cell::new(number(failures), if failures == 0 { Tone::Plain } else { Tone::Bad }),
            size(before.growth(endpoint, |endpoint| endpoint.traffic.bytes_sent)).into(),
            size(before.growth(endpoint, |endpoint| endpoint.traffic.bytes_received)).into(),
            round_trip(&endpoint.traffic).into(),
            labels(endpoint).into(),
            endpoint.reason.clone().unwrap_or_default().into(),
        ]);
    }
}

fn connections(endpoint: &EndpointStatus) -> u64 {
    endpoint.traffic.connections
}

fn tone(state: &str) -> Tone {
    match state {
        "active" => Tone::Good,
        "unhealthy" | "ejected" => Tone::Bad,
        "draining" | "removed" => Tone::Caution,
        _ => Tone::Plain,
    }
}

fn labels(endpoint: &EndpointStatus) -> String {
    let all: Vec<String> = endpoint.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    all.join(",")
}
