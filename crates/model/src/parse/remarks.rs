//! Collects what is wrong with a file, with bounds on memory and on the reader's patience.

use crate::{Diagnostic, Diagnostics, Position, Severity, Source};

/// So many of a kind are shown; more help nobody.
const SHOWN: usize = 100;

/// After so many errors the rest of the file is not read.
const HOPELESS: usize = 10_000;

/// Nothing more can be read. Made here only, beside an error, so that a file that was not read whole is not accepted.
#[derive(Debug)]
pub(super) struct Stop(());

pub(super) struct Remarks<'a> {
    source: Source<'a>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    warnings_left_out: usize,
}

impl<'a> Remarks<'a> {
    pub(super) fn new(source: Source<'a>) -> Self {
        Self { source, errors: Vec::new(), warnings: Vec::new(), warnings_left_out: 0 }
    }

    pub(super) fn error(&mut self, position: Position, message: impl Into<String>, help: impl Into<Help>) {
        let error = self.diagnostic(Severity::Error, position, message.into(), help.into());
        self.errors.push(error);
    }

    pub(super) fn warning(&mut self, position: Position, message: impl Into<String>, help: impl Into<Help>) {
        if self.warnings.len() >= HOPELESS {
            self.warnings_left_out += 1;
            return;
        }
        let warning = self.diagnostic(Severity::Warning, position, message.into(), help.into());
        self.warnings.push(warning);
    }

    fn diagnostic(&self, severity: Severity, position: Position, message: String, help: Help) -> Diagnostic {
        Diagnostic { severity, file: self.source.name.into(), position, message, help: help.0 }
    }

    /// `file:line:column`, for a message that names a second place.
    pub(super) fn place(&self, Position { line, column }: Position) -> String {
        format!("{}:{line}:{column}", self.source.name)
    }

    /// Takes back what was said at one place: a file that breaks off there does not lack what would have come.
    pub(super) fn forget(&mut self, at: Position) {
        self.errors.retain(|diagnostic| diagnostic.position != at);
        self.warnings.retain(|diagnostic| diagnostic.position != at);
    }

    /// How many errors there are so far.
    pub(super) fn errors(&self) -> usize {
        self.errors.len()
    }

    /// An error behind which nothing can be read.
    pub(super) fn stop(
        &mut self,
        position: Position,
        message: impl Into<String>,
        help: impl Into<Help>,
    ) -> Stop {
        self.error(position, message, help);
        Stop(())
    }

    /// So much is wrong that reading on is of no use.
    pub(super) fn hopeless(&self) -> bool {
        self.errors.len() >= HOPELESS
    }

    pub(super) fn hope(&self) -> Result<(), Stop> {
        if self.hopeless() { Err(Stop(())) } else { Ok(()) }
    }

    /// The warnings if there is no error, else everything; in the order of the file.
    pub(super) fn finish(mut self) -> Result<Vec<Diagnostic>, Diagnostics> {
        let hopeless = self.hopeless();
        shorten(&mut self.warnings, self.warnings_left_out, "warnings", false);
        shorten(&mut self.errors, 0, "errors", hopeless);
        if self.errors.is_empty() {
            return Ok(self.warnings);
        }
        let mut all = self.errors;
        all.append(&mut self.warnings);
        // The scanner sees a line break at the end of every file.
        let end = end(self.source.text);
        all.iter_mut().for_each(|diagnostic| diagnostic.position = diagnostic.position.min(end));
        all.sort_by_key(|diagnostic| diagnostic.position);
        Err(Diagnostics(all))
    }
}

/// The place behind the last character; lines end as YAML ends them (1.2.2, 5.4).
fn end(text: &str) -> Position {
    let breaks = text.matches('\n').count() + text.matches('\r').count() - text.matches("\r\n").count();
    let last = text.rsplit(['\n', '\r']).next().unwrap_or_default();
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
    Position { line: narrow(breaks), column: narrow(last.chars().count()) }
}

/// Sorts, keeps the first [`SHOWN`] and says at the place of the next how many were left out.
fn shorten(all: &mut Vec<Diagnostic>, beyond: usize, noun: &str, unread: bool) {
    all.sort_by_key(|diagnostic| diagnostic.position);
    if all.len() <= SHOWN {
        return;
    }
    let left_out = all.len() - SHOWN + beyond;
    all.truncate(SHOWN + 1);
    if let Some(last) = all.last_mut() {
        last.message = format!("{left_out} more {noun} from here on");
        last.help = unread.then(|| "the rest of the file was not read".into());
    }
}

/// What to write instead; `()` where that is not known.
pub(super) struct Help(Option<String>);

impl From<()> for Help {
    fn from((): ()) -> Self {
        Self(None)
    }
}

impl From<&str> for Help {
    fn from(help: &str) -> Self {
        Self(Some(help.into()))
    }
}

impl From<String> for Help {
    fn from(help: String) -> Self {
        Self(Some(help))
    }
}

impl From<Option<String>> for Help {
    fn from(help: Option<String>) -> Self {
        Self(help)
    }
}
