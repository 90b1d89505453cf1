//! HTTP as the kernel sees it, against what real servers have written in their logs.
//!
//! Needs root, nginx, curl, wrk and python3.

mod http;
mod world;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use alize_datapath::observe::{Event, Filter, Limits, Method, Observer, PathLabel, Rate, Side};
use http::{
    Counts, Server, counted, counts_agree, free_address, nginx, nginx_with, open, read_responses, run, traced,
};
use world::{World, apply, eventually, service};

#[test]
fn counts_what_nginx_logs_at_full_speed() {
    let world = World::new("observe-speed");
    let observer = open(&world);
    let server = nginx("speed");
    let url = format!("http://{}/", server.address);
    let (mut sent, mut runs) = (0, 0);
    for _ in 0..20 {
        run("wrk", &["-t2", "-c32", "-d3", &url]);
        runs += 1;
        sent = server.logged().values().sum();
        if sent >= 200_000 {
            break;
        }
    }
    assert!(sent >= 200_000, "the machine is too slow for the test: {sent} requests");
    counts_agree(&observer, &server, runs * 32);
    let tallies = observer.tallies().unwrap();
    assert_eq!(tallies.unfollowed.iter().map(|(_, count)| count).sum::<u64>(), 0, "{tallies:?}");
}

#[test]
fn counts_what_is_cut_at_every_byte_and_pipelined() {
    let world = World::new("observe-cut");
    let observer = open(&world);
    let server = nginx("cut");
    let body = "GET /fool HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3);
    let requests = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nHEAD /large HTTP/1.1\r\nHost: a\r\n\r\n\
         POST /answer HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}\
         PUT /answer/chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n\
         GET /missing HTTP/1.1\r\nHost: a\r\n\r\nGET /broken HTTP/1.1\r\nHost: a\r\n\r\n",
        body.len(),
        body.len()
    );
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_nodelay(true).unwrap();
    for size in [1, 2, 3, 5, 17, 100, 4096] {
        for piece in requests.as_bytes().chunks(size) {
            stream.write_all(piece).unwrap();
        }
        // HEAD has a length but no body.
        let mut all = Vec::new();
        let mut piece = [0; 65_536];
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        while let Ok(read) = stream.read(&mut piece) {
            all.extend_from_slice(&piece[..read]);
        }
    }
    stream.set_read_timeout(None).unwrap();
    let many = "GET /answer/many HTTP/1.1\r\nHost: a\r\n\r\n".repeat(16);
    for _ in 0..500 {
        stream.write_all(many.as_bytes()).unwrap();
        read_responses(&mut stream, 16);
    }
    // What the kernel has counted is there before the client can read the response. nginx's line is written after it.
    let counted = counted(&observer, server.address);
    assert_eq!((counted["GET /answer/many 200"], counted["HEAD /large 200"]), (8000, 7));
    eventually("nginx has logged all", || server.logged() == counted);
    all_were_followed(&observer);
}

/// Wherever the head is cut, and only what has the form of one.
#[test]
fn hands_over_the_traceparent_that_the_application_sends() {
    let world = World::new("observe-traceparent");
    let mut observer = open(&world);
    let server = nginx("traceparent");
    observer.start_trace(&Filter::default()).unwrap();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_nodelay(true).unwrap();
    for (field, size) in
        [("traceparent", 4096), ("TraceParent", 7), ("traceparent", 1), ("traceparents", 4096)]
    {
        let request = format!("GET /answer HTTP/1.1\r\nHost: a\r\n{field}: {parent}\r\nx: y\r\n\r\n");
        request.as_bytes().chunks(size).for_each(|piece| stream.write_all(piece).unwrap());
        read_responses(&mut stream, 1);
    }
    let found: Vec<_> = traced(&mut observer).into_iter().map(|request| request.trace_parent).collect();
    let parent = Some(parent.to_owned());
    assert_eq!(found, [parent.clone(), parent.clone(), parent, None]);
}

/// The response comes when nobody waits for it any more: the socket is gone, the request is not.
#[test]
fn counts_requests_whose_client_has_gone() {
    let world = World::new("observe-gone");
    let observer = open(&world);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for (request, part) in [("/none", ""), ("/part", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")] {
        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(format!("GET {request} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        assert_ne!(server.read(&mut [0; 100]).unwrap(), 0);
        server.write_all(part.as_bytes()).unwrap();
        let mut got = vec![0; part.len()];
        client.read_exact(&mut got).unwrap();
        drop(client);
        let _ = server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    let counts = counted(&observer, address);
    assert_eq!(counts, Counts::from([("GET /none unanswered".into(), 1), ("GET /part 200".into(), 1)]));
    let failed = observer.failed().unwrap();
    assert_eq!((failed.len(), failed[0].target.as_str(), failed[0].broken), (1, "/none", false));
}

/// Processes that are moved from one processor to another while they send are where segments overtake each other and
/// two processors have those of one connection at once.
#[test]
fn counts_all_of_processes_that_move_between_processors() {
    let world = World::new("observe-move");
    let observer = open(&world);
    let server = nginx("move");
    let url = format!("http://{}/answer/moved", server.address);
    let mut client =
        Command::new("wrk").args(["-t2", "-c16", "-d4", &url]).stdout(Stdio::null()).spawn().unwrap();
    let mut moves = 0;
    while client.try_wait().unwrap().is_none() {
        for thread in threads_of(&world) {
            let mut processor = rustix::thread::CpuSet::new();
            processor.set(moves % 2);
            moves += 1;
            // It may have ended.
            let _ = rustix::thread::sched_setaffinity(rustix::thread::Pid::from_raw(thread), &processor);
        }
    }
    assert!(moves > 1000, "{moves} moves");
    counts_agree(&observer, &server, 16);
    all_were_followed(&observer);
}

/// The threads of all other processes in the world's cgroup.
fn threads_of(world: &World) -> Vec<i32> {
    let text = fs::read_to_string(world.cgroup().join("cgroup.procs")).unwrap_or_default();
    let own = std::process::id().to_string();
    let threads =
        |process: &str| fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    text.lines()
        .filter(|process| *process != own)
        .flat_map(threads)
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}

fn all_were_followed(observer: &Observer) {
    let tallies = observer.tallies().unwrap();
    assert_eq!(tallies.unfollowed.iter().map(|(_, count)| count).sum::<u64>(), 0, "{tallies:?}");
}

#[test]
fn counts_bodies_of_every_framing() {
    let world = World::new("observe-bodies");
    let observer = open(&world);
    let server = nginx("bodies");
    let url = format!("http://{}", server.address);
    let upload = server.folder.join("upload");
    fs::write(&upload, "HTTP/1.1 200 OK\r\n\r\nGET / HTTP/1.1\r\n\r\n".repeat(30_000)).unwrap();
    let upload = format!("@{}", upload.display());
    let none = "-o/dev/null";
    run(
        "curl",
        &["-s", none, none, none, &format!("{url}/large"), &format!("{url}/"), &format!("{url}/large")],
    );
    run(
        "curl",
        &["-s", none, none, "--data-binary", &upload, &format!("{url}/answer"), &format!("{url}/answer/2x")],
    );
    let chunked = "Transfer-Encoding: chunked";
    run(
        "curl",
        &[
            "-s",
            none,
            none,
            "-H",
            chunked,
            "--data-binary",
            &upload,
            &format!("{url}/answer"),
            &format!("{url}/answer/3x"),
        ],
    );
    run("curl", &["-s", none, "-0", &format!("{url}/large")]);
    run("curl", &["-s", none, "-I", &format!("{url}/large")]);
    run("wrk", &["-t1", "-c8", "-d2", &format!("{url}/answer/w")]);
    counts_agree(&observer, &server, 8);
    let tallies = observer.tallies().unwrap();
    assert_eq!(tallies.unfollowed.iter().map(|(_, count)| count).sum::<u64>(), 0, "{tallies:?}");
}

#[test]
fn counts_what_a_python_server_answers() {
    let world = World::new("observe-python");
    let observer = open(&world);
    let address = free_address();
    let folder = std::env::temp_dir().join(format!("observe-python-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let log = fs::File::create(folder.join("log")).unwrap();
    let port = address.port().to_string();
    let process = Command::new("python3")
        .args(["-u", "-m", "http.server", &port, "--bind", "127.0.0.1"])
        .current_dir(&folder)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let server = Server { process: process.expect("python3 is installed"), address, folder };
    eventually("python listens", || TcpStream::connect(address).is_ok());
    for path in ["", "log", "missing", "log?x=1"] {
        run("curl", &["-s", "-o/dev/null", &format!("http://{address}/{path}")]);
    }
    let count = |line: &str| counted(&observer, address).get(line).copied().unwrap_or(0);
    eventually("all are counted", || count("GET /log 200") == 2);
    assert_eq!((count("GET / 200"), count("GET /missing 404")), (1, 1));
    let log = fs::read_to_string(server.folder.join("log")).unwrap();
    let answered = log.lines().filter(|line| line.contains("HTTP/1.1\"")).count() as u64;
    assert_eq!(counted(&observer, address).values().sum::<u64>(), answered);
}

#[test]
fn a_trace_shows_both_processes() {
    let world = World::new("observe-trace");
    let mut observer = open(&world);
    let server = nginx("trace");
    let url = format!("http://{}", server.address);
    run("curl", &["-s", "-o/dev/null", &format!("{url}/answer")]);
    assert_eq!(traced(&mut observer), [], "nobody asked");

    let filter = Filter { path_prefix: "/answer".into(), methods: vec![Method::Get], ..Filter::default() };
    let trace = observer.start_trace(&filter).unwrap();
    let child = Command::new("curl").args(["-s", "-o/dev/null", &format!("{url}/answer?q=1")]).spawn();
    let mut child = child.unwrap();
    let pid = child.id();
    child.wait().unwrap();
    run("curl", &["-s", "-o/dev/null", "-d", "x", &format!("{url}/answer")]);
    run("curl", &["-s", "-o/dev/null", &format!("{url}/")]);
    let requests = traced(&mut observer);
    assert_eq!(requests.len(), 1, "{requests:?}");
    let request = &requests[0];
    assert!(trace.wants(&Event::Request(request.clone())));
    let client = request.client.as_ref().unwrap();
    assert_eq!((client.pid, client.comm.as_str(), client.uid), (Some(pid), "curl", 0));
    let served = request.server.as_ref().unwrap();
    let parent = fs::read_to_string(format!("/proc/{}/stat", served.pid.unwrap())).unwrap();
    let parent = parent.split(") ").nth(1).unwrap().split(' ').nth(1).unwrap();
    assert_eq!(parent, server.process.id().to_string(), "the worker that answered, not the master");
    assert_eq!(served.comm, "nginx");
    assert_eq!((request.target.as_str(), request.status), ("/answer?q=1", Some(200)));
    assert_eq!((request.server_address, request.side), (server.address, Side::Client));
    assert_eq!(request.host, server.address.to_string());

    observer.stop_trace(trace).unwrap();
    run("curl", &["-s", "-o/dev/null", &format!("{url}/answer")]);
    assert_eq!(traced(&mut observer), [], "the trace was stopped");
}

/// Two services have one endpoint: which of them was asked is what was dialled.
#[test]
fn who_dialled_a_service_has_asked_it() {
    let world = World::new("observe-dialled");
    let server = nginx("dialled");
    let mut data_path = world.open();
    let watched = service("watched", "127.77.0.2:80", "mode: observe,", &[server.address]);
    apply(&mut data_path, &(service("web", "127.77.0.1:80", "", &[server.address]) + &watched));
    let mut observer = Observer::open(&world.options, &Limits::default(), &data_path.in_force()).unwrap();
    let number = data_path.service_id("web");
    assert!(number.is_some());
    observer.start_trace(&Filter::default()).unwrap();
    for asked in ["127.77.0.1:80".to_owned(), server.address.to_string()] {
        run("curl", &["-s", "-o/dev/null", &format!("http://{asked}/answer")]);
    }
    let requests = traced(&mut observer);
    let told = requests.iter().map(|request| (request.service, request.server_address, request.path_label));
    let expected = [number, None].map(|number| (number, server.address, PathLabel::Observed));
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let mut counted = Vec::new();
    observer.series(&mut |series| counted.push((series.key.destination.service, series.count))).unwrap();
    counted.sort();
    assert_eq!(counted, [(None, 1), (number, 1)]);
}

#[test]
fn filters_hold_in_the_kernel() {
    let world = World::new("observe-filters");
    let mut observer = open(&world);
    let server = nginx("filters");
    let url = format!("http://{}", server.address);
    let ask = |path: &str| run("curl", &["-s", "-o/dev/null", &format!("{url}{path}")]);
    let cases: [(Filter, usize); 8] = [
        (Filter { status: Some((500, 599)), ..Filter::default() }, 1),
        (Filter { status: Some((200, 404)), ..Filter::default() }, 2),
        (Filter { comm: "cur".into(), ..Filter::default() }, 3),
        (Filter { comm: "nginx".into(), ..Filter::default() }, 3),
        (Filter { comm: "curly".into(), ..Filter::default() }, 0),
        (Filter { min_latency: Duration::from_secs(5), ..Filter::default() }, 0),
        (Filter { pid: Some(1), ..Filter::default() }, 0),
        (Filter { service: Some(5), ..Filter::default() }, 0),
    ];
    for (filter, expected) in cases {
        let trace = observer.start_trace(&filter).unwrap();
        for path in ["/", "/missing", "/broken"] {
            ask(path);
        }
        assert_eq!(traced(&mut observer).len(), expected, "{filter:?}");
        observer.stop_trace(trace).unwrap();
    }

    let rate = Some(Rate { per_second: 1, burst: 5 });
    let trace = observer.start_trace(&Filter { rate, ..Filter::default() }).unwrap();
    let mut stream = TcpStream::connect(server.address).unwrap();
    for _ in 0..200 {
        stream.write_all(b"GET /answer HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        read_responses(&mut stream, 1);
    }
    let sent = traced(&mut observer).len();
    assert!((5..=7).contains(&sent), "{sent} events");
    assert_eq!(observer.tallies().unwrap().get("event-limited"), Some(200 - sent as u64));
    observer.stop_trace(trace).unwrap();

    let traces: Vec<_> = (0..4).map(|_| observer.start_trace(&Filter::default()).unwrap()).collect();
    assert!(observer.start_trace(&Filter::default()).is_err(), "there are four places");
    ask("/");
    let requests = traced(&mut observer);
    assert_eq!(requests.len(), 1);
    let event = Event::Request(requests[0].clone());
    assert!(traces.iter().all(|trace| trace.wants(&event)));
}

#[test]
fn the_recorder_keeps_what_nobody_watched() {
    let world = World::new("observe-recorder");
    let observer = open(&world);
    let server = nginx("recorder");
    let url = format!("http://{}", server.address);
    let mut stream = TcpStream::connect(server.address).unwrap();
    for _ in 0..1000 {
        stream.write_all(b"GET /answer HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        read_responses(&mut stream, 1);
    }
    run("curl", &["-s", "-o/dev/null", &format!("{url}/slow")]);
    run("curl", &["-s", "-o/dev/null", &format!("{url}/broken?first")]);
    run("curl", &["-s", "-o/dev/null", &format!("{url}/broken?second")]);
    let slowest = observer.slowest().unwrap();
    assert_eq!(slowest[0].target, "/slow");
    assert!(
        slowest[0].latency >= Duration::from_millis(200)
            && slowest[0].first_byte < Some(slowest[0].latency / 2)
    );
    assert!(slowest.len() > 100 && slowest.is_sorted_by_key(|request| std::cmp::Reverse(request.latency)));
    let failed: Vec<String> = observer.failed().unwrap().into_iter().map(|request| request.target).collect();
    assert_eq!(failed, ["/broken?second", "/broken?first"]);
}

#[test]
fn connections_that_were_there_before_are_seen_from_a_safe_place_on() {
    let world = World::new("observe-before");
    let server = nginx("before");
    let mut stream = TcpStream::connect(server.address).unwrap();
    let mut ask = || {
        stream.write_all(b"GET /answer HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        read_responses(&mut stream, 1);
    };
    ask();
    let observer = open(&world);
    for _ in 0..10 {
        ask();
    }
    assert_eq!(counted(&observer, server.address).get("GET /answer 200"), Some(&9));
    let tallies = observer.tallies().unwrap();
    assert_eq!(
        (tallies.get("resynchronised"), tallies.get("unseen-exchange")),
        (Some(1), Some(1)),
        "{tallies:?}"
    );

    // Another process takes over: nothing is lost or counted twice.
    drop(observer);
    ask();
    let observer = open(&world);
    ask();
    assert_eq!(counted(&observer, server.address).get("GET /answer 200"), Some(&11));
}

/// TCP Fast Open: how many connections of this network namespace have sent data in their SYN that was taken.
fn taken_in_the_syn() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = names.split(' ').zip(values.split(' '));
    fields.find(|(name, _)| *name == "TCPFastOpenActive").unwrap().1.parse().unwrap()
}

#[expect(unsafe_code, reason = "a thread of a test gets a network namespace of its own")]
fn leave_network() {
    // SAFETY: descriptors and memory stay shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
}

#[test]
fn requests_in_the_syn_are_counted() {
    let world = World::new("observe-syn");
    // The setting is a network namespace's; that of the thread goes with it.
    leave_network();
    run("ip", &["link", "set", "lo", "up"]);
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
    let observer = open(&world);
    let server = nginx_with("syn", "fastopen=64");
    let url = format!("http://{}/answer", server.address);
    // The first connection brings the client its cookie.
    for _ in 0..10 {
        run("curl", &["-s", "--tcp-fastopen", "-o", "/dev/null", &url, "-o", "/dev/null", &url]);
    }
    assert!(taken_in_the_syn() >= 9);
    counts_agree(&observer, &server, 0);
    assert_eq!(counted(&observer, server.address).get("GET /answer 200"), Some(&20));
}

#[test]
fn the_servers_side_counts_for_clients_that_are_not_observed() {
    let world = World::new("observe-server");
    let observer = open(&world);
    let server = nginx("server");
    // A child that leaves the cgroup before it connects.
    let parent = world.cgroup().parent().unwrap().join("cgroup.procs");
    let script = format!(
        "echo $$ > {} && exec curl -s -o /dev/null http://{}/answer",
        parent.display(),
        server.address
    );
    run("sh", &["-c", &script]);
    let mut found = Vec::new();
    observer.series(&mut |series| found.push(series.key)).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].side, found[0].source), (Side::Server, None));
    assert!(found[0].destination.cgroup.is_some());
}

#[test]
fn paths_are_counted_under_their_templates() {
    let world = World::new("observe-templates");
    let mut observer = open(&world);
    let templates = ["/answer/users/{name}", "/answer/users/{name}/orders", "/answer/static/**"];
    let templates: Vec<_> = templates.iter().map(|text| text.parse().unwrap()).collect();
    observer.set_templates(&templates).unwrap();
    let server = nginx("templates");
    let mut stream = TcpStream::connect(server.address).unwrap();
    let mut ask = |path: &str| {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        read_responses(&mut stream, 1);
    };
    // More names than there is room for paths.
    for name in 0..1500 {
        ask(&format!("/answer/users/n{name}ame"));
    }
    for path in ["/answer/users/7", "/answer/users/bob?x=/y", "/answer/users/bob/orders", "/answer/users/"] {
        ask(path);
    }
    ask("/answer/users/bob/orders/1");
    ask("/answer/static/css/7/a.css");
    ask("/answer/static/");
    ask("/answer/static");
    let counts = counted(&observer, server.address);
    let expected = [
        ("GET /answer/users/{name} 200", 1502),
        ("GET /answer/users/{name}/orders 200", 1),
        ("GET /answer/users/ 200", 1),
        ("GET /answer/users/bob/orders/{n} 200", 1),
        ("GET /answer/static/** 200", 2),
        ("GET /answer/static 200", 1),
    ];
    assert_eq!(counts, expected.map(|(line, count)| (line.to_owned(), count)).into());
    assert_eq!(observer.tallies().unwrap().get("path-overflow"), Some(0));

    // Without them the paths have no room, and that is told.
    observer.set_templates(&[]).unwrap();
    for name in 0..1500 {
        ask(&format!("/answer/users/n{name}ame"));
    }
    let counts = counted(&observer, server.address);
    assert_eq!(counts["GET /answer/users/{name} 200"], 1502);
    let overflow = observer.tallies().unwrap().get("path-overflow").unwrap();
    // Many new series at once may find no memory for the moment; they are counted, too.
    let without_series = observer.series_overflow().unwrap()[0].count;
    let other = counts.get("GET other 200").copied().unwrap_or(0);
    assert!(overflow >= 400 && other + without_series >= 400, "{overflow} {other} {without_series}");
    assert_eq!(counts.values().sum::<u64>() + without_series, 3008);
    observer.set_templates(&vec!["/x".parse().unwrap(); 33]).unwrap_err();
}
