//! The keys of HTTP: the service's side of it, and routes.

use std::time::Duration;

use crate::http::{LimitPer, RetryCause, Scheme, Upstream};

use super::{Absent, DEFAULT_BASE, DEFAULT_MAX_EJECTED, EJECTION, Field, Keys, Kind, PERCENT, PORT};
use super::{SHARE, TIMEOUT, Table, Word};
use crate::parse::scalar::{Choice, Lapse, Whole, choice};

pub(crate) const CONNECTIONS: Whole = Whole { min: 1, max: 1_000_000 };
pub(crate) const IDLE: Whole = Whole { min: 0, max: 10_000 };
pub(crate) const PENDING: Whole = Whole { min: 0, max: 1_000_000 };
pub(crate) const IN_SUCCESSION: Whole = Whole { min: 1, max: 1_000 };
pub(crate) const RATE: Whole = Whole { min: 1, max: 1_000_000_000 };
pub(crate) const ATTEMPTS: Whole = Whole { min: 1, max: 10 };
pub(crate) const FAILURE: Whole = Whole { min: 400, max: 599 };
pub(crate) const ANSWER: Whole = Whole { min: 200, max: 599 };
pub(crate) const REDIRECT: Whole = Whole { min: 301, max: 308 };
pub(crate) const MIN_PER_SECOND: Whole = Whole { min: 0, max: 1_000_000 };
pub(crate) const REQUEST: Lapse = Lapse { min: Duration::from_millis(1), max: Duration::from_secs(86_400) };
pub(crate) const IDLE_TIMEOUT: Lapse =
    Lapse { min: Duration::from_secs(1), max: Duration::from_secs(86_400) };
pub(crate) const BACKOFF: Lapse = Lapse { min: Duration::from_millis(1), max: Duration::from_secs(60) };
pub(crate) const MAX_AGE: Lapse = Lapse { min: Duration::from_secs(0), max: Duration::from_secs(86_400) };

pub(crate) const DEFAULT_SLOWER_THAN: Duration = Duration::from_secs(1);
pub(crate) const DEFAULT_REDIRECT: u16 = 302;
pub(crate) const DEFAULT_ATTEMPTS: u8 = 1;
pub(crate) const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
pub(crate) const DEFAULT_BUDGET: u8 = 20;
pub(crate) const DEFAULT_MIN_PER_SECOND: u32 = 10;
/// In bytes; longer answers belong to a server.
pub(crate) const LONGEST_BODY: usize = 4096;

const TARGET: Kind = Kind::Either(&[Kind::Name, Kind::Labels]);

keys! {
    /// How an HTTP service treats its endpoints, whatever the route.
    HttpKey "http" {
        /// What endpoints are spoken to with.
        Upstream "upstream": Kind::Choice(<Upstream as Choice>::WORDS), Absent::Word("http1");
        /// How an endpoint is chosen for each request.
        Balance "balance": Kind::Either(&[Kind::Choice(<RequestBalance as Choice>::WORDS), Kind::Table(HttpBalanceKey::TABLE)]), Absent::Means("`least-requests`, or what the service's `balance` says of connections, if that is written: `maglev` is `consistent-hash: source` then");
        /// Connections that are kept open to each endpoint.
        Pool "pool": Kind::Table(PoolKey::TABLE), Absent::Means("every default of `pool`");
        /// Bounds for each endpoint: what is beyond them is answered 503 at once.
        Circuit "circuit": Kind::Table(CircuitKey::TABLE), Absent::Means("no bounds");
        /// Ejection of endpoints by their answers.
        Outlier "outlier": Kind::Table(OutlierKey::TABLE), Absent::Means("answers eject nobody");
        /// A bound on the requests of the whole service on this host: what is beyond it is answered 429 at once.
        RateLimit "rate-limit": Kind::Table(RateLimitKey::TABLE), Absent::Means("no bound");
        /// Whether answers that Alizé makes itself say so: `server: alize`, and the reason in `x-alize-reason`.
        ReasonHeader "reason-header": Kind::Boolean, Absent::Word("true");
    }
}

keys! {
    /// A way of balancing requests that has settings.
    HttpBalanceKey "http-balance" {
        /// Requests that are alike to the same endpoint.
        ConsistentHash "consistent-hash": Kind::Either(&[Kind::Choice(<ShortHash as Choice>::WORDS), Kind::Table(HashKey::TABLE)]), Absent::Refused;
    }
}

keys! {
    /// What makes requests alike; one of the two. Requests without it are balanced by `least-requests`.
    HashKey "consistent-hash" {
        /// The value of this header.
        Header "header": Kind::HeaderName, Absent::Means("`cookie` is given");
        /// The value of this cookie.
        Cookie "cookie": Kind::Text, Absent::Means("`header` is given");
    }
}

keys! {
    /// Connections that are kept open to each endpoint.
    PoolKey "pool" {
        /// So many idle ones are kept ready, once there was a request.
        MinIdle "min-idle": Kind::Whole(IDLE), Absent::Whole(1);
        /// Never more connections to an endpoint; further requests wait.
        Max "max": Kind::Whole(CONNECTIONS), Absent::Whole(1024);
        /// Idle ones above `min-idle` are closed after this time.
        IdleTimeout "idle-timeout": Kind::Lapse(IDLE_TIMEOUT), Absent::Lapse(Duration::from_secs(30));
        /// How long making one may take.
        ConnectTimeout "connect-timeout": Kind::Lapse(TIMEOUT), Absent::Lapse(Duration::from_secs(5));
        /// How long an endpoint may be silent while a response is owed.
        ResponseTimeout "response-timeout": Kind::Lapse(REQUEST), Absent::Means("for ever");
    }
}

keys! {
    /// Bounds for each endpoint; at least one is given.
    CircuitKey "circuit" {
        /// Connections.
        Connections "max-connections": Kind::Whole(CONNECTIONS), Absent::Means("`pool.max` alone counts");
        /// Requests that wait for a connection.
        Pending "max-pending": Kind::Whole(PENDING), Absent::Means("no bound");
        /// Requests that are outstanding.
        Requests "max-requests": Kind::Whole(CONNECTIONS), Absent::Means("no bound");
    }
}

keys! {
    /// Ejection of endpoints by their answers; at least one of `server-errors`, `gateway-errors` and `slow` is given.
    OutlierKey "outlier" {
        /// So many responses in a row with a status of 500 or more eject.
        ServerErrors "server-errors": Kind::Whole(IN_SUCCESSION), Absent::Means("they eject nobody");
        /// So many in a row of 502, 503, 504 and failed connections eject.
        GatewayErrors "gateway-errors": Kind::Whole(IN_SUCCESSION), Absent::Means("they eject nobody");
        /// So many responses in a row that begin later than `slower-than` eject.
        Slow "slow": Kind::Whole(IN_SUCCESSION), Absent::Means("they eject nobody");
        /// When a response is slow; only with `slow`.
        SlowerThan "slower-than": Kind::Lapse(REQUEST), Absent::Lapse(DEFAULT_SLOWER_THAN);
        /// The first ejection lasts this long; each further one twice as long.
        Base "base": Kind::Lapse(EJECTION), Absent::Lapse(DEFAULT_BASE);
        /// No ejection lasts longer; not below `base`.
        Max "max": Kind::Lapse(EJECTION), Absent::Means("5m, or `base` if that is more");
        /// Percent of the endpoints that may be ejected at once; one always may, if another is left.
        MaxEjected "max-ejected": Kind::Whole(PERCENT), Absent::Whole(DEFAULT_MAX_EJECTED as u64);
    }
}

keys! {
    /// A bound on requests, kept on each host by itself.
    RateLimitKey "rate-limit" {
        /// Requests a second, in the long run.
        Requests "requests": Kind::Whole(RATE), Absent::Refused;
        /// So many at once.
        Burst "burst": Kind::Whole(RATE), Absent::Means("as many as `requests`");
        /// Who shares the bound.
        Per "per": Kind::Choice(<LimitPer as Choice>::WORDS), Absent::Word("all");
    }
}

keys! {
    /// A route: which requests it is for, and what is done with them. Of several that fit, the one with the most specific match counts: an exact path, then a regular expression, then the longest prefix; then a method, more headers, more query parameters, and the order of the file.
    RouteKey "route" {
        /// Name, unique in the service, on metrics and traces; spelled as that of a service.
        Name "name": Kind::Name, Absent::Means("`route-1` for the first, and so on");
        /// Which requests: a path prefix alone, conditions that all have to hold, or a list of such, one of which has to fit.
        Match "match": Kind::Either(&[Kind::Path, Kind::Table(MatchKey::TABLE), Kind::List(&Kind::Either(&[Kind::Path, Kind::Table(MatchKey::TABLE)]))]), Absent::Means("every request");
        /// Where to: endpoints of this service by their labels, another service by its name, or a list of such with weights.
        To "to": Kind::Either(&[Kind::Name, Kind::Labels, Kind::List(&Kind::Either(&[Kind::Name, Kind::Table(BackendKey::TABLE)]))]), Absent::Means("the endpoints of this service, by `split` if it has one");
        /// Edits of the request's headers.
        RequestHeaders "request-headers": Kind::Table(HeadersKey::TABLE), Absent::Means("none");
        /// Edits of the response's headers.
        ResponseHeaders "response-headers": Kind::Table(HeadersKey::TABLE), Absent::Means("none");
        /// Another path or host, as the endpoint sees it.
        Rewrite "rewrite": Kind::Table(RewriteKey::TABLE), Absent::Means("as the client wrote them");
        /// Sends the client elsewhere, instead of `to`.
        Redirect "redirect": Kind::Table(RedirectKey::TABLE), Absent::Means("no redirect");
        /// Answers at once, instead of `to`.
        Respond "respond": Kind::Table(RespondKey::TABLE), Absent::Means("an endpoint answers");
        /// Copies of requests to another place; what comes back is thrown away.
        Mirror "mirror": Kind::Either(&[Kind::Table(MirrorKey::TABLE), Kind::List(&Kind::Table(MirrorKey::TABLE))]), Absent::Means("no copies");
        /// Cross-origin requests of browsers.
        Cors "cors": Kind::Table(CorsKey::TABLE), Absent::Means("left to the endpoints");
        /// Faults put in on purpose.
        Fault "fault": Kind::Table(FaultKey::TABLE), Absent::Means("none");
        /// How long the whole request may take, or both that and each try: 504 after it.
        Timeout "timeout": Kind::Either(&[Kind::Lapse(REQUEST), Kind::Table(TimeoutKey::TABLE)]), Absent::Means("for ever");
        /// Further tries after a failure. A request that may have been processed is tried again only if its method is idempotent.
        Retry "retry": Kind::Table(RetryKey::TABLE), Absent::Means("one try");
        /// A bound on the requests of this route on this host, beside the service's.
        RateLimit "rate-limit": Kind::Table(RateLimitKey::TABLE), Absent::Means("no bound");
    }
}

keys! {
    /// Conditions on a request, which all have to hold.
    MatchKey "match" {
        /// The path without the query, as it was sent: a prefix by whole segments (`/api` is also `/api/x`, not `/apis`), or what [path](#path) says.
        Path "path": Kind::Either(&[Kind::Path, Kind::Table(PathKey::TABLE)]), Absent::Means("every path");
        /// The method.
        Method "method": Kind::Choice(<Verb as Choice>::WORDS), Absent::Means("every method");
        /// Headers and what their values have to be; one that comes several times counts as its values joined by `, `.
        Headers "headers": Kind::Conditions(ConditionKey::TABLE), Absent::Means("whatever they are");
        /// Query parameters and what their values have to be, percent-decoded; of one that comes several times the first counts.
        Query "query": Kind::Conditions(ConditionKey::TABLE), Absent::Means("whatever they are");
        /// A gRPC method, instead of `path` and `method`.
        Grpc "grpc": Kind::Table(GrpcKey::TABLE), Absent::Means("every request");
    }
}

keys! {
    /// What a path has to be; one of the three.
    PathKey "path" {
        /// The whole path.
        Exact "exact": Kind::Path, Absent::Means("another is given");
        /// Whole segments from the beginning.
        Prefix "prefix": Kind::Path, Absent::Means("another is given");
        /// A regular expression that the whole path has to match.
        Regex "regex": Kind::Regex, Absent::Means("another is given");
    }
}

keys! {
    /// A condition on the value of a header or query parameter, other than the value itself.
    ConditionKey "condition" {
        /// A regular expression that the whole value has to match.
        Regex "regex": Kind::Regex, Absent::Refused;
    }
}

keys! {
    /// A gRPC method; at least one of the two.
    GrpcKey "grpc" {
        /// Service with its package, such as `shop.Cart`.
        Service "service": Kind::Text, Absent::Means("every service");
        /// Method, such as `AddItem`.
        Method "method": Kind::Text, Absent::Means("every method");
    }
}

keys! {
    /// Endpoints and their share of a route's requests.
    BackendKey "backend" {
        /// Another service of the file with `protocol: http`. Its routes are not asked.
        Service "service": Kind::Name, Absent::Means("this service");
        /// Those endpoints that carry all of these labels.
        Labels "labels": Kind::Labels, Absent::Means("all of them");
        /// The share against the other backends. Within a backend the endpoints' own weights count.
        Weight "weight": Kind::Whole(SHARE), Absent::Whole(1);
    }
}

keys! {
    /// Edits of headers, made in this order; a name stands in one of them only.
    HeadersKey "headers" {
        /// Headers and values that take the place of what is there.
        Set "set": Kind::Fields, Absent::Means("none");
        /// Headers and values put beside what is there.
        Add "add": Kind::Fields, Absent::Means("none");
        /// Headers taken out.
        Remove "remove": Kind::List(&Kind::HeaderName), Absent::Means("none");
    }
}

keys! {
    /// Another path or host, as the endpoint sees it; at least one key.
    RewriteKey "rewrite" {
        /// Instead of the whole path; the query stays.
        Path "path": Kind::Path, Absent::Means("as it was");
        /// Instead of the prefix that matched; every match of the route is a prefix then.
        Prefix "prefix": Kind::Path, Absent::Means("as it was");
        /// Instead of the Host header.
        Host "host": Kind::Host, Absent::Means("as it was");
    }
}

keys! {
    /// Where the client is sent; at least one key other than `status`. The query stays.
    RedirectKey "redirect" {
        /// The scheme.
        Scheme "scheme": Kind::Choice(<Scheme as Choice>::WORDS), Absent::Means("as asked");
        /// The host.
        Host "host": Kind::Host, Absent::Means("as asked");
        /// The whole path.
        Path "path": Kind::Path, Absent::Means("as asked");
        /// Instead of the prefix that matched; every match of the route is a prefix then.
        Prefix "prefix": Kind::Path, Absent::Means("as asked");
        /// The port.
        Port "port": Kind::Whole(PORT), Absent::Means("that of `scheme` if it is given, else as asked");
        /// 301, 302, 303, 307 or 308.
        Status "status": Kind::Whole(REDIRECT), Absent::Whole(DEFAULT_REDIRECT as u64);
    }
}

keys! {
    /// An answer that no endpoint is asked for.
    RespondKey "respond" {
        /// Status.
        Status "status": Kind::Whole(ANSWER), Absent::Refused;
        /// Text of the answer, at most 4,096 bytes.
        Body "body": Kind::Text, Absent::Means("empty");
        /// What the body is; only with `body`.
        ContentType "content-type": Kind::Text, Absent::Means("text/plain; charset=utf-8");
    }
}

keys! {
    /// Copies of requests.
    MirrorKey "mirror" {
        /// Where to: another service by its name, or endpoints of this one by their labels.
        To "to": TARGET, Absent::Refused;
        /// How many of the requests.
        Percent "percent": Kind::Percent, Absent::Means("all of them");
    }
}

keys! {
    /// What browsers are told about requests of other origins.
    CorsKey "cors" {
        /// Origins that may ask: `*`, `https://shop.example`, or `https://*.example`.
        AllowOrigins "allow-origins": Kind::List(&Kind::Text), Absent::Refused;
        /// Methods beyond GET, HEAD and POST; `*` is all.
        AllowMethods "allow-methods": Kind::List(&Kind::Text), Absent::Means("those three");
        /// Request headers beyond the simple ones; `*` is all.
        AllowHeaders "allow-headers": Kind::List(&Kind::Text), Absent::Means("the simple ones");
        /// Response headers that scripts may read beyond the simple ones; `*` is all.
        ExposeHeaders "expose-headers": Kind::List(&Kind::Text), Absent::Means("the simple ones");
        /// Whether cookies and other credentials are sent along.
        AllowCredentials "allow-credentials": Kind::Boolean, Absent::Word("false");
        /// How long a browser may remember the answer, in whole seconds.
        MaxAge "max-age": Kind::Lapse(MAX_AGE), Absent::Means("what the browser takes, commonly 5s");
    }
}

keys! {
    /// Faults put in on purpose, before anything else is done; at least one key.
    FaultKey "fault" {
        /// Waits first.
        Delay "delay": Kind::Table(DelayKey::TABLE), Absent::Means("no wait");
        /// Answers at once; after the delay, drawn on its own.
        Abort "abort": Kind::Table(AbortKey::TABLE), Absent::Means("no answer");
    }
}

keys! {
    /// A wait.
    DelayKey "delay" {
        /// How long.
        Time "time": Kind::Lapse(REQUEST), Absent::Refused;
        /// How many of the requests.
        Percent "percent": Kind::Percent, Absent::Means("all of them");
    }
}

keys! {
    /// An answer instead of the endpoint's.
    AbortKey "abort" {
        /// Its status.
        Status "status": Kind::Whole(ANSWER), Absent::Refused;
        /// How many of the requests.
        Percent "percent": Kind::Percent, Absent::Means("all of them");
    }
}

keys! {
    /// How long a request may take; at least one key.
    TimeoutKey "timeout" {
        /// From its head to the end of its response, all tries together.
        Request "request": Kind::Lapse(REQUEST), Absent::Means("for ever");
        /// From the start of a try to the head of its response; not above `request`.
        Try "try": Kind::Lapse(REQUEST), Absent::Means("as `request`");
    }
}

keys! {
    /// Further tries.
    RetryKey "retry" {
        /// Tries after the first.
        Attempts "attempts": Kind::Whole(ATTEMPTS), Absent::Whole(DEFAULT_ATTEMPTS as u64);
        /// Which failures: statuses from 400 on; `connect`, when no connection could be made; `reset`, when it ended before a response began; `timeout`, when a try took longer than `timeout.try`.
        On "on": Kind::List(&Kind::Either(&[Kind::Whole(FAILURE), Kind::Choice(<RetryCause as Choice>::WORDS)])), Absent::Word("[connect]");
        /// Before the first further try; then twice as long each time, each cut by chance to between a half and the whole.
        Backoff "backoff": Kind::Lapse(BACKOFF), Absent::Lapse(DEFAULT_BACKOFF);
        /// No wait is longer; not below `backoff`.
        MaxBackoff "max-backoff": Kind::Lapse(BACKOFF), Absent::Means("ten times `backoff`, at most 1m");
        /// A bound on the tries of all requests together, against an avalanche.
        Budget "budget": Kind::Table(BudgetKey::TABLE), Absent::Means("`attempts` alone bounds");
    }
}

keys! {
    /// How many further tries may be made in all.
    BudgetKey "budget" {
        /// Percent of the requests of the last 10 seconds.
        Percent "percent": Kind::Whole(PERCENT), Absent::Whole(DEFAULT_BUDGET as u64);
        /// At least so many a second are allowed.
        MinPerSecond "min-per-second": Kind::Whole(MIN_PER_SECOND), Absent::Whole(DEFAULT_MIN_PER_SECOND as u64);
    }
}

/// Ways of balancing requests that one word names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestBalance {
    LeastRequests,
    RoundRobin,
    WeightedRandom,
}

/// What makes requests alike that one word names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShortHash {
    Source,
}

pub(crate) use crate::http::Method as Verb;

choice! { RequestBalance:
    LeastRequests "least-requests" "the better of two endpoints drawn by chance: fewer outstanding requests for its weight";
    RoundRobin "round-robin" "in turn, in proportion to the weights";
    WeightedRandom "weighted-random" "by chance, in proportion to the weights";
}

choice! { ShortHash:
    Source "source" "who calls: the client's IP address in its network namespace";
}

choice! { Upstream:
    Http1 "http1" "HTTP/1.1; gRPC goes on in HTTP/2";
    H2c "h2c" "HTTP/2 without TLS, by prior knowledge";
}

choice! { LimitPer:
    All "all" "all requests that come to where the limit is written";
    Client "client" "those of one client: its IP address in its network namespace";
}

choice! { Scheme:
    Http "http" "port 80";
    Https "https" "port 443";
}

choice! { RetryCause:
    Connect "connect" "no connection could be made";
    Reset "reset" "the connection ended before a response began";
    Timeout "timeout" "a try took longer than `timeout.try`";
}

choice! { Verb:
    Get "GET" "read";
    Head "HEAD" "read the head";
    Post "POST" "process";
    Put "PUT" "replace";
    Delete "DELETE" "remove";
    Options "OPTIONS" "ask what is possible";
    Patch "PATCH" "change";
    Connect "CONNECT" "open a tunnel";
    Trace "TRACE" "echo";
}
