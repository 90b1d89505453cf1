//! Copies of requests, whose answers nobody waits for.

use std::sync::Arc;
use std::time::Duration;

use alize_model::http::Forward;
use bytes::{Bytes, BytesMut};
use http::request;
use http_body::Body as _;
use http_body_util::BodyExt;

use super::Call;
use super::forward::{Try, attempt};
use super::mesh::{Mesh, Outstanding};
use super::pick::{Asking, Picked, pick_of};
use crate::body::{Body, Broken};
use crate::proxy::Proxy;

/// A copy is given up after this.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest body that is copied.
const LONGEST: u64 = 64 * 1024;

/// Sends copies, and gives back the body. A body that is too long, or of unknown length, is not copied; that is counted.
pub(super) async fn send(
    proxy: &Arc<Proxy>,
    mesh: &Arc<Mesh>,
    call: &Call,
    forward: &Forward,
    parts: &request::Parts,
    body: Body,
) -> Result<Body, Broken> {
    let drawn = forward.mirrors.iter().filter(|mirror| mirror.fraction.takes(fastrand::u32(..)));
    let targets: Vec<_> = drawn.map(|mirror| &mirror.target).collect();
    if targets.is_empty() {
        return Ok(body);
    }
    let copy = match body {
        Body::Empty => None,
        body if body.size_hint().exact().is_some_and(|length| length <= LONGEST) => Some(whole(body).await?),
        body => {
            proxy.anomaly("mirror-body-too-long");
            return Ok(body);
        }
    };
    for target in targets {
        let asking = Asking {
            kernel: &*proxy.kernel,
            mesh,
            own: &call.service,
            origin: &call.origin,
            headers: &parts.headers,
            avoid: &[],
        };
        let Some(picked) = pick_of(&asking, target) else {
            proxy.anomaly("mirror-without-endpoint");
            continue;
        };
        let Ok(permit) = Arc::clone(&proxy.mirrors).try_acquire_owned() else {
            proxy.anomaly("mirrors-at-once");
            continue;
        };
        let proxy = Arc::clone(proxy);
        let netns = call.origin.netns;
        let parts = clone(parts);
        let body = copy.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let run = carry(&proxy, netns, picked, parts, body);
            if tokio::time::timeout(PATIENCE, run).await.is_err() {
                proxy.anomaly("mirror-timeout");
            }
        });
    }
    Ok(copy.map_or(Body::Empty, Body::Full))
}

async fn whole(mut body: Body) -> Result<Bytes, Broken> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

/// The head without what belongs to the original's connection.
fn clone(parts: &request::Parts) -> request::Parts {
    let mut copy = http::Request::new(()).into_parts().0;
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    copy
}

async fn carry(
    proxy: &Arc<Proxy>,
    netns: crate::kernel::Netns,
    picked: Picked,
    parts: request::Parts,
    body: Option<Bytes>,
) {
    let _outstanding = Outstanding::new(picked.live(), None);
    let body = body.map_or(Body::Empty, Body::Full);
    let try_ = Try { parts: &parts, body, repeatable: true, per_try: None };
    match attempt(proxy, netns, &picked, try_).await {
        Err(_) => proxy.anomaly("mirror-failed"),
        Ok(mut response) => while let Some(Ok(_)) = response.body_mut().frame().await {},
    }
}
