//! Copies of requests, whose answers nobody waits for.
//!
//! The body is copied while it streams to the endpoint, and the copy is sent when all of it has been seen: the request itself
//! waits for nothing.

use std::sync::Arc;
use std::time::Duration;

use alize_model::http::{Forward, Target};
use http::header::EXPECT;
use http::request;
use http_body_util::BodyExt;

use super::Call;
use super::forward::{Try, attempt};
use super::mesh::{Mesh, Outstanding, Service};
use super::pick::{Asking, Picked, pick_of};
use super::replay::Tape;
use crate::front::Origin;
use crate::proxy::Proxy;

/// A copy is given up after this.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a copy was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Lost {
    /// The body is longer than what is remembered of one.
    Large,
    /// The request was over before its body had ended.
    Unfinished,
    /// The target has no endpoint that takes requests.
    NoEndpoint,
    /// As many copies are under way as may be.
    Busy,
    /// There was no response.
    Failed,
    /// There was none in time.
    Timeout,
}

impl Lost {
    /// Its stable name on metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Large => "large",
            Self::Unfinished => "unfinished",
            Self::NoEndpoint => "no-endpoint",
            Self::Busy => "busy",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        }
    }
}

/// The copies that are to be made of a request. Dropped before that, they are lost.
pub(super) struct Copies {
    proxy: Arc<Proxy>,
    mesh: Arc<Mesh>,
    service: Arc<Service>,
    origin: Origin,
    parts: Arc<request::Parts>,
    targets: Vec<Target>,
}

impl Copies {
    /// Those that `forward` has made of this request, if there are any.
    pub(super) fn of(
        proxy: &Arc<Proxy>,
        mesh: &Arc<Mesh>,
        call: &Call,
        forward: &Forward,
        parts: &request::Parts,
    ) -> Option<Box<Self>> {
        let drawn = forward.mirrors.iter().filter(|mirror| mirror.fraction.takes(fastrand::u32(..)));
        let targets: Vec<_> = drawn.map(|mirror| mirror.target.clone()).collect();
        (!targets.is_empty()).then(|| {
            Box::new(Self {
                proxy: Arc::clone(proxy),
                mesh: Arc::clone(mesh),
                service: Arc::clone(&call.service),
                origin: call.origin,
                parts: Arc::new(clone(parts)),
                targets,
            })
        })
    }

    /// Sends them, with the body that is on `tape`.
    pub(super) fn send(mut self, tape: &Arc<Tape>) {
        for target in std::mem::take(&mut self.targets) {
            if let Err(lost) = self.send_to(&target, tape) {
                self.lose(lost);
            }
        }
    }

    fn send_to(&self, target: &Target, tape: &Arc<Tape>) -> Result<(), Lost> {
        let asking = Asking {
            kernel: &*self.proxy.kernel,
            mesh: &self.mesh,
            own: &self.service,
            origin: &self.origin,
            headers: &self.parts.headers,
            avoid: &[],
        };
        let picked = pick_of(&asking, target).ok_or(Lost::NoEndpoint)?;
        let permit = Arc::clone(&self.proxy.mirrors).try_acquire_owned().map_err(|_| Lost::Busy)?;
        let (proxy, service, parts) =
            (Arc::clone(&self.proxy), Arc::clone(&self.service), Arc::clone(&self.parts));
        let (netns, tape) = (self.origin.netns, Arc::clone(tape));
        tokio::spawn(async move {
            let _permit = permit;
            let run = carry(&proxy, netns, &picked, &parts, &tape);
            if let Err(lost) = tokio::time::timeout(PATIENCE, run).await.unwrap_or(Err(Lost::Timeout)) {
                service.live.counters.lost_copy(lost);
            }
        });
        Ok(())
    }

    /// They will not be made.
    pub(super) fn give_up(mut self, lost: Lost) {
        std::mem::take(&mut self.targets).iter().for_each(|_| self.lose(lost));
    }

    fn lose(&self, lost: Lost) {
        self.service.live.counters.lost_copy(lost);
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.targets.iter().for_each(|_| self.lose(Lost::Unfinished));
    }
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Copies")
    }
}

/// The head without what belongs to the original's connection.
fn clone(parts: &request::Parts) -> request::Parts {
    let mut copy = http::Request::new(()).into_parts().0;
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    // The body is there.
    copy.headers.remove(EXPECT);
    copy
}

async fn carry(
    proxy: &Arc<Proxy>,
    netns: crate::kernel::Netns,
    picked: &Picked,
    parts: &request::Parts,
    tape: &Arc<Tape>,
) -> Result<(), Lost> {
    let _outstanding = Outstanding::new(picked.live(), None);
    let try_ = Try { parts, body: tape.play(), repeatable: true, per_try: None };
    let mut response = attempt(proxy, netns, picked, try_).await.map_err(|_| Lost::Failed)?;
    while let Some(frame) = response.body_mut().frame().await {
        frame.map_err(|_| Lost::Failed)?;
    }
    Ok(())
}
