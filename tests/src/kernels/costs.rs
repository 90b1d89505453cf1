//! What the programs cost the verifier of each kernel, against what they cost before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Instructions that a verifier walks before it gives up (BPF_COMPLEXITY_LIMIT_INSNS).
const LIMIT: u64 = 1_000_000;
/// More than a quarter of it, and the next kernel may refuse the program.
const MOST: u64 = LIMIT / 4;
/// Growth that must be meant: more than a tenth. Small programs may grow by a few instructions.
const GROWTH: f64 = 1.1;
const SMALL: u64 = 200;

/// How to make what is kept equal to what was found.
const BLESS: &str = "ALIZE_BLESS=1 make test-kernels";

/// By kernel series, then by program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// Major version of the clang that compiled the programs: another one makes other instructions.
    pub clang: u32,
    /// Instructions walked.
    pub walked: BTreeMap<String, BTreeMap<String, u64>>,
}

/// A program that costs too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    kernel: String,
    program: String,
    before: Option<u64>,
    now: Option<u64>,
    why: String,
}

impl Costs {
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

    /// What of `found` costs too much on `kernel`. Without what it cost before (`compare`: the kernel is one that is
    /// kept, compiled by the clang that is kept), only the limit counts.
    pub fn excesses(&self, kernel: &str, found: &BTreeMap<String, u64>, compare: bool) -> Vec<Excess> {
        let kept = self.walked.get(kernel);
        let excess = |program: &str, before, now, why: String| Excess {
            kernel: kernel.into(),
            program: program.into(),
            before,
            now,
            why,
        };
        let mut excesses = Vec::new();
        for (program, &now) in found {
            let before = kept.and_then(|kept| kept.get(program)).copied();
            let why = match before {
                _ if now > MOST => format!("more than {MOST}, a quarter of what a verifier walks at most"),
                None if compare => format!("nothing is kept of it; keep it with: {BLESS}"),
                Some(before) if compare && grown(before, now) => {
                    format!("grown by more than a tenth; if that is meant: {BLESS}")
                }
                _ => continue,
            };
            excesses.push(excess(program, before, Some(now), why));
        }
        for (program, &before) in kept.filter(|_| compare).into_iter().flatten() {
            if !found.contains_key(program) {
                let why = format!("it is kept, but the kernel did not take it; if that is meant: {BLESS}");
                excesses.push(excess(program, Some(before), None, why));
            }
        }
        excesses
    }
}

fn grown(before: u64, now: u64) -> bool {
    now as f64 > before as f64 * GROWTH && now > before + SMALL
}

/// For people.
pub fn table(excesses: &[Excess]) -> String {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let width = excesses.iter().map(|excess| excess.program.len()).max().unwrap_or(0);
    let line = |kernel: &str, program: &str, before: &str, now: &str, why: &str| {
        format!("{kernel:<7} {program:<width$} {before:>8} {now:>8}  {why}\n")
    };
    let mut text = line("KERNEL", "PROGRAM", "BEFORE", "NOW", "");
    for excess in excesses {
        let Excess { kernel, program, before, now, why } = excess;
        text.push_str(&line(kernel, program, &number(*before), &number(*now), why));
    }
    text
}

/// Major version of the clang that builds the programs.
pub fn clang() -> Result<u32> {
    let program = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let text = super::guest::output(std::process::Command::new(program).arg("--version"))?;
    let version = text.split("version ").nth(1).and_then(|rest| rest.split('.').next()?.parse().ok());
    version.with_context(|| format!("clang tells no version: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(list: &[(&str, u64)]) -> BTreeMap<String, u64> {
        list.iter().map(|(name, walked)| ((*name).to_owned(), *walked)).collect()
    }

    #[test]
    fn growth_and_the_limit_are_told() {
        let kept = programs(&[("small", 100), ("large", 10_000), ("gone", 5)]);
        let costs = Costs { clang: 14, walked: [("6.1".to_owned(), kept)].into() };
        let names = |found: &[(&str, u64)], compare| {
            let excesses = costs.excesses("6.1", &programs(found), compare);
            excesses.into_iter().map(|excess| (excess.program, excess.why)).collect::<Vec<_>>()
        };
        let within = [("small", 300), ("large", 11_000), ("gone", 5)];
        assert_eq!(names(&within, true), []);
        let beyond = names(&[("small", 301), ("large", 11_001), ("new", 1)], true);
        let programs: Vec<&str> = beyond.iter().map(|(program, _)| program.as_str()).collect();
        assert_eq!(programs, ["large", "new", "small", "gone"]);
        assert!(beyond.iter().all(|(_, why)| why.contains(BLESS)), "{beyond:?}");
        // On a kernel or with a compiler of which nothing is kept, the limit counts all the same.
        let other = names(&[("new", 250_001), ("large", 250_000)], false);
        assert_eq!(other.len(), 1);
        assert!(other[0].1.contains("250000"), "{other:?}");
        let excesses = costs.excesses("6.1", &BTreeMap::from([("new".to_owned(), 1)]), true);
        assert!(table(&excesses).contains("gone"), "{}", table(&excesses));
    }
}
