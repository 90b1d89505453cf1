//! Changes of requests and responses.

use alize_model::http::{HeaderEdit, Match, PathMatch, Redirect, Rewrite, Scheme};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, LOCATION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, request};

use crate::body::Body;

/// Fields that frame a message or belong to one connection: written by the proxy alone.
const OURS: [HeaderName; 5] = [CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE];

/// Sets, adds and removes fields.
pub(super) fn headers(headers: &mut HeaderMap, edit: &HeaderEdit) {
    let name = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !OURS.contains(name));
    for (field, value) in &edit.set {
        if let (Some(name), Ok(value)) = (name(field.as_str()), HeaderValue::from_str(value.as_str())) {
            headers.insert(name, value);
        }
    }
    for (field, value) in &edit.add {
        if let (Some(name), Ok(value)) = (name(field.as_str()), HeaderValue::from_str(value.as_str())) {
            headers.append(name, value);
        }
    }
    for field in &edit.remove {
        if let Some(name) = name(field.as_str()) {
            headers.remove(name);
        }
    }
}

/// Gives the request another path or host.
pub(super) fn rewrite(parts: &mut request::Parts, rewrite: &Rewrite, matched: &Match) {
    if let Some(change) = &rewrite.path
        && let Some(target) = parts.uri.path_and_query().filter(|target| target.as_str().starts_with('/'))
    {
        let mut path = String::new();
        change.apply(target.path(), prefix(matched), &mut path);
        if let Ok(uri) = Uri::try_from(with_query(path, target.query())) {
            parts.uri = uri;
        }
    }
    if let Some(host) = rewrite.host.as_ref().and_then(|host| HeaderValue::from_str(host).ok()) {
        parts.headers.insert(HOST, host);
    }
}

fn prefix(matched: &Match) -> &str {
    match &matched.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
        PathMatch::Regex(_) => "/",
    }
}

fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// Sends the client elsewhere.
pub(super) fn redirect(redirect: &Redirect, matched: &Match, request: &Request<Body>) -> Response<Body> {
    let asked = request.headers().get(HOST).and_then(|host| host.to_str().ok()).map(split_port);
    let (asked_host, asked_port) = asked.map_or((None, None), |(host, port)| (Some(host), port));
    let scheme = match redirect.scheme {
        None | Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
    };
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => Some(port.get()),
        (None, Some(_)) => None,
        (None, None) => asked_port,
    };
    let port = port.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
    let host = redirect.host.as_deref().or(asked_host);
    let target = request.uri().path_and_query();
    let path = target.map_or("/", |target| target.path());
    let mut new = String::new();
    match &redirect.path {
        Some(change) => change.apply(path, prefix(matched), &mut new),
        None => new.push_str(path),
    }
    let path = with_query(new, target.and_then(|target| target.query()));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let location = match host {
        Some(host) => format!("{scheme}://{host}{port}{path}"),
        // A client of HTTP/1.0 knows where it has asked. Two slashes would name a host, RFC 3986 section 4.2.
        None if path.starts_with("//") => format!("/.{path}"),
        None => path,
    };
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Host and port of `host[:port]`, where the host may be an IPv6 address in brackets.
fn split_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, None),
    }
}
