//! Cross-origin requests, as the Fetch standard has browsers ask for them.

use std::sync::Arc;

use alize_model::http::Route;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};

use crate::body::Body;

/// An origin that a route allows.
pub(super) struct Cors {
    origin: HeaderValue,
    credentials: bool,
    expose: Option<HeaderValue>,
}

impl Cors {
    /// What the response has to say, if the request comes from an origin that the route allows.
    pub(super) fn of(route: &Route, headers: &HeaderMap) -> Option<Self> {
        let cors = route.cors.as_ref()?;
        let origin = headers.get(ORIGIN)?;
        let text = origin.to_str().ok()?;
        if !cors.allow_origins.iter().any(|allowed| allows(allowed, text)) {
            return None;
        }
        let any = cors.allow_origins.iter().any(|allowed| &**allowed == "*");
        Some(Self {
            origin: if any && !cors.allow_credentials {
                HeaderValue::from_static("*")
            } else {
                origin.clone()
            },
            credentials: cors.allow_credentials,
            expose: list(&cors.expose_headers),
        })
    }

    /// Lets scripts of the origin read the response. The endpoint's own words about that give way.
    pub(super) fn allow(self, headers: &mut HeaderMap) {
        if self.origin != "*" {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
    }
}

/// Whether a browser asks before it sends the real request.
pub(super) fn is_preflight(request: &Request<Body>) -> bool {
    *request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Says what the real request may be. Of an origin that is not allowed nothing is said, and the browser refuses.
pub(super) fn preflight(
    route: &Route,
    request: &Request<Body>,
    mut response: Response<Body>,
) -> Response<Body> {
    let (Some(cors), Some(_)) = (&route.cors, Cors::of(route, request.headers())) else { return response };
    let asked = request.headers();
    let echo = |allowed: &[Arc<str>],
                asked: &HeaderName,
                name: HeaderName,
                headers: &mut HeaderMap,
                from: &HeaderMap| {
        // `*` is no wildcard where credentials are sent; saying what was asked for always is right.
        let any = allowed.iter().any(|one| &**one == "*");
        let value = if any { from.get(asked).cloned() } else { list(allowed) };
        if let Some(value) = value {
            headers.insert(name, value);
        }
    };
    let headers = response.headers_mut();
    echo(&cors.allow_methods, &ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_ALLOW_METHODS, headers, asked);
    echo(&cors.allow_headers, &ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_ALLOW_HEADERS, headers, asked);
    if let Some(age) = cors.max_age {
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
    }
    response
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
