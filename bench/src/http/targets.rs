//! What we want to reach, and whether it was.

use serde::Serialize;

use super::place::View;
use super::report::{Cell, Figure, Report};
use super::scene::Held;
use super::subject::Subject;
use super::summary::{ratio, unless_few};
use super::workload::{CONNECTIONS, Exchange, Load, Workload};
use crate::statistics::{Estimate, estimate, median, paired_differences};
use crate::units;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Met,
    Missed,
    /// The interval holds the limit.
    Noise,
    NotMeasured,
}

impl Outcome {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Outcome::Met => "met",
            Outcome::Missed => "MISSED",
            Outcome::Noise => "inside noise",
            Outcome::NotMeasured => "not measured",
        }
    }

    /// Of several figures of one target.
    fn all(outcomes: &[Outcome]) -> Self {
        let has = |outcome| outcomes.contains(&outcome);
        match () {
            () if has(Outcome::Missed) => Outcome::Missed,
            () if has(Outcome::Noise) => Outcome::Noise,
            () if has(Outcome::Met) => Outcome::Met,
            () => Outcome::NotMeasured,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) outcome: Outcome,
    pub(crate) measured: String,
}

/// A limit on a figure.
#[derive(Clone, Copy, Debug)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    fn judge(self, found: Estimate) -> Outcome {
        let (met, missed) = match self {
            Limit::AtLeast(limit) => (found.low >= limit, found.high < limit),
            Limit::AtMost(limit) => (found.high <= limit, found.low > limit),
        };
        match (met, missed) {
            (true, _) => Outcome::Met,
            (_, true) => Outcome::Missed,
            _ => Outcome::Noise,
        }
    }
}

/// Figures that one target is made of.
struct Finding {
    outcome: Outcome,
    text: String,
}

pub(crate) fn targets(report: &Report) -> Vec<Target> {
    let Some(view) = report.rows().first().map(|(view, _)| *view) else { return Vec::new() };
    let look = Look { report, view };
    vec![
        target(
            "same host in the kernel, requests/s of direct at 1, 16, 64, 256 connections: at least 1.3",
            look.local_rate(),
        ),
        target(
            "same host in the kernel, p99 at 50 % of direct's saturation: at most direct's",
            look.local_p99(),
        ),
        target(
            "two proxies in series at an equal rate: p99 at least 8 times that of the kernel",
            look.chains(Figure::P99, 8.0),
        ),
        target(
            "two proxies in series: CPU of a request at least 5 times that of the kernel",
            look.chains(Figure::ProcessCpu, 5.0),
        ),
        target(
            "two proxies in series: memory at least 10 times that of agent and proxy",
            look.memory_of_chains(),
        ),
        target(
            "remote in the kernel, requests/s of direct from 16 connections: at least 0.95",
            look.remote_rate(),
        ),
        target(
            "remote in the kernel, p50 at 1 connection: at most 30 µs more than direct",
            look.remote_p50(),
        ),
        target("bodies of 1 MiB, same host: requests/s at least 0.95 of direct", look.megabyte()),
        target("observing all HTTP at saturation: at least 0.95 of direct's requests/s", look.observing()),
        target(
            "agent and proxy with 1,000 services: below 10 MB idle, below 16 MB with 1,000 connections",
            look.memory(),
        ),
        target(
            "50 services in a chain, p50 of two proxies a hop over the kernel's: at least 5",
            look.chain(),
        ),
    ]
}

fn target(what: &str, findings: Vec<Finding>) -> Target {
    let outcomes: Vec<Outcome> = findings.iter().map(|finding| finding.outcome).collect();
    let texts: Vec<String> = findings.into_iter().map(|finding| finding.text).collect();
    Target { what: what.into(), outcome: Outcome::all(&outcomes), measured: texts.join("; ") }
}

struct Look<'a> {
    report: &'a Report,
    view: View,
}

impl Look<'_> {
    fn cell(&self, workload: Workload, subject: Subject) -> Option<&Cell> {
        self.report.cell(self.view, workload, subject)
    }

    fn against(
        &self,
        workload: Workload,
        (of, to): (Subject, Subject),
        figure: Figure,
        limit: Limit,
        name: &str,
    ) -> Option<Finding> {
        let found = ratio(self.report, self.cell(workload, of)?, self.cell(workload, to)?, figure)?;
        Some(Finding { outcome: limit.judge(found), text: format!("{name}{}", shown(found)) })
    }

    fn saturation(exchange: Exchange, connections: usize) -> Workload {
        Workload::new(exchange, Load::Saturation, connections)
    }

    fn rates(&self, of: Subject, connections: &[usize], limit: f64) -> Vec<Finding> {
        let find = |n: &usize| {
            let workload = Self::saturation(Exchange::Small, *n);
            let name = format!("{n} connections ");
            self.against(workload, (of, Subject::Direct), Figure::Rate, Limit::AtLeast(limit), &name)
        };
        connections.iter().filter_map(find).collect()
    }

    fn local_rate(&self) -> Vec<Finding> {
        self.rates(Subject::AlizeLocal, &CONNECTIONS[..4], 1.3)
    }

    fn local_p99(&self) -> Vec<Finding> {
        let workload = Workload::new(Exchange::Small, Load::HalfOfDirect, 64);
        let pair = (Subject::AlizeLocal, Subject::Direct);
        self.against(workload, pair, Figure::P99, Limit::AtMost(1.0), "").into_iter().collect()
    }

    fn chains(&self, figure: Figure, limit: f64) -> Vec<Finding> {
        let workload = match figure {
            Figure::P99 => Workload::new(Exchange::Small, Load::HalfOfSlowest, 64),
            _ => Self::saturation(Exchange::Small, 64),
        };
        let find = |chain: &Subject| {
            let name = format!("{} ", chain.label());
            self.against(workload, (*chain, Subject::AlizeLocal), figure, Limit::AtLeast(limit), &name)
        };
        Subject::CHAINS.iter().filter_map(find).collect()
    }

    fn remote_rate(&self) -> Vec<Finding> {
        self.rates(Subject::AlizeRemote, &CONNECTIONS[1..], 0.95)
    }

    fn remote_p50(&self) -> Vec<Finding> {
        let workload = Self::saturation(Exchange::Small, 1);
        let each = |subject| Some(self.cell(workload, subject)?.each(Figure::P50, 0.0));
        let difference = each(Subject::AlizeRemote).zip(each(Subject::Direct));
        let found = difference.and_then(|(remote, direct)| {
            let differences = paired_differences(&remote, &direct);
            Some(unless_few(estimate(&differences)?, differences.len()))
        });
        let finding = found.map(|found| Finding {
            outcome: Limit::AtMost(30_000.0).judge(found),
            text: format!("{:+.1} µs [{:+.1}, {:+.1}]", found.value / 1e3, found.low / 1e3, found.high / 1e3),
        });
        finding.into_iter().collect()
    }

    fn megabyte(&self) -> Vec<Finding> {
        let pair = (Subject::AlizeLocal, Subject::Direct);
        let workload = Self::saturation(Exchange::Megabyte, 16);
        self.against(workload, pair, Figure::Rate, Limit::AtLeast(0.95), "").into_iter().collect()
    }

    fn observing(&self) -> Vec<Finding> {
        self.rates(Subject::Observed, &[16, 64], 0.95)
    }

    fn held(&self, subject: Subject, idle: bool) -> Option<(&str, &Held)> {
        let mut all = self.report.memory.iter().filter(|one| one.view == self.view && one.subject == subject);
        let found = all.find(|one| (one.when == "idle") == idle)?;
        Some((found.when.as_str(), &found.held))
    }

    fn memory_of_chains(&self) -> Vec<Finding> {
        let Some((_, alize)) = self.held(Subject::AlizeLocal, false) else { return Vec::new() };
        let own = alize.bytes();
        let find = |chain: &Subject| {
            let (when, held) = self.held(*chain, false)?;
            let ratio = held.bytes() as f64 / own as f64;
            let outcome = if ratio >= 10.0 { Outcome::Met } else { Outcome::Missed };
            let (theirs, own) = (units::bytes(held.bytes()), units::bytes(own));
            Some(Finding {
                outcome,
                text: format!("{} {ratio:.1} ({theirs} over {own}, {when})", chain.label()),
            })
        };
        Subject::CHAINS.iter().filter_map(find).collect()
    }

    fn memory(&self) -> Vec<Finding> {
        let find = |(idle, limit): (bool, f64)| {
            let (when, held) =
                self.held(Subject::AlizeLocal, idle).or_else(|| self.held(Subject::AlizeProxy, idle))?;
            let outcome = if (held.bytes() as f64) < limit { Outcome::Met } else { Outcome::Missed };
            Some(Finding { outcome, text: format!("{} {when}", units::bytes(held.bytes())) })
        };
        [(true, 10e6), (false, 16e6)].into_iter().filter_map(find).collect()
    }

    fn chain(&self) -> Vec<Finding> {
        let each = |subject: Subject| -> Vec<f64> {
            let slices = self.report.chain.iter().filter(|slice| slice.subject == subject);
            slices.filter_map(|slice| slice.latency.quantile(0.5)).map(|value| value as f64).collect()
        };
        let own = each(Subject::AlizeLocal);
        let find = |chain: &Subject| {
            let ratios = crate::statistics::paired_ratios(&each(*chain), &own);
            let found = unless_few(estimate(&ratios)?, ratios.len());
            let (theirs, own) = (median(&each(*chain))?, median(&own)?);
            let text = format!(
                "{} {} ({} over {})",
                chain.label(),
                shown(found),
                units::nanoseconds(theirs),
                units::nanoseconds(own)
            );
            Some(Finding { outcome: Limit::AtLeast(5.0).judge(found), text })
        };
        Subject::CHAINS.iter().filter_map(find).collect()
    }
}

impl Held {
    /// Of all processes together.
    pub(crate) fn bytes(&self) -> u64 {
        self.processes.values().sum()
    }
}

fn shown(found: Estimate) -> String {
    format!("{:.2} [{:.2}, {:.2}]", found.value, found.low, found.high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fixture;

    #[test]
    fn a_limit_inside_the_interval_is_noise() {
        let found = |value: f64, low: f64, high: f64| Estimate { value, low, high };
        assert_eq!(Limit::AtLeast(1.3).judge(found(1.5, 1.3, 1.6)), Outcome::Met);
        assert_eq!(Limit::AtLeast(1.3).judge(found(1.35, 1.2, 1.5)), Outcome::Noise);
        assert_eq!(Limit::AtLeast(1.3).judge(found(1.1, 1.0, 1.29)), Outcome::Missed);
        assert_eq!(Limit::AtMost(1.0).judge(found(0.9, 0.8, 1.0)), Outcome::Met);
        assert_eq!(Limit::AtMost(1.0).judge(found(1.1, 1.05, 1.2)), Outcome::Missed);
    }

    #[test]
    fn one_missed_figure_misses_the_target_and_no_figure_is_not_measured() {
        use Outcome::*;
        assert_eq!(Outcome::all(&[Met, Missed, Noise]), Missed);
        assert_eq!(Outcome::all(&[Met, Noise]), Noise);
        assert_eq!(Outcome::all(&[Met]), Met);
        assert_eq!(Outcome::all(&[]), NotMeasured);
    }

    #[test]
    fn each_target_says_what_was_measured() {
        let targets = targets(&fixture::report());
        assert_eq!(targets.len(), 11);
        let of = |words: &str| targets.iter().find(|target| target.what.contains(words)).unwrap();
        assert_eq!(of("same host in the kernel, requests/s").outcome, Outcome::Met);
        assert_eq!(of("remote in the kernel, requests/s").outcome, Outcome::Missed);
        assert!(of("remote in the kernel, requests/s").measured.contains("0.7"), "{:?}", of("remote"));
        assert_eq!(of("50 services in a chain").outcome, Outcome::NotMeasured);
        assert_eq!(of("CPU of a request").outcome, Outcome::Met);
    }
}
