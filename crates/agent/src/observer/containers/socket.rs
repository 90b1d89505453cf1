//! Connects to an engine's socket, if it is whose it should be.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use tokio::net::UnixStream;

use super::Owner;
use super::engines::Failure;

/// A connection to the socket at `path`, which is below `root` and belongs to `owner`.
///
/// A user may put anything at a path of theirs, such as a link to somebody else's socket. Therefore links are not
/// followed there, and the owner is that of the very file that is connected to, and of the process that listens.
pub(super) async fn connect(root: &Path, owner: Owner, path: &Path) -> Result<UnixStream, Failure> {
    let file = match owner {
        Owner::Root => open(None, path, OFlags::empty()),
        Owner::User(_) => open_without_links(root, path),
    };
    let file = file.map_err(|error| Failure::of_system("cannot open it")(error.into()))?;
    let found = fstat(&file).map_err(|error| Failure::of_system("cannot look at it")(error.into()))?;
    let uid = match owner {
        Owner::Root => 0,
        Owner::User(uid) => uid,
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(Failure::Engine("it is no socket".into()));
    }
    if found.st_uid != uid {
        return Err(Failure::Engine(format!("it belongs to user {}, not to {uid}", found.st_uid)));
    }
    let stream = UnixStream::connect(format!("/proc/self/fd/{}", file.as_raw_fd())).await;
    let stream = stream.map_err(|error| Failure::of("cannot connect")(&error))?;
    let listens = stream.peer_cred().map_err(|error| Failure::of("cannot tell who listens")(&error))?.uid();
    match listens == uid {
        true => Ok(stream),
        false => Err(Failure::Engine(format!("user {listens} listens, not {uid}"))),
    }
}

fn open(folder: Option<&OwnedFd>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    match folder {
        Some(folder) => openat(folder, path, flags, Mode::empty()),
        None => openat(CWD, path, flags, Mode::empty()),
    }
}

/// Step by step, because `O_NOFOLLOW` is about the last step only, and openat2 is not there before Linux 5.6.
fn open_without_links(root: &Path, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut folder = open(None, root, OFlags::empty())?;
    for step in path.strip_prefix(root).unwrap_or(path).components() {
        if let Component::Normal(step) = step {
            folder = open(Some(&folder), Path::new(step), OFlags::NOFOLLOW)?;
        }
    }
    Ok(folder)
}
