//! Modes that an operator has set beside the file: one word, at once, also after a restart of the agent.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use alize_model::api::ModeOverride;
use alize_model::{Mode, Snapshot};
use serde::{Deserialize, Serialize};

/// A mode that holds in place of the file's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Override {
    pub(crate) mode: Mode,
    /// When it was set, in seconds since the Unix epoch.
    pub(crate) since: f64,
    /// When the file's holds again; never when absent.
    pub(crate) until: Option<f64>,
}

/// By name of the service. One that the file does not have is kept: the service may come back.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Modes(BTreeMap<String, Override>);

impl Modes {
    pub(crate) fn set(&mut self, service: &str, set: Override) {
        self.0.insert(service.to_owned(), set);
    }

    /// Whether there was one.
    pub(crate) fn clear(&mut self, service: &str) -> bool {
        self.0.remove(service).is_some()
    }

    /// Takes out what has ended, and names it.
    pub(crate) fn expire(&mut self, now: f64) -> Vec<String> {
        let ended = |set: &Override| set.until.is_some_and(|until| until <= now);
        let names = self.0.iter().filter(|(_, set)| ended(set)).map(|(name, _)| name.clone()).collect();
        self.0.retain(|_, set| !ended(set));
        names
    }

    /// What the file says, with these modes in place of its own.
    pub(crate) fn laid_over(&self, declared: &Snapshot) -> Snapshot {
        declared.with_modes(|service| Some(self.0.get(service.name.as_str())?.mode))
    }

    /// As the API tells it; `declared` is what the file says.
    pub(crate) fn status(&self, service: &str, declared: Mode) -> Option<ModeOverride> {
        let set = self.0.get(service)?;
        Some(ModeOverride { mode: set.mode, declared, since: set.since, until: set.until })
    }
}

/// Where they are kept: beside the text in force.
pub(crate) struct Kept {
    path: PathBuf,
}

impl Kept {
    pub(crate) fn new(run_dir: &Path, instance: &str) -> Self {
        Self { path: run_dir.join(format!("{instance}.modes.json")) }
    }

    /// What was kept; nothing when it cannot be understood.
    pub(crate) fn read(&self) -> io::Result<Modes> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Modes(serde_json::from_slice(&bytes).map_err(io::Error::other)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Modes::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces what was kept, whole or not at all.
    pub(crate) fn write(&self, modes: &Modes) -> io::Result<()> {
        if modes.0.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let draft = self.path.with_extension("json.new");
        let mut file = fs::File::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(&modes.0)?)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(mode: Mode, until: Option<f64>) -> Override {
        Override { mode, since: 1.0, until }
    }

    #[test]
    fn what_has_ended_goes() {
        let mut modes = Modes::default();
        modes.set("a", set(Mode::Shadow, Some(10.0)));
        modes.set("b", set(Mode::Observe, None));
        assert_eq!(modes.expire(9.9), Vec::<String>::new());
        assert_eq!(modes.expire(10.0), ["a"]);
        assert!(modes.status("a", Mode::Enforce).is_none() && modes.status("b", Mode::Enforce).is_some());
        assert!(modes.clear("b") && !modes.clear("b"));
    }

    #[test]
    fn they_are_kept_and_a_broken_file_is_told() {
        let folder = std::env::temp_dir().join(format!("alize-modes-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let kept = Kept::new(&folder, "blue");
        assert_eq!(kept.read().unwrap(), Modes::default());
        let mut modes = Modes::default();
        modes.set("team/web", set(Mode::Shadow, Some(1e9)));
        kept.write(&modes).unwrap();
        assert_eq!(kept.read().unwrap(), modes);
        fs::write(folder.join("blue.modes.json"), "{").unwrap();
        assert!(kept.read().is_err());
        kept.write(&Modes::default()).unwrap();
        assert!(!folder.join("blue.modes.json").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
