//! The proxy without a kernel side: each listener is for one service. For tests and measurements; `alize proxy` is the
//! real one.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use alize_proxy::{Fixed, Netns, Options, run};

const USAGE: &str = "usage: alize-proxy-alone RUN_DIR INSTANCE DRAIN_SECONDS [ADDRESS:PORT=SERVICE_NUMBER]...
A port that a proxy of the same instance listens on already is taken over from it: write it with =, without binding it.";

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("alize-proxy-alone: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let run_dir = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let instance = arguments.next().ok_or(USAGE)?;
    let drain = Duration::from_secs(arguments.next().ok_or(USAGE)?.parse()?);
    let mut fixed = Fixed::default();
    let mut listeners = Vec::new();
    for argument in arguments {
        let (address, service) = argument.split_once('=').ok_or(USAGE)?;
        let address: SocketAddr = address.parse()?;
        fixed.0.insert(address, service.parse()?);
        // Bound already: by the proxy whose place this one takes, which hands the listener over.
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push((Netns::default(), listener)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = Options { drain, listeners, ..Options::new(instance, run_dir, Arc::new(fixed)) };
    runtime.block_on(run(options, |ready| {
        use std::io::Write as _;
        let mut out = std::io::stdout();
        let _ = writeln!(out, "ready {} succeeded={}", ready.control.display(), ready.succeeded);
        let _ = out.flush();
    }))?;
    Ok(())
}
