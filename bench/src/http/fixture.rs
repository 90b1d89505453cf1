//! A report made by hand, for tests of what is worked out of one.

use std::collections::BTreeMap;

use super::latency::Latency;
use super::meter::Spent;
use super::place::View;
use super::report::{Cell, LeftOut, Report, SCHEMA, Settings, Slice};
use super::subject::Subject;
use super::workload::{Exchange, Load, Workload};
use crate::machine::Machine;

/// Direct does 1,000 requests a second with 1 ms of CPU each; each way is faster by its factor.
const FACTORS: [(Subject, f64); 6] = [
    (Subject::Direct, 1.0),
    (Subject::DirectAgain, 1.0),
    (Subject::AlizeLocal, 1.4),
    (Subject::AlizeRemote, 0.7),
    (Subject::HaproxyTwo, 0.2),
    (Subject::EnvoyTwo, 0.1),
];

const ROUNDS: usize = 9;

pub(crate) fn report() -> Report {
    scaled(1.0)
}

/// The same on a machine that is faster by `factor`.
pub(crate) fn scaled(factor: f64) -> Report {
    let workloads = [
        Workload::new(Exchange::Small, Load::Saturation, 64),
        Workload::new(Exchange::Small, Load::HalfOfSlowest, 64),
    ];
    let cell = |workload: Workload, (subject, faster): (Subject, f64)| {
        let rate = (!workload.is_saturation()).then_some(50.0);
        let rounds = (0..ROUNDS).map(|round| slice(faster * factor, round)).collect();
        Cell { view: View::OneCpu(0), workload, subject, rate, rounds }
    };
    let cells = workloads.iter().flat_map(|workload| FACTORS.map(|one| cell(*workload, one))).collect();
    Report {
        schema: SCHEMA,
        version: "0.0.0".into(),
        date: "2026-01-01T00:00:00Z".into(),
        machine: Machine::look(vec!["HAProxy 9 <&>".into()]),
        settings: Settings { rounds: ROUNDS, slice_seconds: 1.0, quick: false, server: "nginx/0".into() },
        left_out: vec![LeftOut { what: "envoy".into(), reason: "no <envoy> in PATH".into() }],
        cells,
        idle: vec![0.1],
        retaken: 2,
        memory: Vec::new(),
        curves: Vec::new(),
        chain: Vec::new(),
        configurations: BTreeMap::from([("haproxy".into(), "bind <:80>".into())]),
    }
}

fn slice(faster: f64, round: usize) -> Slice {
    // Rounds differ by a little, all ways alike.
    let machine = 1.0 + round as f64 / 100.0;
    let completed = (1_000.0 * faster * machine) as u64;
    let mut latency = Latency::new().unwrap();
    (1..=completed).for_each(|n| latency.record((1e6 * n as f64 / completed as f64 / faster) as u64));
    let spent = Spent {
        seconds: 1.0,
        machine: 1.1,
        roles: BTreeMap::from([("client".into(), 0.4), ("server".into(), 0.6)]),
        switches: completed * 2,
        own_switches: completed,
        octets: completed * 300,
    };
    Slice {
        completed,
        seconds: 1.0,
        unfinished: 0,
        errors: 0,
        first_error: None,
        latency: latency.recorded(),
        spent,
        paths: None,
    }
}
