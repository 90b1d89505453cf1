//! Routes of one service: what they are for, where they lead, and which way their requests take.

use alize_model::api::{BackendStatus, ProxiedStatus, RouteStatus, ServiceStatus};

use super::services::reasons;
use crate::style::{Paint, Tone, visible};
use crate::table::Align::{Left, Right};
use crate::table::{Cell, Table};
use crate::units::{count, percent};

/// Paths told of one reason; more help nobody.
const PATHS: usize = 3;

/// The routes of `service` as a table, and below it why requests take the proxy.
pub(super) fn of_one(service: &ServiceStatus, paint: Paint, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("ROUTE", Left),
        ("MATCHES", Left),
        ("TO", Left),
        ("DOES", Left),
        ("PATH", Left),
        ("REQUESTS", Right),
        ("STATUS", Left),
    ]);
    for route in &service.routes {
        let to: Vec<String> = route.backends.iter().map(|backend| shown(backend, route)).collect();
        let lines = route.matches.len().max(to.len()).max(1);
        for line in 0..lines {
            // A space is no missing value: what stands above goes on.
            let at = |all: &[String]| match all.get(line) {
                Some(text) => visible(text),
                None if line > 0 => " ".into(),
                None => String::new(),
            };
            let first = |text: String| if line == 0 { text } else { " ".into() };
            let requests: u64 = route.requests.values().sum();
            table.row(vec![
                first(visible(&route.name)).into(),
                at(&route.matches).into(),
                at(&to).into(),
                first(visible(&route.does.join(", "))).into(),
                if line == 0 { path(route) } else { " ".into() },
                first(count(requests)).into(),
                first(reasons(&route.requests)).into(),
            ]);
        }
    }
    let mut text = table.render(paint, width);
    for route in &service.routes {
        for proxied in &route.proxied {
            text.push_str(&format!("  {}\n", paint.tone(Tone::Faint, &visible(&why(route, proxied)))));
        }
    }
    text
}

fn shown(backend: &BackendStatus, route: &RouteStatus) -> String {
    match route.backends.len() {
        1 => backend.target.clone(),
        _ => format!("{} {}", backend.target, percent(backend.share)),
    }
}

fn path(route: &RouteStatus) -> Cell {
    let tone = match route.path.as_str() {
        "kernel" => Tone::Good,
        "none" => Tone::Caution,
        _ => Tone::Plain,
    };
    Cell::new(route.path.as_str(), tone)
}

/// `api, /api/*: proxy, because a route that may be for them looks at a header`.
fn why(route: &RouteStatus, proxied: &ProxiedStatus) -> String {
    let mut paths = proxied.paths.iter().take(PATHS).cloned().collect::<Vec<_>>().join(" ");
    if proxied.paths.len() > PATHS {
        paths.push_str(&format!(" and {} more", proxied.paths.len() - PATHS));
    }
    let of = if paths.is_empty() { String::new() } else { format!(", {paths}") };
    format!("{}{of}: proxy, because {} ({})", route.name, proxied.because, proxied.reason)
}
