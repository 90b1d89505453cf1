//! The proxy as a child process that is nobody's child when the agent is gone.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use alize_model::control::Hello;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::ProxyOptions;
use super::link::{Link, Problem};

/// How long a proxy may take until it can be asked: it loads nothing.
const STARTING: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(10);

pub(super) struct Child {
    pub(super) pid: u32,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Child {
    /// Starts it in a process group of its own, so that neither a Ctrl-C meant for the agent nor the agent's death
    /// reaches it.
    pub(super) fn start(options: &ProxyOptions) -> Result<Self, Problem> {
        let failed = |source| Problem::Start { program: options.program.display().to_string(), source };
        let mut child = Command::new(&options.program)
            .args(&options.arguments)
            .env(options.environment.0, options.environment.1)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pid = child.id().ok_or_else(|| failed(io::Error::other("it ended at once")))?;
        let (sender, ended) = watch::channel(None);
        tokio::spawn(async move { sender.send_replace(child.wait().await.ok()) });
        Ok(Self { pid, ended })
    }

    pub(super) fn runs(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Waits until it answers on `socket`, where another that it succeeds may answer before.
    pub(super) async fn reached(&self, socket: &Path) -> Result<(Link, Hello), Problem> {
        let until = Instant::now() + STARTING;
        loop {
            if let Ok((link, hello)) = Link::open(socket).await
                && hello.pid == self.pid
            {
                return Ok((link, hello));
            }
            if let Some(status) = *self.ended.borrow() {
                return Err(Problem::Ended(status));
            }
            if Instant::now() >= until {
                return Err(Problem::Silent);
            }
            sleep(STEP).await;
        }
    }
}
