//! The agent under test: the real binary, and its API.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use alize_model::api::{EndpointStatus, Event, ServiceStatus, Status};
use anyhow::{Context, Result, ensure};

use crate::http::{Response, ask};
use crate::wait::{until, until_true};
use crate::{Cgroup, Namespace, Place, Process, World};

/// Where metrics are served in the agent's namespace.
pub const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9478);

/// Loading the programs takes about a second on a busy machine; 10,000 services a little more.
const START: Duration = Duration::from_secs(60);

/// A proxy is started, or has taken another's place, and has its state.
const SERVING: Duration = Duration::from_secs(30);

/// Reading a changed file, and writing what is different.
const CHANGE: Duration = Duration::from_secs(20);

/// How to start an agent beyond its file.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// More flags, such as `--max-affinity=1`.
    pub flags: Vec<String>,
    /// Another name than the world's.
    pub instance: Option<String>,
    /// Other cgroups to mesh than the world's.
    pub cgroups: Vec<Cgroup>,
    /// Of its environment, such as `ALIZE_FAULT`.
    pub environment: Vec<(String, String)>,
    /// The mounts that it sees, if not the test's.
    pub mounts: Option<u32>,
    /// Serve no metrics, so that two agents can run side by side.
    pub without_metrics: bool,
}

impl AgentOptions {
    /// With these flags.
    pub fn flags(flags: &[&str]) -> Self {
        Self { flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..Self::default() }
    }
}

/// A running agent; killed when dropped, which leaves the data path in the kernel until the world ends.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    place: Place,
    file: PathBuf,
    socket: PathBuf,
    instance: String,
}

impl Agent {
    /// Writes `text` to the world's file, starts an agent with it in the namespace `node`, and waits until it is in force.
    pub fn start(world: &World, text: &str) -> Result<Self> {
        Self::start_with(world, text, &AgentOptions::default())
    }

    /// As [`Agent::start`], with options.
    pub fn start_with(world: &World, text: &str, options: &AgentOptions) -> Result<Self> {
        let mut agent = Self::spawn(world, text, options)?;
        agent.ready()?;
        Ok(agent)
    }

    /// As [`Agent::start_with`], without waiting.
    pub fn spawn(world: &World, text: &str, options: &AgentOptions) -> Result<Self> {
        let place = Place { mounts: options.mounts, ..world.plain("node")? };
        let instance = options.instance.clone().unwrap_or_else(|| world.instance());
        let file = world.folder().join(format!("{instance}.yaml"));
        fs::write(&file, text)?;
        let binary = crate::place::binary("alize")?;
        let metrics = if options.without_metrics { "off".to_owned() } else { METRICS.to_string() };
        let mut paths = vec![("--bpffs", world.bpffs()), ("--run-dir", world.run_dir())];
        match options.cgroups.as_slice() {
            [] => paths.push(("--cgroup", world.mesh().path().to_owned())),
            cgroups => paths.extend(cgroups.iter().map(|cgroup| ("--cgroup", cgroup.path().to_owned()))),
        }
        let mut arguments =
            vec!["run".to_owned(), file.display().to_string(), format!("--instance={instance}")];
        arguments.extend(paths.iter().map(|(flag, path)| format!("{flag}={}", path.display())));
        arguments.push(format!("--metrics={metrics}"));
        arguments.push(format!("--bundles={}", world.folder().join("bundles").display()));
        arguments.extend(options.flags.iter().cloned());
        let name = format!("agent-{instance}");
        let process = match options.environment.as_slice() {
            [] => place.start(&name, &binary.to_string_lossy(), &arguments)?,
            set => {
                let set = set.iter().map(|(name, value)| format!("{name}={value}"));
                let line: Vec<String> =
                    set.chain([binary.to_string_lossy().into_owned()]).chain(arguments).collect();
                place.start(&name, "env", &line)?
            }
        };
        Ok(Self { socket: world.run_dir().join(format!("{instance}.sock")), process, place, file, instance })
    }

    fn ready(&mut self) -> Result<()> {
        let waited = until("the agent to be ready", START, || {
            if let Some(status) = self.process.ended()? {
                return Ok(Some(Err(anyhow::anyhow!("the agent has ended: {status}"))));
            }
            let status: Status = serde_json::from_str(&get(&self.socket, "/v1/status")?)?;
            Ok((status.pid == self.process.pid() && status.config.generation > 0).then_some(Ok(())))
        });
        waited.and_then(|ready| ready).with_context(|| format!("its log: {}", self.process.log_end()))
    }

    /// Waits for a proxy other than `than` that serves; its pid.
    pub fn proxy(&self, than: u32) -> Result<u32> {
        until("a proxy that serves", SERVING, || {
            let proxy = self.status()?.proxy;
            let serves = proxy.filter(|proxy| proxy.problem.is_none() && proxy.generation > 0);
            Ok(serves.and_then(|proxy| proxy.pid).filter(|pid| *pid != than))
        })
    }

    /// Starts a proxy as an agent does; it takes the place of the one that runs.
    pub fn successor(world: &World) -> Result<Process> {
        let paths = [
            ("--run-dir", world.run_dir()),
            ("--bpffs", world.bpffs()),
            ("--cgroup", world.mesh().path().to_owned()),
        ];
        let mut arguments = vec!["proxy".to_owned(), format!("--instance={}", world.instance())];
        arguments.extend(paths.iter().map(|(flag, path)| format!("{flag}={}", path.display())));
        let binary = crate::place::binary("alize")?;
        world.plain("node")?.start("successor", &binary.to_string_lossy(), &arguments)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The socket of its API.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The file that it watches.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The namespace in which it runs and serves metrics.
    pub fn namespace(&self) -> &Namespace {
        &self.place.namespace
    }

    /// Asks the API.
    pub fn api(&self, method: &str, path: &str, body: &str) -> Result<Response> {
        ask(connect(&self.socket)?, method, path, body)
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Result<Status> {
        Ok(serde_json::from_str(&get(&self.socket, "/v1/status")?)?)
    }

    /// `GET /v1/services/{name}`.
    pub fn service(&self, name: &str) -> Result<ServiceStatus> {
        Ok(serde_json::from_str(&get(&self.socket, &format!("/v1/services/{name}"))?)?)
    }

    /// One endpoint of a service.
    pub fn endpoint(&self, service: &str, address: SocketAddr) -> Result<EndpointStatus> {
        let service = self.service(service)?;
        let endpoint = service.endpoints.into_iter().find(|e| e.address == address);
        endpoint.with_context(|| format!("service {} has no endpoint {address}", service.name))
    }

    /// Changes the file, as an editor would (a new file takes the old one's name), and waits until it is in force.
    pub fn change(&self, text: &str) -> Result<()> {
        let before = self.status()?.config.generation;
        self.write(text)?;
        let changed = until_true("the changed file to be in force", CHANGE, || {
            let config = self.status()?.config;
            ensure!(config.refused.is_empty(), "the file is refused: {:?}", config.refused);
            Ok(config.generation > before)
        });
        changed.with_context(|| format!("its log: {}", self.process.log_end()))
    }

    /// Changes the file without waiting.
    pub fn write(&self, text: &str) -> Result<()> {
        let draft = self.file.with_extension("draft");
        fs::write(&draft, text)?;
        Ok(fs::rename(&draft, &self.file)?)
    }

    /// Waits until an endpoint is in `state`.
    pub fn wait_state(&self, service: &str, address: SocketAddr, state: &str, limit: Duration) -> Result<()> {
        until_true(&format!("endpoint {address} to be {state}"), limit, || {
            let seen = self.endpoint(service, address)?.state;
            ensure!(seen == state, "it is {seen}");
            Ok(true)
        })
    }

    /// The metrics, as text.
    pub fn metrics(&self) -> Result<String> {
        let response = self.namespace().within(|| -> Result<Response> {
            let stream = TcpStream::connect(METRICS)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            ask(stream, "GET", "/metrics", "")
        })??;
        ensure!(response.status == 200, "metrics answer {}: {}", response.status, response.body);
        Ok(response.body)
    }

    /// The last events that the agent has told.
    pub fn events(&self) -> Result<Vec<Event>> {
        let mut stream = connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        write!(stream, "GET /v1/events?recent=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut text = Vec::new();
        // The stream of events has no end; the time limit ends it here.
        let _ = stream.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Another command of the binary, for this instance.
    pub fn cli(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(crate::place::binary("alize")?);
        command.args(arguments).arg(format!("--instance={}", self.instance));
        command.arg("--socket").arg(&self.socket);
        Ok(command)
    }

    /// Runs [`Agent::cli`] to its end.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        self.cli(arguments)?.output().context("cannot start alize")
    }

    /// As [`Agent::command`], which must be a success; its standard output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "alize {arguments:?}: {}: {}", output.status, errors.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Ends it without warning.
    pub fn kill(self) -> Result<()> {
        self.process.kill()
    }

    /// Asks it to end, and waits for that.
    pub fn stop(self) -> Result<ExitStatus> {
        self.process.stop()
    }

    /// Removes the data path of the instance, as a user would; the agent must have ended.
    pub fn unload(world: &World) -> Result<Output> {
        Self::unload_at(world, &world.run_dir())
    }

    /// The same by somebody who takes `run_dir` for the folder of its sockets.
    pub fn unload_at(world: &World, run_dir: &Path) -> Result<Output> {
        let mut command = Command::new(crate::place::binary("alize")?);
        command.arg("unload").arg(format!("--instance={}", world.instance()));
        command.arg("--bpffs").arg(world.bpffs()).arg("--run-dir").arg(run_dir);
        command.output().context("cannot start alize")
    }
}

fn connect(socket: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket).with_context(|| format!("API at {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

fn get(socket: &Path, path: &str) -> Result<String> {
    let response = ask(connect(socket)?, "GET", path, "")?;
    ensure!(response.status == 200, "GET {path}: {}: {}", response.status, response.body);
    Ok(response.body)
}
