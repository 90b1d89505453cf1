//! What holds for every file: a model that is written as YAML reads back as it was; anything else is taken or refused
//! with a place inside the file, and never panics.

mod http;
mod schema;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use alize_model::{
    Affinity, Balance, Budgets, Diagnostic, Diagnostics, Endpoint, Frontend, HealthCheck, HostFacts, Labels,
    Mode, PassiveEjection, Probe, Protocol, Removal, Service, ServiceName, Severity, Snapshot, Source, Split,
    Tls, json_schema, parse,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::Index;

fn read(text: &str) -> Result<(Snapshot, Vec<Diagnostic>), Diagnostics> {
    parse(Source { name: "file.yaml", text }, &Budgets::default(), &HostFacts::default())
}

// Models.

/// Label names and values, those that YAML would read as something else included.
fn label() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9./-]{0,8}",
        "[ -~]{1,12}",
        "[äöü漢\\\\\"':#{}\\[\\],&*!|>%@` ]{1,6}",
        proptest::sample::select(vec!["null", "true", "1", "~", "0x1", "<<", "- a", "a: b", "no", "1e3"])
            .prop_map(String::from),
    ]
}

fn name() -> impl Strategy<Value = ServiceName> {
    "[a-z0-9]([a-z0-9._/-]{0,12}[a-z0-9])?".prop_map(|name| ServiceName::new(&name).unwrap())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    proptest::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Http])
}

fn mode() -> impl Strategy<Value = Mode> {
    proptest::sample::select(vec![Mode::Observe, Mode::Shadow, Mode::Enforce])
}

fn balance() -> impl Strategy<Value = Balance> {
    let size = proptest::sample::select(vec![101, 2039, 65_521, 1_048_573]);
    prop_oneof![
        Just(Balance::WeightedRandom),
        Just(Balance::RoundRobin),
        Just(Balance::LeastConnections),
        size.prop_map(|size| Balance::Maglev { table_size: NonZeroU32::new(size).unwrap() }),
    ]
}

fn in_a_row() -> impl Strategy<Value = NonZeroU8> {
    (1..=u8::MAX).prop_map(|n| NonZeroU8::new(n).unwrap())
}

fn probe() -> impl Strategy<Value = Probe> {
    let http =
        ("/[!-~&&[^#]]{0,20}", proptest::option::of("[a-z0-9:.\\[\\]_-]{1,20}"), 100..600_u16, 100..600_u16);
    prop_oneof![
        Just(Probe::Tcp),
        http.prop_map(|(path, host, a, b)| Probe::Http {
            path: path.into(),
            host: host.map(Arc::from),
            status: (a.min(b), a.max(b)),
        })
    ]
}

fn health() -> impl Strategy<Value = HealthCheck> {
    (
        probe(),
        1..=u16::MAX,
        100..=3_600_000_u64,
        any::<prop::sample::Index>(),
        0..=100_u8,
        in_a_row(),
        in_a_row(),
    )
        .prop_map(|(probe, port, interval, timeout, jitter, healthy, unhealthy)| HealthCheck {
            probe,
            // A UDP service needs a port for HTTP.
            port: NonZeroU16::new(port),
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(1 + timeout.index(interval as usize - 1) as u64),
            jitter,
            healthy,
            unhealthy,
        })
}

fn ejection() -> impl Strategy<Value = PassiveEjection> {
    (in_a_row(), 1_000..=86_400_000_u64, 1_000..=86_400_000_u64, 0..=100_u8).prop_map(
        |(failures, a, b, max_ejected)| PassiveEjection {
            failures,
            base: Duration::from_millis(a.min(b)),
            max: Duration::from_millis(a.max(b)),
            max_ejected,
        },
    )
}

fn ip(v4: [u8; 2], v6: [u8; 2], number: u16, six: bool) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match six {
        false => IpAddr::from([v4[0], v4[1], high, low]),
        true => IpAddr::from([v6[0], v6[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]),
    }
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let labels = btree_map(label().prop_map(Arc::from), label().prop_map(Arc::from), 0..3);
    let one = (any::<u16>(), any::<bool>(), 1..=u16::MAX, any::<u16>(), labels, any::<bool>());
    vec(one, 0..6).prop_map(|all| {
        let mut endpoints: Vec<Endpoint> = all
            .into_iter()
            .map(|(number, six, port, weight, labels, draining)| Endpoint {
                address: SocketAddr::new(ip([10, 1], [0xfd, 1], number, six), port),
                weight,
                labels,
                draining,
            })
            .collect();
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        endpoints
    })
}

/// Shares for labels that the endpoints carry; `None` when they carry none.
fn split(endpoints: &[Endpoint], shares: &[u16], which: Index) -> Option<Split> {
    let labels: BTreeSet<_> = endpoints.iter().flat_map(|endpoint| endpoint.labels.keys()).collect();
    let label = labels.iter().nth(which.index(labels.len().max(1)))?;
    let values: BTreeSet<_> = endpoints.iter().filter_map(|endpoint| endpoint.labels.get(*label)).collect();
    let shares = values.into_iter().cloned().zip(shares.iter().copied()).collect();
    Some(Split { label: Arc::clone(label), shares })
}

/// A service whose addresses are those numbered `number * 8` and on.
fn service(number: usize) -> impl Strategy<Value = Service> {
    let frontends = btree_set((0..8_u16, any::<bool>(), 1..=u16::MAX), 1..4);
    let rules = (
        balance(),
        proptest::option::of(1..=65_535_u64),
        proptest::option::of(health()),
        proptest::option::of(ejection()),
        proptest::sample::select(vec![Removal::Keep, Removal::Terminate]),
        any::<bool>(),
    );
    let shares = proptest::option::of((vec(1..=u16::MAX, 6), any::<Index>()));
    (name(), protocol(), mode(), frontends, rules, endpoints(), shares, http::http()).prop_map(
        move |(
            name,
            protocol,
            mode,
            frontends,
            (balance, affinity, health, ejection, removal, looks),
            endpoints,
            shares,
            http,
        )| {
            let mut frontends: Vec<Frontend> = frontends
                .into_iter()
                .map(|(offset, six, port)| Frontend {
                    address: ip([10, 96], [0xfd, 96], number as u16 * 8 + offset, six),
                    port: NonZeroU16::new(port).unwrap(),
                })
                .collect();
            frontends.sort();
            Service {
                name,
                protocol,
                mode,
                frontends,
                balance,
                affinity: affinity.map(|seconds| Affinity { timeout: Duration::from_secs(seconds) }),
                health,
                ejection,
                removal,
                tls: if looks && protocol == Protocol::Tcp { Tls::Observe } else { Tls::Pass },
                split: shares.and_then(|(shares, which)| split(&endpoints, &shares, which)),
                http: (protocol == Protocol::Http).then(|| Arc::new(http)),
                endpoints,
            }
        },
    )
}

fn services() -> impl Strategy<Value = Vec<Service>> {
    (service(0), service(1), service(2), 0..=3_usize).prop_map(|(a, b, c, count)| {
        let mut all = vec![a, b, c];
        all.truncate(count);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        all
    })
}

// Models as YAML: long or short, with or without what is default anyway.

struct Writer {
    out: String,
    /// Bits that decide between spellings, used up from the lowest.
    choices: u64,
}

impl Writer {
    fn choose(&mut self) -> bool {
        let bit = self.choices & 1 == 1;
        self.choices = self.choices.rotate_right(1);
        bit
    }

    fn key(&mut self, key: &str, value: impl std::fmt::Display) {
        writeln!(self.out, "    {key}: {value}").unwrap();
    }

    /// Leaves `value` out if it is the default, at times.
    fn key_or_default(&mut self, key: &str, value: &str, default: &str) {
        if value != default || self.choose() {
            self.key(key, value);
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match () {
        () if milliseconds.is_multiple_of(3_600_000) => format!("{}h", milliseconds / 3_600_000),
        () if milliseconds.is_multiple_of(60_000) => format!("{}m", milliseconds / 60_000),
        () if milliseconds.is_multiple_of(1_000) => format!("{}s", milliseconds / 1_000),
        () => format!("{milliseconds}ms"),
    }
}

fn write(services: &[Service], choices: u64) -> String {
    let mut writer = Writer { out: "services:".into(), choices };
    if services.is_empty() {
        writer.out.push_str(" []");
    }
    writer.out.push('\n');
    services.iter().for_each(|service| write_service(&mut writer, service));
    writer.out
}

fn write_service(writer: &mut Writer, service: &Service) {
    writeln!(writer.out, "  - name: {}", quoted(service.name.as_str())).unwrap();
    let addresses: Vec<_> = service.frontends.iter().map(|f| quoted(&f.socket_addr().to_string())).collect();
    match &*addresses {
        [address] if writer.choose() => writer.key("address", address),
        addresses => writer.key("addresses", format!("[{}]", addresses.join(", "))),
    }
    let protocol = match service.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Http => "http",
    };
    let mode = match service.mode {
        Mode::Observe => "observe",
        Mode::Shadow => "shadow",
        Mode::Enforce => "enforce",
    };
    let removal = match service.removal {
        Removal::Keep => "keep",
        Removal::Terminate => "terminate",
    };
    let tls = match service.tls {
        Tls::Pass => "pass",
        Tls::Observe => "observe",
    };
    let balance = match service.balance {
        Balance::WeightedRandom => "weighted-random".into(),
        Balance::RoundRobin => "round-robin".into(),
        Balance::LeastConnections => "least-connections".into(),
        Balance::Maglev { table_size } if table_size.get() == 2039 && writer.choose() => "maglev".into(),
        Balance::Maglev { table_size } => format!("{{maglev: {{table-size: {table_size}}}}}"),
    };
    writer.key_or_default("protocol", protocol, "tcp");
    writer.key_or_default("mode", mode, "enforce");
    writer.key_or_default("removal", removal, "keep");
    writer.key_or_default("tls", tls, "pass");
    writer.key_or_default("balance", &balance, "weighted-random");
    if let Some(affinity) = service.affinity {
        writer.key("affinity", duration(affinity.timeout));
    }
    if let Some(health) = &service.health {
        writer.key("health", health_mapping(health));
    }
    if let Some(ejection) = &service.ejection {
        let PassiveEjection { failures, base, max, max_ejected } = ejection;
        let (base, max) = (duration(*base), duration(*max));
        writer.key(
            "ejection",
            format!("{{failures: {failures}, base: {base}, max: {max}, max-ejected: {max_ejected}}}"),
        );
    }
    if let Some(split) = &service.split {
        let shares = split.shares.iter().map(|(value, share)| format!("{}: {share}", quoted(value)));
        writer.key(
            "split",
            format!("{{{}: {{{}}}}}", quoted(&split.label), shares.collect::<Vec<_>>().join(", ")),
        );
    }
    if let Some(http) = &service.http {
        let (settings, routes) = http::write(http);
        writer.key("http", settings);
        writer.key("routes", routes);
    }
    if service.endpoints.is_empty() {
        if writer.choose() {
            writer.key("endpoints", "[]");
        }
        return;
    }
    writer.out.push_str("    endpoints:\n");
    service.endpoints.iter().for_each(|endpoint| write_endpoint(writer, endpoint));
}

fn health_mapping(health: &HealthCheck) -> String {
    let mut out = String::from("{");
    if let Probe::Http { path, host, status: (low, high) } = &health.probe {
        write!(out, "http: {}, status: {low}-{high}, ", quoted(path)).unwrap();
        host.iter().for_each(|host| write!(out, "host: {}, ", quoted(host)).unwrap());
    }
    health.port.iter().for_each(|port| write!(out, "port: {port}, ").unwrap());
    let HealthCheck { interval, timeout, jitter, healthy, unhealthy, .. } = health;
    let (interval, timeout) = (duration(*interval), duration(*timeout));
    write!(out, "interval: {interval}, timeout: {timeout}, jitter: {jitter}, ").unwrap();
    write!(out, "healthy: {healthy}, unhealthy: {unhealthy}}}").unwrap();
    out
}

fn write_endpoint(writer: &mut Writer, endpoint: &Endpoint) {
    let Endpoint { address, weight, labels, draining } = endpoint;
    let address = quoted(&address.to_string());
    if *weight == 1 && labels.is_empty() && !draining && writer.choose() {
        writeln!(writer.out, "      - {address}").unwrap();
        return;
    }
    let labels = flow_mapping(labels);
    writeln!(
        writer.out,
        "      - {{address: {address}, weight: {weight}, labels: {labels}, draining: {draining}}}"
    )
    .unwrap();
}

fn flow_mapping(labels: &Labels) -> String {
    let pairs: Vec<_> =
        labels.iter().map(|(name, value)| format!("{}: {}", quoted(name), quoted(value))).collect();
    format!("{{{}}}", pairs.join(", "))
}

// What must hold.

fn assert_sane(text: &str, outcome: &Result<(Snapshot, Vec<Diagnostic>), Diagnostics>) {
    let remarks = match outcome {
        Ok((_, warnings)) => {
            assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning));
            warnings
        }
        Err(Diagnostics(all)) => {
            assert!(
                all.iter().any(|diagnostic| diagnostic.severity == Severity::Error),
                "refused without an error"
            );
            all
        }
    };
    assert!(remarks.is_sorted_by_key(|remark| remark.position), "{remarks:?}");
    for remark in remarks {
        assert_inside(text, remark);
    }
}

fn assert_inside(text: &str, remark: &Diagnostic) {
    let text = text.replace("\r\n", "\n");
    let lines: Vec<_> = text.split(['\n', '\r']).collect();
    let line = remark.position.line as usize;
    assert!((1..=lines.len()).contains(&line), "{remark}: line outside of {} lines", lines.len());
    let length = lines[line - 1].chars().count() as u32;
    assert!(
        (1..=length + 1).contains(&remark.position.column),
        "{remark}: column outside of {length} characters"
    );
}

/// Any character, those that mean something in YAML more often.
fn character() -> impl Strategy<Value = char> {
    let telling = "\n \t:-[]{},\"'&*!|>%@#?~0a\r\u{feff}\u{85}\u{2028}";
    prop_oneof![any::<char>(), proptest::sample::select(telling.chars().collect::<Vec<_>>())]
}

proptest! {
    #[test]
    fn a_model_reads_back_as_it_was_written(services in services(), choices: u64) {
        let text = write(&services, choices);
        let outcome = read(&text);
        assert_sane(&text, &outcome);
        let schema = json_schema();
        let kept = schema::document(&text).and_then(|document| schema::check(&schema, &schema, &document));
        prop_assert_eq!(kept, Ok(()), "{}", text);
        let (snapshot, _) = outcome.unwrap_or_else(|diagnostics| panic!("{diagnostics}\n{text}"));
        let read: Vec<Service> = snapshot.services().iter().map(|service| Service::clone(service)).collect();
        prop_assert_eq!(read, services, "{}", text);
    }

    #[test]
    fn a_service_goes_to_the_proxy_and_back(services in services()) {
        for service in services {
            let text = serde_json::to_string(&service).unwrap();
            let read: Service = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            prop_assert_eq!(read, service);
        }
    }

    #[test]
    fn a_mutated_file_is_taken_or_refused_with_a_place(
        services in services(),
        choices: u64,
        edits in vec((any::<Index>(), 0..3_u8, character()), 1..6),
    ) {
        let mut characters: Vec<char> = write(&services, choices).chars().collect();
        for (index, edit, new) in edits {
            let at = index.index(characters.len() + 1);
            match edit {
                0 => characters.insert(at, new),
                _ if at == characters.len() => {}
                1 => characters[at] = new,
                _ => drop(characters.remove(at)),
            }
        }
        let text: String = characters.into_iter().collect();
        assert_sane(&text, &read(&text));
    }

    #[test]
    fn a_file_cut_short_is_taken_or_refused_with_a_place(services in services(), choices: u64, at: Index) {
        let text = write(&services, choices);
        let cut: String = text.chars().take(at.index(text.chars().count() + 1)).collect();
        assert_sane(&cut, &read(&cut));
    }

    #[test]
    fn any_text_is_taken_or_refused_with_a_place(text in "\\PC{0,200}") {
        assert_sane(&text, &read(&text));
    }

    #[test]
    fn anything_like_yaml_is_taken_or_refused_with_a_place(text in "(services:|name|address|endpoints|[ \n\t:\\-\\[\\]{},\"'&*!|>%@#?~0a\r.]){0,60}") {
        assert_sane(&text, &read(&text));
    }

    #[test]
    fn equal_services_are_shared_with_the_previous_snapshot(before in services(), after in services(), keep: [bool; 3]) {
        let mut after = after;
        for service in before.iter().zip(keep).filter_map(|(service, keep)| keep.then_some(service)) {
            after.retain(|other| other.name != service.name && other.frontends.iter().all(|f| !service.frontends.contains(f)));
            after.push(service.clone());
        }
        let before = read(&write(&before, 0)).unwrap().0;
        let Ok((after, _)) = read(&write(&after, 0)) else { return Ok(()) };
        let reused = after.clone().reuse(&before);
        prop_assert_eq!(&reused, &after);
        for service in reused.services() {
            let known = before.get(service.name.as_str());
            let shared = known.is_some_and(|known| Arc::ptr_eq(known, service));
            prop_assert_eq!(shared, known.is_some_and(|known| known == service));
        }
    }
}
