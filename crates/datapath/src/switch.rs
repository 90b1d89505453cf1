//! Puts programs to work in place of those that work now: each place changes in one step, and all can be taken back.
//!
//! A place is a link to a cgroup, or a slot of a prog array that a frozen trampoline calls. Sockets that are in a sockmap keep
//! the program that was attached to the map when they came in, whatever a link says later; what changes for them is the slot.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, MapHandle, Object, Program, ProgramMut, ProgramType, libbpf_sys};

use crate::attach::{attach_new, unpin};
use crate::environment::Cgroup;
use crate::error::io_error;
use crate::http::abi::{PROGRAM_BACK, PROGRAM_CLIENT, PROGRAM_FAR, PROGRAM_LIMIT};
use crate::observe::told;
use crate::pin::{Pins, cgroup_of, open_map};
use crate::{Error, fault, http};

/// A place in a prog array: the programs of a version are reached by it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The program that goes there.
    pub(crate) program: &'static str,
    /// The pinned prog array.
    pub(crate) array: &'static str,
    /// The place in it.
    pub(crate) index: u32,
}

/// The slots of this version's programs. The arrays belong to trampolines that are loaded once and never replaced.
pub(crate) const SLOTS: [Slot; 4] = [
    Slot { program: "alize_http_limit", array: "http_limit_programs", index: PROGRAM_LIMIT },
    Slot { program: "alize_http_back", array: "http_back_programs", index: PROGRAM_BACK },
    Slot { program: "alize_http_far", array: "http_programs", index: PROGRAM_FAR },
    Slot { program: "alize_http_client", array: "http_programs", index: PROGRAM_CLIENT },
];

/// What was changed, in order.
#[derive(Default)]
pub(crate) struct Switch {
    done: Vec<Done>,
    /// On trial, where `ALIZE_FAULT` does not mean it.
    trial: bool,
}

enum Done {
    /// The link ran this program before.
    Updated { path: PathBuf, before: OwnedFd },
    /// There was no link.
    Made { path: PathBuf },
    /// The slot held this program before, or nothing.
    Filled { array: MapHandle, index: u32, before: Option<OwnedFd> },
}

impl Switch {
    /// For programs that are tried apart.
    pub(crate) fn on_trial() -> Self {
        Self { trial: true, ..Self::default() }
    }

    fn fault(&self, program: &str) -> Result<(), Error> {
        if self.trial { Ok(()) } else { fault::point(&format!("switch:{program}")) }
    }

    /// Puts the programs of `object` to work.
    pub(crate) fn object(&mut self, object: &Object, pins: &Pins, cgroups: &[Cgroup]) -> Result<(), Error> {
        http::programs::hold(object, pins)?;
        for program in object.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            if is_for_cgroups(&program) {
                for cgroup in cgroups {
                    self.fault(&name)?;
                    self.link(&program, &name, pins, cgroup)?;
                }
            }
            for slot in SLOTS.iter().chain(&told::SLOTS).filter(|slot| slot.program == name) {
                self.fault(&name)?;
                self.slot(&program, slot, &pins.map(slot.array))?;
            }
        }
        Ok(())
    }

    /// An existing link gets the program in one step: no connect runs without one, and none runs both.
    pub(crate) fn link(
        &mut self,
        program: &ProgramMut<'_>,
        name: &str,
        pins: &Pins,
        cgroup: &Cgroup,
    ) -> Result<(), Error> {
        let path = pins.link(name, cgroup);
        let error = |action, e: libbpf_rs::Error| {
            Error::kernel(action, format!("{name} at {}", cgroup.path.display()), io_error(e))
        };
        // libbpf complains aloud of a pin that is not there.
        if !path.exists() || cgroup_of(&path) != Some(cgroup.id) {
            unpin(&path)?;
            attach_new(program, name, &path, cgroup)?;
            self.done.push(Done::Made { path });
            return Ok(());
        }
        let mut link = Link::open(&path).map_err(|e| error("cannot open the link of", e))?;
        let id = link.info().map_err(|e| error("cannot ask about the link of", e))?.prog_id;
        let before = Program::fd_from_id(id).map_err(|e| error("cannot hold the program before", e))?;
        link.update_prog(program).map_err(|e| error("cannot update", e))?;
        self.done.push(Done::Updated { path, before });
        Ok(())
    }

    /// A tail call sees the program before or this one.
    pub(crate) fn slot(&mut self, program: &Program<'_>, slot: &Slot, path: &Path) -> Result<(), Error> {
        let array = open_map(path)?;
        let before = program_in(&array, slot.index);
        put(&array, slot.index, program.as_fd()).map_err(|e| {
            Error::kernel("cannot put a program into", format!("slot {} of {}", slot.index, slot.array), e)
        })?;
        self.done.push(Done::Filled { array, index: slot.index, before });
        Ok(())
    }

    /// Leaves a slot without a program for now.
    pub(crate) fn clear(&mut self, slot: &Slot, path: &Path) -> Result<(), Error> {
        if !path.exists() {
            return Ok(());
        }
        let array = open_map(path)?;
        let before = program_in(&array, slot.index);
        empty(&array, slot.index);
        self.done.push(Done::Filled { array, index: slot.index, before });
        Ok(())
    }

    /// How many places were changed.
    pub(crate) fn places(&self) -> usize {
        self.done.len()
    }

    /// Puts back what worked before, the last change first. What cannot be put back is told.
    pub(crate) fn take_back(self) {
        for done in self.done.into_iter().rev() {
            if let Err(error) = back(done) {
                tracing::error!("a program of a version that was given up stays in force: {error}");
            }
        }
    }
}

fn back(done: Done) -> Result<(), Error> {
    match done {
        Done::Made { path } => unpin(&path),
        Done::Updated { path, before } => update_link(&path, before.as_fd()),
        Done::Filled { array, index, before: Some(program) } => put(&array, index, program.as_fd())
            .map_err(|e| Error::kernel("cannot put a program back into", format!("slot {index}"), e)),
        Done::Filled { array, index, before: None } => {
            empty(&array, index);
            Ok(())
        }
    }
}

/// Takes the program out of a slot, if there is one.
pub(crate) fn empty(array: &MapHandle, index: u32) {
    // SAFETY: the kernel reads a key of four bytes, as prog arrays have.
    unsafe { libbpf_sys::bpf_map_delete_elem(array.as_fd().as_raw_fd(), std::ptr::from_ref(&index).cast()) };
}

/// Gives a pinned link another program.
pub(crate) fn update_link(path: &Path, program: BorrowedFd<'_>) -> Result<(), Error> {
    let link = Link::open(path).map_err(|e| Error::path("cannot open the link", path, io_error(e)))?;
    // SAFETY: two descriptors that live through the call, and no options.
    let done = unsafe {
        libbpf_sys::bpf_link_update(link.as_fd().as_raw_fd(), program.as_raw_fd(), std::ptr::null())
    };
    match done {
        0 => Ok(()),
        _ => Err(Error::path("cannot update the link", path, io::Error::last_os_error())),
    }
}

/// The program in a slot.
pub(crate) fn program_in(array: &MapHandle, index: u32) -> Option<OwnedFd> {
    number_in(array, index).and_then(|id| Program::fd_from_id(id).ok())
}

/// The kernel tells the number of the program in a slot.
pub(crate) fn number_in(array: &MapHandle, index: u32) -> Option<u32> {
    let mut id = 0u32;
    // SAFETY: the kernel reads a key of four bytes and writes a number of four, as prog arrays have.
    let found = unsafe {
        libbpf_sys::bpf_map_lookup_elem(
            array.as_fd().as_raw_fd(),
            std::ptr::from_ref(&index).cast(),
            std::ptr::from_mut(&mut id).cast(),
        )
    };
    (found == 0).then_some(id)
}

pub(crate) fn put(array: &MapHandle, index: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    let program = program.as_raw_fd();
    // SAFETY: the kernel reads a key and a descriptor of four bytes each, as prog arrays have.
    let done = unsafe {
        libbpf_sys::bpf_map_update_elem(
            array.as_fd().as_raw_fd(),
            std::ptr::from_ref(&index).cast(),
            std::ptr::from_ref(&program).cast(),
            0,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn is_for_cgroups(program: &Program<'_>) -> bool {
    matches!(
        program.prog_type(),
        ProgramType::CgroupSockAddr | ProgramType::CgroupSock | ProgramType::CgroupSkb | ProgramType::SockOps
    )
}
