//! What the kernel tells: connects that failed or were refused.

use std::io;
use std::time::Instant;

use alize_datapath::{Failure, KernelEvent, KernelEventKind, Refusal};
use alize_model::api::Event;
use tracing::error;

use super::Mesh;
use crate::events::{Kind, clock_offset, event};
use crate::process;

impl Mesh {
    /// The event ring's file descriptor, readable when there is something to hear.
    pub(crate) fn kernel_events(&self) -> io::Result<std::os::fd::OwnedFd> {
        use std::os::fd::AsFd;
        self.datapath.as_fd().try_clone_to_owned()
    }

    /// Hears what is in the event ring; whether there may be more.
    pub(crate) fn hear_kernel(&mut self) -> bool {
        let mut heard = Vec::new();
        if let Err(error) = self.datapath.drain_events(&mut |event| heard.push(event)) {
            error!("cannot read the kernel's events: {error}");
        }
        if heard.is_empty() {
            return false;
        }
        let offset = clock_offset();
        for event in heard {
            self.hear(&event, offset);
        }
        true
    }

    fn hear(&mut self, heard: &KernelEvent, offset: f64) {
        if let (KernelEventKind::ConnectFailed(failure), Some(endpoint)) = (heard.what, heard.endpoint)
            && blames_the_endpoint(failure)
        {
            self.endpoint_failed(heard.service, endpoint);
        }
        let (kind, message) = in_words(heard.what);
        if !self.flood.passes((kind, heard.service, heard.endpoint)) {
            return;
        }
        let event = Event {
            time: heard.time.as_secs_f64() + offset,
            service: self.datapath.service_name(heard.service).map(ToString::to_string),
            endpoint: heard.endpoint.and_then(|endpoint| self.datapath.endpoint_address(endpoint)),
            pid: Some(heard.pid).filter(|pid| *pid != 0),
            comm: process::name_of(heard.pid),
            ..event(kind, message.to_owned())
        };
        self.events.publish(kind, event);
    }

    /// Tells how many events were held back, if the window is over.
    pub(crate) fn sum_up_flood(&mut self, now: Instant) {
        for (what, count) in self.flood.end_window(now) {
            let Some((kind, service, endpoint)) = what else {
                self.events.tell(
                    Kind::Agent,
                    format!("and {count} more connect failures and refusals of many services"),
                );
                continue;
            };
            let name = self.datapath.service_name(service);
            let event = Event {
                service: name.map(ToString::to_string),
                endpoint: endpoint.and_then(|endpoint| self.datapath.endpoint_address(endpoint)),
                ..event(kind, format!("and {count} more within a second"))
            };
            self.events.publish(kind, event);
        }
    }
}

/// A caller that gave up says nothing about the endpoint.
fn blames_the_endpoint(failure: Failure) -> bool {
    matches!(failure, Failure::Refused | Failure::Timeout | Failure::Unreachable | Failure::Reset)
}

fn in_words(what: KernelEventKind) -> (Kind, &'static str) {
    match what {
        KernelEventKind::ConnectFailed(failure) => {
            let message = match failure {
                Failure::Refused => "the endpoint refused the connection",
                Failure::Timeout => "the endpoint did not answer",
                Failure::Unreachable => "the endpoint cannot be reached",
                Failure::Reset => "the endpoint reset the connection",
                Failure::Aborted => "the client gave up before the endpoint answered",
                Failure::Other => "the connection failed",
            };
            (Kind::ConnectFailed, message)
        }
        KernelEventKind::WouldRefuse(refusal) => {
            let message = match refusal {
                Refusal::NoEndpoint => "enforce would refuse this: no endpoint is usable",
                Refusal::NoProxy => "enforce would refuse this: its rules need the proxy, and none listens",
                Refusal::Stale => {
                    "enforce would refuse this: the kernel's tables name an endpoint that does not exist"
                }
            };
            (Kind::WouldRefuse, message)
        }
        KernelEventKind::Refused(refusal) => {
            let message = match refusal {
                Refusal::NoEndpoint => "refused: no endpoint is usable",
                Refusal::NoProxy => {
                    "refused: its rules need the proxy, and none listens in the caller's network namespace"
                }
                Refusal::Stale => "refused: the kernel's tables name an endpoint that does not exist",
            };
            (Kind::Refused, message)
        }
    }
}
