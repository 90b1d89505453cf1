//! What a probe costs on this machine: measured, where it would be paid.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};
use std::{fs, io};

use libbpf_rs::{Link, Object, UprobeMultiOpts};

use super::Cost;
use crate::Error;
use crate::error::io_error;

/// Calls that are timed at once.
const CALLS: u32 = 2000;
/// How often; the fastest counts, since others are of a machine that does something else too.
const ROUNDS: usize = 5;

// A function that begins as those do that are probed.
core::arch::global_asm!(
    // Weak: a test may have this crate in it twice.
    ".weak alize_probed_function",
    ".type alize_probed_function, @function",
    "alize_probed_function:",
    "push rbp",
    "pop rbp",
    "ret",
    ".size alize_probed_function, . - alize_probed_function",
);

unsafe extern "C" {
    safe fn alize_probed_function();
}

/// What probes cost in a process that is not meshed.
pub(super) fn measure(object: &Object) -> Result<Cost, Error> {
    let bare = fastest();
    let with = |programs: &[(&str, bool)]| {
        let _links = attach(object, programs)
            .map_err(|e| Error::kernel("cannot measure", "the cost of a probe", e))?;
        Ok(fastest().saturating_sub(bare))
    };
    let passed = with(&[("alize_tls_go", false)])?;
    let call = with(&[("alize_tls_enter", false), ("alize_tls_leave", true)])?;
    Ok(Cost { call, passed })
}

/// Probes of this process's own function, until they are dropped.
fn attach(object: &Object, programs: &[(&str, bool)]) -> io::Result<Vec<Link>> {
    let address = alize_probed_function as *const () as usize;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let offset = maps.lines().find_map(|line| offset_in(line, address));
    let offset = offset.ok_or_else(|| io::Error::other("this program is not in its own memory map"))?;
    let process = i32::try_from(std::process::id()).unwrap_or(-1);
    let mut links = Vec::new();
    for &(name, retprobe) in programs {
        let program = object.progs_mut().find(|program| program.name() == name);
        let program = program.ok_or_else(|| io::Error::other("its programs are not there"))?;
        let options = UprobeMultiOpts {
            offsets: vec![offset],
            cookies: vec![0],
            retprobe,
            ..UprobeMultiOpts::default()
        };
        let link = program.attach_uprobe_multi_with_opts(process, "/proc/self/exe", "", options);
        links.push(link.map_err(io_error)?);
    }
    Ok(links)
}

fn fastest() -> Duration {
    let round = || {
        let began = Instant::now();
        for _ in 0..CALLS {
            black_box(alize_probed_function)();
        }
        began.elapsed() / CALLS
    };
    std::iter::repeat_with(round).take(ROUNDS).min().unwrap_or_default()
}

/// Where in its file the byte at `address` is, if this line of a memory map has it.
fn offset_in(line: &str, address: usize) -> Option<usize> {
    let mut words = line.split(' ');
    let (from, to) = words.next()?.split_once('-')?;
    let number = |text: &str| usize::from_str_radix(text, 16).ok();
    let (from, to) = (number(from)?, number(to)?);
    let offset = number(words.nth(1)?)?;
    (from <= address && address < to).then(|| address - from + offset)
}
