//! Every name there is: kind, meaning, and how its samples are made.

use alize_datapath::Traffic;
use alize_model::control::RequestCounters;
use alize_model::{Mode, Protocol};

use super::{EndpointView, Family, Kind, Label, Of, RequestsView, Samples, ServiceView};
use crate::observer::{HttpTraffic, RequestLabels};
use crate::process::Process;
use crate::routes::{CLASSES, cumulative, latencies};
use crate::scrape::{FAILURES, REFUSALS, Scrape, state_name};
use crate::status::balance;

/// The reason of connections, and not of requests.
const NO_PROXY: &str = "no-proxy";
const MICROSECONDS: f64 = 1e6;

pub(super) const FAMILIES: &[Family] = &[
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
    agent(
        "alize_conformance",
        Kind::Gauge,
        "1 if the kernel did what serving HTTP in it relies on, 0 if it did not or that could not be tried, by check.",
        |scrape, _, out| {
            for check in scrape.status.conformance.iter().flat_map(|conformance| &conformance.checks) {
                out.add(&[("check", &check.name)], u8::from(check.result == "passed"));
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
            ("balance", &balance(definition)),
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
    service(
        "alize_shadow_connections",
        Kind::Counter,
        "Connections of a service in mode shadow, by what really became of them: opened, established, or why they failed.",
        |view, out| {
            let opened = [("opened", view.shadow.connections), ("established", view.shadow.established)];
            let failed = FAILURES.into_iter().zip(view.shadow.failures);
            for (outcome, count) in opened.into_iter().chain(failed).filter(|(_, count)| *count > 0) {
                out.add(&[("service", &view.service.name), ("outcome", &outcome)], count);
            }
        },
    ),
    endpoint(
        "alize_endpoint_shadow_connections",
        Kind::Counter,
        "Connections that the endpoint would have got in mode shadow; absent until the first.",
        |view, out| {
            if view.would > 0 {
                out.add(&view.labels(), view.would);
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
    Family {
        name: "alize_http_requests",
        kind: Kind::Counter,
        help: "HTTP requests by status class; `none`: there was no response. `path` says who routed them: `proxy` and \
               `kernel-l7`, with the labels `service`, `route`, `endpoint`; `observed`, with the labels `source`, \
               `service`, `destination`, `route` (the path template that the path matches, `--path-template`), \
               `protocol` (`http/1`, `http/2`) and `method`, are all that were seen in the kernel, with `--observe always`, and `tls` those seen within TLS of \
               services with `tls: observe`, with the same labels.",
        samples: Of::Requests { routed: requests, observed: Some(observed_requests) },
    },
    Family {
        name: "alize_http_request_duration_seconds",
        kind: Kind::Histogram,
        help: "From the first byte of a request to the last of its response, with the labels of `alize_http_requests_total`; \
               those of routed requests lack `endpoint` and `status_class`.",
        samples: Of::Requests { routed: durations, observed: Some(observed_durations) },
    },
    requests_only("alize_http_request_bytes", "Bodies of requests that were routed.", |view, out| {
        view.series(|labels, series| out.add(labels, series.request_bytes))
    }),
    requests_only("alize_http_response_bytes", "Bodies of their responses.", |view, out| {
        view.series(|labels, series| out.add(labels, series.response_bytes))
    }),
    requests_only(
        "alize_http_left_kernel",
        "What the kernel left to the proxy, by reason: pieces in which clients send requests, and responses. What goes on with a \
         piece before, such as the rest of a body, is `unread`.",
        |view, out| view.reasons(view.counters.reasons.iter().filter(|(reason, _)| *reason != NO_PROXY), out),
    ),
    requests_only(
        "alize_http_unproxied_connections",
        "Connections to services with `protocol: http` that were balanced as a whole, because the proxy did not listen in their \
         network namespace yet.",
        |view, out| {
            if let Some(count) = view.counters.reasons.get(NO_PROXY) {
                out.add(&[("service", &view.counters.service)], count);
            }
        },
    ),
    requests_only(
        "alize_http_refused",
        "Requests that were answered without an endpoint, by reason.",
        |view, out| view.reasons(view.counters.refused.iter(), out),
    ),
    requests_only("alize_http_retries", "Tries after the first.", |view, out| {
        out.add(&[("service", &view.counters.service), ("path", &view.path)], view.counters.retries);
    }),
    requests_only(
        "alize_http_mirror_lost",
        "Copies of requests (`mirror`) that no endpoint has answered, by reason: `large`, the body is longer than 64 KiB; \
         `unfinished`, the request was over before its body had ended; `no-endpoint`; `busy`, 256 copies are under way; \
         `failed`; `timeout`, after 15 s.",
        |view, out| view.reasons(view.counters.lost_copies.iter(), out),
    ),
    requests_only(
        "alize_http_remote_requests",
        "Requests among those with the path `kernel-l7` that went out by TCP: the endpoint is on another host, or not in a \
         meshed cgroup.",
        |view, out| {
            if view.counters.remote > 0 {
                out.add(&[("service", &view.counters.service)], view.counters.remote);
            }
        },
    ),
    http(
        "alize_grpc_calls",
        Kind::Counter,
        "gRPC calls seen in the kernel, or within TLS, by their status (`grpc_status`); `none`: they ended without one. \
         With the labels of `alize_http_requests_total`, which counts them too, by the status of HTTP.",
        |http, out| {
            for (labels, count) in &http.calls {
                let [source, service, destination, route, path] = labels.ends.labels();
                let status: Label<'_> = ("grpc_status", &labels.status);
                out.add(&[source, service, destination, route, status, path], count);
            }
        },
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

fn requests(view: &RequestsView<'_>, out: &mut Samples<'_>) {
    view.series(|labels, series| {
        for (class, count) in CLASSES.iter().zip(series.statuses).filter(|(_, count)| *count > 0) {
            let [service, route, endpoint, path] = *labels;
            out.add(&[service, route, endpoint, ("status_class", class), path], count);
        }
    });
}

fn durations(view: &RequestsView<'_>, out: &mut Samples<'_>) {
    for (route, series) in latencies(view.counters) {
        let labels: [Label<'_>; 3] =
            [("service", &view.counters.service), ("route", &route), ("path", &view.path)];
        out.histogram(&labels, cumulative(&series.buckets), series.latency_sum);
    }
}

/// What OTLP pushes (`otlp`), in the names that Prometheus makes of OpenTelemetry's.
pub(super) const OPENTELEMETRY: &[Family] = &[
    http(
        "http_client_request_duration_seconds",
        Kind::Histogram,
        "From the first byte of a request to the last of its response, seen in the kernel.",
        |http, out| {
            for (labels, durations) in &http.durations {
                let (buckets, sum) = (durations.cumulative().into_iter(), durations.sum);
                out.histogram(&opentelemetry(labels, &labels.version()), buckets, sum);
            }
        },
    ),
    http("alize_http_requests", Kind::Counter, "HTTP requests by class of their status.", |http, out| {
        for (labels, count) in &http.requests {
            out.add(&opentelemetry(labels, &labels.version()), count);
        }
    }),
];

fn opentelemetry<'a>(labels: &'a RequestLabels, version: &'a &'static str) -> [Label<'a>; 8] {
    let RequestLabels { ends, method, status_class, .. } = labels;
    [
        ("alize_source", &ends.source),
        ("alize_service", &ends.service),
        ("alize_destination", &ends.destination),
        ("http_route", &ends.route),
        ("url_scheme", if ends.tls { &"https" } else { &"http" }),
        ("network_protocol_version", version),
        ("http_request_method", method),
        ("alize_status_class", status_class),
    ]
}

fn observed_requests(http: &HttpTraffic, out: &mut Samples<'_>) {
    for (labels, count) in &http.requests {
        out.add(&labels.labels(), count);
    }
}

fn observed_durations(http: &HttpTraffic, out: &mut Samples<'_>) {
    for (labels, durations) in &http.durations {
        out.histogram(&labels.labels(), durations.cumulative().into_iter(), durations.sum);
    }
}

impl RequestsView<'_> {
    /// Calls `write` for every series of requests.
    fn series(&self, mut write: impl FnMut(&[Label<'_>; 4], &RequestCounters)) {
        for series in &self.counters.requests {
            let route = series.route.as_deref().unwrap_or_default();
            let endpoint = series.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default();
            let labels: [Label<'_>; 4] = [
                ("service", &self.counters.service),
                ("route", &route),
                ("endpoint", &endpoint),
                ("path", &self.path),
            ];
            write(&labels, series);
        }
    }

    fn reasons<'a>(&self, reasons: impl Iterator<Item = (&'a String, &'a u64)>, out: &mut Samples<'_>) {
        for (reason, count) in reasons {
            out.add(&[("service", &self.counters.service), ("reason", reason), ("path", &self.path)], count);
        }
    }
}

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

const fn requests_only(
    name: &'static str,
    help: &'static str,
    routed: fn(&RequestsView<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Counter, help, samples: Of::Requests { routed, observed: None } }
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
