//! How a peer spelled the names of its fields.
//!
//! Names are equal whatever their case, but some programs compare them as written, and what the kernel forwards keeps
//! its spelling. `Title-Case` is the rule when writing; only names that were spelled otherwise are remembered.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderName;

/// Names that are not spelled in `Title-Case`; an extension of a request or a response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spelling(Vec<(HeaderName, Bytes)>);

impl Spelling {
    /// Remembers `written`, if it is not what the rule would write.
    pub(crate) fn note(&mut self, name: &HeaderName, written: &[u8]) {
        if !written.iter().copied().eq(title(name)) && !self.0.iter().any(|(known, _)| known == name) {
            self.0.push((name.clone(), Bytes::copy_from_slice(written)));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes `name` as it was spelled, or else in title case.
pub(crate) fn write(name: &HeaderName, spelling: Option<&Spelling>, out: &mut BytesMut) {
    match spelling.and_then(|spelling| spelling.0.iter().find(|(known, _)| known == name)) {
        Some((_, written)) => out.put_slice(written),
        None => out.extend(title(name)),
    }
}

/// `content-type` as `Content-Type`.
fn title(name: &HeaderName) -> impl Iterator<Item = u8> {
    let mut first = true;
    name.as_str().bytes().map(move |byte| {
        let upper = if first { byte.to_ascii_uppercase() } else { byte };
        first = byte == b'-';
        upper
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spelling_survives_and_the_rule_needs_no_memory() {
        let mut spelling = Spelling::default();
        let names = ["ETag", "Content-Type", "x-trace-id", "WWW-Authenticate", "X-A"];
        for name in names {
            spelling.note(&name.parse().unwrap(), name.as_bytes());
        }
        assert_eq!(spelling.0.len(), 3, "only what is not in title case: {spelling:?}");
        for name in names {
            let mut out = BytesMut::new();
            write(&name.parse().unwrap(), Some(&spelling), &mut out);
            assert_eq!(out, name.as_bytes());
        }
    }
}
