//! How a command ends when it does not end well: the exit code follows from the kind of failure, never from its words.

use std::io;

use crate::client;

/// Exit codes, as `alize --help` lists them. Most wrong use of the command line is found by clap, with the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    BadFile = 3,
    NoAgent = 4,
    Environment = 5,
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A file cannot be read or was refused; everything about it has been said.
    BadFile,
    /// Flags that do not go together.
    Usage(String),
    /// Whoever read our output has gone: nothing is wrong, and nobody is left to tell.
    OutputClosed,
    /// The agent did not answer, or said no.
    Client(client::Error),
    /// The agent in this process did not start, or had to end.
    Agent(alize_agent::Error),
    /// The proxy in this process did not start, or had to end.
    Proxy(alize_proxy::Error),
    /// The kernel's tables cannot be removed while an agent keeps them.
    InUse { pid: u32, instance: String },
    /// This machine lacks something.
    Missing { what: String, mend: String },
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Failure::OutputClosed => Exit::Done,
            Failure::BadFile => Exit::BadFile,
            Failure::Usage(_) => Exit::Usage,
            Failure::Client(error) => error.exit(),
            Failure::Agent(error) => agent_exit(error),
            Failure::InUse { .. } | Failure::Missing { .. } => Exit::Environment,
            Failure::Proxy(_) | Failure::Other(_) => Exit::Failed,
        }
    }

    /// What happened and what to do about it; `None` when it has been said already.
    pub(crate) fn message(&self) -> Option<(String, Option<String>)> {
        match self {
            Failure::BadFile | Failure::OutputClosed => None,
            Failure::Usage(what) => Some((what.clone(), None)),
            Failure::Client(error) => Some((error.to_string(), error.mend())),
            Failure::Agent(error) => Some((error.to_string(), None)),
            Failure::Proxy(error) => Some((error.to_string(), None)),
            Failure::InUse { pid, instance } => Some((
                format!("process {pid} is the agent of instance {instance:?}, and runs; nothing was removed"),
                Some(format!("stop it first: `systemctl stop alize`, Ctrl-C where it runs, or `kill {pid}`")),
            )),
            Failure::Missing { what, mend } => Some((what.clone(), Some(mend.clone()))),
            Failure::Other(error) => Some((format!("{error:#}"), None)),
        }
    }

    /// For errors of writing to standard output.
    pub(crate) fn of_output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Other(anyhow::Error::new(error).context("cannot write to standard output")),
        }
    }
}

fn agent_exit(error: &alize_agent::Error) -> Exit {
    use alize_agent::Error;
    match error {
        Error::Unreadable { .. } | Error::Refused(_) => Exit::BadFile,
        Error::DataPath(error) => datapath_exit(error),
        Error::Socket { source, .. } | Error::Metrics { source, .. } | Error::System { source, .. } => {
            io_exit(source)
        }
    }
}

fn datapath_exit(error: &alize_datapath::Error) -> Exit {
    use alize_datapath::Error;
    match error {
        Error::NotRoot
        | Error::KernelTooOld { .. }
        | Error::NoBpffs { .. }
        | Error::NoCgroup2
        | Error::NotACgroup2Folder { .. }
        | Error::AgentRunning { .. }
        | Error::PinsInUse { .. }
        | Error::BudgetsDiffer { .. }
        | Error::CgroupTaken { .. }
        | Error::HookTaken { .. }
        | Error::Verifier(_) => Exit::Environment,
        Error::Bundle { .. } => Exit::BadFile,
        Error::NotLoaded { .. } => Exit::Environment,
        Error::Budget { .. } => Exit::BadFile,
        Error::Path { source, .. } | Error::Kernel { source, .. } => io_exit(source),
        _ => Exit::Failed,
    }
}

fn io_exit(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Exit::Environment,
        _ => Exit::Failed,
    }
}

impl From<alize_datapath::Error> for Failure {
    fn from(error: alize_datapath::Error) -> Self {
        Failure::Agent(error.into())
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Failure::Client(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Other(error)
    }
}
