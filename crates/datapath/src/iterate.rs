//! Running iterator programs, over all sockets that the kernel has.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use libbpf_rs::{Iter, Link};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::io_error;

/// How often reading an iterator is taken up again: the kernel stops after a million sockets (kernel/bpf/bpf_iter.c,
/// bpf_seq_read) and asks to come back.
const CALLS: u32 = 64;

/// Runs each iterator once in each network namespace that a process lives in: it sees the sockets of the
/// namespace of the thread that opened it (kernel/bpf/bpf_iter.c, bpf_iter_init_seq_net). The thread that changes its
/// namespace ends here and takes no other work.
pub(crate) fn in_every_namespace(iterators: &[Link]) -> io::Result<()> {
    let namespaces = namespaces()?;
    let visit = || {
        for namespace in &namespaces {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            iterators.iter().try_for_each(run)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("iterate".into()).spawn_scoped(scope, visit)?;
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

/// Runs an iterator program to its end.
fn run(link: &Link) -> io::Result<()> {
    let mut iterator = Iter::new(link).map_err(io_error)?;
    let mut nothing = [0; 64];
    for _ in 0..CALLS {
        match iterator.read(&mut nothing) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
