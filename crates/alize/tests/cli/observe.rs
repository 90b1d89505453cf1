//! HTTP seen by the real kernel: nginx, curl, and the commands that show what went on between them. Needs root.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::nginx::{Nginx, Setting};
use crate::program::{Folder, code};
use crate::real::{Host, SERVICE, json, mesh};

/// nginx that logs each request.
fn nginx(host: &Host) -> Nginx {
    let log = host.folder.path("access.log");
    let http = format!("log_format line '$request_method $uri $status'; access_log {log} line;");
    Nginx::start(host, &Setting { http: &http, server: ";", environment: "", limit: Duration::from_secs(10) })
}

/// A world with a running agent.
struct World {
    nginx: Option<Nginx>,
    host: Host,
}

impl World {
    fn new(test: &str, more: &[&str]) -> Self {
        let mut host = Host::new(test);
        fs::create_dir(format!("{}/shop.service", host.cgroup)).expect("a cgroup");
        let nginx = nginx(&host);
        let file = host.folder.file("mesh.yaml", mesh(&[nginx.port]));
        host.start_with(&file, more);
        Self { nginx: Some(nginx), host }
    }

    /// Asks the service for these paths, as another unit.
    fn ask(&self, paths: &[&str]) {
        for path in paths {
            let script = format!(
                "echo $$ > {}/shop.service/cgroup.procs && exec curl -s -o /dev/null http://{SERVICE}{path}",
                self.host.cgroup
            );
            let curl = Command::new("bash").args(["-c", &script]).status().expect("bash");
            assert_eq!(code(curl), 0, "{path}");
        }
    }

    /// Starts a trace whose output goes to a file; it is in force when this returns.
    fn trace(&self, folder: &Folder, name: &str, args: &[&str]) -> (Child, String) {
        let to = folder.path(name);
        let mut command = self.host.command(&[&["trace"], args].concat());
        let output = fs::File::create(&to).expect("a file");
        let child = command.stdout(output).stderr(Stdio::null()).spawn().expect("the program starts");
        (child, to)
    }

    fn links(&self) -> usize {
        let instance = format!("{}/alize/{}", self.host.bpffs(), self.host.instance);
        let versions = fs::read_dir(instance).expect("pins").flatten();
        let names =
            versions.flat_map(|version| fs::read_dir(version.path().join("links")).expect("pins").flatten());
        names.filter(|entry| entry.file_name().to_string_lossy().contains("observe")).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The cgroups can go only when nobody lives there; the host removes the outer one.
        self.nginx = None;
        for name in ["nginx.service", "shop.service"] {
            let _ = fs::remove_dir(format!("{}/{name}", self.host.cgroup));
        }
    }
}

fn wait(mut child: Child) {
    let begun = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if begun.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the trace did not see its requests");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn requests_are_traced_with_both_ends() {
    let mut world = World::new("trace", &[]);
    assert_eq!(world.links(), 0, "nobody has asked yet");
    let folder = Folder::new("trace-out");
    // Attaches; what follows is in force at once.
    let traffic = world.host.alize(&["map", "--for", "100ms"]);
    assert!(traffic.out.starts_with("no HTTP was seen"), "{}{}", traffic.out, traffic.err);
    assert_eq!(world.links(), 4);

    let (all, all_out) = world.trace(&folder, "all", &["--count", "4", "-o", "json"]);
    let (failed, failed_out) = world.trace(
        &folder,
        "failed",
        &["--status", "5xx", "--service", "web", "--unit", "shop", "--count", "1"],
    );
    std::thread::sleep(Duration::from_millis(700));
    world.ask(&["/users/1", "/users/2?x=1", "/fail", "/last"]);
    wait(all);
    wait(failed);

    let all = fs::read_to_string(&all_out).expect("a file");
    let requests: Vec<serde_json::Value> =
        all.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let shown: Vec<_> =
        requests.iter().map(|request| (request["target"].as_str(), request["status"].as_u64())).collect();
    let expected = [("/users/1", 200), ("/users/2?x=1", 200), ("/fail", 503), ("/last", 200)];
    assert_eq!(shown, expected.map(|(target, status)| (Some(target), Some(status))));
    let pid = world.nginx.as_ref().expect("nginx runs").process.id();
    for request in &requests {
        assert_eq!((&request["service"], &request["client"]["comm"]), (&"web".into(), &"curl".into()));
        assert_eq!(request["client"]["workload"]["name"], "shop.service");
        assert_eq!(request["server"]["workload"]["name"], "nginx.service");
        assert_eq!(request["server"]["pid"], pid);
        assert_eq!(request["server"]["command"], "nginx");
    }
    let failed = fs::read_to_string(&failed_out).expect("a file");
    let lines: Vec<&str> = failed.lines().collect();
    assert_eq!(lines.len(), 2, "a header and one request: {failed}");
    assert!(lines[1].contains("  /fail  ") && lines[1].contains("  503  "), "{failed}");

    let log = fs::read_to_string(world.host.folder.path("access.log")).expect("a file");
    assert_eq!(log.lines().count(), 4, "{log}");
    // A line like those of the live trace.
    let kept = json(&world.host.alize(&["trace", "--last", "9", "--failed", "-o", "json"]));
    assert_eq!((&kept["kind"], &kept["target"]), (&"request".into(), &"/fail".into()));
    let slowest = world.host.alize(&["trace", "--last", "9", "-o", "json"]).out;
    let each = slowest.lines().map(serde_json::from_str::<serde_json::Value>);
    assert_eq!(
        each.filter(|line| line.as_ref().is_ok_and(|line| line["kind"] == "request")).count(),
        4,
        "{slowest}"
    );
    // The same request has the same name everywhere, and its decision can be asked for.
    let id = requests[2]["id"].as_str().expect("an id");
    assert_eq!(kept["id"], id);
    let line = world.host.alize(&["trace", "--last", "9", "--failed", "--ids"]).out;
    assert!(line.lines().nth(1).is_some_and(|line| line.ends_with(id)), "{line}");
    let (bpffs, run_dir) = (world.host.bpffs(), world.host.run_dir());
    let explained = world.host.alize(&["explain", "--trace", id, "--bpffs", &bpffs, "--run-dir", &run_dir]);
    assert_eq!(explained.code, 0, "{}", explained.err);
    let endpoint = format!("to web at 127.0.0.1:{}", world.nginx.as_ref().expect("nginx runs").port);
    for part in [
        "GET /fail",
        "status 503",
        "from curl",
        "shop.service",
        &endpoint,
        "tables as they are now",
        "outcome",
    ] {
        assert!(explained.out.contains(part), "{part}: {}", explained.out);
    }
    let nobody = world.host.alize(&["explain", "--trace", "1-2", "--bpffs", &bpffs, "--run-dir", &run_dir]);
    assert!(nobody.code == 1 && nobody.err.contains("alize trace --ids"), "{}", nobody.err);
    let unknown = world.host.alize(&["trace", "--service", "wbe"]);
    assert!(unknown.code == 1 && unknown.err.contains("\"wbe\""), "{}", unknown.err);
    let unknown = world.host.alize(&["trace", "--unit", "nobody"]);
    assert!(unknown.code == 1 && unknown.err.contains("\"nobody\""), "{}", unknown.err);
    assert!(
        unknown.err.contains("systemd-cgls") && !unknown.err.contains("alize services"),
        "{}",
        unknown.err
    );
    for wrong in [["--status", "5x"], ["--method", "FOO"], ["--comm", "sixteen-or-more-b"]] {
        let refused = world.host.alize(&[&["trace"], &wrong[..]].concat());
        assert!(refused.code == 2 && refused.err.contains(wrong[1]), "{wrong:?}: {}", refused.err);
    }
    assert_eq!(world.host.end("-TERM"), Some(0));
    assert_eq!(world.links(), 0, "the agent has ended");
}

#[test]
fn connections_are_traced_with_their_process() {
    let world = World::new("connections", &[]);
    let traffic = world.host.alize(&["map", "--for", "100ms"]);
    assert_eq!(traffic.code, 0, "{}", traffic.err);
    let folder = Folder::new("connections-out");
    let (told, told_out) =
        world.trace(&folder, "told", &["--tcp", "--service", "web", "--count", "4", "-o", "json"]);
    let shop = ["--tcp", "--unit", "shop", "--count", "2"];
    let (shown, shown_out) = world.trace(&folder, "shown", &shop);
    std::thread::sleep(Duration::from_millis(700));
    world.ask(&["/"]);
    wait(told);
    wait(shown);
    let told = fs::read_to_string(&told_out).expect("a file");
    let events: Vec<serde_json::Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let event = |event: &str, side: &str| {
        let is = |found: &&serde_json::Value| found["event"] == event && found["side"] == side;
        events.iter().find(is).unwrap_or_else(|| panic!("{event} at the {side} in {told}"))
    };
    let connected = event("connected", "client");
    assert_eq!((&connected["owner"]["comm"], &connected["service"]), (&"curl".into(), &"web".into()));
    assert_eq!(connected["owner"]["workload"]["name"], "shop.service");
    assert_eq!(event("accepted", "server")["owner"]["workload"]["name"], "nginx.service");
    let closed = event("closed", "client");
    assert_eq!(closed["bytes_received"], event("closed", "server")["bytes_sent"]);
    let shown = fs::read_to_string(&shown_out).expect("a file");
    let lines: Vec<&str> = shown.lines().collect();
    let [head, connected, closed] = lines[..] else { panic!("{shown}") };
    assert!(head.contains("SERVICE/REMOTE"), "{shown}");
    assert!(connected.contains("  curl  ") && closed.contains("  curl  "), "{shown}");
    assert!(connected.contains("->  web/127.0.0.1:") && connected.contains("TCP connected  "), "{shown}");
    assert!(closed.contains("TCP closed  ") && closed.contains(" B  received "), "{shown}");
}

#[test]
fn a_trace_that_is_not_read_stops_nobody() {
    let world = World::new("stall", &[]);
    // Attaches, which takes the verifier's time.
    assert_eq!(world.host.alize(&["map", "--for", "100ms"]).code, 0);
    let mut command = world.host.command(&["trace", "-o", "json"]);
    // Nobody reads the pipe.
    let mut stalled =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
    std::thread::sleep(Duration::from_millis(1500));
    let script = format!(
        "echo $$ > {}/shop.service/cgroup.procs && exec curl -s 'http://{SERVICE}/[1-5000]'",
        world.host.cgroup
    );
    let curl = Command::new("bash").args(["-c", &script]).output().expect("bash");
    assert_eq!(code(curl.status), 0);
    assert_eq!(curl.stdout.len(), 5000 * "hello".len(), "every request was answered");
    assert_eq!(world.host.alize(&["status"]).code, 0);
    let folder = Folder::new("stall-out");
    let (mut other, out) = world.trace(&folder, "other", &["--count", "1", "--path-prefix", "/after"]);
    // When it is in force cannot be seen from outside, on a busy machine least of all.
    for _ in 0..40 {
        world.ask(&["/after"]);
        if other.try_wait().expect("a child").is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    wait(other);
    assert!(fs::read_to_string(&out).expect("a file").contains("/after"));
    stalled.kill().expect("a child");
    stalled.wait().expect("it ends");
}

#[test]
fn top_and_map_show_rates_and_always_feeds_the_metrics() {
    let mut world = World::new("top", &["--observe", "always", "--path-template", "/{part}"]);
    assert_eq!(world.links(), 4, "from the start on");
    let asking = |world: &World| {
        std::thread::sleep(Duration::from_millis(300));
        world.ask(&["/a", "/b", "/fail"]);
    };
    let (map, top) = std::thread::scope(|scope| {
        let map = scope.spawn(|| world.host.alize(&["map", "--for", "2s"]));
        let top =
            scope.spawn(|| world.host.alize(&["top", "--once", "--interval", "2", "--view", "endpoints"]));
        asking(&world);
        (map.join().expect("a thread"), top.join().expect("a thread"))
    });
    assert!(map.out.contains("shop.service  web ") && map.out.contains("33.3 %"), "{}{}", map.out, map.err);
    assert!(top.out.contains("web/127.0.0.1:") && top.out.contains("33.3 %"), "{}{}", top.out, top.err);
    assert!(top.out.contains("  RETRANS/S\n") && top.out.ends_with("  0\n"), "{}", top.out);
    let socket = format!("{}/{}.sock", world.host.folder.path("run"), world.host.instance);
    let curl = Command::new("curl").args(["-s", "--unix-socket", &socket, "http://agent/metrics"]).output();
    let metrics = String::from_utf8(curl.expect("curl").stdout).expect("UTF-8");
    let ends = "source=\"shop.service\",service=\"web\",destination=\"nginx.service\",route=\"/{part}\",\
                protocol=\"http/1\",method=\"GET\"";
    for line in [
        format!("alize_http_requests_total{{{ends},status_class=\"2xx\",path=\"observed\"}} 2"),
        format!("alize_http_requests_total{{{ends},status_class=\"5xx\",path=\"observed\"}} 1"),
        format!(
            "alize_http_request_duration_seconds_count{{{ends},status_class=\"2xx\",path=\"observed\"}} 2"
        ),
        format!(
            "alize_http_request_duration_seconds_count{{{ends},status_class=\"5xx\",path=\"observed\"}} 1"
        ),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in {metrics}");
    }
    assert_eq!(world.host.end("-TERM"), Some(0));
    assert_eq!(world.links(), 4, "it goes on without the agent");
}

/// curl and nginx in a network of their own that loses two packets of ten; ends with the test.
struct Loss(Child, String);

impl Loss {
    fn new(world: &World) -> Self {
        let cgroup = format!("{}/shop.service", world.host.cgroup);
        let script = format!(
            "set -e; echo $$ > {cgroup}/cgroup.procs; ip link set lo up\n\
             nginx -c {} & sleep 0.5\n\
             nft 'add table inet loss; add chain inet loss input {{ type filter hook input priority 0; }}; \
             add rule inet loss input numgen random mod 10 < 2 drop'\n\
             curl -s -o /dev/null 'http://{SERVICE}/[1-1000000]'",
            world.host.folder.path("nginx.conf")
        );
        let child = Command::new("unshare").args(["-n", "bash", "-c", &script]).spawn().expect("unshare");
        Self(child, cgroup)
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/cgroup.kill", self.1), "1");
        let _ = self.0.wait();
        let left =
            || fs::read_to_string(format!("{}/cgroup.procs", self.1)).is_ok_and(|pids| !pids.is_empty());
        while left() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn top_shows_what_clients_sent_again() {
    let world = World::new("loss", &[]);
    // Attaches: the connection is seen from its beginning.
    assert_eq!(world.host.alize(&["map", "--for", "100ms"]).code, 0);
    let _loss = Loss::new(&world);
    let port = world.nginx.as_ref().expect("nginx runs").port;
    let endpoint = format!("web/127.0.0.1:{port}");
    for (view, name) in [("services", "web"), ("endpoints", &endpoint), ("processes", " curl (shop.service)")]
    {
        let again = || {
            let rows = json(&world.host.alize(&["top", "--once", "--view", view, "-o", "json"]));
            let row = rows.as_array().expect("rows").iter().find(|row| {
                let found = row["name"].as_str();
                found.is_some_and(
                    |found| if view == "processes" { found.ends_with(name) } else { found == name },
                )
            })?;
            row["retransmits_per_second"].as_f64().filter(|again| *again > 0.0)
        };
        // Luck decides what is lost in a second.
        assert!((0..20).find_map(|_| again()).is_some(), "{view}");
    }
}

#[test]
fn off_is_off() {
    let world = World::new("off", &["--observe", "off"]);
    for args in [&["trace"][..], &["map"], &["top", "--once"]] {
        let answer = world.host.alize(args);
        assert!(answer.code == 1 && answer.err.contains("--observe off"), "{args:?}: {}", answer.err);
    }
    assert_eq!(world.links(), 0);
}
