//! Alizé as it is used: `alize run` with a file, and what it says about the way that requests took.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use alize_model::api::{ServiceStatus, Status};
use anyhow::{Context, Result, bail};

use super::meter::{family, proportional_memory};
use super::peers::Route;
use super::place::{Start, last_lines};
use super::subject::Mesh;
use crate::process::{Kept, run};
use crate::world::Ground;

const PATIENCE: Duration = Duration::from_secs(30);
/// The path labels of requests, as the metrics have them.
const KERNEL: &str = "kernel-l7";
const PROXY: &str = "proxy";
const CONNECTION: &str = "kernel-l4";
const OBSERVED: &str = "observed";
/// So much of what was sent must have taken the way whose name the figures bear.
const ENOUGH: f64 = 0.95;

/// Requests by path label (connections, for services that are balanced by connection).
pub(crate) type Paths = BTreeMap<String, u64>;

/// What the file says.
pub(crate) struct Services<'a> {
    pub(crate) mesh: Mesh,
    pub(crate) routes: &'a [Route],
    /// Services beyond those, which nobody dials.
    pub(crate) more: u32,
    /// Routes of each service that a request has to pass before its own.
    pub(crate) routes_before: u32,
}

impl Services<'_> {
    fn file(&self) -> String {
        let protocol = match self.mesh {
            Mesh::Observe | Mesh::Connections => "tcp",
            Mesh::Requests { .. } | Mesh::Proxy => "http",
        };
        let mut text = String::from("services:\n");
        let mut service = |name: &str, address: SocketAddrV4, server: SocketAddrV4, routes_before: u32| {
            let _ = writeln!(
                text,
                "  - name: bench/{name}\n    address: {address}\n    protocol: {protocol}\n    endpoints: [\"{server}\"]"
            );
            if routes_before > 0 {
                text.push_str("    routes:\n");
                (0..routes_before).for_each(|route| {
                    let _ = writeln!(text, "      - {{match: /route-{route}}}");
                });
                text.push_str("      - {match: /}\n");
            }
        };
        for (number, route) in self.routes.iter().enumerate() {
            service(&format!("web{number}"), route.dialled, route.server, self.routes_before);
        }
        for number in 0..self.more {
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 97, 0, 1)) + number);
            let server = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 220, 0, 1)) + number);
            service(
                &format!("other{number}"),
                SocketAddrV4::new(address, 80),
                SocketAddrV4::new(server, 8080),
                0,
            );
        }
        text
    }
}

/// A running agent with all that it started. When dropped it ends, and everything it loaded is unloaded.
pub(crate) struct Alize {
    process: Option<Kept>,
    program: PathBuf,
    instance: String,
    run_dir: PathBuf,
    metrics: SocketAddrV4,
    mesh: Mesh,
}

impl Alize {
    pub(crate) fn start(
        ground: &Ground,
        program: &Path,
        name: &str,
        cgroup: &Path,
        services: &Services<'_>,
    ) -> Result<Self> {
        let instance = format!("{}-{name}", ground.name());
        let run_dir = ground.folder().join("run");
        std::fs::create_dir_all(&run_dir)?;
        let file = ground.file(&format!("{name}.yaml"), &services.file())?;
        let metrics = free_address()?;
        let log = ground.folder().join(format!("{name}-agent.log"));
        let text = |path: &Path| path.display().to_string();
        let mut words = vec![text(program), "run".into(), text(&file), "--quiet".into()];
        for (flag, value) in [
            ("--cgroup", text(cgroup)),
            ("--run-dir", text(&run_dir)),
            ("--instance", instance.clone()),
            ("--socket", text(&run_dir.join(format!("{instance}.sock")))),
            ("--metrics", metrics.to_string()),
            ("--observe", if services.mesh == Mesh::Observe { "always" } else { "on-demand" }.into()),
        ] {
            words.extend([flag.to_owned(), value]);
        }
        let apart = ground.cgroup("agents")?;
        let start = Start { namespace: None, cgroup: Some(&apart), user: None, signal: true, words };
        let process = Some(start.start(&log)?);
        let mut alize =
            Self { process, program: program.to_owned(), instance, run_dir, metrics, mesh: services.mesh };
        alize.await_ready().with_context(|| format!("alize run: {}", last_lines(&log)))?;
        Ok(alize)
    }

    fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.process.as_mut().context("no agent")?.check_alive()?;
            match self.status() {
                Ok(status) if status.config.generation > 0 => return Ok(()),
                Ok(status) if !status.config.refused.is_empty() => {
                    bail!("the agent refused the bench's own file: {:?}", status.config.refused)
                }
                _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Ok(_) => bail!("the agent put no file in force within {PATIENCE:?}"),
                Err(error) => return Err(error),
            }
        }
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(words).args(["--instance", &self.instance, "--output", "json", "--socket"]);
        command.arg(self.run_dir.join(format!("{}.sock", self.instance)));
        Ok(run(&mut command, None)?.stdout)
    }

    fn status(&self) -> Result<Status> {
        serde_json::from_str(&self.ask(&["status"])?).context("cannot read the agent's status")
    }

    /// Bytes of maps and programs in the kernel, as the agent counts them.
    pub(crate) fn kernel_memory(&self) -> Result<u64> {
        Ok(self.status()?.kernel_memory)
    }

    /// The agent's process, and those of the proxy.
    pub(crate) fn processes(&self) -> (Vec<u32>, Vec<u32>) {
        let all = self.process.as_ref().map(|process| family(process.pid())).unwrap_or_default();
        let (agent, others) = all.split_at(all.len().min(1));
        (agent.to_vec(), others.to_vec())
    }

    pub(crate) fn memory(&self) -> (u64, u64) {
        let (agent, proxy) = self.processes();
        let sum = |pids: Vec<u32>| pids.into_iter().map(proportional_memory).sum();
        (sum(agent), sum(proxy))
    }

    /// What was counted so far.
    pub(crate) fn paths(&self) -> Result<Paths> {
        let metrics = self.read_metrics()?;
        let mut paths = counted(&metrics);
        if self.mesh == Mesh::Observe {
            paths.insert(OBSERVED.into(), sum(&metrics, "alize_http_requests_total"));
        }
        if self.mesh == Mesh::Connections {
            let services: Vec<ServiceStatus> =
                serde_json::from_str(&self.ask(&["services"])?).context("cannot read the services")?;
            paths.insert(CONNECTION.into(), services.iter().map(|service| service.traffic.established).sum());
        }
        Ok(paths)
    }

    fn read_metrics(&self) -> Result<String> {
        let mut stream = TcpStream::connect(self.metrics).context("cannot reach the agent's metrics")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("cannot read the agent's metrics")?;
        Ok(text)
    }
}

/// Counters of requests by their label `path`, whichever part of the mesh counted them.
fn counted(metrics: &str) -> Paths {
    let mut paths = Paths::new();
    for (labels, value) in metrics.lines().filter_map(sample_of_requests) {
        let label = labels.split("path=\"").nth(1).and_then(|rest| rest.split('"').next());
        if let Some(label) = label {
            *paths.entry(label.to_owned()).or_insert(0) += value;
        }
    }
    paths
}

fn sample_of_requests(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once(' ')?;
    let is_it = name.starts_with("alize_") && name.ends_with("requests_total");
    is_it.then_some((labels, value.parse::<f64>().ok()? as u64))
}

fn sum(metrics: &str, name: &str) -> u64 {
    samples(metrics, name).map(|(_, value)| value).sum()
}

fn samples<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{'))
            .then(|| Some((labels, value.parse::<f64>().ok()? as u64)))?
    })
}

/// What was counted between two looks.
pub(crate) fn between(before: &Paths, after: &Paths) -> Paths {
    let more = |(label, count): (&String, &u64)| {
        let more = count.saturating_sub(before.get(label).copied().unwrap_or(0));
        (more > 0).then(|| (label.clone(), more))
    };
    after.iter().filter_map(more).collect()
}

/// An error unless `requests` went the way of `mesh`, over `connections`: no figure stands under a wrong name.
pub(crate) fn check(mesh: Mesh, paths: &Paths, requests: u64, connections: u64) -> Result<()> {
    let (wanted, of) = match mesh {
        Mesh::Observe => (OBSERVED, requests),
        Mesh::Connections => (CONNECTION, connections),
        Mesh::Requests { .. } => (KERNEL, requests),
        Mesh::Proxy => (PROXY, requests),
    };
    let seen = paths.get(wanted).copied().unwrap_or(0);
    if seen as f64 >= of as f64 * ENOUGH {
        return Ok(());
    }
    let others: Vec<String> = paths
        .iter()
        .filter(|(label, _)| *label != wanted)
        .map(|(label, count)| format!("{count} as {label}"))
        .collect();
    let others = if others.is_empty() { "none under another label".into() } else { others.join(", ") };
    bail!(
        "not available in this build or on this machine: of {of} the agent counted {seen} as {wanted}, {others}"
    )
}

/// A port of the loopback that nobody has.
fn free_address() -> Result<SocketAddrV4> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr()?.port()))
}

impl Drop for Alize {
    fn drop(&mut self) {
        // The proxy outlives its agent by design, so it has to be ended by its own number.
        let (_, proxy) = self.processes();
        self.process = None;
        for pid in proxy {
            crate::process::end_orphan(pid, &self.program);
        }
        crate::connect::unload(&self.instance, &self.run_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE alize_http_requests counter\n\
        alize_http_requests_total{service=\"a\",path=\"kernel-l7\",status_class=\"2xx\"} 970\n\
        alize_http_requests_total{service=\"b\",path=\"kernel-l7\"} 20\n\
        alize_http_requests_total{service=\"b\",path=\"proxy\"} 10\n\
        alize_http_requests_total_other 7\n\
        alize_http_request_duration_seconds_sum{path=\"proxy\"} 5\n";

    #[test]
    fn requests_are_counted_by_path_and_nothing_else_is() {
        let paths = counted(METRICS);
        assert_eq!(paths, Paths::from([("kernel-l7".into(), 990), ("proxy".into(), 10)]));
        assert_eq!(sum(METRICS, "alize_http_requests_total"), 1_000);
        let later = Paths::from([("kernel-l7".into(), 1_000), ("proxy".into(), 10)]);
        assert_eq!(between(&paths, &later), Paths::from([("kernel-l7".into(), 10)]));
    }

    #[test]
    fn no_figure_stands_under_a_wrong_name() {
        let (kernel, proxy) = (Mesh::Requests { local: true }, Mesh::Proxy);
        let paths = counted(METRICS);
        assert!(check(kernel, &paths, 1_000, 1).is_ok());
        let refused = check(proxy, &paths, 1_000, 1).unwrap_err().to_string();
        assert!(refused.contains("10 as proxy") && refused.contains("990 as kernel-l7"), "{refused}");
        let refused = check(kernel, &Paths::new(), 1_000, 1).unwrap_err().to_string();
        assert!(refused.contains("not available") && refused.contains("0 as kernel-l7"), "{refused}");
    }

    #[test]
    fn the_file_has_all_services() {
        let route =
            Route { dialled: "10.96.0.10:80".parse().unwrap(), server: "10.210.0.2:8080".parse().unwrap() };
        let services = Services { mesh: Mesh::Proxy, routes: &[route], more: 2, routes_before: 0 };
        let text = services.file();
        let source = alize_model::Source { name: "bench.yaml", text: &text };
        let read =
            alize_model::parse(source, &alize_model::Budgets::default(), &alize_model::HostFacts::default());
        assert_eq!(read.unwrap().0.services().len(), 3);
    }
}
