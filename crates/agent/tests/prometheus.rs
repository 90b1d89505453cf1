//! A real Prometheus scrapes the agent and answers questions about it.

mod world;

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

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
