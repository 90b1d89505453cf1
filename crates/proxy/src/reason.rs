//! Why the proxy answered itself: each reason has one name, one status and one counter.

use http::StatusCode;

use crate::wire::Fault;

/// The reason of an answer that no endpoint gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The request line is none, or a line has no proper end.
    BadRequestLine,
    /// The target fits no form that the method may have.
    BadTarget,
    /// A field is malformed.
    BadField,
    /// None, several or a malformed host.
    BadHost,
    /// The length of the body could be read in two ways.
    AmbiguousLength,
    /// A chunk is malformed.
    BadChunk,
    /// The trailers are malformed.
    BadTrailer,
    /// The client ended the request within its body; nobody reads the answer.
    ClientGone,
    /// The route puts in this fault on purpose; the status is its own.
    InjectedFault,
    /// The route answers itself; the status is its own.
    RouteResponds,
    /// The route redirects; the status is its own.
    RouteRedirects,
    /// The route answers what a browser asks before a cross-origin request.
    CorsPreflight,
    /// No route is for the request.
    NoRoute,
    /// The head did not come in time.
    HeadTimeout,
    /// The target is too long.
    LongTarget,
    /// The expectation is unknown.
    BadExpectation,
    /// There are too many requests.
    RateLimited,
    /// The head is too long.
    LongHead,
    /// The transfer coding is unknown.
    BadCoding,
    /// The endpoint closed the connection before it answered.
    EndpointClosed,
    /// What the endpoint answered is no response.
    BadResponse,
    /// No service is known for the connection.
    NoService,
    /// The backends of the route have no endpoint that takes requests.
    NoEndpoint,
    /// The endpoints have as many requests or connections as they may have.
    CircuitOpen,
    /// No connection to an endpoint became free.
    PoolExhausted,
    /// No connection to an endpoint could be made.
    ConnectFailed,
    /// No connection to an endpoint was made in time.
    ConnectTimeout,
    /// The endpoint did not begin to answer in time.
    TryTimeout,
    /// The endpoint was silent for too long.
    EndpointSilent,
    /// The request took too long.
    RequestTimeout,
    /// The version of HTTP is unknown.
    BadVersion,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 31] = [
        Self::BadRequestLine,
        Self::BadTarget,
        Self::BadField,
        Self::BadHost,
        Self::AmbiguousLength,
        Self::BadChunk,
        Self::BadTrailer,
        Self::ClientGone,
        Self::InjectedFault,
        Self::RouteResponds,
        Self::RouteRedirects,
        Self::CorsPreflight,
        Self::NoRoute,
        Self::HeadTimeout,
        Self::LongTarget,
        Self::BadExpectation,
        Self::RateLimited,
        Self::LongHead,
        Self::BadCoding,
        Self::EndpointClosed,
        Self::BadResponse,
        Self::NoService,
        Self::NoEndpoint,
        Self::CircuitOpen,
        Self::PoolExhausted,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::TryTimeout,
        Self::EndpointSilent,
        Self::RequestTimeout,
        Self::BadVersion,
    ];

    /// Its stable name: in the `x-alize-reason` header and on metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequestLine => "bad-request-line",
            Self::BadTarget => "bad-target",
            Self::BadField => "bad-field",
            Self::BadHost => "bad-host",
            Self::AmbiguousLength => "ambiguous-length",
            Self::BadChunk => "bad-chunk",
            Self::BadTrailer => "bad-trailer",
            Self::ClientGone => "client-gone",
            Self::InjectedFault => "injected-fault",
            Self::RouteResponds => "route-responds",
            Self::RouteRedirects => "route-redirects",
            Self::CorsPreflight => "cors-preflight",
            Self::NoRoute => "no-route",
            Self::HeadTimeout => "head-timeout",
            Self::LongTarget => "long-target",
            Self::BadExpectation => "bad-expectation",
            Self::RateLimited => "rate-limited",
            Self::LongHead => "long-head",
            Self::BadCoding => "bad-coding",
            Self::EndpointClosed => "endpoint-closed",
            Self::BadResponse => "bad-response",
            Self::NoService => "no-service",
            Self::NoEndpoint => "no-endpoint",
            Self::CircuitOpen => "circuit-open",
            Self::PoolExhausted => "pool-exhausted",
            Self::ConnectFailed => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::TryTimeout => "try-timeout",
            Self::EndpointSilent => "endpoint-silent",
            Self::RequestTimeout => "request-timeout",
            Self::BadVersion => "bad-version",
        }
    }

    /// A sentence for people: what happened, and what to check.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::BadRequestLine => {
                "The request line is none, or a line of the head does not end with CR LF."
            }
            Self::BadTarget => "The target is of no form that fits the method.",
            Self::BadField => {
                "A header field is malformed: a space before the colon, a folded line, a name that is no token."
            }
            Self::BadHost => {
                "There is no `Host`, there are several, or it is malformed; or it differs from the target."
            }
            Self::AmbiguousLength => {
                "The length of the body could be read in two ways: `Content-Length` beside `Transfer-Encoding`, several of either, a number that is none."
            }
            Self::BadChunk => "A chunk of the body is malformed.",
            Self::BadTrailer => "The trailers are malformed or too long.",
            Self::ClientGone => "The client went away before it was answered.",
            Self::InjectedFault => "The route's `fault` says so; the status is the route's.",
            Self::RouteResponds => {
                "The route's `respond` says so; the status is the route's, and there is no reason header."
            }
            Self::RouteRedirects => {
                "The route's `redirect` says so; the status is the route's, and there is no reason header."
            }
            Self::CorsPreflight => {
                "The route's `cors` answers what a browser asks first; there is no reason header."
            }
            Self::NoRoute => {
                "No route of the service is for the request. Check `routes`, or add one without `match`."
            }
            Self::HeadTimeout => "The head of the request took longer than 10 s.",
            Self::LongTarget => "The request line is longer than 32 KiB.",
            Self::BadExpectation => "`Expect` is something else than `100-continue`.",
            Self::RateLimited => {
                "The `rate-limit` of the service or the route is used up; `Retry-After` says for how long."
            }
            Self::LongHead => "The head is longer than 32 KiB, or has more than 128 fields.",
            Self::BadCoding => "`Transfer-Encoding` is something else than `chunked`.",
            Self::EndpointClosed => {
                "The endpoint ended the connection before it answered, and the request could not be sent again."
            }
            Self::BadResponse => {
                "What the endpoint answered is no response of HTTP/1.1, or could be read in two ways."
            }
            Self::NoService => {
                "The service of the connection was removed or renamed, or the agent has not told of it yet. The connection ends, and a new one goes by what is in force."
            }
            Self::NoEndpoint => {
                "No backend of the route has an endpoint that takes requests. Check `alize endpoints`."
            }
            Self::CircuitOpen => "Every endpoint has as many requests as its `circuit` allows.",
            Self::PoolExhausted => {
                "Every connection that `pool` or `circuit` allows is busy, and none became free in time."
            }
            Self::ConnectFailed => "The endpoint refused the connection, or could not be reached.",
            Self::ConnectTimeout => "The endpoint did not accept the connection within `connect-timeout`.",
            Self::TryTimeout => {
                "The endpoint did not begin to answer within the route's `timeout: {try: ...}`."
            }
            Self::EndpointSilent => "The endpoint was silent for longer than `response-timeout`.",
            Self::RequestTimeout => "The request took longer than the route's `timeout`.",
            Self::BadVersion => "The version of HTTP is none of 1.0, 1.1 and 2.",
        }
    }

    /// The status of the answer; where the route has one of its own, what stands in for it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequestLine
            | Self::BadTarget
            | Self::BadField
            | Self::BadHost
            | Self::AmbiguousLength
            | Self::BadChunk
            | Self::BadTrailer
            | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::RouteResponds | Self::CorsPreflight => StatusCode::OK,
            Self::RouteRedirects => StatusCode::FOUND,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::LongTarget => StatusCode::URI_TOO_LONG,
            Self::BadExpectation => StatusCode::EXPECTATION_FAILED,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::LongHead => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BadCoding => StatusCode::NOT_IMPLEMENTED,
            Self::EndpointClosed | Self::BadResponse => StatusCode::BAD_GATEWAY,
            Self::InjectedFault
            | Self::NoService
            | Self::NoEndpoint
            | Self::CircuitOpen
            | Self::PoolExhausted
            | Self::ConnectFailed => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout | Self::TryTimeout | Self::EndpointSilent | Self::RequestTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::BadVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        }
    }

    /// The code that a gRPC client is told, which reads no status of HTTP.
    pub fn grpc(self) -> u8 {
        match self {
            Self::TryTimeout | Self::EndpointSilent | Self::RequestTimeout | Self::HeadTimeout => 4, // DEADLINE_EXCEEDED
            Self::RateLimited => 8,                     // RESOURCE_EXHAUSTED
            Self::NoRoute => 12,                        // UNIMPLEMENTED
            _ if self.status().is_client_error() => 13, // INTERNAL
            _ => 14,                                    // UNAVAILABLE
        }
    }
}

impl From<Fault> for Reason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Line => Self::BadRequestLine,
            Fault::Target => Self::BadTarget,
            Fault::Version => Self::BadVersion,
            Fault::Field => Self::BadField,
            Fault::Host => Self::BadHost,
            Fault::Length => Self::AmbiguousLength,
            Fault::Coding => Self::BadCoding,
            Fault::Expectation => Self::BadExpectation,
            Fault::Chunk => Self::BadChunk,
            Fault::Trailer => Self::BadTrailer,
            Fault::LongTarget => Self::LongTarget,
            Fault::LongHead => Self::LongHead,
        }
    }
}
