//! `/metrics`: the text that Prometheus reads, written in chunks while it is being sent.
//!
//! A client library would keep every series resident or encode them all into one string: at 10,000 services x 3
//! endpoints that is some 40 MB, five times the agent's budget. Here a scrape is one walk over what the kernel counted,
//! 16 KiB at a time, and the format is small enough to be written directly.

use std::fmt::{Display, Write};
use std::sync::Arc;

use alize_datapath::{Decisions, LiveEndpoint, Traffic};
use alize_model::{Mode, Protocol};

use crate::observer::{DurationLabels, Durations, HttpTraffic};
use crate::process::Process;
use crate::scrape::{FAILURES, REFUSALS, Scrape, ScrapedService, state_name};
use crate::status::balance;

/// Text is handed on when it is longer than this.
const CHUNK: usize = 16 * 1024;

/// The two dialects differ in little: names of counters in the comments, and the end mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Dialect {
    /// What a client with this Accept header understands.
    pub(crate) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A scrape on its way to text.
pub(crate) struct Rendering {
    scrape: Arc<Scrape>,
    /// Absent unless HTTP is always observed.
    http: Option<HttpTraffic>,
    process: Process,
    dialect: Dialect,
    family: usize,
    /// The next service of that family.
    service: usize,
    ended: bool,
}

impl Rendering {
    pub(crate) fn new(scrape: Arc<Scrape>, http: Option<HttpTraffic>, dialect: Dialect) -> Self {
        Self { scrape, http, process: Process::read(), dialect, family: 0, service: 0, ended: false }
    }

    /// The next piece of text; none when all is written.
    pub(crate) fn next_chunk(&mut self) -> Option<String> {
        let mut text = String::with_capacity(CHUNK + CHUNK / 4);
        while text.len() < CHUNK {
            let Some(family) = FAMILIES.get(self.family) else {
                if !std::mem::replace(&mut self.ended, true) && self.dialect == Dialect::OpenMetrics {
                    text.push_str("# EOF\n");
                }
                break;
            };
            if self.http.is_none() && matches!(family.samples, Of::Http(_)) {
                self.family += 1;
                continue;
            }
            if self.service == 0 {
                family.write_head(self.dialect, &mut text);
            }
            self.write_samples(family, &mut text);
        }
        (!text.is_empty()).then_some(text)
    }

    /// Writes samples until the chunk is full or the family ends.
    fn write_samples(&mut self, family: &Family, text: &mut String) {
        let scrape = &*self.scrape;
        let mut out = Samples { text, family };
        let services = scrape.services.get(self.service..).unwrap_or_default();
        match family.samples {
            Of::Agent(samples) => samples(scrape, &self.process, &mut out),
            Of::Http(samples) => self.http.iter().for_each(|http| samples(http, &mut out)),
            Of::Service(samples) => {
                for service in services {
                    self.service += 1;
                    samples(&ServiceView::new(scrape, service), &mut out);
                    if out.text.len() >= CHUNK {
                        return;
                    }
                }
            }
            Of::Endpoint(samples) => {
                for service in services {
                    self.service += 1;
                    service.endpoints.iter().for_each(|live| {
                        samples(
                            &EndpointView { service, live, traffic: scrape.traffic_of_endpoint(live) },
                            &mut out,
                        );
                    });
                    if out.text.len() >= CHUNK {
                        return;
                    }
                }
            }
        }
        self.family += 1;
        self.service = 0;
    }
}

/// One name, and all series that carry it: both dialects want them side by side.
struct Family {
    /// Without the `_total` of counters.
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: Of,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    /// Sum and count, no quantiles.
    Summary,
    /// Sum, count and cumulative buckets.
    Histogram,
}

/// Whom the series are about.
#[derive(Clone, Copy)]
enum Of {
    Agent(fn(&Scrape, &Process, &mut Samples<'_>)),
    /// HTTP, if it is always observed.
    Http(fn(&HttpTraffic, &mut Samples<'_>)),
    Service(fn(&ServiceView<'_>, &mut Samples<'_>)),
    Endpoint(fn(&EndpointView<'_>, &mut Samples<'_>)),
}

struct ServiceView<'a> {
    service: &'a ScrapedService,
    traffic: Traffic,
    decisions: Decisions,
}

impl<'a> ServiceView<'a> {
    fn new(scrape: &Scrape, service: &'a ScrapedService) -> Self {
        let (traffic, decisions) = scrape.traffic_of(service);
        Self { service, traffic, decisions }
    }
}

struct EndpointView<'a> {
    service: &'a ScrapedService,
    live: &'a LiveEndpoint,
    /// None when nobody was ever sent there: then only what is always known is written.
    traffic: Option<&'a Traffic>,
}

impl Family {
    fn write_head(&self, dialect: Dialect, text: &mut String) {
        let total = if self.kind == Kind::Counter && dialect == Dialect::Text { "_total" } else { "" };
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
            Kind::Histogram => "histogram",
        };
        let Self { name, help, .. } = self;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name}{total} {help}\n# TYPE {name}{total} {kind}");
    }
}

/// Writes the samples of one family.
struct Samples<'a> {
    text: &'a mut String,
    family: &'a Family,
}

type Label<'a> = (&'a str, &'a dyn Display);

impl Samples<'_> {
    fn add(&mut self, labels: &[Label<'_>], value: impl Display) {
        let suffix = if self.family.kind == Kind::Counter { "_total" } else { "" };
        self.write(suffix, labels, value);
    }

    fn summary(&mut self, labels: &[Label<'_>], sum: f64, count: u64) {
        self.write("_sum", labels, sum);
        self.write("_count", labels, count);
    }

    fn histogram(&mut self, ends: &DurationLabels, durations: &Durations) {
        let labels = ends.labels();
        let mut count = 0;
        for (bound, below) in durations.cumulative() {
            count = below;
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            let [source, service, destination] = labels;
            self.write("_bucket", &[source, service, destination, ("le", &bound)], below);
        }
        self.summary(&labels, durations.sum, count);
    }

    fn write(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        self.text.push_str(self.family.name);
        self.text.push_str(suffix);
        for (index, (name, label)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"");
            let _ = write!(Escaped(self.text), "{label}");
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

impl DurationLabels {
    fn labels(&self) -> [Label<'_>; 3] {
        [("source", &self.source), ("service", &self.service), ("destination", &self.destination)]
    }
}

/// Escapes what may not stand in a label's value.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                _ => self.0.push(character),
            }
        }
        Ok(())
    }
}

const MICROSECONDS: f64 = 1e6;

const FAMILIES: &[Family] = &[
    agent("alize_build_info", Kind::Gauge, "Version of the agent; always 1.", |scrape, _, out| {
        out.add(&[("version", &scrape.status.version), ("instance_name", &scrape.status.instance)], 1);
    }),
    agent(
        "alize_config_last_reload_successful",
        Kind::Gauge,
        "1 if the last attempt to change the state succeeded, 0 if it was refused and the state before stays in force.",
        |scrape, _, out| out.add(&[], u8::from(scrape.last_reload_successful)),
    ),
    agent(
        "alize_config_last_reload_success_timestamp_seconds",
        Kind::Gauge,
        "When a state last came into force, since the Unix epoch.",
        |scrape, _, out| out.add(&[], scrape.status.config.applied.unwrap_or_default()),
    ),
    agent(
        "alize_config_generation",
        Kind::Gauge,
        "How many times a state came into force since the agent started.",
        |scrape, _, out| out.add(&[], scrape.status.config.generation),
    ),
    agent("alize_budget_limit", Kind::Gauge, "Sizes the kernel maps were made with.", |scrape, _, out| {
        let budgets = &scrape.status.budgets;
        out.add(&[("resource", &"services")], budgets.services);
        out.add(&[("resource", &"endpoints")], budgets.endpoints);
        out.add(&[("resource", &"slots")], budgets.slots);
    }),
    agent("alize_budget_used", Kind::Gauge, "How much of the kernel maps is in use.", |scrape, _, out| {
        let usage = &scrape.status.usage;
        out.add(&[("resource", &"services")], usage.services);
        out.add(&[("resource", &"endpoints")], usage.endpoints);
        out.add(&[("resource", &"slots")], usage.slots);
    }),
    agent(
        "alize_kernel_memory_bytes",
        Kind::Gauge,
        "Kernel memory of all maps and programs together.",
        |scrape, _, out| out.add(&[], scrape.status.kernel_memory),
    ),
    agent(
        "alize_program_up",
        Kind::Gauge,
        "1 if the kernel program is loaded and attached, 0 if it is off and its feature is missing.",
        |scrape, _, out| {
            for program in &scrape.status.programs {
                out.add(&[("program", &program.name)], u8::from(program.state == "on"));
            }
        },
    ),
    agent(
        "alize_anomalies",
        Kind::Counter,
        "What should never happen in the data path and did, by reason.",
        |scrape, _, out| {
            for (reason, count) in &scrape.status.anomalies {
                out.add(&[("reason", reason)], count);
            }
        },
    ),
    agent("alize_health_checks", Kind::Counter, "Active health checks answered.", |scrape, _, out| {
        out.add(&[("result", &"success")], scrape.checks[0]);
        out.add(&[("result", &"failure")], scrape.checks[1]);
    }),
    service("alize_service_info", Kind::Gauge, "How the service is set up; always 1.", |view, out| {
        let Some(definition) = &view.service.service else { return };
        let protocol = match definition.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Http => "http",
        };
        let mode = match definition.mode {
            Mode::Observe => "observe",
            Mode::Shadow => "shadow",
            Mode::Enforce => "enforce",
        };
        let labels: [Label<'_>; 4] = [
            ("service", &view.service.name),
            ("protocol", &protocol),
            ("mode", &mode),
            ("balance", &balance(definition.balance)),
        ];
        out.add(&labels, 1);
    }),
    service(
        "alize_service_usable_endpoints",
        Kind::Gauge,
        "Endpoints that take new connections.",
        |view, out| out.add(&[("service", &view.service.name)], view.service.usable()),
    ),
    service(
        "alize_service_connections",
        Kind::Counter,
        "Connections (TCP) or flows (UDP) that clients made to the service.",
        |view, out| out.add(&[("service", &view.service.name)], view.traffic.connections),
    ),
    service(
        "alize_service_established",
        Kind::Counter,
        "TCP connections that were established.",
        |view, out| out.add(&[("service", &view.service.name)], view.traffic.established),
    ),
    service(
        "alize_service_open_connections",
        Kind::Gauge,
        "Connections and flows that are open now.",
        |view, out| out.add(&[("service", &view.service.name)], view.traffic.open),
    ),
    service(
        "alize_service_connect_failures",
        Kind::Counter,
        "TCP connects that were let through and failed, by reason.",
        |view, out| {
            for (reason, count) in FAILURES.iter().zip(view.traffic.failures) {
                out.add(&[("service", &view.service.name), ("reason", reason)], count);
            }
        },
    ),
    service(
        "alize_service_refused",
        Kind::Counter,
        "Connects and datagrams refused at once, by reason.",
        |view, out| {
            for (reason, count) in REFUSALS.iter().zip(view.decisions.refused) {
                out.add(&[("service", &view.service.name), ("reason", reason)], count);
            }
        },
    ),
    service(
        "alize_service_affinity_kept",
        Kind::Counter,
        "Connections that went to the endpoint their client had before.",
        |view, out| out.add(&[("service", &view.service.name)], view.decisions.affinity_kept),
    ),
    service(
        "alize_service_sent_bytes",
        Kind::Counter,
        "Bytes from clients to endpoints, acknowledged (TCP).",
        |view, out| out.add(&[("service", &view.service.name)], view.traffic.bytes_sent),
    ),
    service(
        "alize_service_received_bytes",
        Kind::Counter,
        "Bytes from endpoints to clients (TCP).",
        |view, out| out.add(&[("service", &view.service.name)], view.traffic.bytes_received),
    ),
    service(
        "alize_service_retransmitted_segments",
        Kind::Counter,
        "TCP segments that clients sent again.",
        |view, out| out.add(&[("service", &view.service.name)], view.traffic.retransmits),
    ),
    service(
        "alize_service_smoothed_rtt_seconds",
        Kind::Summary,
        "Samples of the smoothed round-trip time of connections.",
        |view, out| {
            let sum = view.traffic.rtt_us as f64 / MICROSECONDS;
            out.summary(&[("service", &view.service.name)], sum, view.traffic.rtt_samples);
        },
    ),
    service(
        "alize_shadow_decisions",
        Kind::Counter,
        "What would have been done with connections of a service in mode shadow.",
        |view, out| {
            let would_balance = [("balanced", view.decisions.would_balance)];
            let would_refuse = REFUSALS.into_iter().zip(view.decisions.would_refuse);
            for (verdict, count) in
                would_balance.into_iter().chain(would_refuse).filter(|(_, count)| *count > 0)
            {
                out.add(&[("service", &view.service.name), ("verdict", &verdict)], count);
            }
        },
    ),
    endpoint(
        "alize_endpoint_state",
        Kind::Gauge,
        "1 for the state that the endpoint is in: active, draining, unhealthy, ejected or removed.",
        |view, out| {
            let labels: [Label<'_>; 3] = [
                ("service", &view.service.name),
                ("endpoint", &view.live.address),
                ("state", &state_name(view.live.state)),
            ];
            out.add(&labels, 1);
        },
    ),
    endpoint(
        "alize_endpoint_share_ratio",
        Kind::Gauge,
        "Share of the service's new connections that the endpoint gets now, 0 to 1.",
        |view, out| out.add(&view.labels(), view.live.share),
    ),
    endpoint(
        "alize_endpoint_connections",
        Kind::Counter,
        "Connections (TCP) or flows (UDP) that were given to the endpoint.",
        |view, out| out.add(&view.labels(), view.traffic.map_or(0, |traffic| traffic.connections)),
    ),
    endpoint(
        "alize_endpoint_established",
        Kind::Counter,
        "TCP connections that were established.",
        |view, out| view.used(|traffic, labels| out.add(labels, traffic.established)),
    ),
    endpoint(
        "alize_endpoint_open_connections",
        Kind::Gauge,
        "Connections and flows that are open now.",
        |view, out| view.used(|traffic, labels| out.add(labels, traffic.open)),
    ),
    endpoint(
        "alize_endpoint_connect_failures",
        Kind::Counter,
        "TCP connects to the endpoint that failed, by reason; absent until the first.",
        |view, out| {
            let Some(traffic) = view.traffic else { return };
            if traffic.failures.iter().all(|count| *count == 0) {
                return;
            }
            for (reason, count) in FAILURES.iter().zip(traffic.failures) {
                let [service, endpoint] = view.labels();
                out.add(&[service, endpoint, ("reason", reason)], count);
            }
        },
    ),
    endpoint(
        "alize_endpoint_sent_bytes",
        Kind::Counter,
        "Bytes from clients to the endpoint, acknowledged (TCP).",
        |view, out| view.used(|traffic, labels| out.add(labels, traffic.bytes_sent)),
    ),
    endpoint(
        "alize_endpoint_received_bytes",
        Kind::Counter,
        "Bytes from the endpoint to clients (TCP).",
        |view, out| view.used(|traffic, labels| out.add(labels, traffic.bytes_received)),
    ),
    endpoint(
        "alize_endpoint_retransmitted_segments",
        Kind::Counter,
        "TCP segments that clients sent again.",
        |view, out| view.used(|traffic, labels| out.add(labels, traffic.retransmits)),
    ),
    endpoint(
        "alize_endpoint_smoothed_rtt_seconds",
        Kind::Summary,
        "Samples of the smoothed round-trip time of connections.",
        |view, out| {
            view.used(|traffic, labels| {
                out.summary(labels, traffic.rtt_us as f64 / MICROSECONDS, traffic.rtt_samples);
            });
        },
    ),
    http(
        "alize_http_requests",
        Kind::Counter,
        "HTTP requests seen in the kernel, by status class; `none`: the connection ended before the response did. Only \
         with `--observe always`, as all names that begin with `alize_http` or `alize_observe`.",
        |http, out| {
            for (labels, count) in &http.requests {
                let [source, service, destination] = labels.ends.labels();
                let method: Label<'_> = ("method", &labels.method);
                out.add(
                    &[source, service, destination, method, ("status_class", &labels.status_class)],
                    count,
                );
            }
        },
    ),
    http(
        "alize_http_request_duration_seconds",
        Kind::Histogram,
        "From the first byte of a request to the last of its response.",
        |http, out| http.durations.iter().for_each(|(ends, durations)| out.histogram(ends, durations)),
    ),
    http(
        "alize_observe_unfollowed_connections",
        Kind::Counter,
        "Connections whose HTTP is not followed, by reason; `joined` ones are, from the first safe place on.",
        |http, out| {
            for (reason, count) in &http.unfollowed {
                out.add(&[("reason", reason)], count);
            }
        },
    ),
    http(
        "alize_observe_events",
        Kind::Counter,
        "What else happened while observing; names that end in `overflow` or `lost` tell what is missing.",
        |http, out| {
            for (event, count) in &http.events {
                out.add(&[("event", event)], count);
            }
        },
    ),
    agent("process_cpu_seconds", Kind::Counter, "Processor time of the agent.", |_, process, out| {
        out.add(&[], process.cpu_seconds);
    }),
    agent("process_open_fds", Kind::Gauge, "Open files of the agent.", |_, process, out| {
        out.add(&[], process.open_files);
    }),
    agent("process_max_fds", Kind::Gauge, "How many files the agent may open.", |_, process, out| {
        out.add(&[], process.max_files);
    }),
    agent("process_virtual_memory_bytes", Kind::Gauge, "Address space of the agent.", |_, process, out| {
        out.add(&[], process.virtual_memory);
    }),
    agent(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory of the agent.",
        |_, process, out| {
            out.add(&[], process.resident_memory);
        },
    ),
    agent(
        "process_start_time_seconds",
        Kind::Gauge,
        "When the agent started, since the Unix epoch.",
        |scrape, _, out| out.add(&[], scrape.status.started),
    ),
];

impl EndpointView<'_> {
    fn labels(&self) -> [Label<'_>; 2] {
        [("service", &self.service.name), ("endpoint", &self.live.address)]
    }

    /// Calls `write` if anybody was ever sent to the endpoint.
    fn used(&self, mut write: impl FnMut(&Traffic, &[Label<'_>])) {
        if let Some(traffic) = self.traffic {
            write(traffic, &self.labels());
        }
    }
}

const fn agent(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: fn(&Scrape, &Process, &mut Samples<'_>),
) -> Family {
    Family { name, kind, help, samples: Of::Agent(samples) }
}

const fn http(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: fn(&HttpTraffic, &mut Samples<'_>),
) -> Family {
    Family { name, kind, help, samples: Of::Http(samples) }
}

const fn service(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: fn(&ServiceView<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind, help, samples: Of::Service(samples) }
}

const fn endpoint(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: fn(&EndpointView<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind, help, samples: Of::Endpoint(samples) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use crate::observer::RequestLabels;
    use alize_datapath::{Counters, LiveState, Unavailable};
    use alize_model::api::{ConfigStatus, Program, Status};
    use alize_model::{Budgets, HostFacts, Source};

    use super::*;

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
            let decisions = Decisions { refused: [4, 0], would_balance: 2, ..Decisions::default() };
            counters.services.insert(id, (traffic, decisions));
            counters.endpoints.insert(id * 3, traffic);
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
            programs: vec![Program { name: "connect4".into(), id: 1, state: "off: no".into() }],
            kernel_memory: 4096,
            anomalies: BTreeMap::from([("event-lost".to_owned(), 0)]),
        }
    }

    fn http() -> HttpTraffic {
        let ends = DurationLabels {
            source: "web.service".into(),
            service: "team/svc-0".into(),
            destination: "docker:0123456789ab".into(),
        };
        let mut durations = Durations { sum: 0.25, ..Durations::default() };
        durations.latencies.counts[3] = 2;
        HttpTraffic {
            requests: BTreeMap::from([(
                RequestLabels { ends: ends.clone(), method: "GET", status_class: "2xx" },
                2,
            )]),
            durations: BTreeMap::from([(ends, durations)]),
            unfollowed: vec![("tls", 3)],
            events: vec![("event-lost", 4)],
        }
    }

    #[test]
    fn http_is_there_only_if_it_is_observed() {
        let scrape = scrape(1);
        let text = render(&scrape, Dialect::Text);
        let ends = "source=\"web.service\",service=\"team/svc-0\",destination=\"docker:0123456789ab\"";
        for line in [
            format!("alize_http_requests_total{{{ends},method=\"GET\",status_class=\"2xx\"}} 2"),
            format!("alize_http_request_duration_seconds_bucket{{{ends},le=\"0.00000762939453125\"}} 2"),
            format!("alize_http_request_duration_seconds_bucket{{{ends},le=\"+Inf\"}} 2"),
            format!("alize_http_request_duration_seconds_sum{{{ends}}} 0.25"),
            format!("alize_http_request_duration_seconds_count{{{ends}}} 2"),
            "alize_observe_unfollowed_connections_total{reason=\"tls\"} 3".into(),
            "alize_observe_events_total{event=\"event-lost\"} 4".into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let mut rendering = Rendering::new(scrape, None, Dialect::Text);
        let text: String = std::iter::from_fn(|| rendering.next_chunk()).collect();
        assert!(!text.contains("alize_http") && !text.contains("alize_observe"), "{text}");
    }

    fn render(scrape: &Arc<Scrape>, dialect: Dialect) -> String {
        let mut rendering = Rendering::new(Arc::clone(scrape), Some(http()), dialect);
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
            "alize_endpoint_connections_total{service=\"team/svc-0\",endpoint=\"192.0.2.1:80\"} 7",
            "alize_endpoint_connections_total{service=\"team/svc-0\",endpoint=\"[fd00::1]:80\"} 0",
            "alize_endpoint_state{service=\"team/svc-0\",endpoint=\"192.0.2.3:80\",state=\"ejected\"} 1",
            "alize_endpoint_smoothed_rtt_seconds_sum{service=\"team/svc-0\",endpoint=\"192.0.2.1:80\"} 0.0015",
            "alize_endpoint_smoothed_rtt_seconds_count{service=\"team/svc-0\",endpoint=\"192.0.2.1:80\"} 3",
            "alize_program_up{program=\"connect4\"} 0",
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
        let mut rendering = Rendering::new(Arc::clone(&scrape), None, Dialect::Text);
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
        let mut text = include_str!("metrics_reference.md").to_owned();
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
            text +=
                &format!("| `{}{shown}` | {kind} | {} | {} |\n", family.name, labels_of(sample), family.help);
        }
        text
    }

    fn labels_of(sample: &str) -> String {
        let inner = sample.split_once('{').map_or("", |(_, rest)| rest);
        let names = inner
            .split("\",")
            .filter_map(|label| label.split_once("=\""))
            .map(|(name, _)| format!("`{name}`"));
        names.collect::<Vec<_>>().join(", ")
    }
}
