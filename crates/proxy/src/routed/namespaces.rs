//! The network namespaces of clients, and the proxy's listeners in them.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use alize_datapath::http::{Router, netns_cookie};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpSocket;

use crate::back::lock;
use crate::kernel::Netns;
use crate::run::Handle;

/// Looks in a row without a process of it, after which a namespace is left: holding it would keep it alive.
const EMPTY_LOOKS: u32 = 3;

/// Sockets made at once in another namespace.
const STOCK: usize = 16;

pub(super) struct Namespaces {
    cgroups: Vec<PathBuf>,
    known: Mutex<HashMap<Netns, Namespace>>,
    /// The proxy's own, into which it need not go.
    own: Option<Netns>,
}

struct Namespace {
    /// Keeps the namespace, and leads there.
    door: Arc<File>,
    cookie: u64,
    empty_looks: u32,
    /// Sockets made ahead, IPv4 and IPv6: the way there is a thread's life, and in a rush each connection would take it.
    stock: [Vec<TcpSocket>; 2],
    /// From which address an endpoint is reached, as it was between two looks.
    sources: HashMap<IpAddr, IpAddr>,
}

impl Namespace {
    fn new(door: &Arc<File>, cookie: u64) -> Self {
        Self {
            door: Arc::clone(door),
            cookie,
            empty_looks: 0,
            stock: Default::default(),
            sources: HashMap::new(),
        }
    }
}

impl Namespaces {
    pub(super) fn new(cgroups: Vec<PathBuf>) -> Self {
        let own = fs::metadata("/proc/self/ns/net").ok().map(|found| Netns(found.ino()));
        Self { cgroups, known: Mutex::default(), own }
    }

    /// What programs call the namespace.
    pub(super) fn cookie(&self, netns: Netns) -> Option<u64> {
        lock(&self.known).get(&netns).map(|namespace| namespace.cookie)
    }

    /// Listens where processes have come, and nowhere else.
    pub(super) fn refresh(&self, router: &Router, handle: &Handle) {
        let mut seen = HashSet::new();
        for pid in self.cgroups.iter().flat_map(|cgroup| processes(cgroup)) {
            if let Some(netns) = netns_of(pid)
                && seen.insert(netns)
            {
                self.enter(netns, pid, router, handle);
            }
        }
        let mut left = Vec::new();
        lock(&self.known).retain(|netns, namespace| {
            // Routes may change, and what was made ahead was for a rush.
            namespace.sources.clear();
            namespace.stock = Default::default();
            namespace.empty_looks = if seen.contains(netns) { 0 } else { namespace.empty_looks + 1 };
            let stays = namespace.empty_looks < EMPTY_LOOKS;
            if !stays {
                left.push((*netns, namespace.cookie));
            }
            stays
        });
        for (netns, cookie) in left {
            if let Err(error) = router.silence(cookie) {
                tracing::warn!("cannot take back a listener: {error}");
            }
            handle.close(netns);
        }
    }

    /// Listens in the namespace of a process at once.
    pub(super) fn visit(&self, pid: u32, router: &Router, handle: &Handle) {
        if let Some(netns) = netns_of(pid) {
            self.enter(netns, pid, router, handle);
        }
    }

    /// Where this proxy listens.
    pub(super) fn cookies(&self) -> Vec<u64> {
        lock(&self.known).values().map(|namespace| namespace.cookie).collect()
    }

    /// Closes listeners of the proxy before this one in namespaces where nobody is any more: they would keep them alive.
    pub(super) fn leave_others(&self, handle: &Handle) {
        let known = lock(&self.known);
        for (netns, _) in handle.listeners() {
            if !known.contains_key(&netns) {
                handle.close(netns);
            }
        }
    }

    /// No connection comes to this proxy any more.
    pub(super) fn silence(&self, router: &Router) {
        for namespace in lock(&self.known).values() {
            let _ = router.silence(namespace.cookie);
        }
    }

    fn enter(&self, netns: Netns, pid: u32, router: &Router, handle: &Handle) {
        if lock(&self.known).contains_key(&netns) {
            return;
        }
        match self.listen(netns, pid, router, handle) {
            Ok(namespace) => drop(lock(&self.known).insert(netns, namespace)),
            // The process may have ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                handle.anomaly("namespace-not-entered");
                tracing::warn!(
                    "no listener in the network namespace of process {pid}: {error}; its connections to HTTP services \
                     are balanced as a whole"
                );
            }
        }
    }

    fn listen(&self, netns: Netns, pid: u32, router: &Router, handle: &Handle) -> io::Result<Namespace> {
        let door = Arc::new(File::open(format!("/proc/{pid}/ns/net"))?);
        let own: Vec<SocketAddr> = handle
            .listeners()
            .into_iter()
            .filter(|(of, _)| *of == netns)
            .map(|(_, address)| address)
            .collect();
        // Those that this proxy was given are as good as new ones, and clients may be waiting there.
        let make = || if own.is_empty() { listeners() } else { Ok((Vec::new(), cookie_here()?)) };
        let (listeners, cookie) = self.within(netns, &door, make)??;
        // Known before the first connection is: the kernel is told last.
        lock(&self.known).insert(netns, Namespace::new(&door, cookie));
        let mut addresses = own;
        for listener in listeners {
            addresses.push(handle.listen(netns, listener)?);
        }
        let port = |v4| addresses.iter().find(|address| address.is_ipv4() == v4).map(SocketAddr::port);
        let ports = (port(true), port(false));
        router.listen(cookie, ports.0, ports.1).map_err(io::Error::other)?;
        Ok(Namespace::new(&door, cookie))
    }

    /// A socket for a connection to an endpoint, made in the namespace.
    pub(super) fn socket(&self, netns: Netns, endpoint: SocketAddr) -> io::Result<TcpSocket> {
        let make = move || if endpoint.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        if Some(netns) == self.own {
            return make();
        }
        let family = usize::from(endpoint.is_ipv6());
        let door = {
            let mut known = lock(&self.known);
            let namespace = known
                .get_mut(&netns)
                .ok_or_else(|| io::Error::other("the client's network namespace has no process any more"))?;
            if let Some(socket) = namespace.stock[family].pop() {
                return Ok(socket);
            }
            Arc::clone(&namespace.door)
        };
        let mut sockets =
            self.within(netns, &door, || (0..STOCK).map(|_| make()).collect::<io::Result<Vec<_>>>())??;
        let socket = sockets.pop().ok_or_else(|| io::Error::other("no socket was made"))?;
        if let Some(namespace) = lock(&self.known).get_mut(&netns) {
            namespace.stock[family] = sockets;
        }
        Ok(socket)
    }

    /// The address from which an endpoint is reached, so that a socket can be bound to it before it connects.
    pub(super) fn source(&self, netns: Netns, endpoint: SocketAddr) -> io::Result<Option<IpAddr>> {
        let door = {
            let known = lock(&self.known);
            let Some(namespace) = known.get(&netns) else { return Ok(None) };
            if let Some(source) = namespace.sources.get(&endpoint.ip()) {
                return Ok(Some(*source));
            }
            Arc::clone(&namespace.door)
        };
        let source = self.within(netns, &door, move || {
            let any: SocketAddr = match endpoint {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            // Connecting a datagram socket sends nothing, and tells what the routes say.
            let probe = UdpSocket::bind(any)?;
            probe.connect(endpoint)?;
            io::Result::Ok(probe.local_addr()?.ip())
        })??;
        if let Some(namespace) = lock(&self.known).get_mut(&netns) {
            namespace.sources.insert(endpoint.ip(), source);
        }
        Ok(Some(source))
    }

    /// Does something inside a namespace: on a thread of its own, since a thread that has moved stays there.
    fn within<T: Send>(&self, netns: Netns, door: &File, what: impl FnOnce() -> T + Send) -> io::Result<T> {
        if Some(netns) == self.own {
            return Ok(what());
        }
        std::thread::scope(|scope| {
            let moved = scope.spawn(|| {
                move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(what())
            });
            moved.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace broke off")))
        })
    }
}

/// Listeners on loopback, where no other host can come from, and the namespace's cookie.
fn listeners() -> io::Result<(Vec<TcpListener>, u64)> {
    let addresses: [SocketAddr; 2] = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
    // One family may be off.
    let mut found = Vec::new();
    let mut failed = None;
    for address in addresses {
        match listener(address) {
            Ok(listener) => found.push(listener),
            Err(error) => failed = Some(error),
        }
    }
    let Some(first) = found.first() else {
        return Err(failed.unwrap_or_else(|| io::Error::other("no address family")));
    };
    let cookie = netns_cookie(first.as_fd())?;
    Ok((found, cookie))
}

fn cookie_here() -> io::Result<u64> {
    use rustix::net::{AddressFamily, SocketType, socket};
    netns_cookie(socket(AddressFamily::UNIX, SocketType::DGRAM, None)?.as_fd())
}

/// Connections wait here while the proxy is busy or changes hands.
const BACKLOG: i32 = 4096;

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

fn netns_of(pid: u32) -> Option<Netns> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|found| Netns(found.ino()))
}

/// The processes in a cgroup and below it.
fn processes(cgroup: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut waiting = vec![cgroup.to_owned()];
    while let Some(folder) = waiting.pop() {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        waiting.extend(
            entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()),
        );
    }
    found
}
