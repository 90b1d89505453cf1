//! What is in force, kept on disk as text: for an agent that starts after this one, and for `GET /v1/config`.
//!
//! The file is the text itself and one comment line behind it, so that one rename replaces both and people can read
//! and check it. Keeping it in memory instead would cost the agent a megabyte for 1,000 services.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::source::{Identity, text_of};

const MARK: &str = "# alize keeps: ";

/// Where a text came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The name of the file, as errors show it.
    pub(crate) name: String,
    /// Whether it was handed over through the API, and so overrides the watched file.
    pub(crate) applied: bool,
    /// What the watched file was at that time; a later change of it ends the override.
    pub(crate) watched: Option<Identity>,
}

/// Text and origin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

impl Kept {
    /// Whether this was handed over after the watched file came to be what it is now.
    pub(crate) fn overrides(&self, file: Option<&Path>, watched: Option<&Identity>) -> bool {
        let unchanged = file.is_none() || (watched.is_some() && self.origin.watched.as_ref() == watched);
        self.origin.applied && unchanged
    }
}

/// The place of the kept text.
pub(crate) struct Keep {
    path: PathBuf,
}

impl Keep {
    pub(crate) fn new(run_dir: &Path, instance: &str) -> Self {
        Self { path: run_dir.join(format!("{instance}.applied.yaml")) }
    }

    /// What was kept last; none when nothing was, or when it cannot be understood.
    pub(crate) fn read(&self) -> Option<Kept> {
        let text = text_of("", fs::read(&self.path).ok()?).ok()?;
        let (text, origin) = text.trim_end_matches('\n').rsplit_once(MARK)?;
        let origin = serde_json::from_str(origin).ok()?;
        Some(Kept { text: text.strip_suffix('\n')?.to_owned(), origin })
    }

    /// Keeps `text` in place of what was kept before. Only its owner may read it, as with the API.
    pub(crate) fn write(&self, text: &str, origin: &Origin) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file =
            fs::File::options().write(true).create(true).truncate(true).mode(0o640).open(&beside)?;
        file.write_all(text.as_bytes())?;
        writeln!(file, "\n{MARK}{}", serde_json::to_string(origin)?)?;
        fs::rename(beside, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(name: &str) -> Keep {
        Keep::new(&std::env::temp_dir(), &format!("alize-kept-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_was_written_is_read() {
        let keep = keep("round");
        let watched = Identity::of(Path::new("/proc/self/exe"));
        let origin = Origin { name: "a b.yaml".into(), applied: true, watched };
        for text in ["", "services: {}", "services: {}\n", "a\n# alize keeps: {}\n\n", "x: |\n  block\n\n"] {
            keep.write(text, &origin).unwrap();
            assert_eq!(keep.read(), Some(Kept { text: text.into(), origin: origin.clone() }));
        }
        fs::remove_file(&keep.path).unwrap();
        assert_eq!(keep.read(), None);
    }

    #[test]
    fn anything_else_is_nothing() {
        let keep = keep("odd");
        for odd in ["", "services: {}\n", "x\n# alize keeps: {}\n", "# alize keeps: \n", "x# alize keeps: {}"]
        {
            fs::write(&keep.path, odd).unwrap();
            assert_eq!(keep.read(), None, "{odd:?}");
        }
        fs::write(&keep.path, b"\xff\n# alize keeps: {}\n").unwrap();
        assert_eq!(keep.read(), None);
        fs::remove_file(&keep.path).unwrap();
    }
}
