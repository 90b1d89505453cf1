//! Answers that the proxy makes itself.

use alize_model::http::Respond;
use http::header::{CONTENT_TYPE, SERVER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::reason::Reason;

const REASON: HeaderName = HeaderName::from_static("x-alize-reason");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Whether a request is of gRPC, whose clients look for a status of their own.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The answer in place of an endpoint's.
pub(super) fn refuse(reason: Reason, grpc: bool, reason_header: bool) -> Response<Body> {
    let mut response = if grpc { refuse_grpc(reason) } else { refuse_plainly(reason) };
    if reason_header {
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static("alize"));
        headers.insert(REASON, HeaderValue::from_static(reason.name()));
    }
    response
}

fn refuse_plainly(reason: Reason) -> Response<Body> {
    let mut response = Response::new(Body::full(format!("alize: {}\n", reason.name())));
    *response.status_mut() = reason.status();
    response.headers_mut().insert(CONTENT_TYPE, PLAIN);
    response
}

/// A response of trailers only: status and message are fields of the head, which also ends the stream.
fn refuse_grpc(reason: Reason) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(reason.grpc())));
    headers.insert("grpc-message", HeaderValue::from_static(reason.name()));
    response
}

/// What a route says itself.
pub(super) fn respond(respond: &Respond) -> Response<Body> {
    let body = respond.body.as_ref().map_or(Body::Empty, |body| Body::full(body.as_bytes().to_vec()));
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(respond.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if respond.body.is_some() {
        let kind = respond.content_type.as_ref().and_then(|kind| HeaderValue::from_str(kind.as_str()).ok());
        response.headers_mut().insert(CONTENT_TYPE, kind.unwrap_or(PLAIN));
    }
    response
}
