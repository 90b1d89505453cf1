//! `alize explain` for people and for programs, beside real connects.

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
    host.end("-KILL");
    let (bpffs, run_dir) = (host.bpffs(), host.folder.path("run"));
    let ask = |more: &[&str]| {
        let place =
            ["explain", "--from", &host.cgroup, "--to", "web", "--bpffs", &bpffs, "--run-dir", &run_dir];
        host.alize(&[&place[..], more].concat())
    };
    let told = json(&ask(&["--http", "GET /api/x", "-H", "X-Beta: 1", "-o", "json"]));
    assert_eq!(told["http"]["route"], "beta", "{told}");
    let told = json(&ask(&["--http", "GET /api/x", "-o", "json"]));
    assert_eq!((&told["http"]["route"], &told["http"]["way"]), (&"all".into(), &"kernel".into()), "{told}");
    assert_eq!(told["http"]["rules"][0]["misses"][0], "header x-beta is missing");
    let text = ask(&["--http", "GET /"]).out;
    assert!(text.contains("no: the path is another") && text.contains("path kernel-l7"), "{text}");
    assert_eq!(ask(&["--http", "GET"]).code, 1);
    assert_eq!(ask(&["-H", "a: b"]).code, 2);
}
