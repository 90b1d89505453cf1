//! The commands with a real agent and the real kernel, in a cgroup of the test's own. Needs root.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::program::{Answer, Folder, alize, answer, copy_program, ends_within};

/// Nobody outside of the test's cgroup sees it.
pub(crate) const SERVICE: &str = "10.96.77.1";

/// A cgroup, a bpffs and a folder for lock, socket and files. All of it goes with the test, also when it fails.
pub(crate) struct Host {
    pub(crate) folder: Folder,
    pub(crate) instance: String,
    pub(crate) cgroup: String,
    /// What every command finds besides.
    pub(crate) environment: Vec<(&'static str, String)>,
    agents: Vec<Child>,
}

impl Host {
    pub(crate) fn new(test: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = fields.find(|fields| fields[2] == "cgroup2").expect("cgroup v2 is mounted")[1].to_owned();
        let instance = format!("cli-{test}-{}", std::process::id());
        let cgroup = format!("{root}/{instance}");
        std::fs::create_dir(&cgroup).expect("root may make a cgroup");
        let host =
            Self { folder: Folder::new(test), instance, cgroup, environment: Vec::new(), agents: Vec::new() };
        std::fs::create_dir(host.bpffs()).expect("a folder");
        run("mount", &["-t", "bpf", "bpf", &host.bpffs()]);
        host
    }

    pub(crate) fn bpffs(&self) -> String {
        self.folder.path("bpf")
    }

    /// Where bundles are kept.
    pub(crate) fn bundles(&self) -> String {
        self.folder.path("bundles")
    }

    pub(crate) fn run_dir(&self) -> String {
        self.folder.path("run")
    }

    /// A command that finds this host's agent.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = alize(args);
        command.env("ALIZE_INSTANCE", &self.instance);
        command.env("ALIZE_SOCKET", format!("{}/{}.sock", self.run_dir(), self.instance));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn alize(&self, args: &[&str]) -> Answer {
        answer(&mut self.command(args))
    }

    /// `alize run FILE` here, with `more` flags.
    fn agent(&self, file: &str, more: &[&str]) -> Command {
        let (bpffs, run_dir) = (self.bpffs(), self.run_dir());
        let kept = self.bundles();
        let place = ["--bpffs", &bpffs, "--run-dir", &run_dir, "--metrics", "off", "--bundles", &kept];
        let cgroup = ["--cgroup", &self.cgroup];
        let cgroup = if more.contains(&"--cgroup") { &[][..] } else { &cgroup };
        self.command(&[&["run", file], &place[..], cgroup, more].concat())
    }

    /// Starts an agent and returns what it said until it was ready.
    fn start(&mut self, file: &str) -> String {
        self.start_with(file, &[])
    }

    /// The same with `more` flags.
    pub(crate) fn start_with(&mut self, file: &str, more: &[&str]) -> String {
        let mut agent = self.agent(file, more).spawn().expect("the program starts");
        let mut log = BufReader::new(agent.stderr.take().expect("a pipe"));
        self.agents.push(agent);
        let said = until(&mut log, "  metrics ");
        // Somebody has to read on, or the agent would wait for a place in the pipe.
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        said
    }

    /// Sends the last agent a signal and returns how it ended.
    pub(crate) fn end(&mut self, signal: &str) -> Option<i32> {
        let mut agent = self.agents.pop().expect("an agent");
        run("kill", &[signal, &agent.id().to_string()]);
        match signal {
            "-KILL" => agent.wait().expect("it ends").code(),
            _ => Some(ends_within(&mut agent, Duration::from_secs(10))),
        }
    }

    pub(crate) fn unload(&self) -> Answer {
        self.alize(&["unload", "--bpffs", &self.bpffs(), "--run-dir", &self.run_dir()])
    }

    /// The first line that a meshed client reads from the service.
    pub(crate) fn dial(&self) -> Result<String, String> {
        self.dial_at(SERVICE)
    }

    /// The same from another address.
    pub(crate) fn dial_at(&self, address: &str) -> Result<String, String> {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec 3<>/dev/tcp/{address}/80 && head -n 1 <&3",
            self.cgroup
        );
        let output = Command::new("timeout").args(["5", "bash", "-c", &script]).output().expect("bash");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let _ = self.command(&["unload", "--bpffs", &self.bpffs(), "--run-dir", &self.run_dir()]).output();
        let _ = Command::new("umount").arg(self.bpffs()).status();
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

fn run(program: &str, args: &[&str]) {
    let status =
        Command::new(program).args(args).status().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {args:?}: {status}");
}

/// Lines up to the one that begins with `last`.
fn until(log: &mut BufReader<ChildStderr>, last: &str) -> String {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        let length = log.read_line(&mut line).expect("UTF-8");
        assert_ne!(length, 0, "the agent ended: {said}");
        said.push_str(&line);
        if line.starts_with(last) {
            return said;
        }
    }
}

/// A server that tells its name to everyone; lives as long as the test's process.
pub(crate) fn server(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| writeln!(stream, "{name}"));
        }
    });
    port
}

pub(crate) fn mesh(endpoints: &[u16]) -> String {
    let lines: String = endpoints.iter().map(|port| format!("      - 127.0.0.1:{port}\n")).collect();
    format!("services:\n  - name: web\n    address: {SERVICE}:80\n    endpoints:\n{lines}")
}

pub(crate) fn json(answer: &Answer) -> serde_json::Value {
    assert_eq!(answer.code, 0, "{}", answer.err);
    serde_json::from_str(&answer.out).expect("JSON")
}

#[test]
fn the_life_of_a_mesh() {
    let mut host = Host::new("life");
    let (one, two) = (server("one"), server("two"));
    let file = host.folder.file("mesh.yaml", mesh(&[one]));

    let said = host.start(&file);
    assert!(said.contains("is ready") && said.contains("1 service, 1 endpoint"), "{said}");
    assert!(said.contains("loaded into the kernel"), "{said}");
    assert_eq!(host.dial().as_deref(), Ok("one"));

    let status = json(&host.alize(&["status", "-o", "json"]));
    assert_eq!(status["pid"], host.agents[0].id());
    assert_eq!(status["config"]["file"], *file);
    let web = json(&host.alize(&["services", "web", "-o", "json"]));
    assert_eq!(web["traffic"]["connections"], 1);
    assert!(host.alize(&["status"]).out.contains("services       1 of 65536"));
    assert!(host.alize(&["services"]).out.contains(&format!("web      {SERVICE}:80")));
    assert!(host.alize(&["endpoints"]).out.contains(&format!("127.0.0.1:{one}")));
    let unknown = host.alize(&["services", "wbe"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("\"wbe\""), "{}", unknown.err);

    let other = host.folder.file("other.yaml", mesh(&[two]));
    let applied = host.alize(&["apply", &other]);
    assert!(applied.out.starts_with("+0 ~1 -0 =0 services in "), "{} {}", applied.out, applied.err);
    assert_eq!(host.dial().as_deref(), Ok("two"));
    let bad = host.folder.file("bad.yaml", mesh(&[one]).replace("address", "adress"));
    let refused = host.alize(&["apply", &bad]);
    assert_eq!(refused.code, 3);
    assert!(
        refused.err.contains("bad.yaml:3:5: error: ") && refused.err.contains("`address`"),
        "{}",
        refused.err
    );
    assert_eq!(host.dial().as_deref(), Ok("two"), "what was in force stays");
    assert_eq!(host.alize(&["apply"]).code, 0);
    assert_eq!(host.dial().as_deref(), Ok("one"), "the watched file is in force again");
    let events = host.folder.path("events");
    let watching = host
        .command(&["watch", "--recent", "10", "-o", "json"])
        .stdout(std::fs::File::create(&events).expect("a file"))
        .stderr(Stdio::null())
        .spawn();
    let mut watching = watching.expect("the program starts");

    let pid = host.agents[0].id().to_string();
    let second = answer(&mut host.agent(&file, &[]));
    assert_eq!(second.code, 5);
    assert!(second.err.contains(&pid), "{}", second.err);
    let unload = host.unload();
    assert_eq!(unload.code, 5);
    assert!(unload.err.contains(&pid) && unload.err.contains("stop it first"), "{}", unload.err);

    assert_eq!(host.end("-KILL"), None);
    assert_eq!(host.alize(&["status"]).code, 4);
    assert_eq!(host.dial().as_deref(), Ok("one"), "the data path does not need the agent");
    let said = host.start(&file);
    assert!(said.contains("adopted from the kernel with 1 service"), "{said}");
    assert_eq!(host.end("-TERM"), Some(0));

    let unload = host.unload();
    assert_eq!(unload.code, 0, "{}", unload.err);
    assert!(unload.out.starts_with("removed instance cli-life-"), "{}", unload.out);
    assert!(host.dial().is_err(), "nobody has the service address any more");
    let unload = host.unload();
    assert_eq!((unload.code, &unload.out[..17]), (0, "nothing to remove"));

    watching.kill().expect("a child");
    watching.wait().expect("it ends");
    let events = std::fs::read_to_string(&events).expect("a file");
    assert!(events.lines().count() >= 3, "the first state, two changes: {events}");
    for line in events.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("one event a line");
        assert!(event["message"].is_string(), "{line}");
    }
}

#[test]
fn a_log_for_programs_is_json_alone() {
    let mut host = Host::new("log");
    let file = host.folder.file("mesh.yaml", mesh(&[80]));
    let log = host.folder.path("log");
    let mut agent = host.agent(&file, &["--log-format", "json"]);
    let agent =
        agent.stderr(std::fs::File::create(&log).expect("a file")).spawn().expect("the program starts");
    host.agents.push(agent);
    let ready = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("\"ready\""));
    for _ in 0..1000 {
        if ready() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(host.end("-TERM"), Some(0));
    let log = std::fs::read_to_string(&log).expect("a file");
    let records = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{log}")));
    let records: Vec<serde_json::Value> = records.collect();
    let ready = records.iter().find(|record| record["message"] == "ready").unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&ready["services"], &ready["level"]), (&1.into(), &"INFO".into()));
    assert!(ready["timestamp"].is_string());
}

#[test]
fn what_the_machine_lacks_is_named() {
    let host = Host::new("lacks");
    let good = host.folder.file("good.yaml", mesh(&[80]));
    let bad = host.folder.file("bad.yaml", "services: 3\n");
    let none = host.folder.path("none.yaml");
    let folder = host.folder.path("");
    let cases: [(&str, &[&str], i32, &str); 7] = [
        (&good, &["--cgroup", &folder], 5, "not a folder of cgroup v2"),
        (&good, &["--cgroup", "/nowhere"], 5, "/nowhere"),
        (&good, &["--bpffs", "/nowhere"], 5, "no bpffs at /nowhere: No such file"),
        (&good, &["--bpffs", &folder], 5, "holds other files"),
        (&bad, &[], 3, "bad.yaml:1:11: error: "),
        (&none, &[], 3, "none.yaml"),
        (&good, &["--metrics", "192.0.2.1:1"], 1, "192.0.2.1:1"),
    ];
    for (file, more, code, message) in cases {
        // A flag given again takes the place of the one before.
        let ended = answer(&mut host.agent(file, more));
        assert_eq!(ended.code, code, "{more:?}: {}", ended.err);
        assert!(ended.err.contains(message), "{more:?}: {}", ended.err);
        assert_eq!(ended.out, "");
    }
}

#[test]
fn without_root_the_answer_is_how_to_get_it() {
    use std::os::unix::process::CommandExt;
    let folder = Folder::new("rootless");
    let file = folder.file("mesh.yaml", mesh(&[80]));
    let binary = folder.path("alize");
    copy_program(&binary);
    for args in
        [&["run", &file, "--run-dir", "/nowhere"][..], &["unload"], &["programs"], &["doctor"], &["bench"]]
    {
        let mut command = Command::new(&binary);
        let ended = answer(command.args(args).uid(65_534).gid(65_534));
        assert_eq!(ended.code, 5, "{args:?}: {}", ended.err);
        assert!(ended.err.contains("root"), "{args:?}: {}", ended.err);
    }
}

#[test]
fn what_the_kernel_holds_is_shown_without_an_agent() {
    let mut host = Host::new("programs");
    let file = host.folder.file("mesh.yaml", mesh(&[server("one")]));
    let bpffs = host.bpffs();
    let programs =
        |host: &Host, more: &[&str]| host.alize(&[&["programs", "--bpffs", &bpffs], more].concat());
    assert!(programs(&host, &[]).out.starts_with("no kernel program of instance "));

    host.start(&file);
    assert_eq!(host.dial().as_deref(), Ok("one"));
    let shown = json(&programs(&host, &["-o", "json"]));
    let all = shown["programs"].as_array().expect("a list");
    let connect = all.iter().find(|program| program["name"] == "alize_connect4").expect("it is loaded");
    assert_eq!(connect["attached"][0]["cgroup"], *host.cgroup);
    assert!(connect["verified"].as_u64() > Some(1_000), "{connect}");
    let services = shown["maps"].as_array().expect("a list").iter().find(|map| map["name"] == "services");
    assert_eq!(services.expect("a map")["used"], 1);
    assert!(shown["memory"].as_u64() > Some(1 << 20));

    let watched = thread::scope(|scope| {
        let watched = scope.spawn(|| programs(&host, &["connect4", "--stats", "2", "-o", "json"]));
        while !watched.is_finished() {
            assert_eq!(host.dial().as_deref(), Ok("one"));
        }
        json(&watched.join().expect("it ends"))
    });
    let cost = &watched["programs"][0]["cost"];
    assert!(cost["runs_per_second"].as_f64() >= Some(1.0), "{watched}");
    assert!(cost["average_ns"].as_f64() > Some(10.0), "{watched}");

    host.end("-KILL");
    let table = programs(&host, &[]).out;
    assert!(table.contains("alize_connect4") && table.contains(&host.cgroup), "{table}");
    assert!(table.contains("kernel memory of all: "), "{table}");
    let unknown = programs(&host, &["connect5"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("alize_connect4"), "{}", unknown.err);
    // There is no bpftool in an empty folder.
    let place = ["programs", "connect4", "--dump", "xlated", "--bpffs", &bpffs];
    let without = answer(host.command(&place).env("PATH", host.folder.path("empty")));
    assert_eq!(without.code, 5, "{}", without.err);
    assert!(without.err.contains("install the package bpftool"), "{}", without.err);
}

#[test]
fn the_doctor_tells_what_is_in_the_way() {
    let mut host = Host::new("doctor");
    let file = host.folder.file("mesh.yaml", mesh(&[server("one")]));
    let (bpffs, cgroup) = (host.bpffs(), host.cgroup.clone());
    let place = ["doctor", "--bpffs", &bpffs, "--cgroup", &cgroup];
    let well = json(&host.alize(&[&place[..], &["-o", "json"]].concat()));
    assert_eq!(well["possible"], true);
    let findings = well["findings"].as_array().expect("a list");
    let features: Vec<_> = findings.iter().filter(|finding| finding["area"] == "feature").collect();
    assert!(features.len() >= 9 && features.iter().all(|finding| finding["state"] == "on"), "{features:#?}");

    host.start(&file);
    assert_eq!(host.alize(&place).code, 0, "its own instance is in nobody's way");
    let (log, report) = (host.folder.path("verifier.log"), host.folder.path("report.tar.gz"));
    let more = ["--instance", "cli-doctor-other", "--log", &log, "--report", &report];
    let other = host.alize(&[&place[..], &more].concat());
    assert_eq!(other.code, 1, "{}", other.out);
    let in_the_way = format!("alize, instance {}", host.instance);
    assert!(other.err.contains(&in_the_way) && other.out.contains("-> choose a cgroup"), "{}", other.out);
    assert!(std::fs::read_to_string(&log).expect("a log").contains("=== balancing at connect(): 2 programs"));
    let packed = Command::new("tar").args(["-xzOf", &report]).output().expect("tar");
    let packed = String::from_utf8_lossy(&packed.stdout);
    assert!(packed.contains("\"findings\"") && packed.contains("\"kernel_memory\""), "{packed}");
    assert!(
        !packed.contains(SERVICE) && !packed.contains("mesh.yaml"),
        "the configuration stays at home: {packed}"
    );
}
