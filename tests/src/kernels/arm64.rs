//! What `make test-arm64` found.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What passed on the emulated ARM64 machine; the script that runs it writes this only if all did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm64 {
    /// Release of its kernel.
    pub release: String,
    /// Objects that were loaded.
    pub objects: Vec<String>,
    /// What was tried of them beyond that, such as `a connect is balanced`.
    pub behaviour: Vec<String>,
}

impl Arm64 {
    /// What is kept in the tree.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display()))
    }

    /// A line of `docs/kernels.md`; `sources` are the objects of the tree.
    pub fn line(&self, sources: &[String]) -> String {
        let untried: Vec<&str> =
            sources.iter().filter(|name| !self.objects.contains(name)).map(String::as_str).collect();
        let untried = match untried.as_slice() {
            [] => String::new(),
            untried => format!(" (not {})", untried.join(", ")),
        };
        format!(
            "On ARM64 ({}) {} objects are loaded{untried}, and {}; the agent itself was never run there.\n",
            self.release,
            self.objects.len(),
            self.behaviour.join(", ")
        )
    }
}

/// The objects of the tree, but those that have types alone.
pub fn sources() -> Result<Vec<String>> {
    let folder = super::repository().join("crates/datapath/bpf");
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let objects = names.filter_map(|name| name.strip_suffix(".bpf.c").map(str::to_owned));
    let mut objects: Vec<String> = objects.filter(|name| !name.ends_with("abi")).collect();
    objects.sort();
    Ok(objects)
}
