//! The real agent in a process of its own, with the real data path.

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use world::{Agent, Server, World, eventually};

#[test]
fn the_agent_itself() {
    world::be_the_agent();
}

fn one_service(address: &str, endpoints: &[&Server]) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|server| server.address.to_string()).collect();
    format!(
        "services:\n  - name: shop/web\n    address: {address}\n    endpoints: [{}]\n",
        endpoints.join(", ")
    )
}

#[test]
fn what_the_kernel_does_is_tried_beside_the_start() {
    let world = World::new();
    let agent = world.agent("services: []\n");
    // It was ready without it.
    let found = eventually("the kernel was tried", || agent.status().conformance);
    assert_eq!(found.obstacle, None, "{found:#?}");
    let needed: Vec<_> = found.checks.iter().filter(|check| check.essential).collect();
    assert!(needed.len() >= 11 && needed.iter().all(|check| check.result == "passed"), "{found:#?}");
    for check in needed {
        let series = format!("alize_conformance{{check=\"{}\"}}", check.name);
        assert_eq!(agent.metric(&series), Some(1.0), "{series}");
    }
}

#[test]
fn clients_reach_endpoints_and_everything_is_counted() {
    let world = World::new();
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let agent = world.agent(&one_service("10.96.7.1:80", &[&blue, &green]));
    let mut seen = BTreeMap::<String, u64>::new();
    for _ in 0..40 {
        *seen.entry(world.curl("10.96.7.1").expect("an answer")).or_default() += 1;
    }
    assert!(seen["blue"] > 5 && seen["green"] > 5, "{seen:?}");

    let service = agent.service("shop/web");
    assert_eq!(service.traffic.connections, 40);
    assert_eq!(service.traffic.established, 40);
    assert_eq!(service.usable, 2);
    let per_endpoint: BTreeMap<_, _> =
        service.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.traffic.connections)).collect();
    assert_eq!(per_endpoint[&blue.address], seen["blue"]);
    assert_eq!(per_endpoint[&green.address], seen["green"]);
    assert!(service.traffic.bytes_sent > 40 * 50 && service.traffic.bytes_received > 40 * 50);
    assert!(service.endpoints.iter().all(|endpoint| endpoint.share == 0.5 && endpoint.state == "active"));

    assert_eq!(agent.metric("alize_service_connections_total{service=\"shop/web\"}"), Some(40.0));
    let series =
        format!("alize_endpoint_connections_total{{service=\"shop/web\",endpoint=\"{}\"}}", blue.address);
    assert_eq!(agent.metric(&series), Some(seen["blue"] as f64));
    assert_eq!(agent.metric("alize_config_last_reload_successful"), Some(1.0));
    assert_eq!(agent.metric("alize_budget_used{resource=\"services\"}"), Some(1.0));

    let status = agent.status();
    assert_eq!(status.config.source, "file");
    assert_eq!((status.usage.services, status.usage.endpoints), (1, 2));
    assert!(!status.adopted && status.kernel_memory > 100_000, "{status:?}");
    assert!(status.programs.iter().any(|program| program.state == "on"));
    assert!(status.anomalies.values().all(|count| *count == 0), "{:?}", status.anomalies);
}

#[test]
fn counters_of_a_service_outlive_its_endpoints() {
    let world = World::new();
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let agent = world.agent(&one_service("10.96.7.1:80", &[&blue, &green]));
    (0..20).for_each(|_| drop(world.curl("10.96.7.1").unwrap()));
    let (status, body) = agent.apply("less.yaml", &one_service("10.96.7.1:80", &[&green]));
    assert_eq!(status, 200, "{body}");
    assert_eq!(agent.metric("alize_service_connections_total{service=\"shop/web\"}"), Some(20.0));
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green"));
    assert_eq!(agent.metric("alize_service_connections_total{service=\"shop/web\"}"), Some(21.0));
    let gone =
        format!("alize_endpoint_connections_total{{service=\"shop/web\",endpoint=\"{}\"}}", blue.address);
    eventually("the series of the removed endpoint ends", || agent.metric(&gone).is_none().then_some(()));
    let events = agent.events();
    assert!(events.contains(&format!("endpoint {}: removed", blue.address)), "{events:#?}");
}

#[test]
fn the_api_says_what_is_wrong() {
    let world = World::new();
    let agent = world.agent("services: []");
    let mode = fs::metadata(&agent.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let refused = |answer: (u16, String), status: u16, says: &str| {
        assert_eq!(answer.0, status, "{}", answer.1);
        let refusal: alize_model::api::Refusal = serde_json::from_str(&answer.1).expect(&answer.1);
        assert!(refusal.error.contains(says), "{}", refusal.error);
        refusal
    };
    refused(agent.get("/v2/none"), 404, "nothing at this path");
    refused(agent.get("/v1/services/none"), 404, "there is no service \"none\"");
    refused(agent.curl(&["-X", "DELETE", "http://agent/v1/status"]), 405, "another method");
    refused(agent.get("/v1/apply"), 405, "another method");
    refused(agent.get("/v1/events?recent=many"), 400, "recent");
    let refusal = refused(agent.apply("bad.yaml", "services:\n  - nmae: x\n"), 422, "bad.yaml was refused");
    assert_eq!(refusal.diagnostics[0].file, "bad.yaml");
    assert_eq!(refusal.diagnostics[0].position.line, 2);
    refused(agent.apply("empty.yaml", ""), 422, "empty.yaml was refused");
    refused(agent.apply("odd.yaml", "@/dev/null"), 422, "odd.yaml was refused");

    let large = world.folder.join("large");
    fs::File::create(&large).unwrap().set_len((64 << 20) + 1).unwrap();
    let body = format!("@{}", large.display());
    refused(agent.apply("large.yaml", &body), 413, "larger than 64 MiB");
    let chunked =
        ["-X", "POST", "-H", "Transfer-Encoding: chunked", "--data-binary", &body, "http://agent/v1/apply"];
    refused(agent.curl(&chunked), 413, "larger than 64 MiB");
    fs::write(&large, b"services: \xff").unwrap();
    let refusal = refused(agent.apply("latin.yaml", &body), 422, "latin.yaml was refused");
    assert_eq!(refusal.diagnostics[0].message, "byte 0xff is not UTF-8");

    assert_eq!(agent.status().config.refused[0].file, "latin.yaml");
    let (status, openapi) = agent.get("/v1/openapi.json");
    assert_eq!((status, openapi.contains("\"openapi\": \"3.1.0\"")), (200, true));
    assert_eq!(agent.get("/v1/config"), (200, "services: []".into()));
    assert_eq!(agent.get("/healthz"), (200, "ok\n".into()));
    agent.stop();
    assert!(!world.options(None).socket.exists());
}

#[test]
fn services_are_listed_whole_and_filtered() {
    let world = World::new();
    let service = |index| {
        let (high, low) = (index / 250, index % 250 + 1);
        format!(
            "  - {{name: svc-{index}, address: 10.97.{high}.{low}:80, endpoints: [192.0.2.1:80, 192.0.2.2:80]}}\n"
        )
    };
    let text: String = ["services:\n".to_owned()].into_iter().chain((0..500).map(service)).collect();
    let agent = world.agent(&text);
    let names: Vec<_> = agent.services().into_iter().map(|service| service.name).collect();
    assert_eq!(names.len(), 500);
    assert!(names.is_sorted());
    let (_, filtered) = agent.get("/v1/services?name=svc-49");
    let filtered: Vec<alize_model::api::ServiceStatus> = serde_json::from_str(&filtered).unwrap();
    assert_eq!(filtered.len(), 11);
    assert_eq!(agent.get("/v1/services?name=none"), (200, "[]".into()));
    assert_eq!(agent.get("/v1/services/svc-7").0, 200);
}

#[test]
fn a_changed_file_comes_into_force_and_a_bad_one_does_not() {
    let world = World::new();
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let agent = world.agent(&one_service("10.96.7.1:80", &[&blue]));
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));
    world.write(&one_service("10.96.7.1:80", &[&green]));
    eventually("the new file is in force", || (agent.status().config.generation == 2).then_some(()));
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green"));

    world.write("services:\n  - name: shop/web\n    adress: 1\n");
    let config = eventually("the bad file is shown", || {
        let config = agent.status().config;
        (!config.refused.is_empty()).then_some(config)
    });
    assert_eq!(config.generation, 2);
    assert!(config.refused.iter().any(|diagnostic| diagnostic.position.line == 3), "{:?}", config.refused);
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green"));
    assert_eq!(agent.metric("alize_config_last_reload_successful"), Some(0.0));

    fs::remove_file(world.folder.join("mesh.yaml")).unwrap();
    eventually("the removal is shown", || {
        let refused = agent.status().config.refused;
        refused.iter().any(|diagnostic| diagnostic.message.contains("the file is gone")).then_some(())
    });
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green"));
    world.write(&one_service("10.96.7.1:80", &[&blue]));
    eventually("the file is back", || (agent.status().config.generation == 3).then_some(()));
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));
    assert!(agent.status().config.refused.is_empty());
}

/// As kubelet mounts a ConfigMap: the file is a link through a folder that is itself a link, and swapped.
#[test]
fn a_swapped_configmap_comes_into_force() {
    let world = World::new();
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    for (version, server) in [("..1", &blue), ("..2", &green)] {
        fs::create_dir(world.folder.join(version)).unwrap();
        fs::write(world.folder.join(version).join("mesh.yaml"), one_service("10.96.7.1:80", &[server]))
            .unwrap();
    }
    symlink("..1", world.folder.join("..data")).unwrap();
    let file = world.folder.join("mesh.yaml");
    symlink("..data/mesh.yaml", &file).unwrap();
    let agent = Agent::start(&world, Some(file), &[]).unwrap();
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));
    symlink("..2", world.folder.join("..data_tmp")).unwrap();
    fs::rename(world.folder.join("..data_tmp"), world.folder.join("..data")).unwrap();
    eventually("the swapped file is in force", || (agent.status().config.generation == 2).then_some(()));
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green"));
}

#[test]
fn what_was_applied_stays_until_the_file_changes() {
    let world = World::new();
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let agent = world.agent(&one_service("10.96.7.1:80", &[&blue]));
    let applied = one_service("10.96.7.1:80", &[&green]);
    let (status, body) = agent.apply("other.yaml", &applied);
    assert_eq!(status, 200, "{body}");
    let answer: alize_model::api::Applied = serde_json::from_str(&body).unwrap();
    assert_eq!((answer.generation, answer.changed, answer.unchanged), (2, 1, 0));
    assert_eq!(agent.status().config.source, "applied");
    assert_eq!(agent.get("/v1/config").1, applied);
    agent.kill();
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green"), "the data path does not need the agent");

    let file = world.folder.join("mesh.yaml");
    let agent = Agent::start(&world, Some(file.clone()), &[]).unwrap();
    assert_eq!(agent.source, "applied");
    assert!(agent.status().adopted);
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green"));
    let (status, body) = agent.curl(&["-X", "POST", "http://agent/v1/apply"]);
    assert_eq!(status, 200, "{body}");
    assert_eq!(agent.status().config.source, "file");
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));

    assert_eq!(agent.apply("other.yaml", &applied).0, 200);
    agent.stop();
    world.write(&one_service("10.96.7.1:80", &[&blue]));
    let agent = Agent::start(&world, Some(file.clone()), &[]).unwrap();
    assert_eq!(agent.source, "file", "the file is newer than what was applied");
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));

    assert_eq!(agent.apply("other.yaml", &applied).0, 200);
    agent.stop();
    alize_datapath::unload(&world.options(None).datapath).unwrap();
    let agent = Agent::start(&world, Some(file), &[]).unwrap();
    assert_eq!(agent.source, "file", "after unload what was applied is forgotten");
}

#[test]
fn without_a_file_only_apply_counts() {
    let world = World::new();
    let blue = Server::start("blue");
    let agent = Agent::start(&world, None, &[]).unwrap();
    assert_eq!(agent.source, "none");
    assert_eq!(agent.curl(&["-X", "POST", "http://agent/v1/apply"]).0, 409);
    assert_eq!(agent.apply("a.yaml", &one_service("10.96.7.1:80", &[&blue])).0, 200);
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));
    agent.kill();
    let agent = Agent::start(&world, None, &[]).unwrap();
    assert_eq!((agent.source.as_str(), agent.services().len()), ("applied", 1));
}

#[test]
fn a_bad_file_at_the_start_ends_it_or_leaves_what_was_adopted() {
    let world = World::new();
    let blue = Server::start("blue");
    let file = world.write("services:\n  - name: Web\n");
    let error = Agent::start(&world, Some(file.clone()), &[]).err().expect("the file is bad");
    assert!(error.contains("mesh.yaml:2:"), "{error}");
    let pins = std::path::Path::new("/sys/fs/bpf/alize").join(&world.name);
    assert!(!pins.exists(), "a start that failed leaves nothing behind");
    let missing = world.folder.join("missing.yaml");
    let error = Agent::start(&world, Some(missing.clone()), &[]).err().expect("there is no file");
    assert!(error.contains("missing.yaml") && error.contains("check that the file exists"), "{error}");

    let agent = world.agent(&one_service("10.96.7.1:80", &[&blue]));
    agent.kill();
    world.write("services:\n  - name: Web\n");
    let agent = Agent::start(&world, Some(file), &[]).unwrap();
    let status = agent.status();
    assert_eq!((agent.source.as_str(), status.adopted), ("adopted", true));
    assert!(!status.config.refused.is_empty());
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));
    assert_eq!(agent.service("shop/web").traffic.connections, 1);
    agent.stop();
    assert!(Agent::start(&world, Some(missing), &[]).is_err());
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));
}

#[test]
fn a_second_agent_is_refused() {
    let world = World::new();
    let agent = world.agent("services: []");
    let error = Agent::start(&world, None, &[]).err().expect("the instance is taken");
    assert!(error.contains("already runs instance"), "{error}");
    assert_eq!(agent.status().pid, agent.process.id(), "the first still has its socket");
}

#[test]
fn failing_checks_take_an_endpoint_out_and_good_ones_bring_it_back() {
    let world = World::new();
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let health = "    health: {http: /, interval: 100ms, timeout: 50ms, healthy: 2, unhealthy: 3}\n";
    let agent = world.agent(&(one_service("10.96.7.1:80", &[&blue, &green]) + health));
    assert_eq!(agent.endpoint("shop/web", blue.address).0, "active", "well until proven otherwise");
    blue.set_well(false);
    eventually("blue is unhealthy", || {
        (agent.endpoint("shop/web", blue.address).0 == "unhealthy").then_some(())
    });
    let (_, reason) = agent.endpoint("shop/web", blue.address);
    assert_eq!(reason.as_deref(), Some("HTTP status 503, 3 times in a row"));
    (0..20).for_each(|_| assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green")));
    let unchanged =
        one_service("10.96.7.1:80", &[&blue, &green]).replace("shop/web", "shop/web\n    affinity: 1h");
    assert_eq!(agent.apply("a.yaml", &(unchanged + health)).0, 200);
    assert_eq!(agent.endpoint("shop/web", blue.address).0, "unhealthy", "a reload does not forget");
    assert!(agent.metric("alize_health_checks_total{result=\"failure\"}") >= Some(3.0));

    blue.set_well(true);
    eventually("blue is back", || (agent.endpoint("shop/web", blue.address).0 == "active").then_some(()));
    let address = green.stop();
    eventually("green is unhealthy", || (agent.endpoint("shop/web", address).0 == "unhealthy").then_some(()));
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));
    let events = agent.events();
    for event in [
        format!("health {}: unhealthy: HTTP status 503, 3 times in a row", blue.address),
        format!("health {}: healthy: 2 checks in a row well", blue.address),
        format!("health {address}: unhealthy: connect refused, 3 times in a row"),
    ] {
        assert!(events.contains(&event), "{event} is missing in {events:#?}");
    }
}

#[test]
fn endpoints_that_refuse_clients_are_ejected_for_a_while() {
    let world = World::new();
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let text = one_service("10.96.7.1:80", &[&blue, &green])
        .replace("endpoints", "balance: round-robin\n    endpoints");
    let agent = world.agent(&(text + "    ejection: {failures: 3, base: 2s, max: 1m}\n"));
    let address = blue.stop();
    let failed = (0..20).filter(|_| world.curl("10.96.7.1").is_err()).count();
    assert!((3..8).contains(&failed), "{failed} connects failed");
    let (state, reason) = agent.endpoint("shop/web", address);
    assert_eq!(state, "ejected");
    assert_eq!(reason.as_deref(), Some("3 connects in a row failed"));
    assert_eq!(agent.metric("alize_service_usable_endpoints{service=\"shop/web\"}"), Some(1.0));

    let blue = Server::on(address, "blue");
    eventually("it returns", || (agent.endpoint("shop/web", address).0 == "active").then_some(()));
    let seen: Vec<_> = (0..4).map(|_| world.curl("10.96.7.1").unwrap()).collect();
    assert!(seen.contains(&"blue".to_owned()), "{seen:?}");
    blue.stop();
    eventually("it is ejected again", || {
        let _ = world.curl("10.96.7.1");
        (agent.endpoint("shop/web", address).0 == "ejected").then_some(())
    });
    let events = agent.events();
    for event in [
        format!("ejection {address}: ejected for 2 s: 3 connects in a row failed"),
        format!("ejection {address}: returned: its ejection is over"),
        format!("ejection {address}: ejected for 4 s: 3 connects in a row failed"),
        format!("connect-failed {address}: the endpoint refused the connection"),
    ] {
        assert!(events.contains(&event), "{event} is missing in {events:#?}");
    }
}

/// A restart of the agent must not send clients to endpoints that are known to be bad.
#[test]
fn a_restart_does_not_forget_who_is_unavailable() {
    let world = World::new();
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let text = one_service("10.96.7.1:80", &[&blue, &green]);
    let agent = world.agent(&(text.clone() + "    health: {interval: 1s, timeout: 500ms, unhealthy: 2}\n"));
    let address = blue.stop();
    eventually("blue is unhealthy", || (agent.endpoint("shop/web", address).0 == "unhealthy").then_some(()));
    let file = world.folder.join("mesh.yaml");
    agent.kill();
    let agent = Agent::start(&world, Some(file.clone()), &[]).unwrap();
    assert_eq!(agent.endpoint("shop/web", address).0, "unhealthy");
    (0..10).for_each(|_| assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green")));
    let blue = Server::on(address, "blue");
    eventually("blue is back", || (agent.endpoint("shop/web", address).0 == "active").then_some(()));

    world.write(&(text + "    ejection: {failures: 2, base: 2s}\n"));
    eventually("the new file is in force", || (agent.status().config.generation == 2).then_some(()));
    blue.stop();
    eventually("blue is ejected", || {
        let _ = world.curl("10.96.7.1");
        (agent.endpoint("shop/web", address).0 == "ejected").then_some(())
    });
    agent.kill();
    let agent = Agent::start(&world, Some(file), &[]).unwrap();
    assert_eq!(agent.endpoint("shop/web", address).0, "ejected");
    eventually("it returns", || (agent.endpoint("shop/web", address).0 == "active").then_some(()));
}

#[test]
fn a_connect_without_endpoint_is_told_with_its_process() {
    let world = World::new();
    let agent = world.agent("services:\n  - {name: empty, address: '10.96.7.1:80', endpoints: []}\n");
    assert_eq!(world.curl("10.96.7.1"), Err(7));
    let (_, lines) = eventually("the refusal is told", || {
        let watch = ["--max-time", "0.3", "http://agent/v1/events?recent=10"];
        Some(agent.curl(&watch)).filter(|(_, lines)| lines.contains("\"refused\""))
    });
    let line = lines.lines().find(|line| line.contains("\"refused\"")).unwrap();
    let event: alize_model::api::Event = serde_json::from_str(line).unwrap();
    assert_eq!(event.service.as_deref(), Some("empty"));
    assert_eq!(event.message, "refused: no endpoint is usable");
    assert!(event.pid.is_some());
    let age = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - event.time;
    assert!((0.0..20.0).contains(&age), "{age} s old");
    assert_eq!(
        agent.metric("alize_service_refused_total{service=\"empty\",reason=\"no-endpoint\"}"),
        Some(1.0)
    );
}

#[test]
fn a_flood_of_refusals_is_summed_up() {
    let world = World::new();
    let agent = world.agent("services:\n  - {name: empty, address: '10.96.7.1:80', endpoints: []}\n");
    let script =
        "exec bash -c 'for i in $(seq 400); do (exec 3<>/dev/tcp/10.96.7.1/80) 2>/dev/null; done; true'";
    assert!(world.client(script).status.success());
    eventually("the flood is summed up", || {
        agent.events().iter().any(|event| event.starts_with("refused: and ")).then_some(())
    });
    let events = agent.events();
    let told =
        events.iter().filter(|event| event.as_str() == "refused: refused: no endpoint is usable").count();
    let more = |event: &String| event.strip_prefix("refused: and ")?.split(' ').next()?.parse::<usize>().ok();
    let summed: usize = events.iter().filter_map(more).sum();
    assert_eq!(told + summed, 400, "{events:#?}");
    assert!(told < 300, "{told} told one by one");
}

#[test]
fn stuck_clients_hurt_nobody() {
    let world = World::new();
    let service = |index| {
        let (high, low) = (index / 250, index % 250 + 1);
        format!(
            "  - {{name: svc-{index}, address: 10.97.{high}.{low}:80, endpoints: [192.0.2.1:80, 192.0.2.2:80]}}\n"
        )
    };
    let text: String = ["services:\n".to_owned()].into_iter().chain((0..2000).map(service)).collect();
    let agent = world.agent(&text);
    // What starting took for a moment is another matter: VmHWM counts from here.
    fs::write(format!("/proc/{}/clear_refs", agent.process.id()), "5").unwrap();
    let stuck: Vec<_> = (0..20)
        .map(|index| {
            let mut stream = TcpStream::connect(agent.metrics).unwrap();
            let request =
                if index % 2 == 0 { "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n" } else { "GET /met" };
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    let asked = Instant::now();
    assert_eq!(agent.status().usage.services, 2000);
    // Those that are stuck are given up after 10 s: whoever waits for them waits for as long.
    assert!(asked.elapsed() < Duration::from_secs(9), "the API is not concerned: {:?}", asked.elapsed());
    let url = format!("http://{}/metrics", agent.metrics);
    let scraped = std::process::Command::new("curl")
        .args(["-sS", "--fail", "--max-time", "120", &url])
        .output()
        .unwrap();
    assert!(scraped.status.success(), "{}", String::from_utf8_lossy(&scraped.stderr));
    assert!(scraped.stdout.len() > 1_000_000);
    let memory = fs::read_to_string(format!("/proc/{}/status", agent.process.id())).unwrap();
    let peak = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // Seen: 21 MB; ten answers in full would be 34 MB more.
    assert!(peak < 24_000, "{peak} kB at the peak, {} bytes scraped", scraped.stdout.len());
    drop(stuck);
}

#[test]
fn a_folder_that_is_replaced_is_noticed() {
    let world = World::new();
    let folder = world.folder.join("conf");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("mesh.yaml");
    fs::write(&file, "services: []").unwrap();
    let agent = Agent::start(&world, Some(file.clone()), &[]).unwrap();
    fs::rename(&folder, world.folder.join("conf.old")).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(&file, "services:\n  - {name: a, address: '10.96.7.1:80', endpoints: []}\n").unwrap();
    eventually("the file in the new folder is in force", || (agent.services().len() == 1).then_some(()));
}

#[test]
fn those_who_watch_hear_at_once_and_leave_without_a_trace() {
    let world = World::new();
    let agent = world.agent("services: []");
    let watch = |recent| {
        let mut command = std::process::Command::new("curl");
        command.args(["-sSN", "--max-time", "30", "--unix-socket"]).arg(&agent.socket);
        let url = format!("http://agent/v1/events?recent={recent}");
        command.arg(url).stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let mut watchers: Vec<_> = (0..16).map(|_| watch(256)).collect();
    let mut lines: Vec<_> =
        watchers.iter_mut().map(|watcher| BufReader::new(watcher.stdout.take().unwrap()).lines()).collect();
    for lines in &mut lines {
        assert!(lines.next().unwrap().unwrap().contains("is in force"), "the kept events come first");
    }
    assert_eq!(agent.get("/v1/events").0, 503);
    assert_eq!(
        agent.apply("a.yaml", "services:\n  - {name: a, address: '10.96.7.1:80', endpoints: []}\n").0,
        200
    );
    for lines in &mut lines {
        assert!(lines.next().unwrap().unwrap().contains("a.yaml is in force: 1 services added"));
    }
    for watcher in &mut watchers {
        watcher.kill().unwrap();
        watcher.wait().unwrap();
    }
    eventually("their places are free again", || {
        let (status, _) = agent.curl(&["--max-time", "0.2", "http://agent/v1/events?recent=1"]);
        (status == 200).then_some(())
    });
}

/// What systemd would hear, over a real socket of its kind.
#[test]
fn systemd_hears_of_readiness_reloads_life_and_the_end() {
    let world = World::new();
    let file = world.write("services: []");
    let path = world.folder.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(world::LONG)).unwrap();
    let heard = |what: &str| {
        let mut buffer = [0; 1024];
        for _ in 0..100 {
            let length = socket.recv(&mut buffer).unwrap_or_else(|_| panic!("{what} was never heard"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(what) {
                return text;
            }
        }
        panic!("{what} was never heard")
    };
    let environment = [("NOTIFY_SOCKET", path.display().to_string()), ("WATCHDOG_USEC", "200000".to_owned())];
    let agent = Agent::start(&world, Some(file), &environment).unwrap();
    assert!(heard("READY=1").contains("STATUS=0 services, 0 endpoints in force"));
    heard("WATCHDOG=1");
    heard("WATCHDOG=1");
    world.write("services:\n  - {name: a, address: '10.96.7.1:80', endpoints: []}\n");
    assert!(heard("RELOADING=1").contains("MONOTONIC_USEC="));
    assert!(heard("READY=1").contains("STATUS=1 services"));
    agent.signal("-STOP");
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut buffer = [0; 1024];
    while socket.recv(&mut buffer).is_ok() {}
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(socket.recv(&mut buffer).is_err(), "an agent that hangs is silent");
    agent.signal("-CONT");
    socket.set_read_timeout(Some(world::LONG)).unwrap();
    heard("WATCHDOG=1");
    agent.signal("-TERM");
    heard("STOPPING=1");
    thread::sleep(Duration::from_millis(10));
}
