//! Texts that come again and again, kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// Label names and values: a file of 30,000 endpoints has a handful.
#[derive(Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}
