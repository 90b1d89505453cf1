//! Closes the sockets of endpoints that were removed with `removal: terminate`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::load::{TERMINATING, Terminate};
use crate::maps::Maps;
use crate::{Error, counters};

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
        let done = in_every_namespace(|| terminate.iterators.iter().try_for_each(counters::run));
        for endpoint in some {
            closed += map.get(endpoint)?.unwrap_or(0);
        }
        map.delete_all(some.iter().copied())?;
        done.map_err(|e| Error::kernel("cannot run", "terminate", e))?;
    }
    Ok(closed.min(u32::MAX.into()) as u32)
}

/// Runs `task` once in each network namespace that a process lives in: an iterator over sockets sees those of the
/// namespace of the thread that opened it (kernel/bpf/bpf_iter.c, bpf_iter_init_seq_net). The thread that changes its
/// namespace ends here and takes no other work.
fn in_every_namespace(task: impl Fn() -> io::Result<()> + Sync) -> io::Result<()> {
    let namespaces = namespaces()?;
    let visit = || {
        for namespace in &namespaces {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            task()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("terminate".into()).spawn_scoped(scope, visit)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that visits network namespaces panicked")))
    })
}

/// One open file for each network namespace of a process.
fn namespaces() -> io::Result<Vec<File>> {
    let mut seen = HashSet::new();
    let mut namespaces = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // Processes come and go while one looks.
        let path = entry.path().join("ns/net");
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if seen.insert(metadata.ino())
            && let Ok(file) = File::open(&path)
        {
            namespaces.push(file);
        }
    }
    Ok(namespaces)
}
