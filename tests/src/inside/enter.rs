use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

#[derive(Debug, clap::Args)]
pub struct Enter {
    /// Folder of the cgroup
    cgroup: PathBuf,
    /// File of the network namespace
    namespace: PathBuf,
    /// Program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    program: Vec<String>,
}

impl Enter {
    pub(super) fn run(self) -> Result<()> {
        fs::write(self.cgroup.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot join cgroup {}", self.cgroup.display()))?;
        let namespace = File::open(&self.namespace)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter namespace {}", self.namespace.display()))?;
        let error = Command::new(&self.program[0]).args(&self.program[1..]).exec();
        Err(error).with_context(|| format!("cannot start {}", self.program[0]))
    }
}
