//! What of the mesh works on which kernel: `alize-kernels [--check | --features-only | --page] [KERNEL...]`.
//!
//! Boots the kernels of `alize_tests::kernels::KERNELS` in virtual machines and takes this machine's own without one, tries
//! every feature with real sockets, runs the data path's kernel tests, and writes what it found into `docs/kernels.md`.
//! `--check` is the form for CI: features only, and what differs from what is kept is a failure. Nothing is skipped: a
//! kernel that cannot be had or does not come up is a failure. Timing means nothing under emulation.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use alize_tests::kernels::{
    self, Arm64, Compiler, Costs, Guest, HOST, KERNELS, Kernel, NOT_THERE, Results, Run,
};
use anyhow::{Context, Result};
use clap::Parser;

/// Virtual machines at once; each keeps one CPU busy.
const AT_ONCE: usize = 2;

#[derive(Parser)]
#[command(about = "Shows what of the mesh works on which kernel")]
struct Arguments {
    /// Show which kernels there are.
    #[arg(long)]
    list: bool,
    /// Try the features only, and fail where they or their cost differ from what is kept.
    #[arg(long)]
    check: bool,
    /// Leave out the data path's kernel tests, which take many minutes under emulation.
    #[arg(long)]
    features_only: bool,
    /// Run nothing; write the page from what is kept.
    #[arg(long)]
    page: bool,
    /// Only these; `host` is this machine's own.
    kernels: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        KERNELS.iter().for_each(|kernel| eprintln!("{}\t(Debian {})", kernel.name, kernel.suite));
        eprintln!("{HOST}\t(this machine's)");
        return Ok(true);
    }
    if arguments.page {
        write_page(&Results::read(&place(RESULTS))?)?;
        return Ok(true);
    }
    let known = |name: &String| name == HOST || KERNELS.iter().any(|kernel| kernel.name == name);
    if let Some(name) = arguments.kernels.iter().find(|name| !known(name)) {
        anyhow::bail!("no kernel is called {name}; --list shows them");
    }
    let wanted: Vec<Kernel> =
        KERNELS.into_iter().filter(|kernel| is_wanted(kernel.name, &arguments.kernels)).collect();
    kernels::fetch_all(&wanted)?;
    let guest = Guest::build(!arguments.check && !arguments.features_only)?;
    let runs = run_all(&guest, &arguments.kernels);
    let mut verdict = Verdict::default();
    let mut found = Vec::new();
    for (name, run) in runs {
        match run {
            Ok(run) => {
                verdict.hear(&name, &run);
                found.push((name, run));
            }
            Err(error) => verdict.fail(format!("kernel {name}: {error:#}")),
        }
    }
    if arguments.check {
        check(&found, &mut verdict)?
    } else {
        keep(&found, &mut verdict)?
    }
    costs(&found, guest.newest(), &mut verdict)?;
    for failure in &verdict.failures {
        eprintln!("{failure}");
    }
    eprintln!("kernels: {} passed, {} failed", verdict.passed, verdict.failures.len());
    Ok(verdict.failures.is_empty())
}

/// All are, where none is named.
fn is_wanted(name: &str, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == name)
}

/// Runs those that are wanted, the slowest to come first.
fn run_all(guest: &Guest, wanted: &[String]) -> Vec<(String, Result<Run>)> {
    let waiting: Mutex<Vec<Kernel>> =
        Mutex::new(KERNELS.into_iter().filter(|kernel| is_wanted(kernel.name, wanted)).collect());
    let done = Mutex::new(Vec::new());
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(kernel) = next() {
                    let run = guest.boot(kernel);
                    if let Ok(mut done) = done.lock() {
                        done.push((kernel.name.to_owned(), run));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    if is_wanted(HOST, wanted) {
        done.push((HOST.to_owned(), guest.run_here()));
    }
    done
}

#[derive(Default)]
struct Verdict {
    passed: usize,
    failures: Vec<String>,
}

impl Verdict {
    fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// What must hold whatever is kept: features work where their programs are taken, and tests pass.
    fn hear(&mut self, name: &str, run: &Run) {
        eprintln!("kernel {} ({name})", run.outcome.release);
        for row in &run.outcome.features {
            let why = row.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
            eprintln!("    {:<9} {}{why}", row.state, row.feature);
        }
        for row in run.outcome.failed() {
            let why = row.why.as_deref().unwrap_or_default();
            self.fail(format!("kernel {name}: {}: {why}", row.feature));
        }
        self.passed += run.outcome.features.len() - run.outcome.failed().count();
        for (test, passed) in &run.tests {
            match passed {
                true => self.passed += 1,
                false => self.fail(format!("kernel {name}: test {test} failed")),
            }
        }
        if run.lost > 0 {
            self.fail(format!("kernel {name}: {} tests were begun and did not end", run.lost));
        }
        if !run.tests.is_empty() {
            eprintln!("    {} tests; {} are not run there:", run.tests.len(), NOT_THERE.len());
            NOT_THERE.iter().for_each(|(test, why)| eprintln!("        {test}: {why}"));
        } else if KERNELS.iter().any(|kernel| kernel.name == name && kernel.tests) {
            eprintln!("    no tests: features only");
        }
    }
}

fn place(name: &str) -> PathBuf {
    kernels::repository().join(name)
}

const RESULTS: &str = "tests/kernels/results.json";
const COSTS: &str = "tests/kernels/verifier.json";
const ARM64: &str = "tests/kernels/arm64.json";
const PAGE: &str = "docs/kernels.md";

fn check(found: &[(String, Run)], verdict: &mut Verdict) -> Result<()> {
    let results = Results::read(&place(RESULTS))?;
    for (name, run) in found {
        for difference in results.differences(name, &run.outcome) {
            verdict.fail(format!("kernel {name}: {difference}; if that is meant: make test-kernels"));
        }
    }
    Ok(())
}

fn keep(found: &[(String, Run)], verdict: &mut Verdict) -> Result<()> {
    if !verdict.failures.is_empty() {
        eprintln!("nothing is written, because not all is well");
        return Ok(());
    }
    let mut results = Results::read(&place(RESULTS))?;
    results.0.extend(found.iter().map(|(name, run)| (name.clone(), run.outcome.clone())));
    results.0.retain(|name, _| name == HOST || KERNELS.iter().any(|kernel| kernel.name == name));
    results.write(&place(RESULTS))?;
    eprintln!("wrote {RESULTS}");
    write_page(&results)
}

fn write_page(results: &Results) -> Result<()> {
    let arm64 = Arm64::read(&place(ARM64))?.line(&kernels::sources()?);
    let path = place(PAGE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    std::fs::write(&path, kernels::page(&text, results, &arm64)?)?;
    eprintln!("wrote {PAGE}");
    Ok(())
}

/// What the programs cost the verifier, of both compilers. The host's kernel has its series for a name: other machines may
/// have another.
fn costs(found: &[(String, Run)], newest: u32, verdict: &mut Verdict) -> Result<()> {
    let mut costs = Costs::read(&place(COSTS))?;
    let default = Compiler::default_one()?.version;
    let clangs = if newest == default { vec![default] } else { vec![default, newest] };
    let bless = std::env::var_os("ALIZE_BLESS").is_some();
    let mut excesses = Vec::new();
    for clang in &clangs {
        let known = costs.knows(*clang);
        if !known && !bless {
            eprintln!("no cost is kept of programs that clang {clang} makes: only the limit is looked at");
        }
        for (name, run) in found {
            let kernel = if name == HOST { kernels::series(&run.outcome.release) } else { name.clone() };
            let (walked, other) = (&run.outcome.verified, &run.outcome.verified_newest);
            let walked = if *clang == default { walked } else { other };
            if bless {
                costs.keep(*clang, &kernel, walked);
            }
            let compare = bless || known && (name != HOST || costs.of(*clang, &kernel).is_some());
            excesses.extend(costs.excesses(*clang, &kernel, walked, compare));
            // One that was taken before is among the excesses.
            for program in run.outcome.verified.keys().filter(|program| !walked.contains_key(*program)) {
                eprintln!("kernel {name}: program {program} is refused as clang {clang} makes it");
            }
        }
    }
    if bless {
        costs.retain(&clangs);
        costs.write(&place(COSTS))?;
        eprintln!("wrote {COSTS}");
    }
    if !excesses.is_empty() {
        verdict.fail(format!("programs cost the verifier too much:\n{}", kernels::table(&excesses)));
    }
    Ok(())
}
