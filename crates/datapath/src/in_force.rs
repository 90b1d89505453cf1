//! Which bundle is in force, for all in this process who change the programs of an instance: they take turns.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Error;
use crate::bundle::Bundle;

/// The bundle in force, shared by the data path and its observers.
#[derive(Clone, Debug, Default)]
pub struct InForce(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// `None`: that of this binary, which need not be held.
    bundle: Mutex<Option<Bundle>>,
    changes: AtomicU64,
}

/// As long as it is held, nobody else changes programs.
pub(crate) struct Turn<'a> {
    bundle: MutexGuard<'a, Option<Bundle>>,
    changes: &'a AtomicU64,
}

impl InForce {
    /// Waits until nobody else changes programs.
    pub(crate) fn turn(&self) -> Turn<'_> {
        // A change that panicked has left the kernel at some step; who comes next looks at the kernel, not at that.
        let bundle = self.0.bundle.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { bundle, changes: &self.0.changes }
    }

    /// How often another bundle was put in force.
    pub(crate) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }
}

impl Turn<'_> {
    pub(crate) fn bundle(&self) -> Result<Bundle, Error> {
        self.bundle.as_ref().map_or_else(Bundle::embedded, |bundle| Ok(bundle.clone()))
    }

    /// It is in force from now on.
    pub(crate) fn put(&mut self, bundle: &Bundle) -> Result<(), Error> {
        let is_embedded = Bundle::embedded()?.digest() == bundle.digest();
        *self.bundle = (!is_embedded).then(|| bundle.clone());
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }
}
