//! `alize explain` for people and for programs, beside real connects.

use crate::proxy;
use crate::real::{Host, SERVICE, json, mesh, server};

#[test]
fn a_connect_is_explained_with_and_without_an_agent() {
    let mut host = Host::new("explain");
    let (one, two) = (server("one"), server("two"));
    let file = host
        .folder
        .file("mesh.yaml", mesh(&[one, two]).replace("address:", "balance: round-robin\n    address:"));
    let bpffs = host.bpffs();
    let (cgroup, target) = (host.cgroup.clone(), format!("{SERVICE}:80"));
    let ask = |host: &Host, from: &str, more: &[&str]| {
        host.alize(&[&["explain", "--from", from, "--to", &target, "--bpffs", &bpffs], more].concat())
    };
    let none = ask(&host, &cgroup, &[]);
    assert_eq!(none.code, 5, "{}", none.err);
    assert!(none.err.contains("is not loaded"), "{}", none.err);

    host.start_with(&file, &[]);
    for alive in [true, false] {
        if !alive {
            host.end("-KILL");
        }
        for _ in 0..3 {
            let told = json(&ask(&host, &cgroup, &["-o", "json"]));
            assert_eq!(told["outcome"]["path"], "kernel-l4");
            assert_eq!(told["service"]["name"], "web");
            let port = told["outcome"]["endpoint"].as_str().and_then(|text| text.rsplit(':').next()).unwrap();
            let expected = if port == one.to_string() { "one" } else { "two" };
            assert_eq!(host.dial().as_deref(), Ok(expected), "{told}");
        }
        let text = ask(&host, &cgroup, &[]).out;
        for words in
            ["caller ", "is the address of service web", "enforce", "next turn", "outcome", "ENDPOINT"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    // A unit's name is its folder's.
    let unit = cgroup.rsplit('/').next().unwrap();
    assert_eq!(json(&ask(&host, unit, &["-o", "json"]))["caller"]["cgroup"], *cgroup);
    let stranger = json(&ask(&host, &std::process::id().to_string(), &["-o", "json"]));
    assert_eq!(stranger["outcome"]["reason"], "caller-not-meshed");
    let nobody = ask(&host, "no-such-unit", &[]);
    assert_eq!(nobody.code, 5);
    assert!(nobody.err.contains("\"no-such-unit\""), "{}", nobody.err);
}

#[test]
fn the_route_of_a_request_is_explained_rule_by_rule() {
    let mut host = Host::new("explain-http");
    let text = mesh(&[server("one")]).replace(
        "address:",
        "protocol: http\n    routes: [{name: beta, match: {path: /api, headers: {x-beta: '1'}}}, {name: all, match: /}]\n    address:",
    );
    let file = host.folder.file("mesh.yaml", text);
    host.start_with(&file, &[]);
    let (bpffs, run_dir) = (host.bpffs(), host.folder.path("run"));
    let explained = |host: &Host, more: &[&str]| {
        let place =
            ["explain", "--from", &host.cgroup, "--to", "web", "--bpffs", &bpffs, "--run-dir", &run_dir];
        host.alize(&[&place[..], more].concat())
    };
    proxy::within(20, "a kernel that was tried", || {
        let told = json(&explained(&host, &["--http", "GET /", "-o", "json"]));
        (told["request"]["reason"] != "kernel-off").then_some(())
    });
    host.end("-KILL");
    let ask = |more: &[&str]| explained(&host, more);
    let told = json(&ask(&["--http", "GET /api/x", "-H", "X-Beta: 1", "-o", "json"]));
    assert_eq!(told["http"]["route"], "beta", "{told}");
    let told = json(&ask(&["--http", "GET /api/x", "-o", "json"]));
    assert_eq!((&told["http"]["route"], &told["http"]["way"]), (&"all".into(), &"kernel".into()), "{told}");
    assert_eq!(told["http"]["rules"][0]["misses"][0], "header x-beta is missing");
    let text = ask(&["--http", "GET /"]).out;
    assert!(text.contains("no: the path is another") && text.contains("path kernel-l7"), "{text}");
    for words in
        ["listener ", "the proxy beside the caller", "lookup ", "circuit ", "rate limit ", "IDLE CONNECTIONS"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let told = json(&ask(&["-o", "json"]));
    assert_eq!(
        (&told["outcome"]["verdict"], &told["outcome"]["path"]),
        (&"proxied".into(), &"by-request".into())
    );
    assert_eq!(ask(&["--http", "GET"]).code, 1);
    assert_eq!(ask(&["-H", "a: b"]).code, 2);
}

/// Buckets and a circuit are told as the kernel has them, before and after requests.
#[test]
fn bounds_of_a_request_are_explained_as_they_are_now() {
    let mut host = Host::new("explain-bounds");
    let text = mesh(&[proxy::server("one"), proxy::server("two")]).replace(
        "address:",
        "protocol: http\n    http: {rate-limit: {requests: 1, burst: 4, per: client}, circuit: {max-requests: 5}}\n    address:",
    );
    let file = host.folder.file("mesh.yaml", text);
    let cgroup = host.cgroup.clone();
    let within = |command: &str| {
        let script = format!("echo $$ > {cgroup}/cgroup.procs && exec {command}");
        std::process::Command::new("bash")
            .args(["-c", &script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut caller = within("sleep 60");
    host.start_with(&file, &[]);
    proxy::proxy(&host);
    let (bpffs, run_dir) = (host.bpffs(), host.folder.path("run"));
    let ask = || {
        let pid = caller.id().to_string();
        let place = ["explain", "--from", &pid, "--to", "web", "--bpffs", &bpffs, "--run-dir", &run_dir];
        host.alize(&[&place[..], &["--http", "GET /", "-o", "json"]].concat())
    };
    // The proxy listens where it has seen a process, a moment later.
    let told =
        proxy::within(20, "a listener", || Some(json(&ask())).filter(|told| !told["request"].is_null()));
    assert_eq!(told["outcome"]["verdict"], "proxied", "{told}");
    let limit = &told["request"]["limits"][0];
    assert_eq!(
        (&limit["of"], &limit["burst"], &limit["left"]),
        (&"service".into(), &4.into(), &4.into()),
        "{told}"
    );
    assert_eq!(limit["per"], "client");
    assert_eq!(told["request"]["endpoints"][0]["max_requests"], 5);
    // As fast as it can, so that nothing is left for longer than a moment.
    let mut curl = within(&format!("curl -s -o /dev/null http://{SERVICE}/[1-1000000]"));
    let told = proxy::within(20, "a bucket that is empty", || {
        Some(json(&ask())).filter(|told| told["request"]["reason"] == "rate-limited")
    });
    for process in [&mut curl, &mut caller] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let request = &told["request"];
    assert_eq!((&request["path"], &request["limits"][0]["left"]), (&"proxy".into(), &0.into()), "{told}");
    assert_eq!(told["http"]["way"], "kernel", "but for the limit: {told}");
}
