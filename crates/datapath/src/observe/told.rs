//! Requests that the HTTP router serves in the kernel: they never become packets, so its own program tells of them.

use libbpf_rs::{MapHandle, Object};

use super::load::{BACK_NEXT, NEXT, WATCHED};
use crate::Error;
use crate::error::io_error;
use crate::http::abi::NEXT_TOLD;
use crate::maps::Map;
use crate::pin::Pins;
use crate::switch::{self, Slot, Switch};

const SLOTS: [Slot; 2] = [
    Slot { program: "alize_http_told", array: NEXT, index: NEXT_TOLD },
    Slot { program: "alize_http_told_back", array: BACK_NEXT, index: NEXT_TOLD },
];

/// Has the router tell of its requests: first there is somebody to tell, then it writes down what there is to tell.
pub(super) fn watch(object: &Object, pins: &Pins) -> Result<(), Error> {
    for slot in &SLOTS {
        let program = object.progs_mut().find(|program| program.name() == slot.program);
        // The programs that would call it were refused.
        let Some(program) = program.filter(|_| pins.map(slot.array).exists()) else { continue };
        Switch::on_trial().slot(&program, slot, &pins.map(slot.array))?;
    }
    set(pins, 1)
}

/// The router tells nobody any more.
pub(crate) fn look_away(pins: &Pins) -> Result<(), Error> {
    set(pins, 0)?;
    for slot in &SLOTS {
        let path = pins.map(slot.array);
        if path.exists() {
            switch::empty(&open(&path)?, slot.index);
        }
    }
    Ok(())
}

fn set(pins: &Pins, watched: u64) -> Result<(), Error> {
    let path = pins.map(WATCHED);
    if !path.exists() {
        return Ok(());
    }
    Map::<u32, u64>::new(open(&path)?)?.put_all([(0, watched)].into_iter())
}

fn open(path: &std::path::Path) -> Result<MapHandle, Error> {
    MapHandle::from_pinned_path(path).map_err(|e| Error::path("cannot open map", path, io_error(e)))
}
