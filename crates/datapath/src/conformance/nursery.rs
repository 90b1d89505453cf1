//! Sockets of a network namespace and a cgroup of their own. Which those are is settled when a socket is made and stays
//! with it wherever it is used, so a child makes them, hands them over and ends; nothing else ever lives there.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::environment::{self, Cgroup};

/// Sockets that are made: a listener, and one a connection.
const SOCKETS: usize = 64;

/// How long a read waits for what should be there at once.
pub(super) const PATIENCE: Duration = Duration::from_millis(400);

const PREFIX: &str = "alize-conformance-";

/// A cgroup for nobody but the sockets of one probe.
pub(super) struct PrivateCgroup {
    pub(super) cgroup: Cgroup,
    /// Folder of cgroup v2 that this process is in, as far as it can be told, else the root.
    _below: PathBuf,
}

impl PrivateCgroup {
    pub(super) fn make() -> Result<Self, String> {
        let below = own_cgroup().ok_or("cgroup v2 is not mounted")?;
        sweep(&below);
        let path = below.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("cannot make cgroup {}: {e}", path.display()))?;
        match environment::open_cgroup(&path) {
            Ok(cgroup) => Ok(Self { cgroup, _below: below }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error.to_string())
            }
        }
    }
}

impl Drop for PrivateCgroup {
    fn drop(&mut self) {
        // Its sockets keep the programs that are attached to it (kernel/bpf/cgroup.c, cgroup_bpf_offline).
        let _ = fs::remove_dir(&self.cgroup.path);
    }
}

fn own_cgroup() -> Option<PathBuf> {
    let root = environment::cgroup2_root()?;
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    let folder = root.join(own);
    Some(if folder.is_dir() { folder } else { root })
}

/// Removes what a probe left that was killed before it could.
fn sweep(below: &Path) {
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The sockets, and a listener that all of them reach.
pub(crate) struct Nursery {
    unused: std::cell::RefCell<Vec<OwnedFd>>,
    listener: TcpListener,
    address: SocketAddrV4,
}

impl Nursery {
    pub(crate) fn make(cgroup: &Cgroup) -> io::Result<Self> {
        let mut unused = born_in(&cgroup.path)?;
        let listener = unused.pop().ok_or_else(|| io::Error::other("no socket came"))?;
        rustix::net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        rustix::net::listen(&listener, 64)?;
        let listener = TcpListener::from(listener);
        let std::net::SocketAddr::V4(address) = listener.local_addr()? else {
            return Err(io::Error::other("the listener is not IPv4"));
        };
        Ok(Self { unused: unused.into(), listener, address })
    }

    /// What connections arrive at.
    pub(crate) fn listener(&self) -> (&TcpListener, SocketAddrV4) {
        (&self.listener, self.address)
    }

    /// One that has not dialled yet.
    pub(crate) fn socket(&self) -> io::Result<TcpStream> {
        let socket = self.unused.borrow_mut().pop();
        socket.map(TcpStream::from).ok_or_else(|| io::Error::other("the sockets are used up"))
    }

    /// The two ends of a connection: the one that dialled, the one that was accepted.
    pub(super) fn connection(&self) -> io::Result<(TcpStream, TcpStream)> {
        let client = self.socket()?;
        client.set_write_timeout(Some(PATIENCE))?;
        rustix::net::connect(&client, &self.address)?;
        let (server, _) = self.listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        Ok((client, server))
    }
}

/// TCP sockets made in `cgroup` and in a network namespace that exists as long as they do.
fn born_in(cgroup: &Path) -> io::Result<Vec<OwnedFd>> {
    let procs = CString::new(cgroup.join("cgroup.procs").as_os_str().as_bytes())?;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // SAFETY: the child calls nothing but bear(), which makes system calls only and never returns; so it does not matter
    // which locks other threads held at this moment.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(io::Error::last_os_error()),
        0 => bear(&procs, theirs.as_raw_fd()),
        _ => drop(theirs),
    }
    let received = receive(&ours);
    drop(ours);
    if let Some(pid) = Pid::from_raw(child) {
        // It ends by itself, or by SIGPIPE.
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    }
    received
}

/// The message: one error number, 0 for none, and the sockets.
#[repr(C, align(8))]
struct Ancillary([u8; 512]);

/// In the child: joins the cgroup, makes the network namespace, sends the sockets to `parent` and ends.
fn bear(procs: &std::ffi::CStr, parent: i32) -> ! {
    let mut sockets = [-1i32; SOCKETS];
    let error = match enter(procs).and_then(|()| make(&mut sockets)) {
        Ok(()) => 0,
        Err(error) => error,
    };
    // SAFETY: the message consists of one integer and of ancillary data in a buffer that has room for it; all of it
    // lives until the call returns.
    unsafe {
        let mut data =
            libc::iovec { iov_base: std::ptr::from_ref(&error).cast_mut().cast(), iov_len: size_of::<i32>() };
        let mut ancillary = Ancillary([0; 512]);
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut data;
        message.msg_iovlen = 1;
        if error == 0 {
            message.msg_control = ancillary.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of_val(&sockets) as u32) as _;
            let head = libc::CMSG_FIRSTHDR(&message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(size_of_val(&sockets) as u32) as _;
            std::ptr::copy_nonoverlapping(
                sockets.as_ptr().cast(),
                libc::CMSG_DATA(head),
                size_of_val(&sockets),
            );
        }
        libc::sendmsg(parent, &message, libc::MSG_NOSIGNAL);
        libc::_exit(0)
    }
}

fn errno() -> i32 {
    // SAFETY: the place belongs to this thread.
    unsafe { *libc::__errno_location() }
}

/// Moves this process, which is the child, into the cgroup and into a network namespace whose loopback is up.
fn enter(procs: &std::ffi::CStr) -> Result<(), i32> {
    // SAFETY: plain system calls on memory that outlives them; `ifreq` is all integers, and zeroes are a value of it.
    unsafe {
        // Not beyond its parent.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let file = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 || libc::write(file, b"0".as_ptr().cast(), 1) != 1 {
            return Err(errno());
        }
        libc::close(file);
        if libc::unshare(libc::CLONE_NEWNET) != 0 {
            return Err(errno());
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut loopback: libc::ifreq = std::mem::zeroed();
        loopback.ifr_name[0] = b'l' as _;
        loopback.ifr_name[1] = b'o' as _;
        loopback.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
        if socket < 0 || libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &loopback) != 0 {
            return Err(errno());
        }
        libc::close(socket);
    }
    Ok(())
}

fn make(sockets: &mut [i32; SOCKETS]) -> Result<(), i32> {
    for socket in sockets {
        // SAFETY: takes no pointer.
        *socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        if *socket < 0 {
            return Err(errno());
        }
    }
    Ok(())
}

fn receive(from: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut error = [0u8; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        from,
        &mut [io::IoSliceMut::new(&mut error)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes != error.len() {
        return Err(io::Error::other("the process that makes the sockets ended early"));
    }
    match i32::from_ne_bytes(error) {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    Ok(sockets)
}
