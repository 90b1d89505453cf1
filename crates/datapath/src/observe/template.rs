//! Path templates: how paths that differ in one part are counted as one.

use std::fmt;
use std::str::FromStr;

use super::abi::{self, path, template, template_byte};

/// A template of paths, such as `/users/{name}/orders` or `/static/**`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathTemplate {
    text: String,
    pattern: Vec<u8>,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Not a path.
    #[error("path template {0:?} does not begin with a slash")]
    Slash(String),
    /// Longer than the kernel compares.
    #[error("path template {0:?} is longer than {max} bytes", max = abi::PATH_SIZE)]
    Long(String),
    /// A part that stands for something is not a whole segment.
    #[error("in path template {text:?} the segment {segment:?} must be all {{name}}, or have no braces")]
    Segment {
        /// The template.
        text: String,
        /// Of it.
        segment: String,
    },
    /// `**` stands for all that follows.
    #[error("in path template {0:?} nothing may follow **")]
    Rest(String),
    /// A character that no path has.
    #[error("path template {0:?} has a character that no path has; write it as the path does, without query")]
    Foreign(String),
    /// There is room for fewer.
    #[error("{0} path templates are more than the {max} there may be", max = abi::TEMPLATES)]
    TooMany(usize),
}

impl FromStr for PathTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let segments = text.strip_prefix('/').ok_or_else(|| TemplateError::Slash(text.into()))?;
        if text.len() > abi::PATH_SIZE {
            return Err(TemplateError::Long(text.into()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#') {
            return Err(TemplateError::Foreign(text.into()));
        }
        let mut pattern = Vec::new();
        let mut segments = segments.split('/').peekable();
        while let Some(segment) = segments.next() {
            pattern.push(b'/');
            let inner = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}'));
            match inner {
                Some(name) if !name.is_empty() && !name.contains(['{', '}']) => {
                    pattern.push(template_byte::TEMPLATE_SEGMENT.0 as u8);
                }
                _ if segment == "**" && segments.peek().is_some() => {
                    return Err(TemplateError::Rest(text.into()));
                }
                _ if segment == "**" => pattern.push(template_byte::TEMPLATE_REST.0 as u8),
                _ if segment.contains(['{', '}', '*']) => {
                    return Err(TemplateError::Segment { text: text.into(), segment: segment.into() });
                }
                _ => pattern.extend(segment.bytes()),
            }
        }
        Ok(Self { text: text.into(), pattern })
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl PathTemplate {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a folded path is one of these, as the kernel decides it.
    pub(super) fn matches(&self, path: &str) -> bool {
        let mut rest = path.as_bytes();
        for wanted in &self.pattern {
            match u32::from(*wanted) {
                rest_of if rest_of == template_byte::TEMPLATE_REST.0 => return true,
                segment if segment == template_byte::TEMPLATE_SEGMENT.0 => {
                    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
                    if end == 0 {
                        return false;
                    }
                    rest = &rest[end..];
                }
                _ => match rest.split_first() {
                    Some((byte, after)) if byte == wanted => rest = after,
                    _ => return false,
                },
            }
        }
        rest.is_empty()
    }

    /// Of `paths`; the same for the same text, so that counters go on when the list changes.
    pub(super) fn key(&self) -> u64 {
        // FNV-1a. The kernel's hashes of paths are of another kind: that two meet is a matter of 64 bits.
        let hash = self.text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash.max(1)
    }

    pub(super) fn entry(&self) -> template {
        let mut entry = template { key: self.key(), length: self.pattern.len() as u32, ..Default::default() };
        for (to, from) in entry.pattern.iter_mut().zip(&self.pattern) {
            *to = *from as _;
        }
        entry
    }

    pub(super) fn path(&self) -> path {
        let mut entry = path { length: self.text.len() as u32, ..Default::default() };
        for (to, from) in entry.text.iter_mut().zip(self.text.bytes()) {
            *to = from as _;
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_what_its_paths_have_in_common() {
        let matches = |template: &str, path: &str| template.parse::<PathTemplate>().unwrap().matches(path);
        assert!(matches("/users/{name}/orders", "/users/bob/orders"));
        assert!(
            !matches("/users/{name}/orders", "/users//orders") && !matches("/users/{name}", "/users/a/b")
        );
        assert!(matches("/static/**", "/static/a/b") && matches("/static/**", "/static/"));
        assert!(!matches("/static/**", "/static") && !matches("/a", "/ab") && !matches("/ab", "/a"));
    }

    #[test]
    fn a_template_is_whole_segments() {
        let pattern = |text: &str| text.parse::<PathTemplate>().map(|template| template.pattern);
        assert_eq!(pattern("/users/{name}/orders").unwrap(), b"/users/\x01/orders");
        assert_eq!(pattern("/static/**").unwrap(), b"/static/\x02");
        assert_eq!(pattern("/").unwrap(), b"/");
        assert!(matches!(pattern("users"), Err(TemplateError::Slash(_))));
        assert!(matches!(pattern("/a/**/b"), Err(TemplateError::Rest(_))));
        for wrong in ["/a{b}", "/{}", "/{a}b", "/a*", "/{a{b}}"] {
            assert!(matches!(pattern(wrong), Err(TemplateError::Segment { .. })), "{wrong}");
        }
        for wrong in ["/a b", "/a?x", "/\u{e4}"] {
            assert!(matches!(pattern(wrong), Err(TemplateError::Foreign(_))), "{wrong}");
        }
        assert!(matches!(pattern(&"/a".repeat(57)), Err(TemplateError::Long(_))));
    }
}
