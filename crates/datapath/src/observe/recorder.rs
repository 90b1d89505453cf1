//! The flight recorder, read while the kernel writes it.

use super::abi::record;
use super::event::Request;
use crate::Error;
use crate::maps::Map;

/// Times a record is read again when the kernel was writing it.
const TRIES: usize = 4;

pub(super) fn read(map: &Map<u32, record>) -> Result<Vec<Request>, Error> {
    let mut requests = Vec::new();
    for place in 0..map.max_entries() {
        if let Some(record) = settled(map, place)? {
            // What is malformed was torn, or was written by a version that this one does not know.
            requests.extend(Request::from_event(record.event));
        }
    }
    Ok(requests)
}

/// A record that did not change while it was read; `None` for an empty place, and for one that never kept still.
fn settled(map: &Map<u32, record>, place: u32) -> Result<Option<record>, Error> {
    for _ in 0..TRIES {
        let Some(record) = map.get(&place)? else { return Ok(None) };
        if record.sequence == 0 {
            return Ok(None);
        }
        let after = map.get(&place)?.map(|record| record.sequence);
        if record.sequence % 2 == 0 && after == Some(record.sequence) {
            return Ok(Some(record));
        }
    }
    Ok(None)
}
