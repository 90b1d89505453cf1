use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use alize_datapath::observe::Protocol;
use alize_datapath::{Counters, LiveState, Outcomes, Unavailable};
use alize_model::api::{ConfigStatus, Conformance, ConformanceCheck, Program, Status};
use alize_model::{Budgets, HostFacts, Source};

use super::*;
use crate::observer::{CallLabels, Durations, RequestLabels};
use alize_model::control::{RequestCounters, ServiceCounters};

fn scrape(services: usize) -> Arc<Scrape> {
    let mut text = "services:\n".to_owned();
    for service in 0..services {
        let (high, low) = (service / 250, service % 250 + 1);
        text += &format!("  - name: team/svc-{service}\n    address: 10.{}.{high}.{low}:80\n", 96);
        text += "    endpoints: [192.0.2.1:80, '[fd00::1]:80', 192.0.2.3:80]\n";
    }
    let source = Source { name: "test.yaml", text: &text };
    let (snapshot, _) =
        alize_model::parse(source, &Budgets::default(), &HostFacts::default()).expect("valid");
    let state = |index| match index {
        0 => LiveState::Active,
        1 => LiveState::Unavailable(Unavailable::Ejected),
        _ => LiveState::Draining,
    };
    let mut counters = Counters::default();
    let mut live = Vec::new();
    for (number, service) in snapshot.services().iter().enumerate() {
        let id = number as u32;
        let endpoints = service.endpoints.iter().enumerate().map(|(index, endpoint)| LiveEndpoint {
            id: id * 3 + index as u32,
            address: endpoint.address,
            state: state(index),
            share: if index == 0 { 1.0 } else { 0.0 },
        });
        live.push(ScrapedService::new(
            service.name.clone(),
            id,
            Some(Arc::clone(service)),
            endpoints.collect(),
        ));
        let traffic = Traffic {
            connections: 7,
            failures: [1, 0, 2, 0, 0, 0],
            rtt_us: 1500,
            rtt_samples: 3,
            ..Traffic::default()
        };
        let decisions = Decisions { refused: [4, 0, 0], would_balance: 2, ..Decisions::default() };
        counters.services.insert(id, (traffic, decisions));
        counters.endpoints.insert(id * 3, traffic);
        let failures = [0, 3, 0, 0, 0, 0];
        counters.shadow.insert(id, Outcomes { connections: 9, established: 6, failures });
        counters.would.insert(id * 3, 2);
    }
    Arc::new(Scrape {
        taken: Instant::now(),
        status: status(),
        last_reload_successful: true,
        checks: [5, 6],
        counters,
        services: live,
    })
}

fn status() -> Status {
    Status {
        version: "1.2.3".into(),
        pid: 7,
        instance: "de\"fau\\lt\n".into(),
        started: 1.5,
        cgroups: Vec::new(),
        pins: String::new(),
        adopted: false,
        config: ConfigStatus { applied: Some(1234.5), generation: 3, ..ConfigStatus::default() },
        budgets: Budgets::default(),
        usage: Default::default(),
        programs: vec![Program { name: "connect4".into(), id: 1, state: "off: no".into(), skipped: 0 }],
        kernel_memory: 4096,
        anomalies: BTreeMap::from([("event-lost".to_owned(), 0)]),
        proxy: None,
        conformance: Some(Conformance {
            kernel: "6.1.0".into(),
            time: 1.5,
            took: 0.1,
            obstacle: Some("dead-target: why".into()),
            remote_obstacle: Some("dead-target: why".into()),
            checks: vec![
                check("insertion", "passed"),
                check("dead-target", "failed"),
                check("storage", "not-run"),
            ],
        }),
        trial: None,
    }
}

fn check(name: &str, result: &str) -> ConformanceCheck {
    ConformanceCheck {
        name: name.into(),
        what: String::new(),
        essential: true,
        remote: false,
        result: result.into(),
        why: (result != "passed").then(|| "why".into()),
    }
}

fn http() -> HttpTraffic {
    let ends = Ends {
        source: "web.service".into(),
        service: "team/svc-0".into(),
        destination: "docker:0123456789ab".into(),
        route: "/users/{name}".into(),
        tls: false,
    };
    let mut durations = Durations { sum: 0.25, ..Durations::default() };
    durations.latencies.counts[3] = 2;
    let calls = BTreeMap::from([(CallLabels { ends: ends.clone(), status: "NOT_FOUND" }, 1)]);
    let labels = RequestLabels { ends, protocol: Protocol::Http2, method: "GET", status_class: "2xx" };
    HttpTraffic {
        requests: BTreeMap::from([(labels.clone(), 2)]),
        calls,
        durations: BTreeMap::from([(labels, durations)]),
        since: BTreeMap::new(),
        unfollowed: vec![("tls", 3)],
        events: vec![("event-lost", 4)],
    }
}

/// What a proxy has counted of one service.
fn counted() -> Vec<Counted> {
    let series = RequestCounters {
        route: Some("api".into()),
        endpoint: Some("192.0.2.1:80".parse().unwrap()),
        statuses: [1, 0, 5, 0, 0, 2],
        request_bytes: 10,
        response_bytes: 20,
        latency_sum: 1.5,
        buckets: BTreeMap::from([(71, 8)]),
    };
    let none =
        RequestCounters { route: None, endpoint: None, statuses: [0, 0, 0, 0, 3, 0], ..series.clone() };
    let counters = ServiceCounters {
        service: alize_model::ServiceName::new("team/svc-0").unwrap(),
        requests: vec![series, none],
        reasons: BTreeMap::from([("header-match".into(), 4), ("no-proxy".into(), 2)]),
        refused: BTreeMap::from([("no-route".into(), 3)]),
        retries: 6,
        lost_copies: BTreeMap::from([("large".into(), 2)]),
        remote: 3,
    };
    vec![Counted { path: "proxy", services: vec![counters] }]
}

#[test]
fn routed_requests_are_told_by_route_and_endpoint() {
    let mut rendering = Rendering::new(scrape(1), None, counted(), Dialect::Text);
    let text: String = std::iter::from_fn(|| rendering.next_chunk()).collect();
    let labels = "service=\"team/svc-0\",route=\"api\"";
    let endpoint = "endpoint=\"192.0.2.1:80\"";
    for line in [
        format!("alize_http_requests_total{{{labels},{endpoint},status_class=\"2xx\",path=\"proxy\"}} 5"),
        format!("alize_http_requests_total{{{labels},{endpoint},status_class=\"none\",path=\"proxy\"}} 1"),
        "alize_http_requests_total{service=\"team/svc-0\",route=\"\",endpoint=\"\",status_class=\"4xx\",path=\"proxy\"} 3"
            .into(),
        format!("alize_http_request_duration_seconds_bucket{{{labels},path=\"proxy\",le=\"0.5\"}} 0"),
        format!("alize_http_request_duration_seconds_bucket{{{labels},path=\"proxy\",le=\"1\"}} 8"),
        format!("alize_http_request_duration_seconds_count{{{labels},path=\"proxy\"}} 8"),
        format!("alize_http_request_bytes_total{{{labels},{endpoint},path=\"proxy\"}} 10"),
        "alize_http_left_kernel_total{service=\"team/svc-0\",reason=\"header-match\",path=\"proxy\"} 4".into(),
        "alize_http_unproxied_connections_total{service=\"team/svc-0\"} 2".into(),
        "alize_http_refused_total{service=\"team/svc-0\",reason=\"no-route\",path=\"proxy\"} 3".into(),
        "alize_http_retries_total{service=\"team/svc-0\",path=\"proxy\"} 6".into(),
        "alize_http_mirror_lost_total{service=\"team/svc-0\",reason=\"large\",path=\"proxy\"} 2".into(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("alize_observe"), "nothing is observed");
}

#[test]
fn http_has_opentelemetrys_names_if_asked() {
    let own = render(&scrape(1), Dialect::Text);
    let text = render_as(&scrape(1), Dialect::Text, Names::OpenTelemetry);
    let ends = "alize_source=\"web.service\",alize_service=\"team/svc-0\",\
                alize_destination=\"docker:0123456789ab\",http_route=\"/users/{name}\",url_scheme=\"http\"";
    let kind = "network_protocol_version=\"2\",http_request_method=\"GET\",alize_status_class=\"2xx\"";
    for line in [
        format!("http_client_request_duration_seconds_count{{{ends},{kind}}} 2"),
        format!("alize_http_requests_total{{{ends},{kind}}} 2"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        assert!(!own.contains(&line));
    }
}

#[test]
fn http_is_there_only_if_it_is_observed() {
    let scrape = scrape(1);
    let text = render(&scrape, Dialect::Text);
    let ends = "source=\"web.service\",service=\"team/svc-0\",destination=\"docker:0123456789ab\",route=\"/users/{name}\"";
    let requests =
        format!("{ends},protocol=\"http/2\",method=\"GET\",status_class=\"2xx\",path=\"observed\"");
    let ends = format!("{ends},path=\"observed\"");
    for line in [
        format!("alize_http_requests_total{{{requests}}} 2"),
        format!("alize_http_request_duration_seconds_bucket{{{requests},le=\"0.00000762939453125\"}} 2"),
        format!("alize_http_request_duration_seconds_bucket{{{requests},le=\"+Inf\"}} 2"),
        format!("alize_http_request_duration_seconds_sum{{{requests}}} 0.25"),
        format!("alize_http_request_duration_seconds_count{{{requests}}} 2"),
        format!("alize_grpc_calls_total{{{}}} 1", ends.replace("path=", "grpc_status=\"NOT_FOUND\",path=")),
        "alize_observe_unfollowed_connections_total{reason=\"tls\"} 3".into(),
        "alize_observe_events_total{event=\"event-lost\"} 4".into(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    let mut rendering = Rendering::new(scrape, None, Vec::new(), Dialect::Text);
    let text: String = std::iter::from_fn(|| rendering.next_chunk()).collect();
    assert!(!text.contains("alize_http") && !text.contains("alize_observe"), "{text}");
}

fn render(scrape: &Arc<Scrape>, dialect: Dialect) -> String {
    render_as(scrape, dialect, Names::Prometheus)
}

fn render_as(scrape: &Arc<Scrape>, dialect: Dialect, names: Names) -> String {
    let mut rendering = Rendering::new(Arc::clone(scrape), Some(http()), counted(), dialect).named(names);
    std::iter::from_fn(|| rendering.next_chunk()).collect()
}

#[test]
fn samples_say_what_was_counted() {
    let text = render(&scrape(2), Dialect::Text);
    for line in [
        "# TYPE alize_service_connections_total counter",
        "alize_build_info{version=\"1.2.3\",instance_name=\"de\\\"fau\\\\lt\\n\"} 1",
        "alize_service_info{service=\"team/svc-1\",protocol=\"tcp\",mode=\"enforce\",balance=\"weighted-random\"} 1",
        "alize_service_usable_endpoints{service=\"team/svc-0\"} 1",
        "alize_service_connections_total{service=\"team/svc-0\"} 7",
        "alize_service_connect_failures_total{service=\"team/svc-0\",reason=\"unreachable\"} 2",
        "alize_service_refused_total{service=\"team/svc-1\",reason=\"no-endpoint\"} 4",
        "alize_shadow_decisions_total{service=\"team/svc-1\",verdict=\"balanced\"} 2",
        "alize_shadow_connections_total{service=\"team/svc-1\",outcome=\"opened\"} 9",
        "alize_shadow_connections_total{service=\"team/svc-1\",outcome=\"timeout\"} 3",
        "alize_endpoint_shadow_connections_total{service=\"team/svc-0\",endpoint=\"192.0.2.1:80\"} 2",
        "alize_endpoint_connections_total{service=\"team/svc-0\",endpoint=\"192.0.2.1:80\"} 7",
        "alize_endpoint_connections_total{service=\"team/svc-0\",endpoint=\"[fd00::1]:80\"} 0",
        "alize_endpoint_state{service=\"team/svc-0\",endpoint=\"192.0.2.3:80\",state=\"ejected\"} 1",
        "alize_endpoint_smoothed_rtt_seconds_sum{service=\"team/svc-0\",endpoint=\"192.0.2.1:80\"} 0.0015",
        "alize_endpoint_smoothed_rtt_seconds_count{service=\"team/svc-0\",endpoint=\"192.0.2.1:80\"} 3",
        "alize_program_up{program=\"connect4\"} 0",
        "alize_conformance{check=\"insertion\"} 1",
        "alize_conformance{check=\"dead-target\"} 0",
        "alize_conformance{check=\"storage\"} 0",
        "alize_config_last_reload_success_timestamp_seconds 1234.5",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("# EOF"));
    let open = render(&scrape(1), Dialect::OpenMetrics);
    assert!(open.contains("# TYPE alize_service_connections counter\n"), "{open}");
    assert!(open.ends_with("# EOF\n"));
}

/// Whatever the number of services: each family once, its series side by side, no series twice, chunks small.
#[test]
fn large_scrapes_come_in_small_pieces() {
    let scrape = scrape(1000);
    let mut rendering = Rendering::new(Arc::clone(&scrape), None, Vec::new(), Dialect::Text);
    let (mut text, mut largest) = (String::new(), 0);
    while let Some(chunk) = rendering.next_chunk() {
        largest = largest.max(chunk.len());
        text += &chunk;
    }
    assert!(largest < 2 * CHUNK, "{largest}");
    assert!(text.len() > 500_000);
    let (mut series, mut ended, mut current) = (HashSet::new(), HashSet::new(), "");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, _) = line.rsplit_once(' ').unwrap();
        assert!(series.insert(name), "{name} twice");
        let family = FAMILIES.iter().find(|family| {
            let rest = name.strip_prefix(family.name).map(|rest| rest.split('{').next().unwrap());
            matches!(rest, Some("" | "_total" | "_sum" | "_count"))
        });
        let family = family.unwrap_or_else(|| panic!("{name} is of no family")).name;
        if family != current {
            assert!(ended.insert(family), "{family} comes in pieces");
            current = family;
        }
    }
    let per_endpoint = series.iter().filter(|name| name.starts_with("alize_endpoint_state")).count();
    assert_eq!(per_endpoint, 3000);
}

#[test]
fn names_keep_to_the_conventions() {
    let mut seen = HashMap::new();
    for family in FAMILIES {
        assert!(seen.insert(family.name, ()).is_none(), "{} twice", family.name);
        assert!(!family.name.ends_with("_total"));
        assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{}", family.name);
    }
}

/// Prometheus' own linter reads what is written.
#[test]
fn prometheus_accepts_it() {
    let mut promtool = match Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(promtool) => promtool,
        Err(error) => panic!("promtool cannot be run ({error}); install the package prometheus"),
    };
    let text = render(&scrape(3), Dialect::Text);
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// `docs/reference/metrics.md` is made from [`FAMILIES`].
#[test]
fn the_reference_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
    let expected = reference();
    if std::env::var_os("ALIZE_BLESS").is_some() {
        fs::write(&file, &expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "docs/reference/metrics.md is out of date: ALIZE_BLESS=1 cargo test -p alize-agent"
    );
}

fn reference() -> String {
    let mut text = include_str!("reference.md").to_owned();
    let labels_in_use = render(&scrape(1), Dialect::Text);
    for family in FAMILIES {
        let (kind, suffix) = match family.kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Summary => ("summary", "_sum"),
            Kind::Histogram => ("histogram", "_sum"),
        };
        let sample = labels_in_use.lines().find(|line| {
            let rest = line.strip_prefix(family.name).and_then(|rest| rest.strip_prefix(suffix));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let sample = sample.unwrap_or_else(|| panic!("no sample of {}", family.name));
        let shown = if suffix == "_sum" { "" } else { suffix };
        text += &format!("| `{}{shown}` | {kind} | {} | {} |\n", family.name, labels_of(sample), family.help);
    }
    text
}

fn labels_of(sample: &str) -> String {
    let inner = sample.split_once('{').map_or("", |(_, rest)| rest);
    let names =
        inner.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| format!("`{name}`"));
    names.collect::<Vec<_>>().join(", ")
}
