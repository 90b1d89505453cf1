//! Bundles that were in force, kept for the way back: `<folder>/<version>-<digest>.bundle`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Bundle, Digest};
use crate::Error;

/// A folder of bundles that only root may write to: what lies there was accepted once.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    keep: usize,
}

/// A kept bundle.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its file.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
    /// What it was built from.
    pub build: String,
    /// Its digest.
    pub digest: Digest,
    /// When it was last put in force.
    pub used: SystemTime,
}

impl Store {
    /// How many are kept unless told otherwise.
    pub const KEEP: usize = 5;

    /// A folder, which is made when something is kept.
    pub fn new(folder: &Path, keep: usize) -> Self {
        Self { folder: folder.to_owned(), keep: keep.max(1) }
    }

    /// Where the choice of an instance is kept.
    pub fn choice(&self, instance: &str) -> super::Choice {
        super::Choice::new(&self.folder, instance)
    }

    /// What is kept, the one that was last in force first. What cannot be read is told and left out.
    pub fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut found = Vec::new();
        for path in crate::pin::entries(&self.folder)? {
            if path.extension().is_none_or(|extension| extension != "bundle") {
                continue;
            }
            match Self::facts(&path) {
                Ok(stored) => found.push(stored),
                Err(error) => tracing::warn!("a kept bundle cannot be used: {error}"),
            }
        }
        found.sort_by_key(|stored| std::cmp::Reverse(stored.used));
        Ok(found)
    }

    fn facts(path: &Path) -> Result<Stored, Error> {
        let metadata = fs::metadata(path).map_err(|e| Error::path("cannot read", path, e))?;
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            let why = std::io::Error::other("others than root may write to it");
            return Err(Error::path("cannot trust", path, why));
        }
        let bundle = Bundle::open(path)?;
        Ok(Stored {
            path: path.to_owned(),
            version: bundle.manifest.version.clone(),
            build: bundle.manifest.build.clone(),
            digest: bundle.digest,
            used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        })
    }

    /// Keeps `bundle` as the one last in force, and lets the oldest beyond the number go.
    pub fn keep(&self, bundle: &Bundle) -> Result<(), Error> {
        let error = |path: &Path, e| Error::path("cannot keep", path, e);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(|e| error(&self.folder, e))?;
        let name = format!("{}-{}.bundle", bundle.manifest.version, bundle.digest.short());
        let (path, draft) = (self.folder.join(&name), self.folder.join(format!("{name}.new")));
        if Self::facts(&path).is_ok_and(|kept| kept.digest == bundle.digest) {
            let touched = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            return touched.map_err(|e| error(&path, e));
        }
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&draft);
        opened
            .and_then(|mut file| file.write_all(&bundle.bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(|e| {
                let _ = fs::remove_file(&draft);
                error(&path, e)
            })?;
        for old in self.list()?.into_iter().skip(self.keep) {
            fs::remove_file(&old.path).map_err(|e| Error::path("cannot remove", &old.path, e))?;
        }
        Ok(())
    }

    /// The one to go back to: of `version` (or with a digest that begins so), or else the last that was in force
    /// before `running`.
    pub fn earlier(&self, version: Option<&str>, running: Option<Digest>) -> Result<Bundle, Error> {
        let kept = self.list()?;
        let wanted = |stored: &&Stored| match version {
            Some(version) => stored.version == version || stored.digest.to_string().starts_with(version),
            None => Some(stored.digest) != running,
        };
        match kept.iter().find(wanted) {
            Some(stored) => Bundle::open(&stored.path),
            None => Err(Error::NoEarlierBundle {
                wanted: version.map_or_else(|| "an earlier one".to_owned(), |version| format!("{version:?}")),
                folder: self.folder.clone(),
                kept: kept
                    .iter()
                    .map(|stored| format!("{} ({})", stored.version, stored.digest.short()))
                    .collect(),
            }),
        }
    }
}
