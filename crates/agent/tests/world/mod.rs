//! A world for one test: a cgroup, folders, an agent in a process of its own, endpoints, and clients in the cgroup.
//!
//! Needs root and a kernel that takes the programs; without them the tests fail, they are never skipped.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use alize_agent::Options;
use alize_model::Budgets;
use alize_model::api::{ServiceStatus, Status};
use serde::de::DeserializeOwned;

/// Nothing in a test takes longer.
pub(crate) const LONG: Duration = Duration::from_secs(20);

const CGROUPS: &str = "/sys/fs/cgroup/unified";
const BPFFS: &str = "/sys/fs/bpf";
const WORLD: &str = "ALIZE_AGENT_TEST_WORLD";
pub(crate) const OBSERVE: &str = "ALIZE_TEST_OBSERVE";
pub(crate) const OTLP_SPANS: &str = "ALIZE_TEST_OTLP_SPANS";
pub(crate) const OTLP: &str = "ALIZE_TEST_OTLP";
const CONFIG: &str = "ALIZE_AGENT_TEST_CONFIG";

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// Removed with everything in it when dropped.
pub(crate) struct World {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) cgroup: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("agent-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(format!("alize-{name}"));
        let cgroup = Path::new(CGROUPS).join(&name);
        fs::create_dir(&cgroup).expect("a cgroup: the tests of the agent need root and cgroup v2");
        fs::create_dir_all(&folder).unwrap();
        Self { name, folder, cgroup }
    }

    pub(crate) fn options(&self, config: Option<PathBuf>) -> Options {
        let datapath = alize_datapath::Options {
            instance: self.name.clone(),
            bpffs: BPFFS.into(),
            run_dir: self.folder.clone(),
            cgroups: vec![self.cgroup.clone()],
            budgets: Budgets { services: 4096, endpoints: 16_384, slots: 65_536, affinity: 1024 },
        };
        let observe = match std::env::var_os(OBSERVE) {
            Some(_) => alize_agent::Observe::Always,
            None => alize_agent::Observe::default(),
        };
        let otlp = std::env::var(OTLP).ok().map(|collector| collector.parse().unwrap());
        Options {
            config,
            observe,
            otlp,
            otlp_spans: std::env::var(OTLP_SPANS).ok().map(|one_in| one_in.parse().unwrap()),
            metrics: Some("127.0.0.1:0".parse().unwrap()),
            ..Options::new(datapath)
        }
    }

    /// Writes the file that the agent watches, as an editor does.
    pub(crate) fn write(&self, text: &str) -> PathBuf {
        let path = self.folder.join("mesh.yaml");
        fs::write(self.folder.join("mesh.yaml~"), text).unwrap();
        fs::rename(self.folder.join("mesh.yaml~"), &path).unwrap();
        path
    }

    /// An agent that watches a file with this text.
    pub(crate) fn agent(&self, text: &str) -> Agent {
        Agent::start(self, Some(self.write(text)), &[])
            .unwrap_or_else(|error| panic!("the agent ended: {error}"))
    }

    /// The same, and it observes HTTP from the start.
    pub(crate) fn observing_agent(&self, text: &str) -> Agent {
        Agent::start(self, Some(self.write(text)), &[(OBSERVE, "always".to_owned())])
            .unwrap_or_else(|error| panic!("the agent ended: {error}"))
    }

    /// Runs a shell command whose sockets are meshed.
    pub(crate) fn client(&self, script: &str) -> Output {
        let join = format!("echo $$ > {}/cgroup.procs && {script}", self.cgroup.display());
        Command::new("sh").args(["-c", &join]).output().expect("sh")
    }

    /// What a meshed client gets from `address`: the answer, or curl's exit code.
    pub(crate) fn curl(&self, address: &str) -> Result<String, i32> {
        let output = self.client(&format!("exec curl -sS --max-time 5 http://{address}/"));
        match output.status.code() {
            Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
            code => Err(code.unwrap_or(-1)),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let options = self.options(None).datapath;
        if let Err(error) = alize_datapath::unload(&options) {
            eprintln!("cannot unload {}: {error}", self.name);
        }
        for _ in 0..50 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The body of the test that is the agent when [`Agent::start`] runs it; of no use otherwise.
#[expect(clippy::print_stdout, reason = "this is how the process tells its parent")]
pub(crate) fn be_the_agent() {
    let Ok(name) = std::env::var(WORLD) else { return };
    let world = World {
        folder: std::env::temp_dir().join(format!("alize-{name}")),
        cgroup: Path::new(CGROUPS).join(&name),
        name,
    };
    let options = world.options(std::env::var_os(CONFIG).map(PathBuf::from));
    std::mem::forget(world);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ready = |ready: &alize_agent::Ready| {
        println!("\nready {} {}", ready.metrics.unwrap(), ready.source);
    };
    if let Err(error) = runtime.block_on(alize_agent::run(options, ready)) {
        println!("\nfailed {}", error.to_string().replace('\n', "; "));
    }
}

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    pub(crate) process: Child,
    pub(crate) metrics: SocketAddr,
    /// What is in force, as the agent said when it was ready.
    pub(crate) source: String,
    pub(crate) socket: PathBuf,
}

impl Agent {
    pub(crate) fn start(
        world: &World,
        config: Option<PathBuf>,
        environment: &[(&str, String)],
    ) -> Result<Self, String> {
        Self::start_through(&["env"], world, config, environment)
    }

    /// Starts an agent by way of a command that runs the command behind it.
    pub(crate) fn start_through(
        wrapper: &[&str],
        world: &World,
        config: Option<PathBuf>,
        environment: &[(&str, String)],
    ) -> Result<Self, String> {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "the_agent_itself", "--nocapture"]).env(WORLD, &world.name);
        command.env_remove(CONFIG).envs(environment.iter().map(|(name, value)| (name, value)));
        if let Some(config) = config {
            command.env(CONFIG, config);
        }
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let (sender, first_word) = mpsc::channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if line.starts_with("ready ") || line.starts_with("failed ") {
                    let _ = sender.send(line);
                }
            }
        });
        let line = first_word.recv_timeout(LONG).unwrap_or_else(|_| "failed without a word".into());
        let mut words = line.splitn(3, ' ');
        if words.next() != Some("ready") {
            let _ = process.wait();
            return Err(line["failed ".len()..].to_owned());
        }
        let metrics = words.next().unwrap().parse().unwrap();
        let source = words.next().unwrap().to_owned();
        Ok(Self { process, metrics, source, socket: world.options(None).socket })
    }

    pub(crate) fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", "--unix-socket"])
            .arg(&self.socket)
            .args(arguments)
            .output()
            .expect("curl");
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
        (status.parse().unwrap_or(0), body.to_owned())
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.curl(&[&format!("http://agent{path}")])
    }

    fn json<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error} in {body}"))
    }

    pub(crate) fn status(&self) -> Status {
        self.json("/v1/status")
    }

    pub(crate) fn services(&self) -> Vec<ServiceStatus> {
        self.json("/v1/services")
    }

    pub(crate) fn service(&self, name: &str) -> ServiceStatus {
        self.json(&format!("/v1/services/{name}"))
    }

    /// State and reason of an endpoint.
    pub(crate) fn endpoint(&self, service: &str, address: SocketAddr) -> (String, Option<String>) {
        let service = self.service(service);
        let endpoint = service.endpoints.iter().find(|endpoint| endpoint.address == address);
        endpoint.map(|endpoint| (endpoint.state.clone(), endpoint.reason.clone())).unwrap_or_default()
    }

    pub(crate) fn apply(&self, name: &str, text: &str) -> (u16, String) {
        let url = format!("http://agent/v1/apply?name={name}");
        self.curl(&["-X", "POST", "--data-binary", text, &url])
    }

    pub(crate) fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.metrics);
        let output = Command::new("curl").args(["-sS", "--fail", "--max-time", "20", &url]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Value of the series that is written like this.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// All events so far, one line each: kind, endpoint, message.
    pub(crate) fn events(&self) -> Vec<String> {
        let url = "http://agent/v1/events?recent=256";
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "0.5", "--unix-socket"])
            .arg(&self.socket)
            .arg(url)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let events =
            text.lines().map(|line| serde_json::from_str::<alize_model::api::Event>(line).expect(line));
        let endpoint =
            |address: Option<SocketAddr>| address.map(|address| format!(" {address}")).unwrap_or_default();
        events.map(|event| format!("{}{}: {}", event.kind, endpoint(event.endpoint), event.message)).collect()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self) {
        self.signal("-TERM");
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn kill(mut self) {
        self.signal("-KILL");
        self.process.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until `check` gives something, and says what it waited for if that never comes.
pub(crate) fn eventually<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    within(LONG, what, check)
}

pub(crate) fn within<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "never happened: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A server that answers every HTTP request with its name, and with the status it was told.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    well: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(name: &'static str) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), name)
    }

    pub(crate) fn on(address: SocketAddr, name: &'static str) -> Self {
        let listener = eventually("the port is free", || TcpListener::bind(address).ok());
        let address = listener.local_addr().unwrap();
        let (well, ended) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (is_well, has_ended) = (well.clone(), ended.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if has_ended.load(Ordering::Relaxed) {
                    return;
                }
                let is_well = is_well.clone();
                thread::spawn(move || answer(stream.unwrap(), name, is_well.load(Ordering::Relaxed)));
            }
        });
        Self { address, well, ended }
    }

    pub(crate) fn set_well(&self, well: bool) {
        self.well.store(well, Ordering::Relaxed);
    }

    /// Closes the listener: connects are refused from now on.
    pub(crate) fn stop(self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        // The thread drops the listener before the next connect can be queued.
        eventually("the listener is closed", || TcpStream::connect(self.address).is_err().then_some(()));
    }
}

fn answer(mut stream: TcpStream, name: &str, well: bool) {
    let mut head = [0; 4096];
    if stream.read(&mut head).is_ok_and(|length| length > 0) {
        let status = if well { "200 OK" } else { "503 Busy" };
        let length = name.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}"
        );
    }
}
