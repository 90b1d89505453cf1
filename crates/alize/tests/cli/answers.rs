//! What the commands make of an agent's answers, wrong ones above all. The agent here is a listener with one canned
//! answer; the real one is tested with real services elsewhere.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::program::{Answer, Folder, alize, answer, copy_program, ends_within, run, run_with_input};

/// Listens in `folder` and gives each connection, numbered from 0, to `serve`. Ends with the test's process.
fn listen(folder: &Folder, serve: impl Fn(UnixStream, usize) + Send + 'static) -> String {
    let socket = folder.path("alize.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            serve(stream.expect("a connection"), number);
        }
    });
    socket
}

/// Reads the head of a request and its body, if it has a length; returns the first line.
fn request(stream: &UnixStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).expect("a request line");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    reader.take(length).read_to_end(&mut Vec::new()).expect("the body");
    first.trim().to_owned()
}

fn respond(mut stream: &UnixStream, status: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all((head + body).as_bytes());
}

/// Asks an agent that always answers `status` and `body`.
fn against(test: &str, status: &'static str, body: &'static str, args: &[&str]) -> Answer {
    let folder = Folder::new(test);
    let socket = listen(&folder, move |stream, _| {
        request(&stream);
        respond(&stream, status, body);
    });
    run_with_input(&[args, &["--socket", &socket]].concat(), b"services: []\n")
}

const SERVICES: &str = r#"[{"name":"web","id":1,"protocol":"http","mode":"enforce","addresses":["10.96.0.10:80"],
"balance":"weighted-random","affinity":null,"usable":1,"traffic":{"connections":1000,"established":990,"open":7,
"failures":{"refused":3},"bytes_sent":1536,"bytes_received":0,"retransmits":0,"smoothed_rtt":0.00123},
"refused":{"no-endpoint":2},"shadow":{},"shadow_seen":{"connections":0,"established":0,"failures":{}},"mode_override":null,"routes":[
{"name":"api","matches":["/api/*","POST /form"],"backends":[{"target":"version=v1","weight":9,"share":0.9},
{"target":"version=v2","weight":1,"share":0.1}],"does":["timeout 2s"],"path":"proxy","proxied":[{"reason":"timeout",
"because":"the route has a timeout","paths":["/api/*","/form"]}],"requests":{"2xx":1234,"5xx":6}},
{"name":"rest","matches":["/*"],"backends":[{"target":"all","weight":1,"share":1.0}],"does":[],"path":"kernel",
"proxied":[],"requests":{}}],"endpoints":[
{"address":"10.0.0.1:8080","id":5,"weight":9,"share":0.9,"labels":{"version":"v1"},"state":"active","reason":null,"would":0,
"traffic":{"connections":910,"established":900,"open":7,"failures":{},"bytes_sent":1536,"bytes_received":0,
"retransmits":0,"smoothed_rtt":null}},
{"address":"10.0.0.2:8080","id":6,"weight":1,"share":0.1,"labels":{"version":"v2"},"state":"ejected",
"reason":"5 connects in a row failed","would":0,"traffic":{"connections":90,"established":90,"open":0,"failures":{"refused":3},
"bytes_sent":0,"bytes_received":0,"retransmits":0,"smoothed_rtt":null}}]}]"#;

const CONNECTED: &str = r#"{"kind":"tcp","time":1.5,"event":"connected","reason":null,"side":"client","owner":null,
"local":"127.0.0.1:40000","remote":"127.0.0.1:80","service":"web","duration":0.001,"bytes_sent":0,"bytes_received":0,
"retransmits":0,"rtt":null}"#;

const TRAFFIC: &str = r#"{"time":0,"fresh":false,"overflow":0,"unfollowed":{},"events":{},"series":[
{"source":null,"service":"web","endpoint":"10.0.0.1:8080","destination":null,"method":"GET","path":null,"status_class":"2xx",
"count":0,"errors":0,"request_bytes":0,"response_bytes":0,"latency_sum":0.0,"p50":null,"p90":null,"p99":null,"buckets":{}},
{"source":null,"service":null,"endpoint":"10.0.0.9:80","destination":null,"method":"GET","path":null,"status_class":"2xx",
"count":0,"errors":0,"request_bytes":0,"response_bytes":0,"latency_sum":0.0,"p50":null,"p90":null,"p99":null,"buckets":{}}]}"#;

#[test]
fn services_in_a_table() {
    let shown = against("table", "200 OK", SERVICES, &["services"]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    assert_eq!(
        shown.out,
        "SERVICE  ADDRESSES      PROTOCOL  MODE     BALANCE          USABLE  CONNECTIONS  OPEN  FAILED  REFUSED      \
         SENT  RECEIVED      RTT\n\
         web      10.96.0.10:80  http      enforce  weighted-random     1/2        1.00k     7       3        2  \
         1.50 KiB       0 B  1.23 ms\n"
    );
}

#[test]
fn routes_with_the_way_that_they_take() {
    let shown = against("routes", "200 OK", &SERVICES[1..SERVICES.len() - 1], &["services", "web"]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    let expected = "
ROUTE  MATCHES     TO                 DOES        PATH    REQUESTS  STATUS
api    /api/*      version=v1 90.0 %  timeout 2s  proxy      1.24k  1.23k 2xx, 6 5xx
       POST /form  version=v2 10.0 %
rest   /*          all                -           kernel         0  -
  api, /api/* /form: proxy, because the route has a timeout (timeout)
";
    let out: String = shown.out.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    assert!(out.contains(expected), "{out}");
}

#[test]
fn endpoints_in_a_table_with_wanted_and_seen() {
    let shown = against("endpoints", "200 OK", SERVICES, &["endpoints"]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    let lines: Vec<&str> = shown.out.lines().collect();
    assert!(lines[1].contains("active") && lines[1].contains("90.0 %  91.0 %"), "{}", shown.out);
    assert!(lines[2].contains("10.0 %   9.0 %"), "{}", shown.out);
    assert!(lines[2].ends_with("version=v2  5 connects in a row failed"), "{}", shown.out);
}

#[test]
fn json_is_the_api_s_own() {
    let shown = against("json", "200 OK", SERVICES, &["services", "-o", "json"]);
    let (asked, given): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(SERVICES).unwrap(), serde_json::from_str(&shown.out).unwrap());
    assert_eq!(asked, given);
}

#[test]
fn rates_are_differences() {
    let folder = Folder::new("rates");
    let socket = listen(&folder, |stream, number| {
        request(&stream);
        // 100 more connections each time, all to the first endpoint.
        let connections = |base: usize| format!("\"connections\":{}", base + number * 100);
        let body = SERVICES
            .replace("\"connections\":1000", &connections(1000))
            .replace("\"connections\":910", &connections(910));
        respond(&stream, "200 OK", &body);
    });
    let begun = Instant::now();
    let shown = run(&["endpoints", "--watch", "0.5", "--count", "2", "--socket", &socket]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(shown.out.matches("CONNECTS/S").count(), 2, "{}", shown.out);
    let row = shown.out.lines().find(|line| line.contains("10.0.0.1")).unwrap();
    assert!(row.contains("100 %"), "all new connections went there: {row}");
    let per_second = row.split("100 %").nth(1).unwrap().split_whitespace().next().unwrap();
    let per_second: f64 = per_second.parse().unwrap_or_else(|_| panic!("{row}"));
    assert!((100.0..=200.0).contains(&per_second), "100 in somewhat more than 0.5 s: {row}");
}

#[test]
fn a_refusal_is_the_agent_s_own_words() {
    let refusal = r#"{"error":"there is no service \"wbe\"; did you mean \"web\"?","diagnostics":[]}"#;
    let refused = against("refusal", "404 Not Found", refusal, &["services", "wbe"]);
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    assert_eq!(
        refused.err,
        "error: there is no service \"wbe\"; did you mean \"web\"?\n  `alize services` lists all\n"
    );
}

#[test]
fn what_the_agent_calls_wrong_is_wrong_use() {
    let refusal = r#"{"error":"status \"5x\" is none of the forms 404, 5xx and 400-499","diagnostics":[]}"#;
    let refused = against("wrong-status", "400 Bad Request", refusal, &["trace", "--status", "5x"]);
    assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{}", refused.err);
    assert!(refused.err.contains("none of the forms 404"), "{}", refused.err);
}

#[test]
fn only_a_missing_service_is_among_services() {
    let refusal = r#"{"error":"no unit, container or cgroup \"nosuch\" is meshed here","diagnostics":[]}"#;
    let refused = against("no-unit", "404 Not Found", refusal, &["trace", "--unit", "nosuch"]);
    assert_eq!(refused.code, 1);
    assert_eq!(refused.err, "error: no unit, container or cgroup \"nosuch\" is meshed here\n");
}

#[test]
fn a_refused_file_is_shown_as_check_shows_it() {
    let refusal = r#"{"error":"- was refused; what was in force stays","diagnostics":[{"severity":"error","file":"-",
        "position":{"line":1,"column":11},"message":"too few","help":"more"}]}"#;
    let refused = against("refused", "422 Unprocessable Content", refusal, &["apply", "-", "-o", "table"]);
    assert_eq!(refused.code, 3);
    assert!(
        refused.err.starts_with("-:1:11: error: too few (more)\n    1 | services: []\n      |           ^\n"),
        "{}",
        refused.err
    );
    assert!(refused.err.contains("what was in force stays"), "{}", refused.err);
}

#[test]
fn an_applied_file_is_summed_up() {
    let applied = r#"{"generation":7,"added":1,"changed":2,"removed":0,"unchanged":997,"seconds":0.0008,
        "warnings":[]}"#;
    let shown = against("applied", "200 OK", applied, &["apply", "-"]);
    assert_eq!(shown.out, "+1 ~2 -0 =997 services in 800 us (generation 7)\n", "{}", shown.err);
}

#[test]
fn garbage_is_not_believed() {
    let answers: [(&str, &str, &str); 5] = [
        ("empty", "200 OK", ""),
        ("truncated", "200 OK", "[{\"name\":\"web\""),
        ("other", "200 OK", "{\"hello\":\"world\"}"),
        ("html", "502 Bad Gateway", "<html>"),
        ("status", "500 Internal Server Error", ""),
    ];
    for (name, status, body) in answers {
        for args in [&["services"][..], &["status"], &["apply", "-"]] {
            let answer = against(&format!("garbage-{name}-{}", args[0]), status, body, args);
            assert_eq!((answer.code, answer.out.as_str()), (4, ""), "{name} {args:?}: {}", answer.err);
            assert!(answer.err.contains("does not answer as an agent does"), "{name}: {}", answer.err);
        }
    }
}

#[test]
fn another_protocol_is_not_believed() {
    let folder = Folder::new("protocol");
    let socket = listen(&folder, |mut stream, _| {
        let _ = stream.write_all(b"+PONG\r\n\x00\xff\x1b[2J");
    });
    let answer = run(&["status", "--socket", &socket]);
    assert_eq!(answer.code, 4, "{}", answer.err);
    assert!(!answer.err.contains('\u{1b}'), "{:?}", answer.err);
}

#[test]
fn a_broken_off_answer_is_not_believed() {
    let folder = Folder::new("broken");
    let socket = listen(&folder, |mut stream, _| {
        request(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[");
    });
    assert_eq!(run(&["services", "--socket", &socket]).code, 4);
}

#[test]
fn a_silent_agent_is_given_up() {
    for part in ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n["] {
        let folder = Folder::new(&format!("silent-{}", part.len()));
        let socket = listen(&folder, move |mut stream, _| {
            request(&stream);
            let _ = stream.write_all(part.as_bytes());
            thread::sleep(Duration::from_secs(30));
        });
        let begun = Instant::now();
        let answer = run(&["status", "--socket", &socket]);
        assert_eq!(answer.code, 4, "{}", answer.err);
        assert!(answer.err.contains("has not answered for 5 s"), "{}", answer.err);
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_left_over_socket_is_no_agent() {
    let folder = Folder::new("left");
    let socket = folder.path("alize.sock");
    drop(UnixListener::bind(&socket).expect("a socket"));
    let answer = run(&["status", "--socket", &socket]);
    assert_eq!(answer.code, 4);
    assert!(answer.err.contains("nobody listens"), "{}", answer.err);
}

#[test]
fn a_forbidden_socket_says_who_may() {
    use std::os::unix::process::CommandExt;
    let folder = Folder::new("forbidden");
    let socket = listen(&folder, |stream, _| drop(stream));
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o660)).unwrap();
    let binary = folder.path("alize");
    copy_program(&binary);
    let denied = |group: &str| {
        let mut command = std::process::Command::new(&binary);
        let denied = answer(command.args(["status", "--socket", &socket]).uid(65_534).gid(65_534));
        assert_eq!(denied.code, 5, "{}", denied.err);
        assert!(denied.err.contains("sudo") && denied.err.contains(group), "{}", denied.err);
    };
    denied("groupadd --system alize");
    std::os::unix::fs::chown(&socket, None, Some(1)).unwrap();
    denied("--groups daemon USER");
}

#[test]
fn top_has_what_was_counted_for_services_meanwhile() {
    let folder = Folder::new("top");
    let socket = listen(&folder, |stream, number| {
        // Requests are asked for first each time; the second look is a second later.
        let (again, grown) = (number >= 2, number.to_string());
        let body = match request(&stream).contains("/v1/traffic") {
            true => TRAFFIC.replace("\"time\":0", if again { "\"time\":2" } else { "\"time\":0" }),
            false => SERVICES
                .replace("\"retransmits\":0", if again { "\"retransmits\":9" } else { "\"retransmits\":1" }),
        };
        respond(&stream, "200 OK", &body.replace("\"count\":0", &format!("\"count\":{grown}")));
    });
    let shown = run(&["top", "--once", "--interval", "0.1", "--socket", &socket]);
    let lines: Vec<Vec<&str>> = shown.out.lines().map(|line| line.split_whitespace().collect()).collect();
    let [head, past_every_service, web] = &lines[..] else { panic!("{}{}", shown.out, shown.err) };
    assert_eq!(head.last(), Some(&"RETRANS/S"));
    assert_eq!((web[0], web.last()), ("web", Some(&"4.0")), "{}", shown.out);
    assert_eq!(
        (past_every_service[0], past_every_service.last()),
        ("-/10.0.0.9:80", Some(&"-")),
        "{}",
        shown.out
    );
}

/// One trace line of a connection in a stream that breaks off, as that of an agent that was killed does.
fn broken_trace(test: &str, args: &[&str]) -> Answer {
    let folder = Folder::new(test);
    let socket = listen(&folder, |mut stream, _| {
        request(&stream);
        let line = CONNECTED.replace('\n', "") + "\n";
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let _ = stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes());
    });
    run(&[&["trace", "--tcp", "--socket", &socket], args].concat())
}

#[test]
fn a_trace_whose_agent_dies_has_not_reached_it() {
    let broken = broken_trace("trace-dies", &[]);
    assert_eq!(broken.code, 4, "{}", broken.err);
    assert!(broken.err.contains("/alize.sock has gone"), "{}", broken.err);
    let lines: Vec<&str> = broken.out.lines().collect();
    let [head, line] = lines[..] else { panic!("{}", broken.out) };
    assert!(
        head.starts_with("TIME ") && head.ends_with("  EVENT") && line.contains("  TCP connected"),
        "{}",
        broken.out
    );
    let enough = broken_trace("trace-enough", &["--count", "1"]);
    assert_eq!((enough.code, enough.err.as_str()), (0, ""), "{}", enough.out);
}

/// An event stream that stays open until the sender of the returned channel goes.
fn events(folder: &Folder) -> (String, mpsc::Sender<()>) {
    let (open, closed) = mpsc::channel::<()>();
    let socket = listen(folder, move |mut stream, number| {
        assert!(request(&stream).starts_with("GET /v1/events"), "the path of events");
        let event = format!(
            "{{\"time\":1.5,\"kind\":\"agent\",\"service\":null,\"endpoint\":null,\
             \"message\":\"hello {number}\",\"pid\":null,\"comm\":null}}\n"
        );
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let _ = stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
        if number > 0 {
            let _ = closed.recv();
        }
    });
    (socket, open)
}

#[test]
fn watching_survives_a_restart_of_the_agent() {
    let folder = Folder::new("restart");
    let (socket, _open) = events(&folder);
    let mut child = alize(&["watch", "--socket", &socket]).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "1970-01-01T00:00:01.500Z  agent           hello 0");
    assert_eq!(lines.next().unwrap(), "1970-01-01T00:00:01.500Z  agent           hello 1");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut remarks = String::new();
    child.stderr.take().unwrap().read_to_string(&mut remarks).unwrap();
    assert!(remarks.contains("has gone") && remarks.contains("connected again"), "{remarks}");
}

#[test]
fn watching_ends_when_nobody_reads() {
    let folder = Folder::new("unread");
    let (socket, _open) = events(&folder);
    // The first connection is broken off at once; the second stays open and silent.
    let args = ["watch", "-o", "json", "--socket", &socket];
    let mut child = alize(&args).stderr(Stdio::null()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    for number in 0..2 {
        let event: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).expect("a line of JSON");
        assert_eq!(event["message"], format!("hello {number}"));
    }
    drop(lines);
    assert_eq!(ends_within(&mut child, Duration::from_secs(5)), 0);
}
