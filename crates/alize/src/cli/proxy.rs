//! `alize proxy`: the user-space half of the mesh's HTTP path, in this process.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alize_agent::ProxyOptions;
use alize_model::control::{FromProxy, Hello, ToProxy};
use alize_proxy::{Fixed, Kernel, Meshed, Netns, Options, Routed};
use clap::ValueEnum;
use tracing::{error, info};

use super::args::{Global, LogFormat, PlaceArgs, ProxyArgs};
use super::{block_on, run};
use crate::failure::Failure;
use crate::output::Output;

/// How long a proxy may take to say who it is.
const GREETING: Duration = Duration::from_secs(2);

pub(crate) fn proxy(global: &Global, args: ProxyArgs, output: Output) -> Result<(), Failure> {
    run::log(global, args.log_format, output)?;
    let KernelSide { kernel, routed } = kernel(global, &args)?;
    let options = Options {
        drain: args.drain,
        listeners: listeners(&args.listen)?,
        keeps: routed.is_some(),
        ..Options::new(&global.instance, &args.place.run_dir, kernel)
    };
    block_on(async {
        let ran = alize_proxy::run(options, |ready| {
            let control = ready.control.display().to_string();
            let succeeded = ready.succeeded;
            if let Some(routed) = &routed
                && let Err(error) = routed.start(ready)
            {
                error!("no request is routed in the kernel: {error}");
            }
            info!(pid = std::process::id(), %control, succeeded, "the proxy is ready");
        });
        ran.await.map_err(Failure::Proxy)
    })
}

struct KernelSide {
    kernel: Arc<dyn Kernel>,
    /// To be started when the proxy is ready.
    routed: Option<Arc<Routed>>,
}

/// The kernel side of the proxy: the instance's data path, or only the listeners that were named.
fn kernel(global: &Global, args: &ProxyArgs) -> Result<KernelSide, Failure> {
    if !args.listen.is_empty() {
        let fixed = args.listen.iter().map(|Listen(address, service)| (*address, *service));
        let fixed = Fixed(fixed.collect::<HashMap<_, _>>());
        return Ok(KernelSide { kernel: Arc::new(fixed), routed: None });
    }
    let cgroups = match args.cgroups.is_empty() {
        false => args.cgroups.clone(),
        true => vec![alize_datapath::cgroup2_root().ok_or(alize_datapath::Error::NoCgroup2)?],
    };
    let meshed = Meshed { instance: global.instance.clone(), bpffs: args.place.bpffs.clone(), cgroups };
    let routed = Routed::open(meshed).map_err(|error| Failure::Other(anyhow::Error::new(error)))?;
    Ok(KernelSide { kernel: routed.clone(), routed: Some(routed) })
}

/// A listener for one service: what `--listen` says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen(SocketAddr, u32);

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            "write ADDRESS:PORT=NUMBER, the number of a service as `alize services -o json` has it".to_owned()
        };
        let (address, number) = text.split_once('=').ok_or_else(wrong)?;
        Ok(Self(address.parse().map_err(|_| wrong())?, number.parse().map_err(|_| wrong())?))
    }
}

/// Those that a proxy of the same instance has already come from it.
fn listeners(listen: &[Listen]) -> Result<Vec<(Netns, TcpListener)>, Failure> {
    let mut all = Vec::new();
    for Listen(address, _) in listen {
        match TcpListener::bind(address) {
            Ok(listener) => all.push((Netns::default(), listener)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(Failure::Other(
                    anyhow::Error::new(error).context(format!("cannot listen on {address}")),
                ));
            }
        }
    }
    Ok(all)
}

/// How the agent starts a proxy of this program for itself.
pub(super) fn for_agent(
    global: &Global,
    place: &PlaceArgs,
    cgroups: &[PathBuf],
    log_format: LogFormat,
) -> Result<ProxyOptions, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::Other(anyhow::Error::new(error).context("cannot tell where this program is"))
    })?;
    let format = log_format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut arguments: Vec<OsString> = ["proxy", "--instance", &global.instance, "--log-format", &format]
        .into_iter()
        .map(OsString::from)
        .collect();
    arguments.extend([
        "--run-dir".into(),
        place.run_dir.clone().into(),
        "--bpffs".into(),
        place.bpffs.clone().into(),
    ]);
    arguments.extend(cgroups.iter().flat_map(|cgroup| ["--cgroup".into(), cgroup.into()]));
    arguments.extend((0..global.verbose).map(|_| "-v".into()));
    arguments.extend((0..global.quiet).map(|_| "-q".into()));
    let environment = alize_proxy::ENVIRONMENT;
    Ok(ProxyOptions { program, arguments, environment, socket: socket(&place.run_dir, &global.instance) })
}

fn socket(run_dir: &Path, instance: &str) -> PathBuf {
    run_dir.join(format!("{instance}.proxy.sock"))
}

/// What became of the proxy's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Drained {
    /// Its process.
    pub(super) pid: u32,
    /// Connections that it had when it was asked to end.
    pub(super) connections: u64,
    /// Those that were cut, since their time was over.
    pub(super) cut: u64,
}

/// How often a proxy that drains is asked how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// A proxy whose time is over cuts what is left within this time.
const CUTTING: Duration = Duration::from_secs(5);

/// Asks the proxy of `instance`, if one runs, to end when its connections have, after `within` at the latest, and waits for that;
/// `each` hears how many connections are left.
pub(super) fn drain(
    run_dir: &Path,
    instance: &str,
    within: Duration,
    each: &mut dyn FnMut(u64, u64),
) -> Option<Drained> {
    let mut stream = UnixStream::connect(socket(run_dir, instance)).ok()?;
    stream.set_read_timeout(Some(GREETING)).ok()?;
    let FromProxy::Hello(Hello { pid, .. }) = hear(&mut stream)? else { return None };
    let connections = open(&mut stream)?;
    say(&mut stream, &ToProxy::Drain { deadline: within })?;
    let end = Instant::now() + within + CUTTING;
    let mut left = connections;
    // It answers until its process ends.
    while Instant::now() < end {
        each(left, connections);
        std::thread::sleep(LOOK);
        match open(&mut stream) {
            Some(now) => left = now,
            None => break,
        }
    }
    let begun = end - within - CUTTING;
    let in_time = begun.elapsed() < within;
    Some(Drained { pid, connections, cut: if in_time { 0 } else { left } })
}

/// Connections of clients that the proxy has.
fn open(stream: &mut UnixStream) -> Option<u64> {
    say(stream, &ToProxy::Counters)?;
    match hear(stream)? {
        FromProxy::Counters(counters) => Some(counters.open),
        _ => None,
    }
}

fn say(stream: &mut UnixStream, word: &ToProxy) -> Option<()> {
    let mut line = serde_json::to_vec(word).ok()?;
    line.push(b'\n');
    stream.write_all(&line).ok()
}

fn hear(stream: &mut UnixStream) -> Option<FromProxy> {
    serde_json::from_slice(&first_line(stream)?).ok()
}

/// Counters of 10,000 services are long; nothing is said unasked, so nothing is read ahead that is not for us.
fn first_line(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    while !line.ends_with(b"\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(length) => line.extend_from_slice(&piece[..length]),
        }
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_an_address_and_a_number() {
        let Listen(address, service) = "127.0.0.1:80=7".parse().unwrap();
        assert_eq!((address.to_string().as_str(), service), ("127.0.0.1:80", 7));
        for wrong in ["", "127.0.0.1:80", "127.0.0.1=7", "127.0.0.1:80=web"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
