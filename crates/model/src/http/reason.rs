//! Why a request cannot be routed in the kernel.

use serde::{Deserialize, Serialize};

/// Why the proxy has to see a request before it is routed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No route is for it: the answer is 404.
    NoRoute,
    /// CONNECT and TRACE.
    Method,
    /// A route that may be for it looks at a header.
    HeaderMatch,
    /// A route that may be for it looks at the query.
    QueryMatch,
    /// A route that may be for it has a regular expression for the path.
    RegexMatch,
    /// A route that may be for it names a path of more than 60 bytes.
    LongPath,
    /// A route that may be for it names a path with characters that servers read in different ways.
    OddPath,
    /// Its route edits the request's headers.
    RequestHeaders,
    /// Its route edits the response's headers.
    ResponseHeaders,
    /// Its route changes path or host.
    Rewrite,
    /// Its route redirects.
    Redirect,
    /// Its route answers itself.
    Respond,
    /// Its route copies requests to another place.
    Mirror,
    /// Its route answers browsers' cross-origin requests.
    Cors,
    /// Its route puts faults in.
    Fault,
    /// Its route has a timeout.
    Timeout,
    /// Its route tries again.
    Retry,
    /// Requests are balanced by the hash of a cookie, or of a header that the kernel does not look for.
    ConsistentHash,
    /// The service bounds connections to each endpoint.
    Circuit,
    /// Endpoints are ejected by their answers.
    Outlier,
    /// Endpoints are not to be silent for longer than a time.
    ResponseTimeout,
    /// Endpoints are spoken to in HTTP/2.
    Http2,
}

impl Reason {
    /// All of them, in order.
    pub const ALL: [Self; 22] = [
        Self::NoRoute,
        Self::Method,
        Self::HeaderMatch,
        Self::QueryMatch,
        Self::RegexMatch,
        Self::LongPath,
        Self::OddPath,
        Self::RequestHeaders,
        Self::ResponseHeaders,
        Self::Rewrite,
        Self::Redirect,
        Self::Respond,
        Self::Mirror,
        Self::Cors,
        Self::Fault,
        Self::Timeout,
        Self::Retry,
        Self::ConsistentHash,
        Self::Circuit,
        Self::Outlier,
        Self::ResponseTimeout,
        Self::Http2,
    ];

    /// Its stable name, on metrics and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Method => "method",
            Self::HeaderMatch => "header-match",
            Self::QueryMatch => "query-match",
            Self::RegexMatch => "regex-match",
            Self::LongPath => "long-path",
            Self::OddPath => "odd-path",
            Self::RequestHeaders => "request-headers",
            Self::ResponseHeaders => "response-headers",
            Self::Rewrite => "rewrite",
            Self::Redirect => "redirect",
            Self::Respond => "respond",
            Self::Mirror => "mirror",
            Self::Cors => "cors",
            Self::Fault => "fault",
            Self::Timeout => "timeout",
            Self::Retry => "retry",
            Self::ConsistentHash => "consistent-hash",
            Self::Circuit => "circuit",
            Self::Outlier => "outlier",
            Self::ResponseTimeout => "response-timeout",
            Self::Http2 => "http2",
        }
    }

    /// A sentence for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NoRoute => "no route is for these requests: they are answered 404",
            Self::Method => "CONNECT and TRACE are left to the proxy",
            Self::HeaderMatch => "a route that may be for them looks at a header",
            Self::QueryMatch => "a route that may be for them looks at the query",
            Self::RegexMatch => "a route that may be for them has a regular expression for the path",
            Self::LongPath => "a route that may be for them names a path of more than 60 bytes",
            Self::OddPath => {
                "a route that may be for them names a path with characters that servers read in different ways"
            }
            Self::RequestHeaders => "the route edits headers of the request",
            Self::ResponseHeaders => "the route edits headers of the response",
            Self::Rewrite => "the route changes the path or the host",
            Self::Redirect => "the route redirects",
            Self::Respond => "the route answers itself",
            Self::Mirror => "the route copies requests to another place",
            Self::Cors => "the route answers cross-origin requests of browsers",
            Self::Fault => "the route puts faults in",
            Self::Timeout => "the route has a timeout",
            Self::Retry => "the route tries again after failures",
            Self::ConsistentHash => {
                "requests are balanced by the hash of a cookie, or of a header that the kernel does not look for"
            }
            Self::Circuit => {
                "the service bounds connections to each endpoint, and only the proxy waits for one"
            }
            Self::Outlier => "endpoints are ejected by their answers",
            Self::ResponseTimeout => "the service has a response timeout",
            Self::Http2 => "endpoints are spoken to in HTTP/2",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
