//! Whether this kernel does what the in-kernel HTTP path relies on. Version numbers lie where distributions port back,
//! and some of it no version tells; so each thing is tried, with real sockets.
//!
//! [`probe`] takes well under a second. It works in a network namespace and a cgroup of its own, of which nothing is
//! left, even if the process is killed: the namespace goes with its sockets, and a cgroup that a killed probe left is
//! removed by the next. [`ensure`] asks again only after a boot, or for another kernel or version of Alizé.

mod back;
mod checks;
pub(crate) mod nursery;
mod programs;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{Options, environment};
use checks::{Bench, Need, Trial};
use nursery::{Nursery, PrivateCgroup};
pub(crate) use programs::{BACK_OBJECT, OBJECT};
use programs::{BackPrograms, Programs};

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result", content = "why")]
pub enum Outcome {
    /// The kernel does as it should.
    Passed,
    /// It does not.
    Failed(String),
    /// It could not be tried.
    NotRun(String),
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, as in the metrics.
    pub name: String,
    /// What was tried, for people.
    pub what: String,
    /// Whether the in-kernel HTTP path is off without it; others are known limits that it lives with.
    pub essential: bool,
    /// Whether requests to endpoints on other hosts are the proxy's without it.
    #[serde(default)]
    pub remote: bool,
    /// What it came to.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, in seconds.
    pub took: f64,
}

/// What was tried on which kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// The kernel's name of this boot.
    pub boot: String,
    /// Version of Alizé that tried.
    pub version: String,
    /// When, in seconds since the Unix epoch.
    pub time: f64,
    /// How long all of it took, in seconds.
    pub took: f64,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether HTTP may be served in the kernel; if not, why.
    pub fn http_path(&self) -> Result<(), String> {
        self.lacking(|check| check.essential)
    }

    /// Whether that includes endpoints on other hosts; if not, why.
    pub fn remote_path(&self) -> Result<(), String> {
        self.http_path()?;
        self.lacking(|check| check.remote)
    }

    fn lacking(&self, needed: impl Fn(&Check) -> bool) -> Result<(), String> {
        let lacking = |check: &&Check| needed(check) && check.outcome != Outcome::Passed;
        match self.checks.iter().find(lacking) {
            None if self.checks.is_empty() => Err("nothing was tried".into()),
            None => Ok(()),
            Some(Check { name, outcome: Outcome::NotRun(why), .. }) => {
                Err(format!("{name} was not tried: {why}"))
            }
            Some(Check { name, outcome: Outcome::Failed(why), .. }) => Err(format!("{name}: {why}")),
            Some(Check { name, .. }) => Err(name.clone()),
        }
    }

    /// Whether it is about the kernel that runs now, by this version.
    fn is_current(&self) -> bool {
        let (kernel, boot) = running();
        // A build between two versions may try more.
        let same = self.checks.iter().map(|check| check.name.as_str()).eq(trials().map(|trial| trial.name));
        self.kernel == kernel && self.boot == boot && self.version == VERSION && !boot.is_empty() && same
    }

    /// Whether every check could be made; what could not may be possible the next time.
    fn is_complete(&self) -> bool {
        !self.checks.iter().any(|check| matches!(check.outcome, Outcome::NotRun(_)))
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn trials() -> impl Iterator<Item = &'static Trial> {
    checks::TRIALS.iter().chain(&back::TRIALS)
}

/// Tries everything, now. Blocks the thread for well under a second.
pub fn probe() -> Report {
    let begun = Instant::now();
    let checks = match bench() {
        Ok(bench) => try_all(&bench),
        Err((outcome, took)) => trials()
            .enumerate()
            .map(|(place, trial)| match place {
                0 => check(trial, outcome.clone(), took),
                _ => check(
                    trial,
                    Outcome::NotRun("without the first check no other can be made".into()),
                    Duration::ZERO,
                ),
            })
            .collect(),
    };
    let (kernel, boot) = running();
    Report {
        kernel,
        boot,
        version: VERSION.into(),
        time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        took: begun.elapsed().as_secs_f64(),
        checks,
    }
}

/// What was found since this boot by this version, else [`probe`], kept for the next who asks.
pub fn ensure(options: &Options) -> Report {
    if let Some(report) = kept(options) {
        return report;
    }
    let report = probe();
    if report.is_complete()
        && let Err(error) = keep(&options.run_dir, &report)
    {
        tracing::warn!(
            "cannot keep what the kernel was found to do in {}: {error}",
            options.run_dir.display()
        );
    }
    report
}

/// What was found since this boot by this version, if anything was.
pub fn kept(options: &Options) -> Option<Report> {
    let report: Report = serde_json::from_slice(&fs::read(place(&options.run_dir)).ok()?).ok()?;
    report.is_current().then_some(report)
}

fn keep(run_dir: &Path, report: &Report) -> io::Result<()> {
    fs::create_dir_all(run_dir)?;
    let beside = run_dir.join(format!("conformance.{}.new", std::process::id()));
    fs::write(&beside, serde_json::to_vec_pretty(report)?)?;
    fs::rename(beside, place(run_dir))
}

fn place(run_dir: &Path) -> PathBuf {
    run_dir.join("conformance.json")
}

/// Release and boot of the running kernel.
fn running() -> (String, String) {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    (read("/proc/sys/kernel/osrelease"), read("/proc/sys/kernel/random/boot_id"))
}

/// Everything that the checks need, or what became of the first check without it.
fn bench() -> Result<Bench, (Outcome, Duration)> {
    let begun = Instant::now();
    let not_run = |why: String| (Outcome::NotRun(why), begun.elapsed());
    environment::check_root().map_err(|error| not_run(error.to_string()))?;
    let private = PrivateCgroup::make().map_err(not_run)?;
    // Whatever the kernel refuses here, it would refuse of the path itself.
    let programs = Programs::load(&private.cgroup).map_err(|why| (Outcome::Failed(why), begun.elapsed()))?;
    let nursery = Nursery::make(&private.cgroup).map_err(|error| {
        not_run(format!("cannot make sockets in a network namespace of their own: {error}"))
    })?;
    programs.swap(1).map_err(|error| not_run(format!("cannot write a map: {error}")))?;
    let back = BackPrograms::load(&programs);
    Ok(Bench { programs, back, nursery })
}

fn try_all(bench: &Bench) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for trial in trials() {
        if checks.first().is_some_and(|first| first.outcome != Outcome::Passed) {
            let why = Outcome::NotRun("without the first check no other can be made".into());
            checks.push(check(trial, why, Duration::ZERO));
            continue;
        }
        let begun = Instant::now();
        let outcome = match (trial.run)(bench) {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        checks.push(check(trial, outcome, begun.elapsed()));
    }
    checks
}

fn check(trial: &Trial, outcome: Outcome, took: Duration) -> Check {
    Check {
        name: trial.name.into(),
        what: trial.what.into(),
        essential: trial.need == Need::Path,
        remote: trial.need == Need::Remote,
        outcome,
        took: took.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: [Outcome; 3]) -> Report {
        let check = |(place, outcome): (usize, Outcome)| Check {
            name: format!("check-{place}"),
            what: String::new(),
            essential: place < 2,
            remote: place == 2,
            outcome,
            took: 0.0,
        };
        let checks = outcomes.into_iter().enumerate().map(check).collect();
        let (kernel, boot) = running();
        Report { kernel, boot, version: VERSION.into(), time: 1.5, took: 0.25, checks }
    }

    #[test]
    fn the_path_needs_what_is_essential_only() {
        use Outcome::{Failed, NotRun, Passed};
        let failed = || Failed("why".to_owned());
        assert_eq!(report([Passed, Passed, failed()]).http_path(), Ok(()));
        assert_eq!(report([Passed, Passed, failed()]).remote_path(), Err("check-2: why".into()));
        assert_eq!(report([Passed, failed(), Passed]).remote_path(), Err("check-1: why".into()));
        assert_eq!(report([Passed, Passed, Passed]).remote_path(), Ok(()));
        assert_eq!(report([Passed, failed(), Passed]).http_path(), Err("check-1: why".into()));
        let not_run = report([NotRun("no root".into()), Passed, Passed]);
        assert_eq!(not_run.http_path(), Err("check-0 was not tried: no root".into()));
        assert!(!not_run.is_complete() && report([failed(), Passed, Passed]).is_complete());
        let nothing = Report { checks: Vec::new(), ..not_run };
        assert!(nothing.http_path().is_err());
    }

    #[test]
    fn what_was_kept_is_of_this_boot_kernel_and_version() {
        let folder = std::env::temp_dir().join(format!("conformance-kept-{}", std::process::id()));
        let options = Options {
            instance: "x".into(),
            bpffs: "/sys/fs/bpf".into(),
            run_dir: folder.clone(),
            cgroups: Vec::new(),
            budgets: alize_model::Budgets::default(),
        };
        assert_eq!(kept(&options), None);
        let mut current = report([Outcome::Passed, Outcome::Failed("a".into()), Outcome::NotRun("b".into())]);
        current.checks = trials().map(|trial| check(trial, Outcome::Passed, Duration::ZERO)).collect();
        keep(&folder, &current).unwrap();
        assert_eq!(kept(&options), Some(current.clone()));
        let others = [
            Report { boot: "another".into(), ..current.clone() },
            Report { kernel: "another".into(), ..current.clone() },
            Report { version: "another".into(), ..current.clone() },
            Report { checks: current.checks[1..].to_vec(), ..current.clone() },
        ];
        for other in others {
            keep(&folder, &other).unwrap();
            assert_eq!(kept(&options), None, "{other:?}");
        }
        fs::write(place(&folder), "nonsense").unwrap();
        assert_eq!(kept(&options), None);
        fs::remove_dir_all(folder).unwrap();
    }

    /// Needs root. With no program on the sockets, every check that is about one must fail.
    #[test]
    fn the_checks_can_fail() {
        let bench = bench().unwrap_or_else(|(outcome, _)| panic!("{outcome:?}"));
        bench.programs.leave_alone(true).unwrap();
        let not_about_one = ["early-data", "blocking-receive", "back-insertion"];
        let mut bench = bench;
        if let Ok(back) = &mut bench.back {
            back.leave_alone = true;
        }
        for trial in trials().filter(|trial| !not_about_one.contains(&trial.name)) {
            let outcome = (trial.run)(&bench);
            assert!(outcome.is_err(), "{} passed without a program", trial.name);
        }
    }
}
