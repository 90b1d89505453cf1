//! What people and programs touch: metrics, API, command line.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use alize_model::api::Event;
use alize_tests::agent::METRICS;
use alize_tests::http::ask;
use alize_tests::mesh::{endpoints, file, service, web};
use alize_tests::servers::at;
use alize_tests::wait::until_true;
use alize_tests::{Agent, Kind, World};
use anyhow::{Context, Result};

const SOON: Duration = Duration::from_secs(30);

fn address() -> SocketAddr {
    at([10, 96, 0, 10], 80)
}

#[test]
fn a_real_prometheus_scrapes_and_answers() -> Result<()> {
    let world = World::new("prometheus")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let listed = endpoints(servers.iter().map(|s| s.v4));
    let text =
        file(&[service("web", address(), &[], &listed), service("none", at([10, 96, 0, 11], 80), &[], &[])]);
    let agent = Agent::start(&world, &text)?;
    let client = world.meshed("client")?;
    assert_eq!(client.connect(address(), 70)?.answered(), 70);
    assert_eq!(client.connect(at([10, 96, 0, 11], 80), 7)?.failed(), 7);
    let (_held, _) = client.hold(address(), 5)?;

    let config = world.folder().join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: alize, static_configs: [{{targets: ['{METRICS}']}}]}}]\n"
        ),
    )?;
    let listen = at([127, 0, 0, 1], 9090);
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", world.folder().join("prometheus").display()),
        format!("--web.listen-address={listen}"),
    ];
    let node = world.plain("node")?;
    let _prometheus = node.started("prometheus", "prometheus", &arguments, &[listen])?;
    let query = |expression: &str| -> Result<Option<f64>> {
        let path = format!("/api/v1/query?query={expression}");
        let answer = node.namespace.within(|| ask(TcpStream::connect(listen)?, "GET", &path, ""))??;
        let answer: serde_json::Value = serde_json::from_str(&answer.body)?;
        let value = answer["data"]["result"][0]["value"][1].as_str().map(str::parse).transpose()?;
        Ok(value)
    };
    let expected = [
        ("sum(alize_service_connections_total)", 75.0),
        ("sum(alize_endpoint_connections_total)", 75.0),
        ("sum(alize_service_open_connections)", 5.0),
        ("up", 1.0),
    ];
    for (expression, value) in expected {
        until_true(&format!("{expression} to be {value}"), SOON, || {
            let seen = query(expression)?;
            anyhow::ensure!(seen == Some(value), "it is {seen:?}");
            Ok(true)
        })?;
    }
    // Refused connects, by reason.
    let refused = agent.metrics()?;
    let refused = refused.lines().find(|line| line.contains("no-endpoint") && line.contains("\"none\""));
    assert!(refused.is_some_and(|line| line.ends_with(" 7")), "{refused:?}");
    Ok(())
}

#[test]
fn metrics_follow_the_conventions() -> Result<()> {
    let world = World::new("promtool")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let agent = Agent::start(&world, &web(address(), &[], &endpoints([servers[0].v4])))?;
    world.meshed("client")?.connect(address(), 3)?;
    let text = agent.metrics()?;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("package prometheus")?;
    promtool.stdin.take().context("promtool's input")?.write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let remarks = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && remarks.is_empty(), "{}", String::from_utf8_lossy(&remarks));

    let names: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.contains("alize_service_connections_total"), "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("alize_") || name.starts_with("process_")), "{names:?}");
    Ok(())
}

#[test]
fn the_socket_of_the_api_is_for_root_and_its_group() -> Result<()> {
    let world = World::new("permissions")?;
    let agent = Agent::start(&world, "services: []\n")?;
    let metadata = std::fs::metadata(agent.socket())?;
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);

    let socket = agent.socket().display().to_string();
    let curl = |user: &[&str]| -> Result<std::process::Output> {
        let mut command = Command::new("setpriv");
        command.args(user).args(["curl", "-sS", "--unix-socket", &socket, "http://localhost/v1/status"]);
        Ok(command.output()?)
    };
    let root = curl(&[])?;
    assert!(root.status.success(), "{root:?}");
    let nobody = curl(&["--reuid=65534", "--regid=65534", "--clear-groups"])?;
    assert_eq!(nobody.status.code(), Some(7), "curl's code for a connect that fails: {nobody:?}");
    Ok(())
}

#[test]
fn the_api_describes_itself() -> Result<()> {
    let world = World::new("openapi")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let agent = Agent::start(&world, &web(address(), &[], &endpoints([servers[0].v4])))?;
    let document = agent.api("GET", "/v1/openapi.json", "")?;
    assert_eq!(document.status, 200);
    let document: serde_json::Value = serde_json::from_str(&document.body)?;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let paths = document["paths"].as_object().context("paths")?;
    assert!(paths.len() >= 5, "{:?}", paths.keys());
    // Two are streams without an end.
    let ends = |path: &str| path != "/v1/events" && path != "/v1/trace";
    for (path, item) in paths.iter().filter(|(path, item)| item["get"].is_object() && ends(path)) {
        let concrete = path.replace("{name}", "web").replace("/v1/requests", "/v1/requests?failed");
        let answer = agent.api("GET", &concrete, "")?;
        // No version is on trial here.
        let expected = if path == "/v1/trial" { 404 } else { 200 };
        assert_eq!(answer.status, expected, "{path} of the document: {} {item}", answer.body);
    }
    for (method, path, status) in
        [("GET", "/v1/nothing", 404), ("GET", "/v1/services/nothing", 404), ("PUT", "/v1/status", 405)]
    {
        let answer = agent.api(method, path, "")?;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    Ok(())
}

#[test]
fn garbage_does_not_disturb_the_api() -> Result<()> {
    let world = World::new("garbage")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let agent = Agent::start(&world, &web(address(), &[], &endpoints([servers[0].v4])))?;
    let long = vec![b'a'; 1 << 20];
    let header = [b"GET /v1/status HTTP/1.1\r\nX: ".as_slice(), &long, b"\r\n\r\n"].concat();
    let body =
        [b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n".as_slice(), &long].concat();
    let noise: Vec<u8> = (0..65_536_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let endless = b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\nx".to_vec();
    let half = b"GET /v1/sta".to_vec();
    let smuggle = b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n".to_vec();
    for bytes in [header, body, noise, endless, half, smuggle, vec![0; 4096], b"\r\n\r\n\r\n".to_vec()] {
        let mut stream = UnixStream::connect(agent.socket())?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        // It may hang up in the middle; what matters comes below.
        let _ = stream.write_all(&bytes);
        let _ = stream.read(&mut [0; 1024]);
    }
    // More than the agent answers at once; it hangs up on those that say nothing for 10 s.
    let idle = (0..70).map(|_| UnixStream::connect(agent.socket())).collect::<Result<Vec<_>, _>>()?;
    let status = agent.status()?;
    assert_eq!((status.config.generation, status.usage.services), (1, 1));
    drop(idle);

    // The same for the metrics' port, which anybody on the host may reach.
    agent.namespace().within(|| -> Result<()> {
        for bytes in [&b"\0\0\0\0"[..], b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", &long] {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            let _ = stream.write_all(bytes);
            let _ = stream.read(&mut [0; 1024]);
        }
        Ok(())
    })??;
    assert!(agent.metrics()?.contains("alize_"));
    assert_eq!(world.meshed("client")?.connect(address(), 5)?.of("a"), 5);
    Ok(())
}

#[test]
fn the_command_line_shows_what_the_api_says() -> Result<()> {
    let world = World::new("command-line")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let agent = Agent::start(&world, &web(address(), &[], &endpoints(servers.iter().map(|s| s.v4))))?;
    world.meshed("client")?.connect(address(), 40)?;

    let services: serde_json::Value = serde_json::from_str(&agent.run(&["services", "-o", "json"])?)?;
    assert_eq!(services[0]["name"], "web");
    assert_eq!(services[0]["traffic"]["connections"], 40);
    for form in
        [&["services"][..], &["services", "web"], &["endpoints"], &["status"], &["services", "-o", "yaml"]]
    {
        let text = agent.run(form)?;
        assert!(text.contains("web") || form[0] == "status", "{form:?}: {text}");
    }
    let table = agent.run(&["endpoints", "web"])?;
    assert!(servers.iter().all(|server| table.contains(&server.v4.to_string())), "{table}");
    let live = agent.run(&["services", "--watch", "0.2", "--count", "2"])?;
    assert!(live.contains("web"), "{live}");
    let mut watch = agent.cli(&["watch", "--recent", "10", "-o", "json"])?.stdout(Stdio::piped()).spawn()?;
    let mut events = BufReader::new(watch.stdout.take().context("the output of alize watch")?).lines();
    let first: Event = serde_json::from_str(&events.next().context("no event")??)?;
    assert_eq!(first.kind, "config", "{first:?}");
    agent.change(&web(address(), &[], &endpoints([servers[0].v4])))?;
    let mut events = events.map_while(|line| serde_json::from_str::<Event>(&line.ok()?).ok());
    let removed = events.find(|event| event.kind == "endpoint").context("no event of the removal")?;
    assert_eq!(
        (removed.endpoint, removed.service.as_deref()),
        (Some(servers[1].v4), Some("web")),
        "{removed:?}"
    );
    watch.kill()?;
    watch.wait()?;
    let absent = agent.command(&["services", "nothing"])?;
    assert!(
        !absent.status.success() && String::from_utf8_lossy(&absent.stderr).contains("nothing"),
        "{absent:?}"
    );
    Ok(())
}

#[test]
fn checking_a_file_needs_no_agent() -> Result<()> {
    let world = World::new("check")?;
    let alize = alize_tests::place::binary("alize")?;
    let good = world.folder().join("good.yaml");
    let bad = world.folder().join("bad.yaml");
    std::fs::write(&good, web(address(), &[], &endpoints([at([192, 0, 2, 1], 80)])))?;
    std::fs::write(&bad, web(address(), &["weigth: 3"], &endpoints([at([192, 0, 2, 1], 80)])))?;
    let check = |file: &std::path::Path| -> Result<std::process::Output> {
        Ok(Command::new(&alize).arg("check").arg(file).output()?)
    };
    assert!(check(&good)?.status.success());
    let output = check(&bad)?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(&format!("{}:4:5: error: ", bad.display())), "{errors}");
    assert!(errors.contains("weigth"), "{errors}");
    Ok(())
}
