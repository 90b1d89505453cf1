//! Two runs beside each other: what has changed, and whether it is more than noise.

use anyhow::{Result, bail};

use super::report::{Cell, Figure, Report};
use super::summary::{Verdict, noise};
use crate::sheet::Sheet;
use crate::statistics::{Estimate, Random, median};
use crate::units::{nanoseconds, thousands};

const FIGURES: [(Figure, &str); 4] = [
    (Figure::Rate, "requests/s"),
    (Figure::P50, "p50"),
    (Figure::P99, "p99"),
    (Figure::ProcessCpu, "CPU/request"),
];

/// What `new` changed against `old`; rows that only one of them has are not in it.
pub(crate) fn compare(old: &Report, new: &Report) -> Result<Sheet> {
    let mut rows = Vec::new();
    for cell in &new.cells {
        let Some(before) = old.cell(cell.view, cell.workload, cell.subject) else { continue };
        for (figure, name) in FIGURES {
            // A fixed rate is what was asked for.
            if figure == Figure::Rate && !cell.workload.is_saturation() {
                continue;
            }
            rows.extend(row((old, before), (new, cell), figure, name));
        }
    }
    if rows.is_empty() {
        bail!("the two runs have measured nothing alike (same way, workload and CPU)");
    }
    let apart = old.machine.kernel != new.machine.kernel || old.machine.processor != new.machine.processor;
    let warning = if apart { "; THE MACHINES OR KERNELS DIFFER" } else { "" };
    Ok(Sheet {
        title: format!("{} ({}) beside {} ({})", new.version, new.date, old.version, old.date),
        note: Some(format!(
            "new over old, [95 % interval]; runs are apart in time, so a change counts only beyond the noise of both{warning}"
        )),
        head: vec!["", "workload", "figure", "old", "new", "new over old"],
        rows,
    })
}

fn row(
    (old_report, old): (&Report, &Cell),
    (new_report, new): (&Report, &Cell),
    figure: Figure,
    name: &str,
) -> Option<Vec<String>> {
    let values = |report: &Report, cell: &Cell| -> Vec<f64> {
        cell.each(figure, report.idle_rate()).into_iter().filter(|value| value.is_finite()).collect()
    };
    let (before, after) = (values(old_report, old), values(new_report, new));
    let ratio = ratio_of_medians(&after, &before)?;
    let noises = [(old_report, old), (new_report, new)];
    let noise = noises.iter().filter_map(|(report, cell)| noise(report, cell.view, cell.workload, figure));
    let verdict = super::summary::judge(ratio, figure == Figure::Rate, noise.fold(0.0, f64::max));
    let show = |value: f64| if figure == Figure::Rate { thousands(value as u64) } else { nanoseconds(value) };
    let verdict = if verdict == Verdict::Noise { "inside noise" } else { verdict.label() };
    Some(vec![
        new.subject.label().to_owned(),
        new.workload.label(),
        name.to_owned(),
        show(median(&before)?),
        show(median(&after)?),
        format!("{:.2} [{:.2}, {:.2}] {verdict}", ratio.value, ratio.low, ratio.high),
    ])
}

/// Rounds of two runs are no pairs: both are drawn anew.
fn ratio_of_medians(of: &[f64], to: &[f64]) -> Option<Estimate> {
    let value = median(of)? / median(to)?;
    let mut random = Random::new(0xc0de);
    let mut draw = |values: &[f64]| -> Vec<f64> {
        values.iter().map(|_| values[random.below(values.len() as u32) as usize]).collect()
    };
    let mut ratios: Vec<f64> = (0..2_000)
        .filter_map(|_| Some(median(&draw(of))? / median(&draw(to))?))
        .filter(|it| it.is_finite())
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios.get(((ratios.len().max(1) - 1) as f64 * share).round() as usize).copied();
    let found = Estimate { value, low: at(0.025)?, high: at(0.975)? };
    Some(super::summary::unless_few(found, of.len().min(to.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fixture;

    fn verdicts(old: &Report, new: &Report) -> Vec<String> {
        compare(old, new).unwrap().rows.into_iter().map(|row| row.last().unwrap().clone()).collect()
    }

    #[test]
    fn a_run_beside_itself_has_changed_nothing() {
        let report = fixture::report();
        assert!(verdicts(&report, &report).iter().all(|verdict| verdict.ends_with("inside noise")));
    }

    #[test]
    fn a_slower_build_is_worse_in_every_figure_and_a_faster_one_better() {
        let (old, slow) = (fixture::report(), fixture::scaled(0.6));
        assert!(
            verdicts(&old, &slow).iter().all(|verdict| verdict.ends_with("WORSE")),
            "{:?}",
            verdicts(&old, &slow)
        );
        assert!(verdicts(&slow, &old).iter().all(|verdict| verdict.ends_with("better")));
    }

    #[test]
    fn runs_with_nothing_in_common_are_an_error() {
        let mut other = fixture::report();
        other.cells.clear();
        assert!(compare(&fixture::report(), &other).is_err());
    }
}
