//! What is asked of the server, and how.

use serde::{Deserialize, Serialize};

use super::load::order::{Order, Pace};
use super::origin::SIZES;

/// A request and its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Exchange {
    /// 23 bytes.
    Small,
    Kilobyte,
    Kilobytes64,
    Megabyte,
    /// Small, and a connection for each request.
    Short,
}

impl Exchange {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Exchange::Small => "small GET",
            Exchange::Kilobyte => "GET of 1 KiB",
            Exchange::Kilobytes64 => "GET of 64 KiB",
            Exchange::Megabyte => "GET of 1 MiB",
            Exchange::Short => "short connections (connect, GET, close)",
        }
    }

    fn size(self) -> usize {
        match self {
            Exchange::Small | Exchange::Short => SIZES[0],
            Exchange::Kilobyte => SIZES[1],
            Exchange::Kilobytes64 => SIZES[2],
            Exchange::Megabyte => SIZES[3],
        }
    }
}

/// Seconds between the first request and the time that is measured, whatever the way, and more for each of the first 1,000
/// connections: where there is a proxy it has to make as many as the client.
const WARM_UP: f64 = 0.08;
const WARM_UP_EACH: f64 = 0.0005;

/// How hard.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// As fast as it goes, closed loop.
    Saturation,
    /// Open loop at half of what direct does at saturation.
    HalfOfDirect,
    /// Open loop at half of what the slowest way does at saturation: a rate that all can keep.
    HalfOfSlowest,
}

/// One row of figures for each way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Workload {
    pub(crate) exchange: Exchange,
    pub(crate) load: Load,
    pub(crate) connections: usize,
}

impl Workload {
    pub(crate) fn new(exchange: Exchange, load: Load, connections: usize) -> Self {
        Self { exchange, load, connections }
    }

    pub(crate) fn label(self) -> String {
        let load = match self.load {
            Load::Saturation => "saturation",
            Load::HalfOfDirect => "open loop at 50 % of direct's saturation",
            Load::HalfOfSlowest => "open loop at 50 % of the slowest way's saturation",
        };
        let connections = match self.connections {
            1 => "1 connection".to_owned(),
            many => format!("{} connections", crate::units::thousands(many as u64)),
        };
        format!("{}, {load}, {connections}", self.exchange.label())
    }

    pub(crate) fn is_saturation(self) -> bool {
        self.load == Load::Saturation
    }

    /// `fields` are more lines of the head, each with its line end.
    pub(crate) fn order(
        self,
        target: std::net::SocketAddrV4,
        rate: Option<f64>,
        seconds: f64,
        fields: &str,
    ) -> Order {
        let size = self.exchange.size();
        Order {
            target,
            request: format!(
                "GET /{size} HTTP/1.1\r\nHost: web.bench\r\nUser-Agent: alize-bench\r\n{fields}\r\n"
            ),
            body: size as u64,
            connections: self.connections,
            pace: rate.map_or(Pace::Saturate, Pace::Rate),
            short: self.exchange == Exchange::Short,
            warm_up: seconds.min(WARM_UP) + WARM_UP_EACH * self.connections.min(1_000) as f64,
            seconds,
        }
    }
}

/// The connections at which small requests saturate.
pub(crate) const CONNECTIONS: [usize; 5] = [1, 16, 64, 256, 1_000];

/// All that a full run measures, with all on one CPU.
pub(crate) fn full() -> Vec<Workload> {
    let saturation = CONNECTIONS.map(|n| Workload::new(Exchange::Small, Load::Saturation, n));
    let mut all = saturation.to_vec();
    all.extend([
        Workload::new(Exchange::Small, Load::HalfOfDirect, 64),
        Workload::new(Exchange::Small, Load::HalfOfSlowest, 64),
        Workload::new(Exchange::Kilobyte, Load::Saturation, 64),
        Workload::new(Exchange::Kilobytes64, Load::Saturation, 16),
        Workload::new(Exchange::Megabyte, Load::Saturation, 16),
        Workload::new(Exchange::Short, Load::Saturation, 16),
    ]);
    all
}

/// What a quick run measures.
pub(crate) fn quick() -> Vec<Workload> {
    vec![
        Workload::new(Exchange::Small, Load::Saturation, 64),
        Workload::new(Exchange::Small, Load::HalfOfSlowest, 64),
    ]
}

/// The second view: nothing pinned.
pub(crate) fn unpinned() -> Vec<Workload> {
    vec![
        Workload::new(Exchange::Small, Load::Saturation, 64),
        Workload::new(Exchange::Small, Load::Saturation, 256),
        Workload::new(Exchange::Small, Load::HalfOfSlowest, 64),
    ]
}
