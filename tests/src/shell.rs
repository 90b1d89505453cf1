//! The command line beside an agent, and bundles of other versions made of this one's objects.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::World;

/// The command line beside the agent of a world.
#[derive(Clone, Copy, Debug)]
pub struct Shell<'a> {
    world: &'a World,
}

/// Changes the bytes of an object.
pub type Alter<'a> = &'a dyn Fn(&mut [u8]) -> Result<()>;

impl<'a> Shell<'a> {
    /// For the agent of `world`.
    pub fn beside(world: &'a World) -> Self {
        Self { world }
    }

    /// Runs `alize`, whatever comes of it.
    pub fn alize(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(crate::place::binary("alize")?);
        command.args(arguments).env("ALIZE_INSTANCE", self.world.instance());
        command.env("ALIZE_SOCKET", self.world.run_dir().join(format!("{}.sock", self.world.instance())));
        command.output().context("cannot start alize")
    }

    /// What `alize` prints, which must succeed.
    pub fn must(&self, arguments: &[&str]) -> Result<String> {
        let output = self.alize(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// The programs of this binary under another version, one of its objects altered.
    pub fn bundle(&self, version: &str, altered: Option<(&str, Alter<'_>)>) -> Result<PathBuf> {
        let folder = self.world.folder();
        let (whole, objects, other) =
            (folder.join("whole.bundle"), folder.join("objects"), folder.join(format!("{version}.bundle")));
        self.must(&["bundle", "build", text(&whole)])?;
        let facts: serde_json::Value =
            serde_json::from_str(&self.must(&["bundle", "inspect", text(&whole), "-o", "json"])?)?;
        let bytes = fs::read(&whole)?;
        let mut at = 24 + u32::from_le_bytes(bytes[16..20].try_into()?) as usize;
        fs::create_dir_all(&objects)?;
        for object in facts["objects"].as_array().context("objects")? {
            let size = object["size"].as_u64().context("size")? as usize;
            let name = object["name"].as_str().context("name")?;
            let mut object = bytes[at..at + size].to_vec();
            if let Some((_, alter)) = altered.filter(|(altered, _)| *altered == name) {
                alter(&mut object)?;
            }
            fs::write(objects.join(format!("{name}.bpf.o")), object)?;
            at += size;
        }
        self.must(&[
            "bundle",
            "build",
            text(&other),
            "--objects",
            text(&objects),
            "--bundle-version",
            version,
        ])?;
        Ok(other)
    }
}

/// Has the verifier refuse an object: makes the first look into a map a call of a helper that no kernel has.
pub fn break_object(object: &mut [u8]) -> Result<()> {
    // BPF_JMP | BPF_CALL, bpf_map_lookup_elem.
    let call = [0x85, 0, 0, 0, 1, 0, 0, 0];
    let at = object
        .chunks_exact(8)
        .position(|instruction| instruction == call)
        .context("no program looks into a map")?;
    object[at * 8 + 4..at * 8 + 8].copy_from_slice(&9999u32.to_le_bytes());
    Ok(())
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
