//! Why the agent cannot start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use alize_model::Diagnostics;

/// Why the agent did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; check that the file exists and is readable", path.display())]
    Unreadable {
        /// The watched file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file was refused, and no earlier state is there to be served.
    #[error("{0}")]
    Refused(Diagnostics),
    /// The data path did not open or did not take the state.
    #[error(transparent)]
    DataPath(#[from] alize_datapath::Error),
    /// The API's socket cannot be made.
    #[error("cannot serve the API on {}: {source}; check the folder and its permissions", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The address of the metrics cannot be bound.
    #[error(
        "cannot serve metrics on {address}: {source}; another agent may use the port: \
         choose another with --metrics ADDRESS:PORT or none with --metrics off"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The event loop lacks something of the system.
    #[error("cannot {what}: {source}; check the limits of open files and of inotify instances")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
