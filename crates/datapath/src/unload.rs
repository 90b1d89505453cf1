//! Removes an instance from the kernel.

use libbpf_rs::Link;

use crate::attach::unpin;
use crate::environment;
use crate::error::io_error;
use crate::pin::{Lock, Pins, entries};
use crate::{Error, Options};

/// What [`unload`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unloaded {
    /// Places where a program was attached.
    pub links: u32,
    /// Maps, with all that they held.
    pub maps: u32,
}

/// Removes every program, link, map and pin of the instance; running connections go on. Refuses while an agent holds
/// the instance's lock. Finding nothing is no error.
pub fn unload(options: &Options) -> Result<Unloaded, Error> {
    unload_after(options, || ())
}

/// The same, with something done first that no agent is to come between.
pub fn unload_after(options: &Options, first: impl FnOnce()) -> Result<Unloaded, Error> {
    environment::check_root()?;
    let pins = Pins::new(options)?;
    if !environment::is_bpffs(&options.bpffs) {
        first();
        return Ok(Unloaded::default());
    }
    let mut lock = Lock::take(options)?;
    lock.hold(&pins, false)?;
    first();
    remove_pins(&pins)
}

/// Of every version: whatever is there was made by some alize, and a newer one may have to clean up after an older.
pub(crate) fn remove_pins(pins: &Pins) -> Result<Unloaded, Error> {
    let mut unloaded = Unloaded::default();
    for version in entries(&pins.instance())? {
        for path in entries(&version.join("links"))? {
            let error = |e| Error::path("cannot detach", &path, io_error(e));
            let link = Link::open(&path).map_err(error)?;
            // Removing the pin detaches only when nobody else holds the link.
            link.detach().map_err(error)?;
            unpin(&path)?;
            unloaded.links += 1;
        }
        for path in entries(&version.join("maps"))? {
            unpin(&path)?;
            unloaded.maps += 1;
        }
    }
    pins.remove_empty_folders()?;
    Ok(unloaded)
}
