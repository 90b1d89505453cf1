//! Links between programs and cgroups: attached once, then updated in place.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use libbpf_rs::{Program, ProgramMut};

use crate::Error;
use crate::environment::{self, Cgroup};
use crate::error::io_error;
use crate::pin::{Pins, cgroup_of, entries};

/// Puts a program to work in a cgroup where it has no link yet.
pub(crate) fn attach_new(
    program: &ProgramMut<'_>,
    name: &str,
    path: &Path,
    cgroup: &Cgroup,
) -> Result<(), Error> {
    let error = |action, e: libbpf_rs::Error| {
        Error::kernel(action, format!("{name} at {}", cgroup.path.display()), io_error(e))
    };
    let mut link = program.attach_cgroup(cgroup.fd.as_raw_fd()).map_err(|e| match e.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => refused(name, program, cgroup, e),
        _ => error("cannot attach", e),
    })?;
    link.pin(path).map_err(|e| error("cannot pin the link of", e))
}

/// The kernel refuses a link beside a program that was attached without BPF_F_ALLOW_MULTI, here or further up.
fn refused(name: &str, program: &Program<'_>, cgroup: &Cgroup, error: libbpf_rs::Error) -> Error {
    for (_, path) in environment::ancestors(cgroup) {
        if let Some(holder) = exclusive_holder(&path, program) {
            return Error::HookTaken { program: name.into(), cgroup: path, holder };
        }
    }
    Error::kernel("cannot attach", format!("{name} at {}", cgroup.path.display()), io_error(error))
}

fn exclusive_holder(path: &Path, program: &Program<'_>) -> Option<String> {
    let cgroup = environment::open_cgroup(path).ok()?;
    let id = foreign::exclusive(cgroup.fd.as_fd(), &program.attach_type())?;
    Some(match foreign::program_name(id) {
        Some(name) => format!("program {name:?} (id {id})"),
        None => format!("the program with id {id}"),
    })
}

/// Takes the programs out of cgroups that are no longer meshed, and forgets links whose cgroup is gone.
pub(crate) fn detach_others(pins: &Pins, cgroups: &[Cgroup]) -> Result<(), Error> {
    for path in entries(&pins.links())? {
        let attached = cgroup_of(&path);
        if !cgroups.iter().any(|cgroup| Some(cgroup.id) == attached) {
            unpin(&path)?;
        }
    }
    Ok(())
}

/// Removes a pin; of a link that nobody else holds, that detaches it.
pub(crate) fn unpin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::path("cannot remove", path, e)),
    }
}

/// Questions about other people's programs, which libbpf-rs has no words for.
pub(crate) mod foreign {
    #![allow(unsafe_code)]

    use std::os::fd::{AsRawFd, BorrowedFd};

    use libbpf_rs::{Program, ProgramAttachType, libbpf_sys};

    /// With whom the programs that are attached to a cgroup share their hook.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Sharing {
        /// BPF_F_ALLOW_MULTI, as links do.
        Everybody,
        /// BPF_F_ALLOW_OVERRIDE: one in a cgroup below replaces it there.
        Override,
        Nobody,
    }

    /// The programs that are attached to the cgroup itself; none when the kernel does not know the hook.
    pub(crate) fn attached(cgroup: BorrowedFd<'_>, hook: &ProgramAttachType) -> (Sharing, Vec<u32>) {
        // A cgroup takes at most 64 (BPF_CGROUP_MAX_PROGS).
        let mut ids = vec![0u32; 64];
        let (mut flags, mut count) = (0u32, ids.len() as u32);
        // SAFETY: the kernel writes one word of flags, the count, and at most `count` numbers.
        let done = unsafe {
            libbpf_sys::bpf_prog_query(
                cgroup.as_raw_fd(),
                hook.clone() as u32,
                0,
                &mut flags,
                ids.as_mut_ptr(),
                &mut count,
            )
        };
        ids.truncate(if done == 0 { count as usize } else { 0 });
        let sharing = match flags {
            flags if flags & libbpf_sys::BPF_F_ALLOW_MULTI != 0 => Sharing::Everybody,
            flags if flags & libbpf_sys::BPF_F_ALLOW_OVERRIDE != 0 => Sharing::Override,
            _ => Sharing::Nobody,
        };
        (sharing, ids)
    }

    /// The program that is attached to the cgroup itself and allows no other beside it.
    pub(super) fn exclusive(cgroup: BorrowedFd<'_>, hook: &ProgramAttachType) -> Option<u32> {
        let (sharing, ids) = attached(cgroup, hook);
        (sharing != Sharing::Everybody).then_some(ids.first().copied()).flatten()
    }

    /// Its name, of which the kernel keeps 15 characters.
    pub(crate) fn program_name(id: u32) -> Option<String> {
        let fd = Program::fd_from_id(id).ok()?;
        let mut info = libbpf_sys::bpf_prog_info::default();
        let mut size = size_of_val(&info) as u32;
        // SAFETY: the kernel writes at most `size` bytes, and follows no pointer, since all are null.
        let done = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut size) };
        let bytes = info.name.map(|byte| byte as u8);
        let name = bytes.split(|&byte| byte == 0).next()?;
        (done == 0 && !name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }
}
