//! Regular expressions that compile, within bounds.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind, Literal};
use serde::{Deserialize, Deserializer, Serialize};

/// A regular expression over bytes; the whole text has to match it. Classes such as `\w` are ASCII.
///
/// Only its text is kept: [`super::RouteTable`] holds the compiled form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// The longest expression, in bytes.
    pub const MAX: usize = 1024;
    /// The largest compiled form, in bytes.
    const LARGEST: usize = 128 << 10;
    /// Groups in groups.
    const DEEPEST: u32 = 32;

    /// Takes `text` if it compiles within bounds; says what is wrong with it otherwise.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > Self::MAX {
            return Err(format!("has {} bytes, allowed are at most {}", text.len(), Self::MAX));
        }
        // The text alone first: a lone `)` must not close the group that is put around it.
        Self::build(text).and_then(|_| Self::build(&Self::whole(text))).map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => format!("compiles to more than {limit} bytes"),
            error => {
                let text = error.to_string();
                let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
                format!("is no regular expression: {}", last.trim_start_matches("error: "))
            }
        })?;
        Ok(Self(text.into()))
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The compiled form, which matches whole texts only. `None` never happens: the text has compiled before.
    pub(super) fn compile(&self) -> Option<Regex> {
        Self::build(&Self::whole(&self.0)).ok()
    }

    /// The longest path of whole segments below which every text lies that it matches; `/` when nothing is known.
    pub(super) fn folder(&self) -> String {
        let parsed = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(&self.0);
        let mut literal = Vec::new();
        if let Ok(hir) = parsed {
            begins_with(&hir, &mut literal);
        }
        // The segment at the end may go on: it is no whole one.
        let text = String::from_utf8(literal).unwrap_or_default();
        match text.rsplit_once('/') {
            Some((folder, _)) if !folder.trim_end_matches('/').is_empty() && folder.starts_with('/') => {
                folder.trim_end_matches('/').into()
            }
            _ => "/".into(),
        }
    }

    fn whole(text: &str) -> String {
        format!(r"\A(?:{text})\z")
    }

    fn build(text: &str) -> Result<Regex, regex::Error> {
        RegexBuilder::new(text)
            .unicode(false)
            .size_limit(Self::LARGEST)
            .dfa_size_limit(Self::LARGEST)
            .nest_limit(Self::DEEPEST)
            .build()
    }
}

/// Adds the bytes with which every text begins that `hir` matches; says whether it matches nothing but them.
fn begins_with(hir: &Hir, out: &mut Vec<u8>) -> bool {
    match hir.kind() {
        HirKind::Literal(Literal(bytes)) => {
            out.extend_from_slice(bytes);
            true
        }
        HirKind::Concat(parts) => parts.iter().all(|part| begins_with(part, out)),
        HirKind::Capture(capture) => begins_with(&capture.sub, out),
        HirKind::Empty => true,
        // `^` and the like take no byte.
        HirKind::Look(_) => true,
        HirKind::Class(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => false,
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&text).map_err(|problem| serde::de::Error::custom(format!("{text:?} {problem}")))
    }
}
