//! What systemd hears: ready, reloading, a line of status, and that the agent lives. Silent without systemd.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// The state is in force and the API listens.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A new state is being read; [`ready`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => debug!("cannot tell systemd of a reload: {error}"),
    }
}

/// The agent ends; the data path stays.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopped; the data path stays in force")]);
}

/// The agent lives.
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is to be said: twice as often as systemd looks.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval / 2).filter(|half| !half.is_zero())
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("cannot notify systemd: {error}");
    }
}
