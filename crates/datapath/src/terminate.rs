//! Closes the sockets of endpoints that were removed with `removal: terminate`.

use crate::Error;
use crate::iterate::in_every_namespace;
use crate::load::{TERMINATING, Terminate};
use crate::maps::Maps;

/// Closes what is connected to `endpoints`; returns how many sockets that were.
pub(crate) fn close(maps: &Maps, terminate: &Terminate, endpoints: &[u32]) -> Result<u32, Error> {
    let mut open = Vec::new();
    for &endpoint in endpoints {
        if maps.endpoint_load.get(&endpoint)?.is_some_and(|load| load.open > 0) {
            open.push(endpoint);
        }
    }
    let mut closed = 0;
    for some in open.chunks(TERMINATING as usize) {
        let map = &terminate.terminating;
        map.put_all(some.iter().map(|&endpoint| (endpoint, 0)))?;
        let done = in_every_namespace(&terminate.iterators);
        for endpoint in some {
            closed += map.get(endpoint)?.unwrap_or(0);
        }
        map.delete_all(some.iter().copied())?;
        done.map_err(|e| Error::kernel("cannot run", "terminate", e))?;
    }
    Ok(closed.min(u32::MAX.into()) as u32)
}
