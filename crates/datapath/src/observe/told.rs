//! Requests that the HTTP router serves in the kernel: they never become packets, so its own program tells of them.

use super::load::{BACK_NEXT, NEXT, WATCHED};
use crate::Error;
use crate::http::abi::NEXT_TOLD;
use crate::maps::Map;
use crate::pin::Pins;
use crate::switch::{self, Slot};

/// Where its programs go.
pub(crate) const SLOTS: [Slot; 2] = [
    Slot { program: "alize_http_told", array: NEXT, index: NEXT_TOLD },
    Slot { program: "alize_http_told_back", array: BACK_NEXT, index: NEXT_TOLD },
];

/// Whether there is a router that would tell.
pub(crate) fn is_possible(pins: &Pins) -> bool {
    pins.map(NEXT).exists()
}

/// The programs are in their slots: now that there is somebody to tell, the router writes down what there is to tell.
pub(crate) fn watch(pins: &Pins) -> Result<(), Error> {
    set(pins, 1)
}

/// The router tells nobody any more.
pub(crate) fn look_away(pins: &Pins) -> Result<(), Error> {
    set(pins, 0)?;
    for slot in &SLOTS {
        if pins.map(slot.array).exists() {
            switch::empty(&pins.open(slot.array)?, slot.index);
        }
    }
    Ok(())
}

fn set(pins: &Pins, watched: u64) -> Result<(), Error> {
    if !pins.map(WATCHED).exists() {
        return Ok(());
    }
    Map::<u32, u64>::new(pins.open(WATCHED)?)?.put_all([(0, watched)].into_iter())
}
