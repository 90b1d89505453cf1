//! `/metrics`: the text that Prometheus reads, written in chunks while it is being sent.
//!
//! A client library would keep every series resident or encode them all into one string: at 10,000 services x 3
//! endpoints that is some 40 MB, five times the agent's budget. Here a scrape is one walk over what the kernel counted,
//! 16 KiB at a time, and the format is small enough to be written directly.

mod families;
#[cfg(test)]
mod tests;

use std::fmt::{Display, Write};
use std::sync::Arc;

use crate::observer::{Ends, HttpTraffic, RequestLabels};
use crate::process::Process;
use crate::routes::Counted;
use crate::scrape::{Scrape, ScrapedService};
use alize_datapath::{Decisions, LiveEndpoint, Outcomes, Traffic};
use alize_model::control::ServiceCounters;

use families::{FAMILIES, OPENTELEMETRY};

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

/// Which names there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Names {
    /// Prometheus' conventions.
    #[default]
    Prometheus,
    /// Those of OpenTelemetry, as Prometheus writes them: of observed HTTP alone.
    OpenTelemetry,
}

/// A scrape on its way to text.
pub(crate) struct Rendering {
    scrape: Arc<Scrape>,
    /// Absent unless HTTP is always observed.
    http: Option<HttpTraffic>,
    /// Of requests that were routed.
    counted: Vec<Counted>,
    process: Process,
    dialect: Dialect,
    families: &'static [Family],
    family: usize,
    /// The next service of that family; for families of requests, of all paths one after the other.
    service: usize,
    ended: bool,
}

impl Rendering {
    pub(crate) fn new(
        scrape: Arc<Scrape>,
        http: Option<HttpTraffic>,
        counted: Vec<Counted>,
        dialect: Dialect,
    ) -> Self {
        let process = Process::read();
        let families = FAMILIES;
        Self { scrape, http, counted, process, dialect, families, family: 0, service: 0, ended: false }
    }

    /// The same in other names.
    pub(crate) fn named(self, names: Names) -> Self {
        let families = match names {
            Names::Prometheus => FAMILIES,
            Names::OpenTelemetry => OPENTELEMETRY,
        };
        Self { families, ..self }
    }

    /// The next piece of text; none when all is written.
    pub(crate) fn next_chunk(&mut self) -> Option<String> {
        let mut text = String::with_capacity(CHUNK + CHUNK / 4);
        while text.len() < CHUNK {
            let Some(family) = self.families.get(self.family) else {
                if !std::mem::replace(&mut self.ended, true) && self.dialect == Dialect::OpenMetrics {
                    text.push_str("# EOF\n");
                }
                break;
            };
            if self.is_empty(family) {
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

    /// Nobody observes or routes HTTP, and the family is about that.
    fn is_empty(&self, family: &Family) -> bool {
        match family.samples {
            Of::Http(_) => self.http.is_none(),
            Of::Requests { observed, .. } => {
                self.counted.iter().all(|counted| counted.services.is_empty())
                    && (observed.is_none() || self.http.is_none())
            }
            Of::Agent(_) | Of::Service(_) | Of::Endpoint(_) => false,
        }
    }

    /// Writes samples until the chunk is full or the family ends.
    fn write_samples(&mut self, family: &Family, text: &mut String) {
        let scrape = &*self.scrape;
        let mut out = Samples { text, family };
        let services = scrape.services.get(self.service..).unwrap_or_default();
        match family.samples {
            Of::Agent(samples) => samples(scrape, &self.process, &mut out),
            Of::Http(samples) => self.http.iter().for_each(|http| samples(http, &mut out)),
            Of::Requests { routed, observed } => {
                let all = self.counted.iter().flat_map(|counted| {
                    counted.services.iter().map(|counters| RequestsView { path: counted.path, counters })
                });
                for view in all.skip(self.service) {
                    self.service += 1;
                    routed(&view, &mut out);
                    if out.text.len() >= CHUNK {
                        return;
                    }
                }
                if let (Some(observed), Some(http)) = (observed, &self.http) {
                    observed(http, &mut out);
                }
            }
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
                            &EndpointView {
                                service,
                                live,
                                traffic: scrape.traffic_of_endpoint(live),
                                would: scrape.counters.would.get(&live.id).copied().unwrap_or(0),
                            },
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
    /// Requests that were routed, on whatever path; and, of the same name, requests that were only seen.
    Requests {
        routed: fn(&RequestsView<'_>, &mut Samples<'_>),
        observed: Option<fn(&HttpTraffic, &mut Samples<'_>)>,
    },
    Service(fn(&ServiceView<'_>, &mut Samples<'_>)),
    Endpoint(fn(&EndpointView<'_>, &mut Samples<'_>)),
}

struct ServiceView<'a> {
    service: &'a ScrapedService,
    traffic: Traffic,
    decisions: Decisions,
    shadow: Outcomes,
}

impl<'a> ServiceView<'a> {
    fn new(scrape: &Scrape, service: &'a ScrapedService) -> Self {
        let (traffic, decisions) = scrape.traffic_of(service);
        Self { service, traffic, decisions, shadow: scrape.shadow_of(service) }
    }
}

/// What was counted of one service's requests on one path.
struct RequestsView<'a> {
    path: &'static str,
    counters: &'a ServiceCounters,
}

struct EndpointView<'a> {
    service: &'a ScrapedService,
    live: &'a LiveEndpoint,
    /// None when nobody was ever sent there: then only what is always known is written.
    traffic: Option<&'a Traffic>,
    /// Connections that it would have got in mode shadow.
    would: u64,
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

    /// Cumulative `buckets`; the last one's bound is infinity.
    fn histogram(&mut self, labels: &[Label<'_>], buckets: impl Iterator<Item = (f64, u64)>, sum: f64) {
        let mut count = 0;
        for (bound, below) in buckets {
            count = below;
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.write("_bucket", &labels, below);
        }
        self.summary(labels, sum, count);
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

impl Ends {
    fn labels(&self) -> [Label<'_>; 5] {
        let Self { source, service, destination, route, tls } = self;
        [
            ("source", source),
            ("service", service),
            ("destination", destination),
            ("route", route),
            ("path", if *tls { &"tls" } else { &"observed" }),
        ]
    }
}

impl RequestLabels {
    fn labels(&self) -> [Label<'_>; 8] {
        let [source, service, destination, route, path] = self.ends.labels();
        let Self { protocol, method, status_class, .. } = self;
        let [protocol, method, class]: [Label<'_>; 3] =
            [("protocol", protocol), ("method", method), ("status_class", status_class)];
        [source, service, destination, route, protocol, method, class, path]
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
