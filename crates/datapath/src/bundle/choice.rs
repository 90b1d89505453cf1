//! A bundle that was chosen by hand in place of the one in the binary. It holds until another is chosen, or a binary with
//! another bundle in it starts. What runs is not read from here: it is asked of the kernel.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::store::DRAFT;
use super::{Bundle, Digest, Store};
use crate::Error;

/// Where an instance's choice is kept.
#[derive(Clone, Debug)]
pub struct Choice {
    path: PathBuf,
}

/// A choice that is written and not in force yet; dropped, it is removed.
#[derive(Debug)]
pub(super) struct Chosen {
    path: PathBuf,
    /// `None`: nothing but the bundle in the binary is chosen.
    draft: Option<PathBuf>,
}

impl Chosen {
    pub(super) fn keep(mut self) -> Result<(), Error> {
        let error = |action, e| Error::path(action, &self.path, e);
        match &self.draft {
            Some(draft) => fs::rename(draft, &self.path).map_err(|e| error("cannot write", e))?,
            None => match fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error("cannot remove", e)),
                _ => {}
            },
        }
        self.draft = None;
        Ok(())
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            let _ = fs::remove_file(draft);
        }
    }
}

impl Choice {
    pub(super) fn new(folder: &Path, instance: &str) -> Self {
        Self { path: folder.join(format!("{instance}.choice")) }
    }

    /// Remembers that `chosen` was put in force where `embedded` would have been.
    pub fn remember(&self, chosen: Digest, embedded: Digest) -> Result<(), Error> {
        self.prepare(chosen, embedded)?.keep()
    }

    /// Writes what is to be remembered, so that only a name is to be given later.
    pub(super) fn prepare(&self, chosen: Digest, embedded: Digest) -> Result<Chosen, Error> {
        let mut prepared = Chosen { path: self.path.clone(), draft: None };
        if chosen != embedded {
            let draft = prepared.draft.insert(self.path.with_extension(format!("choice{DRAFT}"))).clone();
            let text = format!("{chosen} in place of {embedded}\n");
            let written = fs::File::create(&draft)
                .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
            written.map_err(|e| Error::path("cannot write", &draft, e))?;
        }
        Ok(prepared)
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
