//! What the command answers: tables for people, the same figures for programs.

use std::path::PathBuf;

use serde::Serialize;

use super::report::{LeftOut, Report, Settings};
use super::summary::{Row, rows};
use super::table::for_people;
use super::targets::{Target, targets};
use crate::machine::Machine;
use crate::sheet::Sheet;

/// The figures of a run without its histograms, which are in the file that was kept.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    version: String,
    date: String,
    machine: Machine,
    settings: Settings,
    targets: Vec<Target>,
    rows: Vec<Row>,
    left_out: Vec<LeftOut>,
    /// Beside an earlier run, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    compared: Option<Sheet>,
    /// Files that were written.
    kept: Vec<PathBuf>,
    #[serde(skip)]
    text: String,
}

impl Answer {
    pub(crate) fn new(report: &Report, compared: Option<Sheet>, kept: Vec<PathBuf>) -> Self {
        let mut text = for_people(report);
        if let Some(sheet) = &compared {
            sheet.aligned(&mut text);
        }
        if !kept.is_empty() {
            let names: Vec<String> = kept.iter().map(|path| path.display().to_string()).collect();
            text.push_str(&format!("\nKept: {}\n", names.join(", ")));
        }
        let all = report.rows().into_iter().flat_map(|(view, workload)| rows(report, view, workload));
        Self {
            version: report.version.clone(),
            date: report.date.clone(),
            machine: report.machine.clone(),
            settings: report.settings.clone(),
            targets: targets(report),
            rows: all.collect(),
            left_out: report.left_out.clone(),
            compared,
            kept,
            text,
        }
    }

    /// For people.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fixture;

    #[test]
    fn programs_get_every_row_and_target() {
        let answer = Answer::new(&fixture::report(), None, vec!["a.json".into()]);
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(12));
        assert_eq!(json["targets"][0]["outcome"], "met");
        assert_eq!(json["rows"][2]["rate_ratio"]["verdict"], "better");
        assert_eq!(json["left_out"][0]["what"], "envoy");
        assert!(json.get("text").is_none() && answer.text().ends_with("Kept: a.json\n"));
    }
}
