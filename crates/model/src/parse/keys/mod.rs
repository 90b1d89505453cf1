//! Every key of the file, once: the parser, the JSON Schema and the field reference all read these tables.
//!
//! The doc comment of a key is its description for people. The parser matches on the generated enums, so a key that
//! is listed here but not read, or read but not listed, does not compile.

use std::time::Duration;

use crate::{Mode, Protocol, Removal, Tls};

use super::scalar::{Choice, Lapse, Whole, choice, show};
use http::{HttpKey, RouteKey};

/// The keys of one kind of mapping.
pub(crate) trait Keys: Copy + 'static {
    const ALL: &'static [Self];
    const TABLE: &'static Table;

    fn field(self) -> &'static Field;
}

/// A kind of mapping.
#[derive(Debug)]
pub(crate) struct Table {
    /// What it describes: `service`.
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) fields: &'static [Field],
}

/// One key and what it takes.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    pub(crate) absent: Absent,
    pub(crate) about: &'static str,
}

/// What leaving the key out means.
#[derive(Debug)]
pub(crate) enum Absent {
    Refused,
    Whole(u64),
    Lapse(Duration),
    Word(&'static str),
    /// Told in words; in the schema there is no default.
    Means(&'static str),
}

/// What a key takes.
#[derive(Debug)]
pub(crate) enum Kind {
    Name,
    Address,
    Whole(Whole),
    Lapse(Lapse),
    Boolean,
    Choice(&'static [Word]),
    Path,
    Host,
    Statuses,
    /// Names and values chosen by the writer.
    Labels,
    /// One label, and a share for each of its values.
    Split(Whole),
    Text,
    HeaderName,
    Regex,
    /// A number from 0 to 100 with up to four decimals.
    Percent,
    /// Names chosen by the writer, and a text or a mapping of condition keys for each.
    Conditions(&'static Table),
    /// Header names chosen by the writer, and a value for each.
    Fields,
    Table(&'static Table),
    List(&'static Kind),
    Either(&'static [Kind]),
}

/// One word of a [`Kind::Choice`].
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) text: &'static str,
    pub(crate) about: &'static str,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Name => f.write_str("a name such as web or shop/cart"),
            Kind::Address => f.write_str("an address and port such as 10.0.0.1:80 or [fd00::1]:80"),
            Kind::Whole(Whole { min, max }) => write!(f, "a whole number from {min} to {max}"),
            Kind::Lapse(Lapse { min, max }) => write!(f, "a duration from {} to {}", show(*min), show(*max)),
            Kind::Boolean => f.write_str("true or false"),
            Kind::Choice(words) => {
                for (index, Word { text, .. }) in words.iter().enumerate() {
                    let separator = match index {
                        0 => "",
                        _ if index + 1 == words.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{separator}{text}")?;
                }
                Ok(())
            }
            Kind::Path => f.write_str("a path such as /healthz"),
            Kind::Host => f.write_str("a host name such as web.internal"),
            Kind::Statuses => f.write_str("a status or a range of them such as 200-399"),
            Kind::Labels => f.write_str("a mapping of labels such as {version: v1}"),
            Kind::Split(_) => f.write_str("a mapping such as {version: {v1: 90, v2: 10}}"),
            Kind::Text => f.write_str("a text"),
            Kind::HeaderName => f.write_str("a header name such as x-beta"),
            Kind::Regex => f.write_str("a regular expression such as \"/users/[0-9]+\""),
            Kind::Percent => f.write_str("a number from 0 to 100"),
            Kind::Conditions(_) => {
                f.write_str("a mapping such as {x-beta: \"1\"} or {x-beta: {regex: \"[0-9]+\"}}")
            }
            Kind::Fields => f.write_str("a mapping of headers such as {x-beta: \"1\"}"),
            Kind::Table(table) => write!(f, "a mapping of {} keys", table.title),
            Kind::List(_) => f.write_str("a list"),
            Kind::Either(kinds) => {
                for (index, kind) in kinds.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", or " };
                    write!(f, "{separator}{kind}")?;
                }
                Ok(())
            }
        }
    }
}

macro_rules! keys {
    (
        $(#[doc = $about:literal])+
        $name:ident $title:literal {
            $($(#[doc = $doc:literal])+ $variant:ident $key:literal: $kind:expr, $absent:expr;)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum $name { $($variant),+ }

        impl Keys for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            const TABLE: &'static Table = &Table {
                title: $title,
                about: concat!($($about),+),
                fields: &[$(Field {
                    key: $key,
                    kind: $kind,
                    absent: $absent,
                    about: concat!($($doc),+),
                }),+],
            };

            fn field(self) -> &'static Field {
                &Self::TABLE.fields[self as usize]
            }
        }
    };
}

pub(crate) mod http;

pub(crate) const AFFINITY: Lapse = Lapse { min: Duration::from_secs(1), max: Duration::from_secs(65_535) };
pub(crate) const TABLE_SIZE: Whole = Whole { min: 2, max: crate::maglev::LARGEST as u64 };
pub(crate) const WEIGHT: Whole = Whole { min: 0, max: u16::MAX as u64 };
pub(crate) const SHARE: Whole = WEIGHT;
pub(crate) const PORT: Whole = Whole { min: 1, max: u16::MAX as u64 };
pub(crate) const IN_A_ROW: Whole = Whole { min: 1, max: u8::MAX as u64 };
pub(crate) const PERCENT: Whole = Whole { min: 0, max: 100 };
pub(crate) const STATUS: Whole = Whole { min: 100, max: 599 };
pub(crate) const INTERVAL: Lapse = Lapse { min: Duration::from_millis(100), max: Duration::from_secs(3600) };
pub(crate) const TIMEOUT: Lapse = Lapse { min: Duration::from_millis(1), max: Duration::from_secs(3600) };
pub(crate) const EJECTION: Lapse = Lapse { min: Duration::from_secs(1), max: Duration::from_secs(86_400) };

pub(crate) const DEFAULT_WEIGHT: u16 = 1;
pub(crate) const DEFAULT_STATUS: (u16, u16) = (200, 399);
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// Or half of the interval, if that is less.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const DEFAULT_JITTER: u8 = 10;
pub(crate) const DEFAULT_HEALTHY: u8 = 2;
pub(crate) const DEFAULT_UNHEALTHY: u8 = 3;
pub(crate) const DEFAULT_FAILURES: u8 = 5;
pub(crate) const DEFAULT_BASE: Duration = Duration::from_secs(10);
/// Or the base, if that is more.
pub(crate) const DEFAULT_MAX: Duration = Duration::from_secs(300);
pub(crate) const DEFAULT_MAX_EJECTED: u8 = 50;

keys! {
    /// The file: everything that one host is told to do.
    FileKey "file" {
        /// The services, in any order. An empty list is written `[]`, so that a file cut short does not count as one.
        Services "services": Kind::List(&Kind::Table(ServiceKey::TABLE)), Absent::Refused;
    }
}

keys! {
    /// A service: addresses that clients dial, and the endpoints that answer them.
    ServiceKey "service" {
        /// Name, unique in the file: a-z, 0-9, `.`, `_`, `/` and `-`, beginning and ending with a letter or digit, at most 127 bytes.
        Name "name": Kind::Name, Absent::Refused;
        /// What clients dial: a virtual address, which no interface of the host has, and a port. No other service of the same transport may have it.
        Address "address": Kind::Address, Absent::Means("`addresses` is given");
        /// Instead of `address`, when there are several: IPv4 and IPv6, or several ports.
        Addresses "addresses": Kind::List(&Kind::Address), Absent::Means("`address` is given");
        /// What the service speaks.
        Protocol "protocol": Kind::Choice(<Protocol as Choice>::WORDS), Absent::Word("tcp");
        /// How far the mesh may go.
        Mode "mode": Kind::Choice(<Mode as Choice>::WORDS), Absent::Word("enforce");
        /// How an endpoint is chosen for a new connection.
        Balance "balance": Kind::Either(&[Kind::Choice(<Algorithm as Choice>::WORDS), Kind::Table(BalanceKey::TABLE)]), Absent::Word("weighted-random");
        /// A client keeps its endpoint as long as it comes back within this time, in whole seconds.
        Affinity "affinity": Kind::Lapse(AFFINITY), Absent::Means("no affinity");
        /// Active checks of every endpoint. `health: tcp` takes every default.
        Health "health": Kind::Either(&[Kind::Choice(<ShortProbe as Choice>::WORDS), Kind::Table(HealthKey::TABLE)]), Absent::Means("no active checks");
        /// Passive checks: endpoints that fail the connections of real clients are left out for a while. `ejection: {}` takes every default.
        Ejection "ejection": Kind::Table(EjectionKey::TABLE), Absent::Means("no ejection");
        /// What happens to the connections of an endpoint that is taken out of the file.
        Removal "removal": Kind::Choice(<Removal as Choice>::WORDS), Absent::Word("keep");
        /// Whether requests within TLS are looked at, by probes in the TLS libraries of the processes of this host; only with `protocol: tcp`. See the guide, "TLS", for what it costs and which programs it sees.
        Tls "tls": Kind::Choice(<Tls as Choice>::WORDS), Absent::Word("pass");
        /// Shares of new connections by the value of one label, whatever the number of endpoints that carry each value. Within a value the weights count.
        Split "split": Kind::Split(SHARE), Absent::Means("the weights alone decide");
        /// How an HTTP service treats its endpoints, whatever the route; only with `protocol: http`.
        Http "http": Kind::Table(HttpKey::TABLE), Absent::Means("every default of `http`");
        /// Which request goes where; only with `protocol: http`. A request that no route is for is answered 404.
        Routes "routes": Kind::List(&Kind::Table(RouteKey::TABLE)), Absent::Means("every request goes to the endpoints of the service");
        /// The real servers; the short spelling is the address alone.
        Endpoints "endpoints": Kind::List(&Kind::Either(&[Kind::Address, Kind::Table(EndpointKey::TABLE)])), Absent::Means("none: connects are refused");
    }
}

keys! {
    /// An endpoint: a real server of a service.
    EndpointKey "endpoint" {
        /// Where it listens; unique in its service.
        Address "address": Kind::Address, Absent::Refused;
        /// Its share against its neighbours; 0 gets no new connection.
        Weight "weight": Kind::Whole(WEIGHT), Absent::Whole(DEFAULT_WEIGHT as u64);
        /// Names and values, for `split` and for people; each 1 to 255 bytes.
        Labels "labels": Kind::Labels, Absent::Means("no labels");
        /// Whether it gets no new connection and keeps the old.
        Draining "draining": Kind::Boolean, Absent::Word("false");
    }
}

keys! {
    /// A way of balancing that has settings.
    BalanceKey "balance" {
        /// The same client to the same endpoint, with settings.
        Maglev "maglev": Kind::Table(MaglevKey::TABLE), Absent::Refused;
    }
}

keys! {
    /// Settings of Maglev.
    MaglevKey "maglev" {
        /// Entries of the lookup table: a prime number, not below the number of endpoints. 100 times as many keep the shares within 1 %. Another size sends most clients to another endpoint.
        TableSize "table-size": Kind::Whole(TABLE_SIZE), Absent::Means("2039 up to 20 endpoints, above that the first of 4093, 8191, 16381, 32749, 65521, 131071, 262139, 524287 and 1048573 that is at least 100 times their number; crossing a step sends most clients to another endpoint, a size written here does not");
    }
}

keys! {
    /// An active health check: without `http`, a TCP connection that is accepted is success.
    HealthKey "health" {
        /// Path to `GET`; begins with `/`.
        Http "http": Kind::Path, Absent::Means("a TCP connection is made and closed");
        /// The Host header of the request; only with `http`.
        Host "host": Kind::Host, Absent::Means("the endpoint's address");
        /// Status, or lowest and highest status, that count as success; only with `http`.
        Status "status": Kind::Statuses, Absent::Word("200-399");
        /// Another port than the endpoint's own. A UDP service with `http` needs it.
        Port "port": Kind::Whole(PORT), Absent::Means("the endpoint's port");
        /// From the start of one check to the start of the next.
        Interval "interval": Kind::Lapse(INTERVAL), Absent::Lapse(DEFAULT_INTERVAL);
        /// How long an answer may take; below `interval`.
        Timeout "timeout": Kind::Lapse(TIMEOUT), Absent::Means("1s, or half of `interval` if that is less");
        /// Percent of `interval` by which each wait is varied by chance, so that checks do not run in step.
        Jitter "jitter": Kind::Whole(PERCENT), Absent::Whole(DEFAULT_JITTER as u64);
        /// Successes in a row that make an endpoint healthy again.
        Healthy "healthy": Kind::Whole(IN_A_ROW), Absent::Whole(DEFAULT_HEALTHY as u64);
        /// Failures in a row that make it unhealthy.
        Unhealthy "unhealthy": Kind::Whole(IN_A_ROW), Absent::Whole(DEFAULT_UNHEALTHY as u64);
    }
}

keys! {
    /// Ejection of endpoints that refuse or time out the connections of real clients.
    EjectionKey "ejection" {
        /// Failed connects in a row that eject.
        Failures "failures": Kind::Whole(IN_A_ROW), Absent::Whole(DEFAULT_FAILURES as u64);
        /// The first ejection lasts this long; each further one twice as long.
        Base "base": Kind::Lapse(EJECTION), Absent::Lapse(DEFAULT_BASE);
        /// No ejection lasts longer; not below `base`.
        Max "max": Kind::Lapse(EJECTION), Absent::Means("5m, or `base` if that is more");
        /// Percent of the endpoints that may be ejected at once; one always may, if another is left.
        MaxEjected "max-ejected": Kind::Whole(PERCENT), Absent::Whole(DEFAULT_MAX_EJECTED as u64);
    }
}

/// Ways of balancing that one word names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    WeightedRandom,
    RoundRobin,
    LeastConnections,
    Maglev,
}

/// The health check that one word names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShortProbe {
    Tcp,
}

choice! { Protocol:
    Tcp "tcp" "a byte stream, balanced per connection";
    Udp "udp" "datagrams, balanced per flow";
    Http "http" "HTTP over TCP, balanced per request, by `routes` if there are any";
}

choice! { Mode:
    Observe "observe" "only looks: connections go where they went before, and are counted";
    Shadow "shadow" "decides and counts what it would have done; changes nothing";
    Enforce "enforce" "does it";
}

choice! { Removal:
    Keep "keep" "they run to their natural end";
    Terminate "terminate" "their sockets are closed";
}

choice! { Tls:
    Pass "pass" "it passes as it is";
    Observe "observe" "method, path and status of HTTP/1 requests are read where the library hands them over";
}

choice! { Algorithm:
    WeightedRandom "weighted-random" "by chance, in proportion to the weights";
    RoundRobin "round-robin" "in turn, in proportion to the weights";
    LeastConnections "least-connections" "the better of two endpoints drawn by chance: fewer open connections for its weight";
    Maglev "maglev" "the same client to the same endpoint, and few clients moved when endpoints change";
}

choice! { ShortProbe:
    Tcp "tcp" "a TCP connection that is accepted is success";
}

/// Every table, in the order of the reference.
pub(crate) const TABLES: &[&Table] = &[
    FileKey::TABLE,
    ServiceKey::TABLE,
    EndpointKey::TABLE,
    BalanceKey::TABLE,
    MaglevKey::TABLE,
    HealthKey::TABLE,
    EjectionKey::TABLE,
    HttpKey::TABLE,
    http::HttpBalanceKey::TABLE,
    http::HashKey::TABLE,
    http::PoolKey::TABLE,
    http::CircuitKey::TABLE,
    http::OutlierKey::TABLE,
    http::RateLimitKey::TABLE,
    RouteKey::TABLE,
    http::MatchKey::TABLE,
    http::PathKey::TABLE,
    http::ConditionKey::TABLE,
    http::GrpcKey::TABLE,
    http::BackendKey::TABLE,
    http::HeadersKey::TABLE,
    http::RewriteKey::TABLE,
    http::RedirectKey::TABLE,
    http::RespondKey::TABLE,
    http::MirrorKey::TABLE,
    http::CorsKey::TABLE,
    http::FaultKey::TABLE,
    http::DelayKey::TABLE,
    http::AbortKey::TABLE,
    http::TimeoutKey::TABLE,
    http::RetryKey::TABLE,
    http::BudgetKey::TABLE,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(table: &'static Table, seen: &mut Vec<&'static Table>) {
        if seen.iter().any(|t| t.title == table.title) {
            return;
        }
        seen.push(table);
        table.fields.iter().for_each(|field| walk_kind(&field.kind, seen));
    }

    fn walk_kind(kind: &'static Kind, seen: &mut Vec<&'static Table>) {
        match kind {
            Kind::Table(table) | Kind::Conditions(table) => walk(table, seen),
            Kind::List(kind) => walk_kind(kind, seen),
            Kind::Either(kinds) => kinds.iter().for_each(|kind| walk_kind(kind, seen)),
            _ => {}
        }
    }

    #[test]
    fn all_tables_lists_every_table_below_the_file() {
        let mut seen = Vec::new();
        walk(FileKey::TABLE, &mut seen);
        let titles = |tables: &[&'static Table]| tables.iter().map(|t| t.title).collect::<Vec<_>>();
        let mut expected = titles(TABLES);
        let mut found = titles(&seen);
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn keys_are_kebab_case_and_unique_in_their_table() {
        for table in TABLES {
            for (index, field) in table.fields.iter().enumerate() {
                assert!(field.key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", field.key);
                assert!(table.fields[..index].iter().all(|other| other.key != field.key), "{}", field.key);
                assert!(field.about.trim().ends_with('.'), "{}: a description is a sentence", field.key);
            }
        }
    }
}
