//! Bundles that were in force, kept for the way back: `<folder>/<version>-<digest>.bundle`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::choice::Chosen;
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

/// At the end of the name of a file that is not kept yet.
pub(super) const DRAFT: &str = ".new";

/// A bundle that is written and not kept yet; dropped, it is removed.
#[derive(Debug)]
pub struct Prepared {
    store: Store,
    path: PathBuf,
    /// `None`: it is kept already.
    draft: Option<PathBuf>,
    choice: Option<Chosen>,
}

impl Prepared {
    /// It is in force: keeps it as the last that was, and lets the oldest beyond the number go.
    pub fn keep(mut self) -> Result<(), Error> {
        let error = |e| Error::path("cannot keep", &self.path, e);
        match &self.draft {
            Some(draft) => fs::rename(draft, &self.path).map_err(error)?,
            None => fs::File::open(&self.path)
                .and_then(|file| file.set_modified(SystemTime::now()))
                .map_err(error)?,
        }
        self.draft = None;
        if let Some(choice) = self.choice.take() {
            choice.keep()?;
        }
        for old in self.store.list()?.into_iter().skip(self.store.keep) {
            fs::remove_file(&old.path).map_err(|e| Error::path("cannot remove", &old.path, e))?;
        }
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            let _ = fs::remove_file(draft);
        }
    }
}

impl Store {
    /// How many are kept unless told otherwise.
    pub const KEEP: usize = 5;

    /// A folder, which is made when something is kept.
    pub fn new(folder: &Path, keep: usize) -> Self {
        Self { folder: folder.to_owned(), keep: keep.max(1) }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
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
        self.prepare(bundle, None)?.keep()
    }

    /// Writes `bundle` beside those that are kept, and that `instance` is to have it in place of the one in this binary, so that
    /// only names are to be given once it is in force.
    pub fn prepare(&self, bundle: &Bundle, instance: Option<&str>) -> Result<Prepared, Error> {
        let error = |path: &Path, e| Error::path("cannot keep", path, e);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(|e| error(&self.folder, e))?;
        self.sweep()?;
        let name = format!("{}-{}.bundle", bundle.manifest.version, bundle.digest.short());
        let path = self.folder.join(&name);
        let mut prepared = Prepared { store: self.clone(), path, draft: None, choice: None };
        if let Some(instance) = instance {
            let embedded = Bundle::embedded()?.digest();
            prepared.choice = Some(self.choice(instance).prepare(bundle.digest, embedded)?);
        }
        if Self::facts(&prepared.path).is_ok_and(|kept| kept.digest == bundle.digest) {
            return Ok(prepared);
        }
        let draft = prepared.draft.insert(self.folder.join(format!("{name}{DRAFT}"))).clone();
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&draft);
        opened
            .and_then(|mut file| file.write_all(&bundle.bytes()).and_then(|()| file.sync_all()))
            .map_err(|e| error(&draft, e))?;
        Ok(prepared)
    }

    /// Removes what was prepared by a process that was killed.
    fn sweep(&self) -> Result<(), Error> {
        let drafts = crate::pin::entries(&self.folder)?;
        let drafts = drafts.into_iter().filter(|path| path.to_string_lossy().ends_with(DRAFT));
        drafts.into_iter().try_for_each(|path| crate::attach::unpin(&path))
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
