//! The compilers that the programs are built with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::guest::output;

/// A clang.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Its major version.
    pub version: u32,
    pub(super) path: PathBuf,
}

impl Compiler {
    /// The one that builds the programs of the binary: Debian's default, unless `$CLANG` names another.
    pub fn default_one() -> Result<Self> {
        let path = PathBuf::from(std::env::var_os("CLANG").unwrap_or_else(|| "clang".into()));
        Ok(Self { version: version(&path)?, path })
    }

    /// The newest `clang-N` of this machine, which `script/setup test` makes the newest that Debian has.
    pub(super) fn newest() -> Result<Self> {
        let folders = std::env::var_os("PATH").context("PATH is not set")?;
        let entries = std::env::split_paths(&folders).filter_map(|folder| folder.read_dir().ok());
        let numbered = entries.flatten().flatten().filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix("clang-")?.parse().ok()?;
            Some(Self { version, path: entry.path() })
        });
        let newest = numbered.max_by_key(|compiler| compiler.version);
        newest.context("no clang-N is installed: run script/setup test")
    }
}

fn version(program: &Path) -> Result<u32> {
    let text = output(Command::new(program).arg("--version"))?;
    let version = text.split("version ").nth(1).and_then(|rest| rest.split('.').next()?.parse().ok());
    version.with_context(|| format!("{} tells no version: {text}", program.display()))
}
