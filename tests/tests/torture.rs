//! Torture: the whole product under random requests, while everything that can be killed is killed.
//!
//! No wrong byte, no response to another's request, nothing that hangs, nothing left over; and what a kill loses is held
//! against what it must lose: see [`Kill::excuses`]. `ALIZE_TORTURE` is the number of requests.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use alize_tests::servers::at;
use alize_tests::torture::{Book, Failure, Kind, now};
use alize_tests::wait::{until, until_true};
use alize_tests::{Agent, Place, Process, World, place};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

const SHORT: u64 = 20_000;

/// Between two kills.
const CALM: Duration = Duration::from_millis(1500);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Endpoint,
    Agent,
    Client,
    Proxy,
    /// The proxy, in good order.
    Handover,
}

/// From just before the signal until what was killed is in its place again.
#[derive(Clone, Copy, Debug)]
struct Kill {
    what: What,
    from: u64,
    to: u64,
}

impl Kill {
    /// Whether it must have this effect. Nothing else excuses a failure.
    fn excuses(&self, failure: &Failure) -> bool {
        let Failure { kind, connected, began, ended, .. } = failure;
        let meanwhile = *began <= self.to && *ended >= self.from;
        match self.what {
            // The data path does not need the agent, other clients do not concern a client, and a handover loses nothing.
            What::Agent | What::Client | What::Handover => false,
            // What is at the endpoint is lost, or comes to a closed port; the mesh says so, unless the response has begun.
            What::Endpoint => {
                let told = |status: u16, reason: &str| match status {
                    502 => reason == "endpoint-closed",
                    503 => reason == "connect-failed",
                    _ => false,
                };
                meanwhile
                    && match kind {
                        Kind::Answered { status, reason } => told(*status, reason),
                        Kind::CutWithin => true,
                        // Only where part of the request was at the endpoint and the rest is not sent: nothing that
                        // comes now would be the beginning of a request.
                        Kind::Cut => failure.what.contains("body"),
                        _ => false,
                    }
            }
            // What was in its hands, and connections that were too young to be kept. Those that are made meanwhile wait.
            What::Proxy => match kind {
                Kind::Cut | Kind::CutWithin => *connected <= self.to && *ended >= self.from,
                // The next one tells whom the kernel had lent a connection that was too young, too.
                Kind::Answered { status: 502, reason } => meanwhile && reason == "endpoint-closed",
                // An endpoint had ended its connection before all of a request was sent, and who knew of it was killed before
                // the rest came: the next takes that for a request, and refuses it.
                Kind::Answered { status: 400, reason } => {
                    meanwhile && reason == "bad-request-line" && failure.what.contains("body Pieces")
                }
                _ => false,
            },
        }
    }
}

struct Torture {
    world: World,
    text: String,
    agent: Option<Agent>,
    near: Place,
    far: Place,
    origins: Vec<(SocketAddr, Process)>,
    victim: Option<Process>,
    residents: Vec<Process>,
    successors: Vec<Process>,
    kills: Vec<Kill>,
    seed: u64,
    service: SocketAddr,
}

/// What must be as it was.
#[derive(Debug)]
struct Holdings {
    proxy_files: usize,
    agent_files: usize,
    proxy_memory: u64,
    agent_memory: u64,
    entries: BTreeMap<String, u64>,
    lent: u64,
    load: u64,
}

impl Torture {
    fn new() -> Result<Self> {
        let world = World::new("torture")?;
        let (near, far) = (world.meshed("near")?, world.meshed("far")?);
        let addresses = [8080, 8081].map(|port| SocketAddr::new(near.namespace.v4().into(), port));
        let service = at([10, 96, 0, 44], 80);
        let text = format!(
            "services:\n  - name: web\n    protocol: http\n    address: {service}\n    routes:\n      \
             - {{name: odd, match: {{path: /p, headers: {{x-none: '1'}}}}}}\n      - {{name: rest}}\n    \
             http: {{pool: {{idle-timeout: 2s}}}}\n    endpoints: [\"{}\", \"{}\"]\n",
            addresses[0], addresses[1]
        );
        let mut torture = Self {
            agent: None,
            origins: Vec::new(),
            victim: None,
            residents: Vec::new(),
            successors: Vec::new(),
            kills: Vec::new(),
            seed: 1,
            world,
            text,
            near,
            far,
            service,
        };
        for address in addresses {
            let origin = torture.origin(address)?;
            torture.origins.push((address, origin));
        }
        // A proxy listens where there are processes. Whoever comes first to a namespace is balanced as a whole, and that
        // connection ends when the endpoint closes it.
        for place in [&torture.near, &torture.far] {
            torture.residents.push(place.start("resident", "sleep", &["86400".to_owned()])?);
        }
        torture.agent = Some(Agent::start(&torture.world, &torture.text)?);
        torture.agent().proxy(0)?;
        // Twice the time between two looks for namespaces.
        std::thread::sleep(Duration::from_secs(2));
        Ok(torture)
    }

    fn origin(&self, address: SocketAddr) -> Result<Process> {
        let world = place::binary("alize-world")?;
        let arguments = ["origin".to_owned(), address.to_string()];
        self.near.started(
            &format!("origin-{}", address.port()),
            &world.to_string_lossy(),
            &arguments,
            &[address],
        )
    }

    fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("there always is one, but while it is replaced")
    }

    fn torment(&mut self, place: &Place, name: &str, requests: u64, threads: u64) -> Result<Process> {
        self.seed += 1;
        let world = place::binary("alize-world")?;
        let arguments = [
            "torment".to_owned(),
            self.service.to_string(),
            format!("--requests={requests}"),
            format!("--threads={threads}"),
            format!("--seed={}", self.seed),
            format!("--until={}", self.ended().display()),
        ];
        place.start(name, &world.to_string_lossy(), &arguments)
    }

    /// The file that lets clients end.
    fn ended(&self) -> PathBuf {
        self.world.folder().join("ended")
    }

    fn kill(&mut self, what: What) -> Result<()> {
        let from = now();
        match what {
            What::Endpoint => {
                let (address, origin) = self.origins.remove(0);
                origin.kill()?;
                // Its port is closed for a moment.
                std::thread::sleep(Duration::from_millis(100));
                let origin = self.origin(address)?;
                self.origins.push((address, origin));
            }
            What::Agent => {
                self.agent.take().context("an agent")?.kill()?;
                self.agent = Some(Agent::start(&self.world, &self.text)?);
            }
            What::Client => {
                if let Some(victim) = self.victim.take() {
                    victim.kill()?;
                }
                let place = self.near.clone();
                self.victim = Some(self.torment(&place, "victim", u64::MAX, 4)?);
            }
            What::Proxy => {
                let before = self.agent().proxy(0)?;
                Process::signal_other(before, Signal::KILL)?;
                self.agent().proxy(before)?;
                // It listens where it has found clients: then there is one for each of the two namespaces.
                self.connects()?;
            }
            What::Handover => {
                let before = self.agent().proxy(0)?;
                let successor = Agent::successor(&self.world)?;
                self.agent().proxy(before)?;
                self.successors.push(successor);
                until_true("the proxy before to end", Duration::from_secs(40), || {
                    Ok(!PathBuf::from(format!("/proc/{before}/fd/0")).exists())
                })?;
            }
        }
        self.kills.push(Kill { what, from, to: now() });
        Ok(())
    }

    fn connects(&self) -> Result<()> {
        for place in [&self.near, &self.far] {
            until_true("connections to be taken", Duration::from_secs(20), || {
                let service = self.service.to_string();
                let world = place::binary("alize-world")?;
                let flags = ["torment", &service, "--requests=20", "--threads=2", "--seed=1"];
                let text = place.run(&world.to_string_lossy(), &flags)?;
                let seen: Book = serde_json::from_str(text.trim())?;
                Ok(seen.failures.is_empty())
            })?;
        }
        Ok(())
    }

    /// Nothing is under way: what is held now.
    fn holdings(&self) -> Result<Holdings> {
        let proxy = self.agent().proxy(0)?;
        let agent = self.agent().status()?.pid;
        let mut entries = BTreeMap::new();
        let pins = PathBuf::from(self.agent().status()?.pins);
        for map in ["http_client_sockets", "http_rests", "http_dials"] {
            entries.insert(map.to_owned(), self.dump(&pins, map)?.len() as u64);
        }
        let words = |map: &str, bytes: usize| -> Result<Vec<u64>> {
            Ok(self.dump(&pins, map)?.iter().map(|entry| first_bytes(entry, bytes)).collect())
        };
        let lent = words("http_slots", 8)?.iter().filter(|word| **word & 0b1001 == 1).count() as u64;
        let load = words("http_load", 4)?.iter().sum();
        Ok(Holdings {
            proxy_files: files(proxy)?,
            agent_files: files(agent)?,
            proxy_memory: memory(proxy)?,
            agent_memory: memory(agent)?,
            entries,
            lent,
            load,
        })
    }

    fn dump(&self, pins: &std::path::Path, map: &str) -> Result<Vec<serde_json::Value>> {
        let found = until("the pin of a map", Duration::from_secs(1), || Ok(find(pins, map)))?;
        let output = std::process::Command::new("bpftool")
            .args(["-j", "map", "dump", "pinned"])
            .arg(&found)
            .output()
            .context("bpftool")?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("a dump of {}", found.display()))
    }

    /// The log lines that must not exist, of all processes.
    fn graves(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.world.folder())?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let text = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
                let graves =
                    text.lines().filter(|line| line.starts_with("GRAVE") || line.contains("panicked"));
                found.extend(graves.map(|line| format!("{}: {line}", entry.path().display())));
            }
        }
        Ok(found)
    }

    /// When endpoints ended connections without a word: from before their last response until the end was made.
    fn closings(&self) -> Vec<(u64, u64)> {
        let logs: String = self.origins.iter().map(|(_, origin)| origin.log()).collect();
        let mut words = logs.lines().filter_map(|line| Some(line.strip_prefix("closed ")?.split(' ')));
        let time = |word: Option<&str>| word?.parse::<u64>().ok();
        words.by_ref().filter_map(|mut line| Some((time(line.next())?, time(line.next())?))).collect()
    }
}

fn find(folder: &std::path::Path, map: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.file_name().is_some_and(|name| name == map) {
            return Some(path);
        }
        if path.is_dir()
            && let Some(found) = find(&path, map)
        {
            return Some(found);
        }
    }
    None
}

/// The first `bytes` bytes of an entry's value, little endian; summed over CPUs there are none.
fn first_bytes(entry: &serde_json::Value, bytes: usize) -> u64 {
    let value = entry["value"].as_array().into_iter().flatten().take(bytes);
    let digits =
        value.filter_map(|byte| u64::from_str_radix(byte.as_str()?.trim_start_matches("0x"), 16).ok());
    digits.zip(0..).map(|(byte, place)| byte << (8 * place)).sum()
}

fn files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// What the process has written itself, in kB. Its program's pages are shared with others, now more and now less.
fn memory(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).context("Anonymous")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn requests() -> u64 {
    std::env::var("ALIZE_TORTURE").ok().and_then(|text| text.parse().ok()).unwrap_or(SHORT)
}

fn book(process: &Process) -> Result<Book> {
    let log = process.log();
    let line = log.lines().rev().find(|line| line.starts_with('{')).context("a client told nothing")?;
    Ok(serde_json::from_str(line)?)
}

#[test]
fn nothing_is_wrong_mixed_up_or_left_over() -> Result<()> {
    let wanted = requests();
    let began = Instant::now();
    let mut torture = Torture::new()?;
    torture.connects()?;
    let before = torture.holdings()?;
    let (near, far) = (torture.near.clone(), torture.far.clone());
    let mut clients = vec![
        torture.torment(&near, "near-client", wanted / 2, 12)?,
        torture.torment(&far, "far-client", wanted / 2, 12)?,
    ];
    let order = [
        What::Client,
        What::Endpoint,
        What::Agent,
        What::Handover,
        What::Endpoint,
        What::Client,
        What::Proxy,
    ];
    let mut rounds = 0;
    loop {
        for what in order {
            if std::env::var_os("ALIZE_TORTURE_CALM").is_some() {
                continue;
            }
            std::thread::sleep(CALM);
            torture.kill(what).with_context(|| format!("{what:?}"))?;
        }
        rounds += 1;
        let sent: bool = torture.graves()?.is_empty() && clients_go_on(&mut clients)?;
        if rounds == 1 {
            fs::write(torture.ended(), "")?;
        }
        if !sent {
            break;
        }
    }
    drop(torture.victim.take());
    let mut seen = Book::default();
    for client in &mut clients {
        client.wait(Duration::from_secs(900))?;
        seen.add(book(client)?);
    }
    judge(&torture, &seen, rounds, began)?;
    leaves_nothing(&torture, &before)
}

fn clients_go_on(clients: &mut [Process]) -> Result<bool> {
    for client in clients {
        if client.ended()?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn judge(torture: &Torture, seen: &Book, rounds: u32, began: Instant) -> Result<()> {
    let mut closings = torture.closings();
    let mut excused: BTreeMap<String, u64> = BTreeMap::new();
    let mut left = Vec::new();
    let mut failures: Vec<&Failure> = seen.failures.iter().collect();
    failures.sort_by_key(|failure| failure.ended);
    for failure in failures {
        let kill = torture.kills.iter().find(|kill| kill.excuses(failure));
        let why = match kill {
            Some(kill) => format!("{:?} killed", kill.what),
            None if take_closing(&mut closings, failure) => "asked while the endpoint closed".to_owned(),
            None => {
                left.push(failure);
                continue;
            }
        };
        *excused.entry(format!("{why}: {:?}", failure.kind)).or_default() += 1;
    }
    let web = torture.agent().service("web")?;
    eprintln!(
        "{} requests, {} right, {} given up, {} MB compared, {} connections, {rounds} rounds, {:?}\n  right: {:?}\n  \
         lost: {excused:?}\n  spurious: {:?}\n  counters of the last proxy and agent: {}",
        seen.requests,
        seen.right(),
        seen.given_up,
        seen.bytes / 1_000_000,
        seen.connections,
        began.elapsed(),
        seen.right,
        seen.spurious,
        serde_json::to_string(&web.routes)?,
    );
    let shown: Vec<String> = left
        .iter()
        .take(20)
        .map(|failure| {
            let own = failure
                .what
                .split("after plain CloseAfter /")
                .nth(1)
                .and_then(|rest| rest.get(2..)?.split('?').next())
                .map(|nonce| {
                    let logs: String = torture.origins.iter().map(|(_, origin)| origin.log()).collect();
                    logs.lines()
                        .find(|line| line.starts_with("closed ") && line.ends_with(nonce))
                        .unwrap_or("none")
                        .to_owned()
                });
            let near: Vec<String> = torture
                .kills
                .iter()
                .filter(|kill| {
                    kill.from < failure.ended + 500_000_000 && kill.to + 2_000_000_000 > failure.began
                })
                .map(|kill| {
                    format!(
                        "{:?} {}..{}",
                        kill.what,
                        (kill.from as i64 - failure.ended as i64) / 1_000_000,
                        (kill.to as i64 - failure.ended as i64) / 1_000_000
                    )
                })
                .collect();
            format!(
                "{failure:?} took {} ms; own closing {own:?}; kills around: {near:?}",
                (failure.ended - failure.began) / 1_000_000
            )
        })
        .collect();
    let graves = torture.graves()?;
    ensure!(graves.is_empty(), "{} graves: {:#?}\n{shown:#?}", graves.len(), &graves[..graves.len().min(20)]);
    ensure!(left.is_empty(), "{} failures that nothing excuses: {shown:#?}", left.len());
    ensure!(seen.right() * 10 > seen.requests * 9, "hardly anything was served");
    Ok(())
}

/// A connection that an endpoint ends without a word costs one request at most: the one that was sent at that moment. If a part
/// of its body was sent, and the rest was not, its connection ends.
fn take_closing(closings: &mut Vec<(u64, u64)>, failure: &Failure) -> bool {
    let told = match &failure.kind {
        Kind::Answered { status: 502, reason } => reason == "endpoint-closed",
        Kind::Cut => failure.what.contains("body Pieces"),
        _ => false,
    };
    let overlaps = |(from, to): &(u64, u64)| told && *from <= failure.ended && *to >= failure.began;
    // The one that is over first: a later failure needs a later one.
    let found = (0..closings.len())
        .filter(|place| overlaps(&closings[*place]))
        .min_by_key(|place| closings[*place].1);
    found.map(|place| closings.swap_remove(place)).is_some()
}

/// Once nothing is under way the mesh holds what it held before.
fn leaves_nothing(torture: &Torture, before: &Holdings) -> Result<()> {
    let mut last = None;
    let settled = until_true("the mesh to hold what it held before", Duration::from_secs(20), || {
        let after = torture.holdings()?;
        let same = after.entries == before.entries
            && (after.lent, after.load) == (0, 0)
            && after.proxy_files <= before.proxy_files + 6
            && after.agent_files <= before.agent_files + 2;
        last = Some(after);
        Ok(same)
    });
    let after = last.context("it was looked at")?;
    eprintln!("before {before:?}\nafter  {after:?}");
    settled.with_context(|| format!("before {before:?}, after {after:?}"))?;
    ensure!(after.proxy_memory < before.proxy_memory + 12_000, "the proxy has grown: {before:?} {after:?}");
    ensure!(after.agent_memory < before.agent_memory + 6_000, "the agent has grown: {before:?} {after:?}");
    Ok(())
}
