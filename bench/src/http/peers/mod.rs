//! Proxies that others run as sidecars, configured as their users would for speed, and the rules that lead to them.

mod envoy;
mod haproxy;
mod nginx;
mod redirect;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::subject::Peer;

pub(crate) use redirect::{to_sidecar, translate};

/// Where a sidecar takes what its own processes send, and what is sent to them.
pub(crate) const OUTBOUND: u16 = 15001;
pub(crate) const INBOUND: u16 = 15006;
/// Whose packets go past the sidecar: the sidecar's own, as with Istio.
pub(crate) const USER: u32 = 1337;

/// Which side of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A service as a sidecar knows it: clients dial `dialled`, and `server` answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) dialled: std::net::SocketAddrV4,
    pub(crate) server: std::net::SocketAddrV4,
}

/// Where the program of a peer is, and what it is.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// Finds a peer on this machine.
pub(crate) fn find(peer: Peer, given: Option<&Path>) -> Result<Installed> {
    let program = match given {
        Some(path) => path.to_owned(),
        None => search(peer)?,
    };
    let flag = match peer {
        Peer::Haproxy | Peer::Nginx => "-v",
        Peer::Envoy => "--version",
    };
    let output = Command::new(&program).arg(flag).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let version = said.lines().map(str::trim).find(|line| line.contains(char::is_numeric));
    let version = version.with_context(|| format!("{} does not say its version", program.display()))?;
    // Envoy says its own path first.
    let version = version.rsplit_once("version: ").map_or(version, |(_, version)| version).to_owned();
    Ok(Installed { program, version })
}

fn search(peer: Peer) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut places: Vec<PathBuf> = folders.map(|folder| folder.join(peer.name())).collect();
    if peer == Peer::Envoy {
        places.push(envoy::cached()?);
    }
    let found = places
        .into_iter()
        .find(|place| fs::metadata(place).is_ok_and(|it| it.is_file() && it.len() > 100_000));
    match (found, peer) {
        (Some(found), _) => Ok(found),
        (None, Peer::Envoy) => bail!(
            "no envoy in PATH and none in {}; install it there with: alize bench --install-envoy",
            envoy::cached()?.display()
        ),
        (None, _) => bail!("not installed: apt install {}", peer.name()),
    }
}

pub(crate) use envoy::install as install_envoy;

/// Writes the configuration of a sidecar and gives the command that starts it.
pub(crate) fn command(
    peer: Peer,
    installed: &Installed,
    folder: &Path,
    sides: &[Side],
    routes: &[Route],
    threads: usize,
) -> Result<(Vec<String>, PathBuf)> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    std::os::unix::fs::chown(folder, Some(USER), Some(USER))?;
    let (file, text) = match peer {
        Peer::Haproxy => ("haproxy.cfg", haproxy::configuration(sides, routes, threads)),
        Peer::Nginx => ("nginx.conf", nginx::configuration(folder, sides, routes, threads)),
        Peer::Envoy => ("envoy.yaml", envoy::configuration(sides, routes)),
    };
    let path = folder.join(file);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let shown = path.display().to_string();
    let program = installed.program.display().to_string();
    let mut words = vec![program];
    words.extend(match peer {
        Peer::Haproxy => vec!["-db".into(), "-f".into(), shown],
        Peer::Nginx => vec!["-e".into(), folder.join("error.log").display().to_string(), "-c".into(), shown],
        Peer::Envoy => {
            let concurrency = threads.to_string();
            ["-c", &shown, "--concurrency", &concurrency, "--log-level", "error", "--disable-hot-restart"]
                .map(str::to_owned)
                .to_vec()
        }
    });
    Ok((words, path))
}

/// How long a proxy keeps a connection that nothing uses: longer than any run.
const IDLE: &str = "3600s";
