//! One proxy takes the place of another, and no client notices.

mod world;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alize_model::control::ToProxy;
use alize_model::http::Http;
use world::{Agent, Client, PATIENCE, Process, Server, World, endpoint, pattern, service, start, until};

/// Whether the process has ended, and well.
fn ended(process: &mut Process) -> bool {
    process.0.try_wait().unwrap().inspect(|status| assert!(status.success(), "{status}")).is_some()
}

/// Clients that ask as fast as they can, each on one connection, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    longest: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(world: &World, clients: usize, fresh: bool) -> Self {
        let (stop, done, longest) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let door = world.door();
        let threads = (0..clients).map(|number| {
            let (stop, done, longest) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&longest));
            thread::spawn(move || {
                let mut client = Client::connect(door);
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let began = Instant::now();
                    if fresh {
                        client = Client::connect(door);
                    }
                    let answer = client.get(&format!("/x?client={number}&turn={turn}"));
                    assert_eq!(answer.status, 200, "{answer:?}");
                    assert_eq!(answer.json()["url"], format!("/x?client={number}&turn={turn}"));
                    done.fetch_add(1, Ordering::Relaxed);
                    longest.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                }
            })
        });
        Self { threads: threads.collect(), stop, done, longest }
    }

    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no request failed");
        }
        (self.done.load(Ordering::Relaxed), self.longest.load(Ordering::Relaxed))
    }
}

#[test]
fn connections_survive_a_row_of_successors() {
    let server = Server::node("a", "http1");
    let mut world =
        World::new(vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])]);
    let count = std::env::var("ALIZE_HANDOVER_IDLE").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let files = rustix::process::Rlimit { current: Some(20_000), maximum: Some(20_000) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).unwrap();
    let mut idle: Vec<Client> = (0..count).map(|_| world.connect()).collect();
    for client in idle.iter_mut().step_by(2) {
        assert_eq!(client.get("/bytes/1").status, 200);
    }
    let kept = Load::start(&world, 8, false);
    let fresh = Load::start(&world, 2, true);
    let mut old = None;
    for successor in 1..=5 {
        thread::sleep(Duration::from_millis(200));
        let next = start(&world.folder, &world.doors, 20);
        let mut previous = std::mem::replace(&mut world.proxy, next);
        until("the old proxy ends", || ended(&mut previous));
        let mut agent = Agent::connect(&world.folder);
        assert!(agent.counters().open >= count as u64, "successor {successor} has the connections");
        old = Some(previous);
    }
    drop(old);
    let ((requests, longest), (connections, longest_fresh)) = (kept.stop(), fresh.stop());
    for (number, client) in idle.iter_mut().enumerate() {
        assert_eq!(client.get("/bytes/3").body, pattern(3), "idle connection {number}");
    }
    eprintln!(
        "5 handovers: {requests} requests on kept connections (longest {longest} ms), {connections} new connections \
         (longest {longest_fresh} ms), {count} idle ones, 0 failures"
    );
    assert!(requests > 100 && connections > 20);
}

#[test]
fn what_runs_is_finished_by_the_old_proxy() {
    let server = Server::node("a", "http1");
    let mut world =
        World::new(vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])]);
    let mut download = world.connect();
    download.send("GET /bytes/20000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut half = world.connect();
    half.send("GET /half HTTP/1.1\r\nHo");
    let mut chat = world.connect();
    chat.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(chat.head().status, 101);
    let mut slow = world.connect();
    slow.send("GET /delay/1500?slow HTTP/1.1\r\nHost: a\r\n\r\nGET /pipelined HTTP/1.1\r\nHost: a\r\n\r\n");
    thread::sleep(Duration::from_millis(100));
    let next = start(&world.folder, &world.doors, 20);
    let mut old = std::mem::replace(&mut world.proxy, next);
    half.send("st: a\r\n\r\n");
    assert_eq!(half.answer("GET").json()["url"], "/half");
    assert_eq!(half.get("/next").json()["url"], "/next", "by the new proxy, on the same connection");
    assert!(download.answer("GET").body == pattern(20_000_000));
    assert_eq!(slow.answer("GET").json()["url"], "/delay/1500?slow");
    assert_eq!(
        slow.answer("GET").json()["url"],
        "/pipelined",
        "read by the old one, answered by the new one"
    );
    until("the old proxy ends: it has given the tunnel away", || ended(&mut old));
    for text in ["one", "two"] {
        chat.send(text);
        assert_eq!(chat.take(3), text.as_bytes());
    }
    chat.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(chat.rest().is_empty());
    assert_eq!(download.get("/after").json()["url"], "/after");
}

#[test]
fn the_agent_talks_to_the_successor_while_the_old_proxy_drains() {
    let (server, other) = (Server::node("a", "http1"), Server::node("b", "http1"));
    let state =
        |server: &Server| vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])];
    let mut world = World::new(state(&server));
    let mut slow = world.connect();
    slow.send("GET /delay/3000 HTTP/1.1\r\nHost: a\r\n\r\n");
    thread::sleep(Duration::from_millis(100));
    let next = start(&world.folder, &world.doors, 20);
    let mut old = std::mem::replace(&mut world.proxy, next);
    assert!(world.agent.is_over(), "an agent that hears nothing would tell the old one what is to be served");
    let mut agent = Agent::connect(&world.folder);
    agent.state(state(&other)).unwrap();
    assert_eq!(world.connect().get("/x").json()["name"], "b");
    assert!(!ended(&mut old), "it serves what runs");
    assert_eq!(slow.answer("GET").json()["name"], "a");
    until("the old proxy ends", || ended(&mut old));
}

#[test]
fn http2_is_told_to_go_elsewhere_and_loses_no_request() {
    let server = Server::node("a", "http1");
    let mut world =
        World::new(vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])]);
    let url = format!("http://{}/delay/1000", world.door());
    let running = std::process::Command::new("curl")
        .args(["-sSv", "--http2-prior-knowledge", &url])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    let next = start(&world.folder, &world.doors, 20);
    let mut old = std::mem::replace(&mut world.proxy, next);
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("/delay/1000"));
    until("the old proxy ends", || ended(&mut old));
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let server = Server::node("a", "http1");
    let mut world =
        World::new(vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])]);
    let mut client = world.connect();
    assert_eq!(client.get("/one").status, 200);
    // It takes the offer, and dies before it serves.
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.connect({:?})\ns.recv(100000)\n",
        world.folder.join("test.proxy.handover")
    );
    assert!(std::process::Command::new("python3").args(["-c", &script]).status().unwrap().success());
    assert_eq!(client.get("/two").status, 200);
    assert_eq!(world.connect().get("/three").status, 200);
    assert!(!ended(&mut world.proxy));
    let next = start(&world.folder, &world.doors, 20);
    let mut old = std::mem::replace(&mut world.proxy, next);
    until("one that does not fail takes over", || ended(&mut old));
    assert_eq!(client.get("/four").status, 200);
}

#[test]
fn told_to_end_it_finishes_what_runs() {
    let server = Server::node("a", "http1");
    for by_agent in [false, true] {
        let mut world =
            World::new(vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])]);
        let mut idle = world.connect();
        assert_eq!(idle.get("/one").status, 200);
        let mut busy = world.connect();
        busy.send("GET /delay/700 HTTP/1.1\r\nHost: a\r\n\r\n");
        thread::sleep(Duration::from_millis(200));
        if by_agent {
            let word = serde_json::to_string(&ToProxy::Drain { deadline: PATIENCE }).unwrap();
            world.agent.say(&word);
        } else {
            let pid = rustix::process::Pid::from_child(&world.proxy.0);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
        assert!(idle.ended(), "an idle connection ends in order");
        let answer = busy.answer("GET");
        assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
        until("the proxy ends", || ended(&mut world.proxy));
        assert!(std::net::TcpStream::connect(world.door()).is_err());
        assert!(!world.folder.join("test.proxy.sock").exists());
    }
    let _ = std::io::stdout().flush();
}
