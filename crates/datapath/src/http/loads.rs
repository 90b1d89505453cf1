//! Requests outstanding at endpoints, those that the kernel has routed and those that proxies serve, in mapped arrays: both
//! sides hold a bound on them. Each proxy counts in a lane of its own, so that what a killed one has left can be cleared.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::abi::{LANES, http_lane, http_proxied};
use super::shared::{ProxiedCell, Shared};
use super::{RouterOptions, pins};
use crate::Error;
use crate::maps::Map;

/// The counts of all endpoints.
pub struct Loads {
    routed: Map<u32, u32>,
    proxied: Map<u32, http_proxied>,
    lanes: Map<u32, http_lane>,
    lane: usize,
    /// By the number of the first endpoint in them.
    pages: Mutex<HashMap<u32, Arc<Page>>>,
}

struct Page {
    routed: Shared<AtomicU32>,
    proxied: Shared<ProxiedCell>,
}

/// The count of one endpoint.
#[derive(Clone)]
pub struct Load {
    page: Arc<Page>,
    endpoint: u32,
    lane: usize,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").field("endpoint", &self.endpoint).field("count", &self.get()).finish()
    }
}

impl Loads {
    /// Opens what the agent has pinned and takes a lane; what a process that is no more has left in it is cleared.
    pub fn open(options: &RouterOptions) -> Result<Self, Error> {
        let pins = pins(options)?;
        let handle = |name: &str| pins.open(name);
        let (routed, proxied) = (Map::new(handle("http_load")?)?, Map::new(handle("http_proxied")?)?);
        Self::of_maps(routed, proxied, Map::new(handle("http_lanes")?)?)
    }

    fn of_maps(
        routed: Map<u32, u32>,
        proxied: Map<u32, http_proxied>,
        lanes: Map<u32, http_lane>,
    ) -> Result<Self, Error> {
        let lane = take_lane(&lanes)?;
        let loads = Self { routed, proxied, lanes, lane, pages: Mutex::default() };
        loads.clear()?;
        Ok(loads)
    }

    fn clear(&self) -> Result<(), Error> {
        let mut left = Vec::new();
        self.proxied.for_each(|endpoint, counts| {
            if counts.iter().any(|counts| counts.lane[self.lane] != 0) {
                left.push(endpoint);
            }
        })?;
        for endpoint in left {
            let cells: Shared<ProxiedCell> = Shared::around(&self.proxied, endpoint)?;
            if let Some(cell) = cells.get(endpoint) {
                cell.lane[self.lane].store(0, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// The count of an endpoint, by the kernel's number of it.
    pub fn of(&self, endpoint: u32) -> Result<Load, Error> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        // Values of both arrays are eight bytes apart.
        let first = endpoint - endpoint % (rustix::param::page_size() / 8) as u32;
        let page = match pages.get(&first) {
            Some(page) => Arc::clone(page),
            None => {
                let page = Arc::new(Page {
                    routed: Shared::around(&self.routed, endpoint)?,
                    proxied: Shared::around(&self.proxied, endpoint)?,
                });
                pages.insert(first, Arc::clone(&page));
                page
            }
        };
        Ok(Load { page, endpoint, lane: self.lane })
    }
}

impl Drop for Loads {
    fn drop(&mut self) {
        if let Err(error) = self.lanes.put(&(self.lane as u32), &http_lane::default()) {
            tracing::debug!(%error, "the lane of a proxy that ends stays taken until it has ended");
        }
    }
}

impl Load {
    /// Requests that are outstanding.
    pub fn get(&self) -> u32 {
        let routed = self.page.routed.get(self.endpoint).map_or(0, |count| count.load(Ordering::SeqCst));
        let lanes = self.page.proxied.get(self.endpoint);
        let proxied = lanes
            .map_or(0, |cell| cell.lane.iter().map(|count| u32::from(count.load(Ordering::SeqCst))).sum());
        routed.saturating_add(proxied)
    }

    /// Counts one more, unless there are `most` already. The programs do it in the same order (`load_reserve` of
    /// `bpf/http/account.h`): the own count first, then the look at the other's.
    pub fn reserve(&self, most: u32) -> bool {
        self.change(1);
        if self.get() <= most {
            return true;
        }
        self.change(u16::MAX);
        false
    }

    /// One less.
    pub fn release(&self) {
        self.change(u16::MAX);
    }

    /// Adds modulo 2^16.
    fn change(&self, change: u16) {
        if let Some(cell) = self.page.proxied.get(self.endpoint) {
            cell.lane[self.lane].fetch_add(change, Ordering::SeqCst);
        }
    }
}

/// Takes a lane that no living process has.
fn take_lane(lanes: &Map<u32, http_lane>) -> Result<usize, Error> {
    for number in 0..LANES as u32 {
        let owner = lanes.get(&number)?.unwrap_or_default();
        if owner.pid != 0 && started(owner.pid) == Some(owner.started) {
            continue;
        }
        let pid = std::process::id();
        lanes.put(&number, &http_lane { started: started(pid).unwrap_or(0), pid, zero: 0 })?;
        return Ok(number as usize);
    }
    let source = std::io::Error::other(format!("{LANES} other proxies are alive"));
    Err(Error::kernel("cannot take a lane of", "http_lanes", source))
}

/// When a process began, by which it is told from another that has its number later.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, but is the last in parentheses.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use libbpf_rs::{MapHandle, MapType, libbpf_sys};

    use super::*;
    use crate::abi::Plain;

    fn array<V: Plain>(entries: u32, flags: u32) -> Map<u32, V> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: flags,
            ..Default::default()
        };
        let size = size_of::<V>() as u32;
        Map::new(MapHandle::create(MapType::Array, Some("test"), 4, size, entries, &options).unwrap())
            .unwrap()
    }

    /// Needs root, as all maps do.
    #[test]
    fn what_a_killed_proxy_has_left_is_cleared_and_what_another_counts_is_not() {
        let routed: Map<u32, u32> = array(2000, libbpf_sys::BPF_F_MMAPABLE);
        let proxied: Map<u32, http_proxied> = array(2000, libbpf_sys::BPF_F_MMAPABLE);
        let lanes: Map<u32, http_lane> = array(LANES as u32, 0);
        let me = std::process::id();
        let alive = http_lane { started: started(me).unwrap(), pid: me, zero: 0 };
        // One that drains; one that is no more; one whose number another process has now.
        lanes.put(&0, &alive).unwrap();
        lanes.put(&1, &http_lane { started: 1, pid: u32::MAX, zero: 0 }).unwrap();
        lanes.put(&2, &http_lane { started: 1, pid: me, zero: 0 }).unwrap();
        proxied.put(&1500, &http_proxied { lane: [3, 7, 0, 0] }).unwrap();
        routed.put(&1500, &2).unwrap();
        let loads = Loads::of_maps(routed, proxied, lanes).unwrap();
        assert_eq!(loads.lane, 1);
        let load = loads.of(1500).unwrap();
        assert_eq!(load.get(), 2 + 3);
        assert!(!load.reserve(5) && load.get() == 5, "nothing is left of what was refused");
        assert!(load.reserve(6) && load.get() == 6);
        let again = loads.of(1500).unwrap();
        load.release();
        assert_eq!((again.get(), loads.of(1499).unwrap().get()), (5, 0));
        assert_eq!(take_lane(&loads.lanes).unwrap(), 2, "it began at another time");
        assert_eq!(take_lane(&loads.lanes).unwrap(), 3, "nobody has it");
        assert!(take_lane(&loads.lanes).unwrap_err().to_string().contains("other proxies"));
    }
}
