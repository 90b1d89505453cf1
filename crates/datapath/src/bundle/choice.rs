//! A bundle that was chosen by hand in place of the one in the binary. It holds until another is chosen, or a binary with
//! another bundle in it starts. What runs is not read from here: it is asked of the kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Bundle, Digest, Store};
use crate::Error;

/// Where an instance's choice is kept.
#[derive(Clone, Debug)]
pub struct Choice {
    path: PathBuf,
}

impl Choice {
    pub(super) fn new(folder: &Path, instance: &str) -> Self {
        Self { path: folder.join(format!("{instance}.choice")) }
    }

    /// Remembers that `chosen` was put in force where `embedded` would have been.
    pub fn remember(&self, chosen: Digest, embedded: Digest) -> Result<(), Error> {
        if chosen == embedded {
            return match fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    Err(Error::path("cannot remove", &self.path, e))
                }
                _ => Ok(()),
            };
        }
        let text = format!("{chosen} in place of {embedded}\n");
        fs::write(&self.path, text).map_err(|e| Error::path("cannot write", &self.path, e))
    }

    /// The bundle that was chosen in place of `embedded`, if it still is kept.
    pub fn in_place_of(&self, embedded: &Bundle, store: &Store) -> Option<Bundle> {
        let text = fs::read_to_string(&self.path).ok()?;
        let (chosen, instead) = text.trim().split_once(" in place of ")?;
        if instead != embedded.digest().to_string() {
            return None;
        }
        store.earlier(Some(chosen), None).inspect_err(|error| tracing::warn!("{error}")).ok()
    }
}
