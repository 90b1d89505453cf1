//! A real Prometheus scrapes the agent and answers questions about it.

mod world;

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use world::{Server, World, eventually};

#[test]
fn the_agent_itself() {
    world::be_the_agent();
}

struct Prometheus {
    process: Child,
    port: u16,
}

impl Prometheus {
    fn start(world: &World, target: &str) -> Self {
        let config = world.folder.join("prometheus.yaml");
        let text = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
             scrape_configs: [{{job_name: alize, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(&config, text).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", world.folder.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus, of the package prometheus");
        Self { process, port }
    }

    fn get(&self, path: &str, query: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let query = format!("query={query}");
        let output = Command::new("curl")
            .args(["-sS", "--fail", "-G", "--data-urlencode", &query, &url])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The one number that is the answer.
    fn query(&self, query: &str) -> Option<f64> {
        let answer = self.get("/api/v1/query", query)?;
        answer.pointer("/data/result/0/value/1")?.as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn prometheus_scrapes_and_answers() {
    let world = World::new();
    let blue = Server::start("blue");
    let address = blue.address;
    let agent = world.agent(&format!(
        "services:\n  - {{name: shop/web, address: '10.96.7.1:80', endpoints: ['{address}']}}\n  \
         - {{name: empty, address: '10.96.7.2:80', endpoints: []}}\n"
    ));
    let prometheus = Prometheus::start(&world, &agent.metrics.to_string());
    let is = |query: &str, expected: f64| {
        eventually(&format!("{query} is {expected}"), || {
            (prometheus.query(query) == Some(expected)).then_some(())
        });
    };
    is("up{job=\"alize\"}", 1.0);
    is("alize_service_connections_total{service=\"shop/web\"}", 0.0);
    (0..25).for_each(|_| assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue")));
    assert!(world.curl("10.96.7.2").is_err());
    is("sum by (service) (alize_service_connections_total{service=\"shop/web\"})", 25.0);
    is(&format!("alize_endpoint_connections_total{{endpoint=\"{address}\"}}"), 25.0);
    is("increase(alize_service_refused_total{service=\"empty\",reason=\"no-endpoint\"}[1m]) > bool 0", 1.0);
    is("count(alize_endpoint_state{state=\"active\"})", 1.0);
    is("alize_service_usable_endpoints == 0", 0.0);
    is("sum(alize_anomalies_total)", 0.0);
    is(
        "alize_endpoint_smoothed_rtt_seconds_count / on(endpoint) alize_endpoint_connections_total >= bool 1",
        1.0,
    );

    let metadata = prometheus.get("/api/v1/metadata", "").unwrap();
    let kind = |name: &str| metadata.pointer(&format!("/data/{name}/0/type")).and_then(Value::as_str);
    // Prometheus asks for OpenMetrics, where a counter's family has no suffix.
    assert_eq!(kind("alize_service_connections"), Some("counter"));
    assert_eq!(kind("alize_endpoint_smoothed_rtt_seconds"), Some("summary"));
    let targets = prometheus.get("/api/v1/targets", "").unwrap();
    assert_eq!(targets.pointer("/data/activeTargets/0/lastError").and_then(Value::as_str), Some(""));
}

/// Every query of the dashboard, and of its variables, as Grafana would ask it.
fn dashboard_queries() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/grafana/alize.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = text(&target["expr"]).replace("$__rate_interval", "30s");
            queries.push((text(&panel["title"]), query.replace("$service", ".*").replace("$job", ".*")));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let definition = text(&variable["definition"]);
        if let Some(arguments) = definition.strip_prefix("label_values(") {
            let (metric, label) = arguments.trim_end_matches(')').split_once(", ").unwrap();
            queries
                .push((text(&variable["label"]), format!("count by ({label}) ({metric}{{{label}!=\"\"}})")));
        }
    }
    queries
}

#[test]
fn every_query_of_the_dashboard_answers() {
    let world = World::new();
    let (blue, gone) = (Server::start("blue"), TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, refused) = (blue.address, gone.local_addr().unwrap());
    drop(gone);
    let agent = world.observing_agent(&format!(
        "services:\n  - {{name: web, address: '10.96.7.1:80', endpoints: ['{address}']}}\n  \
         - {{name: empty, address: '10.96.7.2:80', endpoints: []}}\n  \
         - {{name: broken, address: '10.96.7.3:80', endpoints: ['{refused}']}}\n"
    ));
    let prometheus = Prometheus::start(&world, &agent.metrics.to_string());
    let mut left = dashboard_queries();
    assert!(left.len() > 20, "{left:?}");
    // A rate needs two scrapes, and a scrape its time on a busy machine.
    let deadline = Instant::now() + Duration::from_secs(120);
    while !left.is_empty() {
        assert!(Instant::now() < deadline, "these have no answer: {left:#?}");
        assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));
        assert!(world.curl("10.96.7.2").is_err() && world.curl("10.96.7.3").is_err());
        left.retain(|(title, query)| {
            let answer = prometheus.get("/api/v1/query", query).unwrap_or_default();
            assert_ne!(answer["status"], "error", "{title}: {query}: {answer}");
            let found = answer.pointer("/data/result").and_then(Value::as_array);
            let number = |series: &Value| series.pointer("/value/1")?.as_str()?.parse::<f64>().ok();
            !found.is_some_and(|found| found.iter().filter_map(number).any(f64::is_finite))
        });
        std::thread::sleep(Duration::from_millis(300));
    }
    let requests = "sum(alize_http_requests_total{service=\"web\",status_class=\"2xx\"})";
    assert!(prometheus.query(requests) >= Some(1.0));
}
