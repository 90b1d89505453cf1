//! What changed, for everyone who watches: the last events are kept, new ones are told to all.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alize_model::ServiceName;
use alize_model::api::Event;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::broadcast;
use tracing::{debug, info};

/// How many events are kept for those who come later, and how far a slow reader may fall behind.
pub(crate) const KEPT: usize = 256;

/// Seconds since the Unix epoch.
pub(crate) fn unix_time() -> f64 {
    seconds(SystemTime::now())
}

/// The same of another time.
pub(crate) fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// What a clock of the kernel shows.
pub(crate) fn clock(which: ClockId) -> Duration {
    let now = clock_gettime(which);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// Seconds from the monotonic clock's zero to the Unix epoch's.
pub(crate) fn clock_offset() -> f64 {
    unix_time() - clock(ClockId::Monotonic).as_secs_f64()
}

/// What an event is about, as [`Event::kind`] has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Config,
    Health,
    Ejection,
    Endpoint,
    ConnectFailed,
    Refused,
    WouldRefuse,
    Agent,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Config => "config",
            Kind::Health => "health",
            Kind::Ejection => "ejection",
            Kind::Endpoint => "endpoint",
            Kind::ConnectFailed => "connect-failed",
            Kind::Refused => "refused",
            Kind::WouldRefuse => "would-refuse",
            Kind::Agent => "agent",
        }
    }

    /// Made by the traffic of others, so possibly many.
    fn is_traffic(self) -> bool {
        matches!(self, Kind::ConnectFailed | Kind::Refused | Kind::WouldRefuse)
    }
}

/// The last events, and everyone who wants the next.
pub(crate) struct Events {
    recent: VecDeque<Arc<Event>>,
    sender: broadcast::Sender<Arc<Event>>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { recent: VecDeque::with_capacity(KEPT), sender: broadcast::Sender::new(KEPT) }
    }

    /// The last `count` events, oldest first, and all that come after them: none is missed between the two.
    pub(crate) fn watch(&self, count: usize) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let skip = self.recent.len().saturating_sub(count);
        (self.recent.iter().skip(skip).cloned().collect(), self.sender.subscribe())
    }

    /// Something about the agent or its configuration.
    pub(crate) fn tell(&mut self, kind: Kind, message: String) {
        self.publish(kind, event(kind, message));
    }

    /// Something about one endpoint.
    pub(crate) fn tell_endpoint(
        &mut self,
        kind: Kind,
        service: &ServiceName,
        endpoint: SocketAddr,
        message: String,
    ) {
        let event =
            Event { service: Some(service.to_string()), endpoint: Some(endpoint), ..event(kind, message) };
        self.publish(kind, event);
    }

    pub(crate) fn publish(&mut self, kind: Kind, event: Event) {
        log(kind, &event);
        let event = Arc::new(event);
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::clone(&event));
        // An error means that nobody watches.
        let _ = self.sender.send(event);
    }
}

/// An event of this moment that concerns no service.
pub(crate) fn event(kind: Kind, message: String) -> Event {
    Event {
        time: unix_time(),
        kind: kind.as_str().into(),
        service: None,
        endpoint: None,
        message,
        pid: None,
        comm: None,
    }
}

/// Traffic stays out of the log unless asked for: a broken client could fill a disk.
fn log(kind: Kind, event: &Event) {
    let service = event.service.as_deref().map(tracing::field::display);
    let endpoint = event.endpoint.map(tracing::field::display);
    if kind.is_traffic() {
        debug!(kind = kind.as_str(), service, endpoint, "{}", event.message);
    } else {
        info!(kind = kind.as_str(), service, endpoint, "{}", event.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_are_kept_in_order() {
        let mut events = Events::new();
        for index in 0..KEPT + 10 {
            events.tell(Kind::Agent, index.to_string());
        }
        let messages = |count| {
            let (recent, _) = events.watch(count);
            recent.iter().map(|event| event.message.clone()).collect::<Vec<_>>()
        };
        assert_eq!(messages(2), ["264", "265"]);
        assert_eq!(messages(usize::MAX).len(), KEPT);
        assert_eq!(messages(usize::MAX)[0], "10");
        assert!(messages(0).is_empty());
    }

    #[test]
    fn a_watcher_gets_what_comes_after_the_recent_ones() {
        let mut events = Events::new();
        events.tell(Kind::Agent, "before".into());
        let (recent, mut next) = events.watch(10);
        events.tell(Kind::Config, "after".into());
        assert_eq!(recent[0].message, "before");
        assert_eq!(next.try_recv().unwrap().message, "after");
        assert!(next.try_recv().is_err());
    }
}
