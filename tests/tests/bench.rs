//! `alize bench` as it is used: what it measures is kept, and it leaves nothing behind, whatever ends it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use alize_tests::place::binary;
use alize_tests::wait::{until, until_true};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A folder for reports that is removed with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("alize-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn report(&self, ending: &str) -> Result<PathBuf> {
        let mut entries = fs::read_dir(&self.0)?.flatten().map(|entry| entry.path());
        let found = entries.find(|path| path.extension().is_some_and(|its| its == ending));
        found.with_context(|| format!("no .{ending} in {}", self.0.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bench(folder: &Folder, more: &[&str]) -> Result<Child> {
    let mut command = Command::new(binary("alize")?);
    command.args(["bench", "--quick", "--slice", "0.1", "--out"]).arg(&folder.0).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start alize")
}

/// What a bench of that process number has made and not removed.
fn left(pid: u32) -> Vec<String> {
    let name = format!("alize-bench-{pid}");
    let places = [std::env::temp_dir(), "/sys/fs/bpf/alize".into(), cgroups()];
    let mut found: Vec<String> = Vec::new();
    for place in places {
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found.extend(processes(&name));
    found
}

/// Processes that bear the name, or whose cgroup does.
fn processes(name: &str) -> Vec<String> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let describe = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_dead = state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
        (!is_dead && (line.contains(name) || cgroup.contains(name))).then(|| format!("process {pid}: {line}"))
    };
    numbers.filter_map(describe).collect()
}

fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.find(|words| words.get(2) == Some(&"cgroup2"));
    found.and_then(|words| words.get(1).map(PathBuf::from)).unwrap_or_default()
}

fn signal(name: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
    ensure!(status.success(), "cannot send {name} to {pid}");
    Ok(())
}

/// Until an agent has loaded its programs: then there is all that has to be removed.
fn await_agent(pid: u32) -> Result<()> {
    let prefix = format!("alize-bench-{pid}");
    until_true("the bench to load Alizé", Duration::from_secs(60), || {
        let pins = fs::read_dir("/sys/fs/bpf/alize").into_iter().flatten().flatten();
        Ok(pins.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)))
    })
}

fn ended(child: Child) -> Result<Output> {
    child.wait_with_output().context("the bench")
}

#[test]
fn a_run_is_kept_shown_again_and_leaves_nothing() -> Result<()> {
    let folder = Folder::new("bench-run")?;
    let child = bench(&folder, &["--rounds=2", "--only=direct-again,alize-l4,nginx-1,nftables"])?;
    let pid = child.id();
    let output = ended(child)?;
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {complained}", output.status);
    assert_eq!(left(pid), Vec::<String>::new());

    let path = folder.report("json")?;
    let report: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    let cells = report["cells"].as_array().context("cells")?;
    for way in ["direct", "direct-again", "alize-l4", "nginx-one", "nftables"] {
        let of: Vec<&Value> = cells.iter().filter(|cell| cell["subject"] == way).collect();
        assert_eq!(of.len(), 2, "{way}: saturation and a rate; left out: {}", report["left_out"]);
        for round in of.iter().flat_map(|cell| cell["rounds"].as_array().into_iter().flatten()) {
            assert_eq!(round["errors"], 0, "{way}: {}", round["first_error"]);
            assert!(round["completed"].as_u64() > Some(0), "{way}: {round}");
            assert!(round["latency"].as_array().is_some_and(|buckets| !buckets.is_empty()));
        }
    }
    // The agent itself says which way the connections took.
    let l4 = cells.iter().find(|cell| cell["subject"] == "alize-l4").context("alize-l4")?;
    assert!(l4["rounds"][0]["paths"].is_object(), "{l4}");
    assert!(
        report["configurations"].as_object().is_some_and(|all| all.keys().any(|name| name.contains("nginx")))
    );
    assert!(said.contains("Alizé L4") && said.contains("Targets"), "{said}");
    assert!(fs::read_to_string(folder.report("html")?)?.contains("<svg"));

    let path = path.display().to_string();
    let again =
        Command::new(binary("alize")?).args(["bench", "--from", &path, "--compare", &path]).output()?;
    ensure!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let again = String::from_utf8_lossy(&again.stdout);
    let (tables, _) = said.split_once("\nKept: ").context("no names of files")?;
    let compared = again.strip_prefix(tables).context("a kept run is not shown as it was")?;
    assert!(compared.contains("inside noise") && !compared.contains("WORSE"), "{compared}");
    Ok(())
}

#[test]
fn without_nginx_it_serves_itself() -> Result<()> {
    let folder = Folder::new("bench-built-in")?;
    // Not quick: bodies of all sizes, and nothing pinned as well.
    let mut command = Command::new(binary("alize")?);
    command.args([
        "bench",
        "--built-in-server",
        "--rounds=1",
        "--slice=0.1",
        "--only=direct-again",
        "-o",
        "json",
        "--out",
    ]);
    let output = command.arg(&folder.0).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(answer["settings"]["server"], "built-in");
    let rows = answer["rows"].as_array().context("rows")?;
    assert!(rows.len() >= 24, "{} rows; left out: {}", rows.len(), answer["left_out"]);
    for row in rows {
        assert_eq!((&row["errors"], &row["unfinished"]), (&0.into(), &0.into()), "{row}");
        assert!(row["rate"].as_f64() > Some(0.0), "{row}");
    }
    Ok(())
}

#[test]
fn interrupted_it_cleans_up() -> Result<()> {
    let folder = Folder::new("bench-interrupt")?;
    let child = bench(&folder, &["--rounds=1000", "--only=alize-l4,haproxy-2"])?;
    let pid = child.id();
    await_agent(pid)?;
    signal("INT", pid)?;
    let output = ended(child)?;
    assert_eq!(output.status.code(), Some(1));
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(complained.contains("interrupted"), "{complained}");
    assert_eq!(left(pid), Vec::<String>::new());
    assert!(folder.report("json").is_err(), "an interrupted run keeps no figures");
    Ok(())
}

#[test]
fn killed_it_is_cleaned_up_by_the_kernel_and_by_the_next_run() -> Result<()> {
    let folder = Folder::new("bench-kill")?;
    let child = bench(&folder, &["--rounds=1000", "--only=alize-l4,haproxy-1"])?;
    let pid = child.id();
    await_agent(pid)?;
    signal("KILL", pid)?;
    ended(child)?;
    let name = format!("alize-bench-{pid}");
    // Processes end with the bench that started them.
    until("its processes to end", Duration::from_secs(20), || {
        let still = processes(&name);
        ensure!(still.is_empty(), "{still:?}");
        Ok(Some(()))
    })?;
    assert!(!left(pid).is_empty(), "pins cannot go by themselves");
    let next = bench(&folder, &["--rounds=1", "--only=direct"])?;
    let output = ended(next)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(left(pid), Vec::<String>::new());
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() -> Result<()> {
    let alize =
        |words: &[&str]| Command::new(binary("alize")?).arg("bench").args(words).output().context("alize");
    let missing = alize(&["--compare", "/nonexistent.json"])?;
    assert_eq!(missing.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent.json"));
    let folder = Folder::new("bench-refuse")?;
    let wrong = folder.0.join("other.json");
    fs::write(&wrong, "{\"schema\": 1}")?;
    let refused = alize(&["--from", &wrong.display().to_string()])?;
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no report"), "{refused:?}");
    let cpu = alize(&["--quick", "--cpu", "9999"])?;
    assert!(String::from_utf8_lossy(&cpu.stderr).contains("no CPU 9999 "), "{cpu:?}");
    assert_eq!(alize(&["--only", "nobody"])?.status.code(), Some(2));
    Ok(())
}
