//! Agents of Alizé, one for each size and protocol, each with a cgroup, pins and a socket of its own.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use alize_datapath::Options;
use alize_model::Budgets;
use alize_model::api::{Applied, Status};
use anyhow::{Context, Result, bail};

use super::layout::{self, ENDPOINTS};
use super::report::Memory;
use crate::process::{Kept, run};
use crate::world::{Ground, left_over};

const BPFFS: &str = "/sys/fs/bpf";
/// How long an agent may take until it is ready, and how long it is waited for a change.
const PATIENCE: Duration = Duration::from_secs(20);

/// A file of `services` services of the given protocol.
pub(crate) fn service_file(services: u32, protocol: &str) -> String {
    let mut file = String::from("services:\n");
    for service in 0..services {
        add_service(&mut file, service, protocol, false);
    }
    file
}

/// As many TCP services, and one of UDP after them that a client watches: its first endpoint is at home or moved.
pub(crate) fn watched_file(services: u32, moved: bool) -> String {
    let mut file = service_file(services, "tcp");
    add_service(&mut file, services, "udp", moved);
    file
}

fn add_service(file: &mut String, service: u32, protocol: &str, moved: bool) {
    let address = layout::service(service);
    let _ = writeln!(
        file,
        "  - name: bench/s{service}\n    address: {address}\n    protocol: {protocol}\n    endpoints:"
    );
    for index in 0..ENDPOINTS {
        let endpoint = if moved && index == 0 {
            layout::moved_endpoint(service)
        } else {
            layout::endpoint(service, index)
        };
        let _ = writeln!(file, "      - {endpoint}");
    }
}

/// Where an instance of that name keeps what it loads.
pub(crate) fn options(ground: &Ground, name: &str, cgroups: Vec<PathBuf>) -> Options {
    options_of(format!("{}-{name}", ground.name()), ground.folder().join("run"), cgroups)
}

/// Takes out what an instance loaded; says so if it cannot.
pub(crate) fn unload(instance: &str, run_dir: &Path) {
    if let Err(error) =
        alize_datapath::unload(&options_of(instance.to_owned(), run_dir.to_owned(), Vec::new()))
    {
        eprintln!("cannot unload instance {instance}: {error}; try: alize unload --instance {instance}");
    }
}

fn options_of(instance: String, run_dir: PathBuf, cgroups: Vec<PathBuf>) -> Options {
    Options { instance, bpffs: BPFFS.into(), run_dir, cgroups, budgets: Budgets::default() }
}

/// Unloads what a bench left that was killed.
pub(crate) fn unload_leftovers(ground: &Ground) {
    for entry in fs::read_dir(Path::new(BPFFS).join("alize")).into_iter().flatten().flatten() {
        let instance = entry.file_name().to_string_lossy().into_owned();
        if !left_over(&instance) {
            continue;
        }
        eprintln!("unloading {instance}, left by a bench that was killed");
        if let Err(error) =
            alize_datapath::unload(&options_of(instance, ground.folder().join("run"), Vec::new()))
        {
            eprintln!("cannot unload it: {error}");
        }
    }
}

/// A running agent. When dropped it ends, and everything it loaded is unloaded.
pub(crate) struct Agent {
    program: PathBuf,
    instance: String,
    run_dir: PathBuf,
    process: Option<Kept>,
}

impl Agent {
    /// Starts an agent for the processes of `cgroup` and waits until `file` is in force.
    pub(crate) fn start(
        ground: &Ground,
        program: &Path,
        name: &str,
        cgroup: &Path,
        file: &Path,
    ) -> Result<Self> {
        let instance = format!("{}-{name}", ground.name());
        let run_dir = ground.folder().join("run");
        fs::create_dir_all(&run_dir)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program).args([
            "agent",
            "--quiet",
            "--metrics",
            "off",
            "--config",
        ]);
        command
            .arg(file)
            .arg("--cgroup")
            .arg(cgroup)
            .arg("--run-dir")
            .arg(&run_dir)
            .args(["--instance", &instance]);
        let socket = run_dir.join(format!("{instance}.sock"));
        command.arg("--socket").arg(socket);
        let log = ground.folder().join(format!("{name}-agent.log"));
        let process = Kept::start(&mut command, &log)?;
        let mut agent = Self { program: program.to_owned(), instance, run_dir, process: Some(process) };
        agent.await_ready().with_context(|| format!("the agent said: {}", said(&log)))?;
        Ok(agent)
    }

    fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.process.as_mut().context("no agent")?.check_alive()?;
            match self.status() {
                Ok(status) if status.config.generation > 0 => return Ok(()),
                Ok(status) if !status.config.refused.is_empty() => {
                    bail!("the agent refused the bench's own file")
                }
                Ok(_) | Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Ok(_) => bail!("the agent put no file in force within {PATIENCE:?}"),
                Err(error) => return Err(error),
            }
        }
    }

    /// `alize`, for this instance.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--instance", &self.instance, "--socket"]);
        command.arg(self.run_dir.join(format!("{}.sock", self.instance))).args(["--output", "json"]);
        command
    }

    pub(crate) fn status(&self) -> Result<Status> {
        let said = run(self.command().arg("status"), None)?.stdout;
        serde_json::from_str(&said).context("cannot read the agent's status")
    }

    /// Puts a file in force, and says how long that took as a whole.
    pub(crate) fn apply(&self, file: &Path) -> Result<(Applied, Duration)> {
        let finished = run(self.command().arg("apply").arg(file), None)?;
        Ok((serde_json::from_str(&finished.stdout).context("cannot read what apply said")?, finished.elapsed))
    }

    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        self.process.as_ref().context("no agent")?.cpu_time()
    }

    /// What the agent and its kernel maps hold now.
    pub(crate) fn memory(&self, services: u32) -> Result<Memory> {
        let pid = self.process.as_ref().context("no agent")?.pid();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| -> Result<u64> {
            let line = rollup.lines().find(|line| line.starts_with(name));
            let kilobytes = line
                .and_then(|line| line.split_whitespace().nth(1))
                .and_then(|word| word.parse::<u64>().ok());
            Ok(kilobytes.with_context(|| format!("no {name} in smaps_rollup"))? * 1024)
        };
        let status = self.status()?;
        let maps = pinned_maps(Path::new(&status.pins)).ok();
        Ok(Memory {
            services,
            pss: field("Pss:")?,
            rss: field("Rss:")?,
            kernel: status.kernel_memory,
            maps_by_bpftool: maps,
            usage_services: status.usage.services,
            usage_endpoints: status.usage.endpoints,
        })
    }
}

/// Sum of what bpftool says each pinned map holds.
fn pinned_maps(pins: &Path) -> Result<u64> {
    let mut total = 0;
    let mut folders = vec![pins.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // Links and programs are pinned beside the maps; bpftool refuses them here.
            let Ok(shown) =
                run(Command::new("bpftool").args(["-j", "map", "show", "pinned"]).arg(&path), None)
            else {
                continue;
            };
            let map: serde_json::Value = serde_json::from_str(&shown.stdout)?;
            total += map.get("bytes_memlock").and_then(serde_json::Value::as_u64).unwrap_or(0);
        }
    }
    Ok(total)
}

fn said(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    if lines.is_empty() { "nothing".into() } else { lines.into_iter().rev().collect::<Vec<_>>().join(" | ") }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process = None;
        unload(&self.instance, &self.run_dir);
    }
}
