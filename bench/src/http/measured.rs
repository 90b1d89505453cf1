//! The load generator against a real nginx, in a namespace of their own. Needs root, as all that makes namespaces.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::load::{Engine, Loaded, Order};
use super::meter::family;
use super::origin;
use super::peers;
use super::place::{Start, View, await_listening, usable};
use super::subject::Peer;
use super::workload::{Exchange, Load, Workload};
use crate::process::{Kept, run};
use crate::world::{Apart, Ground, configure, inside};

const TARGET: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, origin::PORT);

/// nginx with a log, and this thread, in one namespace and on one CPU.
struct World {
    server: Kept,
    log: PathBuf,
    apart: Apart,
    _ground: Ground,
}

impl World {
    fn new() -> Self {
        let ground = Ground::new().unwrap();
        let apart = Apart::new(&ground, "apart").unwrap();
        configure(&ground, apart.pid(), "link set lo up\n").unwrap();
        let folder = ground.folder().to_owned();
        let log = folder.join("access.log");
        let nginx = peers::find(Peer::Nginx, None).expect("install nginx: script/setup bench");
        let file = origin::nginx_configuration(&folder, 1, Some(&log)).unwrap();
        let text = |path: &Path| path.display().to_string();
        let words = vec![
            text(&nginx.program),
            "-e".into(),
            text(&folder.join("error.log")),
            "-c".into(),
            text(&file),
        ];
        let said = folder.join("said");
        let server = View::OneCpu(last_cpu()).within(|| {
            let start = Start { namespace: Some(apart.pid()), cgroup: None, user: None, signal: true, words };
            let mut server = start.start(&said)?;
            await_listening(apart.pid(), origin::PORT, &mut server, &said)?;
            Ok(server)
        });
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", apart.pid())).unwrap();
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))
            .unwrap();
        Self { server: server.unwrap(), log, apart, _ground: ground }
    }

    fn logged(&self) -> u64 {
        // nginx writes a line after the response has been sent.
        std::thread::sleep(Duration::from_millis(300));
        std::fs::read_to_string(&self.log).unwrap_or_default().lines().count() as u64
    }

    fn load(&self, engine: &mut Engine, workload: Workload, rate: Option<f64>, seconds: f64) -> Loaded {
        let order: Order = workload.order(TARGET, rate, seconds, "");
        View::OneCpu(last_cpu()).within(|| engine.load(&order, |_| Ok(()))).unwrap()
    }
}

fn last_cpu() -> usize {
    usable().unwrap().last().copied().unwrap()
}

fn saturation(exchange: Exchange, connections: usize) -> Workload {
    Workload::new(exchange, Load::Saturation, connections)
}

#[test]
fn every_response_is_in_the_servers_log_and_nothing_else_is() {
    let world = World::new();
    let mut engine = Engine::new().unwrap();
    let mut expected = 0;
    let workloads = [
        (saturation(Exchange::Small, 8), None),
        (saturation(Exchange::Small, 200), None),
        (saturation(Exchange::Short, 4), None),
        (saturation(Exchange::Kilobyte, 3), None),
        (saturation(Exchange::Kilobytes64, 3), None),
        (saturation(Exchange::Megabyte, 2), None),
        (Workload::new(Exchange::Small, Load::HalfOfDirect, 5), Some(700.0)),
    ];
    for (workload, rate) in workloads {
        let loaded = world.load(&mut engine, workload, rate, 0.2);
        assert_eq!((loaded.errors, loaded.first_error.as_deref()), (0, None), "{workload:?}");
        assert_eq!(loaded.unfinished, 0, "{workload:?}");
        assert!(loaded.completed > 0 && loaded.latency.count() > 0, "{workload:?}");
        expected += loaded.all_completed;
        assert_eq!(world.logged(), expected, "{workload:?}");
    }
}

#[test]
fn a_rate_sends_what_it_says() {
    let world = World::new();
    let mut engine = Engine::new().unwrap();
    let workload = Workload::new(Exchange::Small, Load::HalfOfDirect, 8);
    let loaded = world.load(&mut engine, workload, Some(1_000.0), 0.5);
    // 0.08 s of warm-up, half a millisecond more for each connection, and 0.5 s that are measured.
    assert_eq!(loaded.all_completed + loaded.unfinished, 584);
    assert_eq!(loaded.latency.count(), 500, "every request that was due has a latency");
    assert_eq!(world.logged(), 584);
}

#[test]
fn a_server_that_stands_still_is_seen_by_everyone_who_waited() {
    let world = World::new();
    let mut engine = Engine::new().unwrap();
    let worker = family(world.server.pid())[1].to_string();
    let stop = std::thread::spawn({
        let worker = worker.clone();
        move || {
            std::thread::sleep(Duration::from_millis(300));
            Command::new("kill").args(["-STOP", &worker]).status().unwrap();
            std::thread::sleep(Duration::from_millis(400));
            Command::new("kill").args(["-CONT", &worker]).status().unwrap();
        }
    });
    // One connection: a closed loop would have met the pause once in hundreds of requests.
    let workload = Workload::new(Exchange::Small, Load::HalfOfDirect, 1);
    let loaded = world.load(&mut engine, workload, Some(500.0), 1.0);
    stop.join().unwrap();
    assert_eq!(loaded.latency.count(), 500);
    // 0.4 s of 1 s were lost, so two in five requests waited, 0.2 s in the mean.
    let slow =
        loaded.latency.shares().iter().find(|(value, _)| *value >= 100_000_000).map(|(_, share)| *share);
    assert!(slow.is_some_and(|share| share < 0.85), "{slow:?} of the requests were quick");
    assert!(loaded.latency.quantile(0.99).unwrap() >= 300_000_000, "{:?}", loaded.latency.percentiles());
}

#[test]
fn what_a_server_does_wrong_is_counted_and_named() {
    let world = World::new();
    let mut engine = Engine::new().unwrap();
    let mut order = saturation(Exchange::Small, 2).order(TARGET, None, 0.1, "");
    order.request = order.request.replace("/23", "/nothing");
    let loaded = engine.load(&order, |_| Ok(())).unwrap();
    assert!(loaded.errors > 0 && loaded.completed == 0);
    assert!(loaded.first_error.unwrap().contains("404"));
    let mut nobody = order.clone();
    nobody.target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
    nobody.short = true;
    let refused = engine.load(&nobody, |_| Ok(())).unwrap();
    assert!(refused.first_error.unwrap().contains("refused"), "a connect that fails is no success");
    drop(world);
}

/// Both on the same CPU as the server, in turns; the best of several, for others may use the machine. wrk parses less and
/// keeps no clock for each request, so it may be faster: we must not be slower than by a third, nor claim more than a
/// third above it.
#[test]
fn at_saturation_it_sees_what_wrk_sees() {
    let world = World::new();
    let mut engine = Engine::new().unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let loaded = world.load(&mut engine, saturation(Exchange::Small, 16), None, 0.6);
        assert_eq!(loaded.errors, 0);
        ours.push(loaded.completed as f64 / loaded.seconds);
        let before = world.logged();
        let (rate, requests) = View::OneCpu(last_cpu()).within(|| Ok(wrk(&world))).unwrap();
        theirs.push(rate);
        // wrk drops what is under way at its end: one request a connection.
        let logged = world.logged() - before;
        assert!((requests..=requests + 16).contains(&logged), "wrk counts {requests}, nginx {logged}");
    }
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let ratio = best(&ours) / best(&theirs);
    assert!((0.67..=1.34).contains(&ratio), "ours {ours:?}, wrk's {theirs:?}");
}

fn wrk(world: &World) -> (f64, u64) {
    let mut command = inside(world.apart.pid(), "wrk");
    command.args(["-t1", "-c16", "-d1s", &format!("http://{TARGET}/23")]);
    let said = run(&mut command, None).expect("install wrk: script/setup bench").stdout;
    let number = |line: &str| -> f64 {
        let line =
            said.lines().find(|one| one.contains(line)).unwrap_or_else(|| panic!("no {line:?} in {said}"));
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    (number("Requests/sec:"), number("requests in") as u64)
}
