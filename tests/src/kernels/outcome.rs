//! What works on which kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::guest::NEWEST;
use super::{HOST, series};

/// One feature on one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What it is called.
    pub feature: String,
    /// `mesh`, or `capability`: nothing of the mesh uses it yet.
    pub kind: String,
    /// `on`, `degraded`, `off`; `failed` where it should work and does not.
    pub state: String,
    /// Why it is not on.
    pub why: Option<String>,
}

/// What a program costs the verifier.
#[derive(Clone, Debug, Deserialize)]
struct Cost {
    program: String,
    verified: Option<u64>,
}

/// What works on one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its release.
    pub release: String,
    /// In the order in which they were tried.
    pub features: Vec<Row>,
    /// Instructions that its verifier walked, by program; empty where it does not tell (before 5.16).
    #[serde(skip)]
    pub verified: BTreeMap<String, u64>,
    /// The same of programs that the newest clang has made.
    #[serde(skip)]
    pub verified_newest: BTreeMap<String, u64>,
}

impl Outcome {
    pub(super) fn read(release: String, text: &str) -> Result<Self> {
        let mut outcome = Self { release, ..Self::default() };
        let mut newest = false;
        for line in text.lines() {
            newest |= line == NEWEST;
            if !line.starts_with('{') {
                continue;
            }
            if let Ok(row) = serde_json::from_str::<Row>(line) {
                outcome.features.push(row);
            } else {
                let cost: Cost = serde_json::from_str(line).with_context(|| format!("what is {line}?"))?;
                let costs = if newest { &mut outcome.verified_newest } else { &mut outcome.verified };
                costs.extend(cost.verified.map(|verified| (cost.program, verified)));
            }
        }
        ensure!(!outcome.features.is_empty(), "no feature was tried");
        Ok(outcome)
    }

    /// Features that should work and do not.
    pub fn failed(&self) -> impl Iterator<Item = &Row> {
        self.features.iter().filter(|row| row.state == "failed")
    }
}

/// By the name of the column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results(pub BTreeMap<String, Outcome>);

impl Results {
    /// What is kept in the tree.
    pub fn read(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Keeps it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What differs of column `name` between what is kept and what was `found`.
    ///
    /// Debian's kernels are the same everywhere: all of it must be equal, but for numbers in the reasons. The host's is
    /// whatever this machine runs: only if it is of the series that is kept, and only of the mesh's own features, are
    /// differences told; what a machine permits beyond them is its own affair.
    pub fn differences(&self, name: &str, found: &Outcome) -> Vec<String> {
        let Some(kept) = self.0.get(name) else {
            return if name == HOST { Vec::new() } else { vec![format!("no column {name} is kept")] };
        };
        if name == HOST && series(&kept.release) != series(&found.release) {
            return Vec::new();
        }
        let counts = |row: &&Row| name != HOST || row.kind == "mesh";
        let mut differences = Vec::new();
        for row in found.features.iter().filter(counts) {
            let before = kept.features.iter().find(|kept| kept.feature == row.feature);
            if before.is_none_or(|before| told(before) != told(row)) {
                differences.push(format!(
                    "{}: {} was kept, {} was found",
                    row.feature,
                    before.map_or("nothing".into(), told),
                    told(row)
                ));
            }
        }
        for row in kept.features.iter().filter(counts) {
            if !found.features.iter().any(|found| found.feature == row.feature) {
                differences.push(format!("{} is kept, but was not tried", row.feature));
            }
        }
        differences
    }
}

/// State and reason, without the numbers in it: process ids, times, lengths.
fn told(row: &Row) -> String {
    let why = row.why.as_deref().unwrap_or_default();
    let mut text = format!("{} ", row.state);
    for character in why.chars() {
        match character.is_ascii_digit() {
            true if text.ends_with('#') => {}
            true => text.push('#'),
            false => text.push(character),
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(release: &str, rows: &[(&str, &str, &str, Option<&str>)]) -> Outcome {
        let row = |&(feature, kind, state, why): &(&str, &str, &str, Option<&str>)| Row {
            feature: feature.into(),
            kind: kind.into(),
            state: state.into(),
            why: why.map(str::to_owned),
        };
        Outcome { release: release.into(), features: rows.iter().map(row).collect(), ..Outcome::default() }
    }

    #[test]
    fn a_debian_kernel_must_be_as_it_was() {
        let kept =
            outcome("6.1.0-1", &[("a", "mesh", "off", Some("took 12 ms")), ("b", "capability", "on", None)]);
        let results = Results([("6.1".to_owned(), kept.clone())].into());
        assert_eq!(
            results.differences("6.1", &Outcome { release: "6.1.0-2".into(), ..kept.clone() }),
            [""; 0]
        );
        let other =
            outcome("6.1.0-2", &[("a", "mesh", "off", Some("took 9 ms")), ("b", "capability", "on", None)]);
        assert_eq!(results.differences("6.1", &other), [""; 0]);
        let other = outcome("6.1.0-2", &[("a", "mesh", "on", None), ("c", "mesh", "on", None)]);
        let expected = [
            "a: off took # ms was kept, on was found",
            "c: nothing was kept, on was found",
            "b is kept, but was not tried",
        ];
        assert_eq!(results.differences("6.1", &other), expected);
        assert_eq!(results.differences("6.12", &other), ["no column 6.12 is kept"]);
    }

    #[test]
    fn another_machine_may_have_another_kernel() {
        let kept = outcome("6.18.1", &[("a", "mesh", "on", None), ("b", "capability", "off", Some("x"))]);
        let results = Results([(HOST.to_owned(), kept)].into());
        let found = |release, a, b| outcome(release, &[("a", "mesh", a, None), ("b", "capability", b, None)]);
        assert_eq!(results.differences(HOST, &found("6.18.9", "on", "on")), [""; 0]);
        assert_eq!(results.differences(HOST, &found("6.18.9", "off", "on")).len(), 1);
        assert_eq!(results.differences(HOST, &found("6.1.0", "off", "on")), [""; 0]);
    }

    #[test]
    fn lines_are_read() {
        let text = "noise\n{\"feature\":\"a\",\"kind\":\"mesh\",\"state\":\"failed\",\"why\":\"w\"}\n\
                    {\"program\":\"p\",\"verified\":7}\n{\"program\":\"old\",\"verified\":null}\n\
                    @newest\n{\"program\":\"p\",\"verified\":9}\n";
        let read = Outcome::read("6.1".into(), text).unwrap();
        assert_eq!(read.failed().count(), 1);
        assert_eq!(read.verified, [("p".to_owned(), 7)].into());
        assert_eq!(read.verified_newest, [("p".to_owned(), 9)].into());
        assert!(Outcome::read("6.1".into(), "noise").is_err());
        assert!(Outcome::read("6.1".into(), "{\"x\":1}").is_err());
    }
}
