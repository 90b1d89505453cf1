//! Where a process runs.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{Cgroup, Namespace, Process};

/// A cgroup and a network namespace.
///
/// Processes enter both before they begin, through `alize-world enter`. `ip netns exec` would mount another /sys over
/// the cgroups.
#[derive(Clone, Debug)]
pub struct Place {
    /// Control group of the process.
    pub cgroup: Cgroup,
    /// Its network.
    pub namespace: Namespace,
    /// Where the output of processes is kept.
    pub(crate) logs: PathBuf,
    /// The process whose mounts they see; those of the test if there is none.
    pub(crate) mounts: Option<u32>,
}

impl Place {
    /// A command that will run here.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(binary("alize-world")?);
        command.arg("enter").arg(self.cgroup.path()).arg(self.namespace.path()).stdin(Stdio::null());
        if let Some(holder) = self.mounts {
            command.arg("nsenter").arg(format!("--mount=/proc/{holder}/ns/mnt")).arg("--");
        }
        command.arg(program);
        Ok(command)
    }

    /// Runs a command here to its end.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        self.command(program)?.args(arguments).output().with_context(|| format!("cannot start {program}"))
    }

    /// Runs a command here to its end, which must be a success; its standard output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(program, arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{program} {arguments:?}: {}: {text}{}",
            output.status,
            errors.trim()
        );
        Ok(text)
    }

    /// Starts a command here that goes on; its output goes to a file.
    pub fn start(&self, name: &str, program: &str, arguments: &[String]) -> Result<Process> {
        let mut command = self.command(program)?;
        command.args(arguments);
        Process::start(name, command, &self.logs)
    }
}

/// A program of this repository, beside the running one; `ALIZE_BIN` names another folder.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("ALIZE_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().context("the path of the running program")?;
            let folder = own.parent().context("the folder of the running program")?;
            // Tests run in target/<profile>/deps.
            let above = folder.parent().filter(|_| folder.ends_with("deps"));
            above.unwrap_or(folder).to_owned()
        }
    };
    let path = folder.join(name);
    ensure!(path.exists(), "{} does not exist: run `cargo build --workspace --bins` first", path.display());
    Ok(path)
}
