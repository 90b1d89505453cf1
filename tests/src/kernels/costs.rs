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

/// Instructions walked, by program.
pub type Walked = BTreeMap<String, u64>;

/// By major version of the clang that compiled the programs, since another one makes other instructions; then by kernel
/// series.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Costs(BTreeMap<u32, BTreeMap<String, Walked>>);

/// A program that costs too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    clang: u32,
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

    /// Whether anything is kept of this compiler.
    pub fn knows(&self, clang: u32) -> bool {
        self.0.contains_key(&clang)
    }

    /// What is kept of `kernel`.
    pub fn of(&self, clang: u32, kernel: &str) -> Option<&Walked> {
        self.0.get(&clang)?.get(kernel)
    }

    /// Keeps what was `found` in place of what was kept.
    pub fn keep(&mut self, clang: u32, kernel: &str, found: &Walked) {
        self.0.entry(clang).or_default().insert(kernel.to_owned(), found.clone());
    }

    /// Forgets other compilers than these.
    pub fn retain(&mut self, clangs: &[u32]) {
        self.0.retain(|clang, _| clangs.contains(clang));
    }

    /// What of `found` costs too much on `kernel`. Without `compare` (nothing of this compiler or kernel is kept) only the
    /// limit counts.
    pub fn excesses(&self, clang: u32, kernel: &str, found: &Walked, compare: bool) -> Vec<Excess> {
        let kept = self.of(clang, kernel);
        let excess = |program: &str, before, now, why: String| Excess {
            clang,
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
    let longest = excesses.iter().map(|excess| excess.program.len()).max();
    let width = longest.unwrap_or(0).max("PROGRAM".len());
    let line = |clang: &str, kernel: &str, program: &str, before: &str, now: &str, why: &str| {
        format!("{clang:<6} {kernel:<7} {program:<width$} {before:>8} {now:>8}  {why}\n")
    };
    let mut text = line("CLANG", "KERNEL", "PROGRAM", "BEFORE", "NOW", "");
    for excess in excesses {
        let Excess { clang, kernel, program, before, now, why } = excess;
        text.push_str(&line(&clang.to_string(), kernel, program, &number(*before), &number(*now), why));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(list: &[(&str, u64)]) -> Walked {
        list.iter().map(|(name, walked)| ((*name).to_owned(), *walked)).collect()
    }

    #[test]
    fn growth_and_the_limit_are_told() {
        let kept = programs(&[("small", 100), ("large", 10_000), ("gone", 5)]);
        let mut costs = Costs::default();
        costs.keep(14, "6.1", &kept);
        let names = |found: &[(&str, u64)], compare| {
            let excesses = costs.excesses(14, "6.1", &programs(found), compare);
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
        let excesses = costs.excesses(14, "6.1", &BTreeMap::from([("new".to_owned(), 1)]), true);
        assert!(table(&excesses).contains("gone"), "{}", table(&excesses));
    }

    #[test]
    fn the_limit_holds_for_every_compiler() {
        let mut costs = Costs::default();
        costs.keep(14, "6.1", &programs(&[("p", 200_000)]));
        let excesses = costs.excesses(22, "6.1", &programs(&[("p", 357_904)]), costs.knows(22));
        let line = format!("{:<6} {:<7} {:<7} {:>8} {:>8}  more than 250000", 22, "6.1", "p", "-", 357_904);
        assert!(table(&excesses).contains(&line), "{}", table(&excesses));
        // What another compiler costs does not excuse this one.
        costs.keep(22, "6.1", &programs(&[("p", 100_000)]));
        assert_eq!(costs.excesses(14, "6.1", &programs(&[("p", 220_000)]), true), []);
        assert_eq!(costs.excesses(22, "6.1", &programs(&[("p", 111_000)]), true).len(), 1);
        costs.retain(&[22]);
        assert!(!costs.knows(14) && costs.knows(22));
    }

    #[test]
    fn what_is_kept_is_within_the_limit() {
        let costs = Costs::read(&crate::kernels::repository().join("tests/kernels/verifier.json")).unwrap();
        assert!(costs.0.len() >= 2, "the oldest and the newest clang are kept");
        for (clang, kernels) in &costs.0 {
            for (kernel, kept) in kernels {
                let excesses = costs.excesses(*clang, kernel, kept, true);
                assert_eq!(excesses, [], "{}", table(&excesses));
            }
        }
    }
}
