//! What a report says: each way beside direct, with the noise of the machine.

use serde::{Deserialize, Serialize};

use super::latency::Percentiles;
use super::place::View;
use super::report::{Cell, Figure, Report};
use super::subject::Subject;
use super::workload::Workload;
use crate::statistics::{Estimate, estimate, median, paired_ratios};

/// Where the machine does more than this when it does nothing of ours (CPUs), its CPU time says nothing about a request.
const MOST_IDLE: f64 = 0.2;

/// Rounds without which there is no interval.
const FEWEST: usize = 3;

/// One way under one workload: medians over rounds, percentiles of all rounds together.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) view: View,
    pub(crate) workload: Workload,
    pub(crate) subject: Subject,
    /// Requests a second that were due.
    pub(crate) due: Option<f64>,
    pub(crate) rate: f64,
    pub(crate) latency: Option<Percentiles>,
    /// Nanoseconds for a request.
    pub(crate) machine_cpu: Option<f64>,
    pub(crate) process_cpu: Option<f64>,
    pub(crate) switches: Option<f64>,
    pub(crate) octets: Option<f64>,
    pub(crate) errors: u64,
    pub(crate) unfinished: u64,
    /// Beside direct, each as a ratio.
    pub(crate) rate_ratio: Option<Compared>,
    pub(crate) cpu_ratio: Option<Compared>,
    pub(crate) p99_ratio: Option<Compared>,
}

/// A ratio, and whether it is more than noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Compared {
    pub(crate) ratio: Estimate,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Better,
    Worse,
    Noise,
}

impl Verdict {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
            Verdict::Noise => "inside noise",
        }
    }
}

impl Figure {
    fn more_is_better(self) -> bool {
        self == Figure::Rate
    }
}

/// How far two equals were apart: the share by which the null comparison (direct against direct again) may differ.
pub(crate) fn noise(report: &Report, view: View, workload: Workload, figure: Figure) -> Option<f64> {
    let beside = |subject| report.cell(view, workload, subject);
    let ratio = ratio(report, beside(Subject::DirectAgain)?, beside(Subject::Direct)?, figure)?;
    Some((ratio.high - 1.0).abs().max((1.0 - ratio.low).abs()))
}

/// Round by round, so that what slows the machine for a while cancels out.
pub(crate) fn ratio(report: &Report, of: &Cell, to: &Cell, figure: Figure) -> Option<Estimate> {
    let idle = report.idle_rate();
    let ratios = paired_ratios(&of.each(figure, idle), &to.each(figure, idle));
    Some(unless_few(estimate(&ratios)?, ratios.len()))
}

/// One or two rounds say nothing about how far rounds differ.
pub(crate) fn unless_few(found: Estimate, rounds: usize) -> Estimate {
    match rounds {
        0..FEWEST => Estimate { low: f64::NEG_INFINITY, high: f64::INFINITY, ..found },
        _ => found,
    }
}

/// Better or worse only if the interval lies beyond 1 and the value beyond what equals showed.
pub(crate) fn judge(ratio: Estimate, more_is_better: bool, noise: f64) -> Verdict {
    let apart = (ratio.value - 1.0).abs() > noise;
    let (above, below) = (ratio.low > 1.0 && apart, ratio.high < 1.0 && apart);
    match (above, below) {
        (false, false) => Verdict::Noise,
        (true, _) => {
            if more_is_better {
                Verdict::Better
            } else {
                Verdict::Worse
            }
        }
        (_, true) => {
            if more_is_better {
                Verdict::Worse
            } else {
                Verdict::Better
            }
        }
    }
}

pub(crate) fn compare(report: &Report, of: &Cell, to: &Cell, figure: Figure) -> Option<Compared> {
    let ratio = ratio(report, of, to, figure)?;
    let noise = noise(report, of.view, of.workload, figure).unwrap_or(0.0);
    Some(Compared { ratio, verdict: judge(ratio, figure.more_is_better(), noise) })
}

/// All rows of one workload, in the order of the ways.
pub(crate) fn rows(report: &Report, view: View, workload: Workload) -> Vec<Row> {
    let mut cells: Vec<&Cell> =
        report.cells.iter().filter(|cell| cell.view == view && cell.workload == workload).collect();
    cells.sort_by_key(|cell| cell.subject);
    cells.into_iter().map(|cell| row(report, cell)).collect()
}

fn row(report: &Report, cell: &Cell) -> Row {
    let idle = report.idle_rate();
    let middle = |figure| median(&finite(&cell.each(figure, idle)));
    let direct =
        report.cell(cell.view, cell.workload, Subject::Direct).filter(|_| cell.subject != Subject::Direct);
    let beside = |figure| direct.and_then(|direct| compare(report, cell, direct, figure));
    Row {
        view: cell.view,
        workload: cell.workload,
        subject: cell.subject,
        due: cell.rate,
        rate: middle(Figure::Rate).unwrap_or(0.0),
        latency: cell.latency().percentiles(),
        machine_cpu: middle(Figure::MachineCpu).filter(|_| idle <= MOST_IDLE),
        process_cpu: middle(Figure::ProcessCpu),
        switches: middle(Figure::Switches),
        octets: middle(Figure::Octets),
        errors: cell.errors(),
        unfinished: cell.unfinished(),
        rate_ratio: beside(Figure::Rate).filter(|_| cell.workload.is_saturation()),
        cpu_ratio: beside(Figure::ProcessCpu),
        p99_ratio: beside(Figure::P99),
    }
}

fn finite(values: &[f64]) -> Vec<f64> {
    values.iter().copied().filter(|value| value.is_finite()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::http::fixture;

    #[test]
    fn a_difference_is_called_by_its_direction_and_equals_are_noise() {
        let ratio = |value: f64, low: f64, high: f64| Estimate { value, low, high };
        assert_eq!(judge(ratio(1.3, 1.2, 1.4), true, 0.05), Verdict::Better);
        assert_eq!(judge(ratio(1.3, 1.2, 1.4), false, 0.05), Verdict::Worse);
        assert_eq!(judge(ratio(0.7, 0.6, 0.8), true, 0.05), Verdict::Worse);
        assert_eq!(judge(ratio(0.7, 0.6, 0.8), false, 0.05), Verdict::Better);
        // The interval holds 1.
        assert_eq!(judge(ratio(1.3, 0.9, 1.7), true, 0.0), Verdict::Noise);
        // The interval does not, but equals differ as much.
        assert_eq!(judge(ratio(1.04, 1.02, 1.06), true, 0.05), Verdict::Noise);
    }

    #[test]
    fn two_rounds_decide_nothing() {
        let found = Estimate { value: 3.0, low: 2.9, high: 3.1 };
        assert_eq!(judge(unless_few(found, 2), true, 0.0), Verdict::Noise);
        assert_eq!(judge(unless_few(found, 3), true, 0.0), Verdict::Better);
    }

    #[test]
    fn losses_are_called_losses() {
        let report = fixture::report();
        let (view, workload) = report.rows()[0];
        let rows = rows(&report, view, workload);
        let of = |subject| rows.iter().find(|row| row.subject == subject).unwrap();
        assert!(of(Subject::Direct).rate_ratio.is_none());
        assert_eq!(of(Subject::DirectAgain).rate_ratio.unwrap().verdict, Verdict::Noise);
        assert_eq!(of(Subject::AlizeLocal).rate_ratio.unwrap().verdict, Verdict::Better);
        assert_eq!(of(Subject::AlizeRemote).rate_ratio.unwrap().verdict, Verdict::Worse);
        assert_eq!(of(Subject::AlizeRemote).cpu_ratio.unwrap().verdict, Verdict::Worse);
        assert!((of(Subject::AlizeLocal).rate_ratio.unwrap().ratio.value - 1.4).abs() < 0.02);
    }
}
