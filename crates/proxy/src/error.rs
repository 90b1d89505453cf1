//! Why the proxy cannot start.

use std::io;
use std::path::PathBuf;

/// Why the proxy did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket of its own cannot be made.
    #[error("cannot listen on {}: {source}; check the folder, its permissions, and that no other proxy of the \
             instance runs that is too old to hand over", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A listener for clients cannot be used.
    #[error("cannot take connections from a listener: {0}; check the limit of open files")]
    Listener(io::Error),
    /// The proxy that runs did not hand over.
    #[error(
        "the proxy that runs did not hand over: {0}; it goes on serving; end it to start without its connections"
    )]
    Handover(String),
    /// The event loop lacks something of the system.
    #[error("cannot {what}: {source}; check the limits of open files and processes")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
