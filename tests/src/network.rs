//! Network namespaces that meet at a bridge in a namespace of their own, so that the machine's stays untouched.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// A namespace with a loopback and one interface, `eth0`, on the bridge of its world.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    number: u8,
}

impl Namespace {
    /// The name that `ip netns` knows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `setns` takes.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Its IPv4 address on the bridge.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    /// Its IPv6 address on the bridge.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number.into())
    }

    /// Gives `eth0` one more address.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        let length = if address.is_ipv4() { 16 } else { 64 };
        batch(&self.name, &[format!("address add {address}/{length} dev eth0{}", no_detection(address))])
    }

    /// Runs `what` on a thread inside the namespace; sockets that it makes stay inside.
    pub fn within<T: Send>(&self, what: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok::<T, rustix::io::Errno>(what())
            });
            match thread.join() {
                Ok(result) => result.with_context(|| format!("cannot enter namespace {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// The namespaces of one world.
#[derive(Debug)]
pub(crate) struct Network {
    prefix: String,
    hub: String,
    made: RefCell<Vec<Namespace>>,
}

impl Network {
    /// Makes the bridge; all names begin with `prefix`.
    pub(crate) fn new(prefix: &str) -> Result<Self> {
        let hub = format!("{prefix}.hub");
        add(&hub)?;
        let bridge =
            ["link set lo up", "link add br0 type bridge stp_state 0 forward_delay 0", "link set br0 up"];
        batch(&hub, &bridge.map(str::to_owned))?;
        Ok(Self { prefix: prefix.to_owned(), hub, made: RefCell::default() })
    }

    /// The namespace called `label`, made when it is not there yet.
    pub(crate) fn namespace(&self, label: &str) -> Result<Namespace> {
        let name = format!("{}.{label}", self.prefix);
        let mut made = self.made.borrow_mut();
        if let Some(namespace) = made.iter().find(|n| n.name == name) {
            return Ok(namespace.clone());
        }
        let number = u8::try_from(made.len() + 1)?;
        add(&name)?;
        let port = format!("port{number}");
        let cable = [
            format!("link add {port} type veth peer name eth0 netns {name}"),
            format!("link set {port} master br0 up"),
        ];
        batch(&self.hub, &cable)?;
        let namespace = Namespace { name, number };
        let interface = [
            "link set lo up".to_owned(),
            "link set eth0 up".to_owned(),
            format!("address add {}/16 dev eth0", namespace.v4()),
            format!("address add {}/64 dev eth0 nodad", namespace.v6()),
        ];
        batch(&namespace.name, &interface)?;
        made.push(namespace.clone());
        Ok(namespace)
    }
}

/// Duplicate address detection makes a new IPv6 address unusable for a second.
fn no_detection(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}

fn add(name: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(["netns", "add", name])
        .output()
        .context("cannot start ip (package iproute2)")?;
    ensure!(
        output.status.success(),
        "ip netns add {name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Deletes the namespaces whose names `wanted` accepts.
pub(crate) fn delete(wanted: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(NAMES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if wanted(&name) {
            let _ = Command::new("ip").args(["netns", "delete", &name]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs commands of `ip` inside a namespace, all in one process.
fn batch(namespace: &str, commands: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-netns", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip (package iproute2)")?;
    let mut input = child.stdin.take().context("the input of ip")?;
    commands.iter().try_for_each(|command| writeln!(input, "{command}"))?;
    drop(input);
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip in namespace {namespace}: {}", errors.trim());
    Ok(())
}
