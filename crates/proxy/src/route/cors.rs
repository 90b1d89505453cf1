//! Cross-origin requests, as the Fetch standard has browsers ask for them.

use std::sync::Arc;

use alize_model::http::Cors;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use crate::body::Body;

/// The fields by which a response lets scripts of other origins read it.
const WORDS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// What the response to a request has to say.
pub(super) struct Words {
    /// Nothing for an origin that is not allowed: then the browser refuses.
    said: HeaderMap,
    /// Whether another origin would be told something else.
    varies: bool,
}

impl Words {
    pub(super) fn of(cors: &Cors, request: &Request<Body>) -> Self {
        let any = cors.allow_origins.iter().any(|allowed| &**allowed == "*");
        let varies = !any || cors.allow_credentials;
        let asked = request.headers();
        let allowed = |origin: &&HeaderValue| {
            let text = origin.to_str().unwrap_or_default();
            cors.allow_origins.iter().any(|allowed| allows(allowed, text))
        };
        let mut said = HeaderMap::new();
        let origin = match varies {
            true => asked.get(ORIGIN).filter(allowed).cloned(),
            false => Some(HeaderValue::from_static("*")),
        };
        let Some(origin) = origin else { return Self { said, varies } };
        said.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if cors.allow_credentials {
            said.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        let mut say =
            |name: HeaderName, value: Option<HeaderValue>| value.map(|value| said.insert(name, value));
        say(ACCESS_CONTROL_EXPOSE_HEADERS, list(&cors.expose_headers));
        if is_preflight(request) {
            // `*` is no wildcard where credentials are sent; saying what was asked for always is right.
            let echo = |allowed: &[Arc<str>], name: HeaderName| match allowed.iter().any(|one| &**one == "*")
            {
                true => asked.get(name).cloned(),
                false => list(allowed),
            };
            say(ACCESS_CONTROL_ALLOW_METHODS, echo(&cors.allow_methods, ACCESS_CONTROL_REQUEST_METHOD));
            say(ACCESS_CONTROL_ALLOW_HEADERS, echo(&cors.allow_headers, ACCESS_CONTROL_REQUEST_HEADERS));
            say(ACCESS_CONTROL_MAX_AGE, cors.max_age.map(|age| HeaderValue::from(age.as_secs())));
        }
        Self { said, varies }
    }

    /// Says it. The endpoint's own words give way, whether the origin is allowed or not.
    pub(super) fn say(self, headers: &mut HeaderMap) {
        for name in &WORDS {
            headers.remove(name);
        }
        headers.extend(self.said);
        if self.varies && !varies_by_origin(headers) {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

/// Whether a browser asks before it sends the real request.
pub(super) fn is_preflight(request: &Request<Body>) -> bool {
    *request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let names = headers.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    names.map(<[u8]>::trim_ascii).any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
}

fn list(names: &[Arc<str>]) -> Option<HeaderValue> {
    (!names.is_empty()).then(|| HeaderValue::from_str(&names.join(", ")).ok())?
}

/// `*`, the origin itself, or `scheme://*.domain`.
fn allows(allowed: &str, origin: &str) -> bool {
    if allowed == "*" || allowed.eq_ignore_ascii_case(origin) {
        return true;
    }
    let Some((scheme, domain)) = allowed.split_once("*.") else { return false };
    let Some(rest) = origin.strip_prefix(scheme) else { return false };
    let Some(label) = rest.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) else { return false };
    !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn origins_are_compared_whole() {
        assert!(allows("*", "https://a.example"));
        assert!(allows("https://a.example", "https://a.example"));
        assert!(!allows("https://a.example", "https://a.example.evil"));
        assert!(
            allows("https://*.example", "https://a.example")
                && allows("https://*.example", "https://a.b.example")
        );
        assert!(!allows("https://*.example", "https://example"));
        assert!(!allows("https://*.example", "http://a.example"));
        assert!(!allows("https://*.example", "https://evil/.example"));
        assert!(!allows("https://*.example", "https://aexample"));
    }
}
