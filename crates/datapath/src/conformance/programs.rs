//! The probe's own programs and maps.
#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libbpf_rs::{Link, MapCore, Object, ObjectBuilder, ProgramMut, libbpf_sys};

use crate::Refused;
use crate::abi::{Plain, plain};
use crate::environment::Cgroup;
use crate::error::io_error;
use crate::load::object;
use crate::log::Log;
use crate::rejection::LINES_KEPT;

#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "written by libbpf-cargo; of the skeleton only the types are used"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/conformance_abi.rs"));
}

use generated::types::conformance_seen;
pub(super) use generated::types::{conformance_plan as Plan, conformance_verb as Verb};

plain!(Plan);

pub(super) const ACTIVE: u32 = conformance_seen::SEEN_ACTIVE.0;
pub(super) const PASSIVE: u32 = conformance_seen::SEEN_PASSIVE.0;
pub(super) const REFUSED: u32 = conformance_seen::SEEN_REFUSED.0;
pub(super) const ERRNO: u32 = conformance_seen::SEEN_ERRNO.0;
pub(super) const CLOSED: u32 = conformance_seen::SEEN_CLOSED.0;
const LEFT_ALONE: u32 = conformance_seen::SEEN_LEFT_ALONE.0;

pub(crate) const OBJECT: &[u8] = object!("conformance");
pub(crate) const BACK_OBJECT: &[u8] = object!("conformance_back");

/// Loaded, and attached to one cgroup as long as this lives.
pub(super) struct Programs {
    object: Object,
    _link: Link,
}

impl Programs {
    /// Loads them; an error is the kernel's, in plain words.
    pub(super) fn load(cgroup: &Cgroup) -> Result<Self, String> {
        let log = Log::begin(LINES_KEPT);
        let refused = |error: libbpf_rs::Error| Refused::from_log(log.take_with(&error)).to_string();
        let object = ObjectBuilder::default()
            .name("conformance")
            .and_then(|builder| builder.open_memory(OBJECT))
            .and_then(|object| object.load())
            .map_err(refused)?;
        let link = attach(&object, cgroup).map_err(|error| format!("cannot attach: {error}"))?;
        Ok(Self { object, _link: link })
    }

    /// The program of version `number` is in force for all sockets from now on.
    pub(super) fn swap(&self, number: u32) -> io::Result<()> {
        let program = program(&self.object, if number == 1 { "conformance_one" } else { "conformance_two" })?;
        update(&self.object, "steps", 0u32.bytes(), (program.as_fd().as_raw_fd() as u32).bytes(), 0)
    }

    pub(super) fn seen(&self, what: u32) -> u64 {
        read(&self.object, "seen", what.bytes()).unwrap_or(0)
    }

    /// Whether new sockets are put into the hash.
    pub(super) fn leave_alone(&self, leave: bool) -> io::Result<()> {
        update(&self.object, "seen", LEFT_ALONE.bytes(), u64::from(leave).bytes(), 0)
    }

    /// What becomes of the messages that are sent on `socket`.
    pub(super) fn plan(&self, socket: &TcpStream, verb: Verb, target: u64) -> io::Result<()> {
        let plan = Plan { verb: verb.0, target, guard: 1, step: 0, messages: 0, redirected: 0, absent: 0 };
        update(&self.object, "plans", (socket.as_raw_fd() as u32).bytes(), plan.bytes(), 0)
    }

    pub(super) fn done(&self, socket: &TcpStream) -> io::Result<Plan> {
        read(&self.object, "plans", (socket.as_raw_fd() as u32).bytes())
    }

    /// Whether the hash holds the socket of this cookie.
    pub(super) fn holds(&self, cookie: u64) -> bool {
        read::<u64>(&self.object, "sockets", cookie.bytes()).is_ok()
    }

    pub(super) fn insert(&self, socket: &TcpStream, cookie: u64) -> io::Result<()> {
        let socket = u64::from(socket.as_raw_fd() as u32);
        update(&self.object, "sockets", cookie.bytes(), socket.bytes(), libbpf_sys::BPF_NOEXIST)
    }

    /// Into the hash whose program is another one.
    pub(super) fn insert_elsewhere(&self, socket: &TcpStream, cookie: u64) -> io::Result<()> {
        let socket = u64::from(socket.as_raw_fd() as u32);
        update(&self.object, "others", cookie.bytes(), socket.bytes(), libbpf_sys::BPF_NOEXIST)
    }
}

/// The programs of sockets that the probe puts into a sockhash itself.
pub(super) struct BackPrograms {
    object: Object,
    /// Tests of the probe put nothing there.
    pub(super) leave_alone: bool,
}

impl BackPrograms {
    /// Loads them, beside those of which they use the sockets.
    pub(super) fn load(beside: &Programs) -> Result<Self, String> {
        let log = Log::begin(LINES_KEPT);
        let refused = |error: libbpf_rs::Error| Refused::from_log(log.take_with(&error)).to_string();
        let mut open = ObjectBuilder::default()
            .name("conformance_back")
            .and_then(|builder| builder.open_memory(BACK_OBJECT))
            .map_err(refused)?;
        let sockets = map(&beside.object, "sockets").map_err(|error| error.to_string())?;
        if let Some(mut shared) = open.maps_mut().find(|map| map.name() == "sockets") {
            shared.reuse_fd(sockets).map_err(refused)?;
        }
        let programs = Self { object: open.load().map_err(refused)?, leave_alone: false };
        programs.attach().map_err(|error| format!("cannot attach: {error}"))?;
        Ok(programs)
    }

    fn attach(&self) -> io::Result<()> {
        let hash = map(&self.object, "backs")?.as_raw_fd();
        program(&self.object, "conformance_back_entry")?.attach_sockmap(hash).map_err(io_error)?;
        self.swap(1)
    }

    /// As [`Programs::swap`].
    pub(super) fn swap(&self, number: u32) -> io::Result<()> {
        let name = if number == 1 { "conformance_back_one" } else { "conformance_back_two" };
        let program = program(&self.object, name)?;
        update(&self.object, "back_steps", 0u32.bytes(), (program.as_fd().as_raw_fd() as u32).bytes(), 0)
    }

    pub(super) fn insert(&self, socket: &TcpStream, cookie: u64) -> io::Result<()> {
        if self.leave_alone {
            return Ok(());
        }
        let socket = u64::from(socket.as_raw_fd() as u32);
        update(&self.object, "backs", cookie.bytes(), socket.bytes(), libbpf_sys::BPF_NOEXIST)
    }

    /// What becomes of what arrives at the socket of this cookie.
    pub(super) fn plan(&self, cookie: u64, verb: Verb, target: u64) -> io::Result<()> {
        let plan = Plan { verb: verb.0, target, guard: 1, step: 0, messages: 0, redirected: 0, absent: 0 };
        update(&self.object, "back_plans", cookie.bytes(), plan.bytes(), 0)
    }

    pub(super) fn done(&self, cookie: u64) -> io::Result<Plan> {
        read(&self.object, "back_plans", cookie.bytes())
    }
}

fn attach(object: &Object, cgroup: &Cgroup) -> io::Result<Link> {
    for (hash, entry) in [("sockets", "conformance_entry"), ("others", "conformance_other")] {
        let hash = map(object, hash)?.as_raw_fd();
        program(object, entry)?.attach_sockmap(hash).map_err(io_error)?;
    }
    program(object, "conformance_sockops")?.attach_cgroup(cgroup.fd.as_raw_fd()).map_err(io_error)
}

fn program<'a>(object: &'a Object, name: &str) -> io::Result<ProgramMut<'a>> {
    let found = object.progs_mut().find(|program| program.name() == name);
    found.ok_or_else(|| io::Error::other(format!("the object holds no program {name}")))
}

fn map<'a>(object: &'a Object, name: &str) -> io::Result<BorrowedFd<'a>> {
    let found = object.maps().find(|map| map.name() == name);
    let found = found.ok_or_else(|| io::Error::other(format!("the object holds no map {name}")))?;
    // SAFETY: the object holds the map as long as the result can be used.
    Ok(unsafe { BorrowedFd::borrow_raw(found.as_fd().as_raw_fd()) })
}

fn update(object: &Object, name: &str, key: &[u8], value: &[u8], flags: u32) -> io::Result<()> {
    let map = map(object, name)?;
    // SAFETY: the kernel reads one key and one value, whose sizes are those of the map's types in conformance.bpf.c.
    let done = unsafe {
        libbpf_sys::bpf_map_update_elem(
            map.as_raw_fd(),
            key.as_ptr().cast(),
            value.as_ptr().cast(),
            u64::from(flags),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn read<V: Plain>(object: &Object, name: &str, key: &[u8]) -> io::Result<V> {
    let map = map(object, name)?;
    let mut value = vec![0u8; size_of::<V>()];
    // SAFETY: the kernel reads one key and writes one value, whose sizes are those of the types in conformance.bpf.c.
    let done = unsafe {
        libbpf_sys::bpf_map_lookup_elem(map.as_raw_fd(), key.as_ptr().cast(), value.as_mut_ptr().cast())
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    V::read(&value).ok_or_else(|| io::Error::other("the kernel returned too little"))
}
