//! Which requests a route is for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{FieldName, FieldValue, Pattern};

/// Conditions that all have to hold. The default is every request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Match {
    /// What the path has to be.
    pub path: PathMatch,
    /// The method; any without it.
    pub method: Option<Method>,
    /// Sorted by name, each name once.
    pub headers: Vec<HeaderMatch>,
    /// Sorted by name, each name once.
    pub query: Vec<QueryMatch>,
}

impl Default for Match {
    fn default() -> Self {
        Self { path: PathMatch::everything(), method: None, headers: Vec::new(), query: Vec::new() }
    }
}

/// A condition on the path: the bytes of the request target before `?`, as they were sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// Whole segments from the beginning: `/api` is `/api`, `/api/` and `/api/x`, not `/apis`. Ends with no `/`, unless
    /// it is `/`, which is every target.
    Prefix(Arc<str>),
    /// The whole path against a regular expression.
    Regex(Pattern),
}

impl PathMatch {
    /// Every path.
    pub fn everything() -> Self {
        Self::Prefix("/".into())
    }

    /// A prefix in its one form: without the `/` at the end.
    pub fn prefix(path: &str) -> Self {
        match path.trim_end_matches('/') {
            "" => Self::everything(),
            path => Self::Prefix(path.into()),
        }
    }
}

/// Whether `path` lies below `prefix`, by whole segments; `/` is above everything.
pub fn has_prefix(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        _ if prefix == "/" => true,
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// The methods that a route can name, in the order in which the kernel numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the methods")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
}

impl Method {
    /// All of them, in order: `Method::ALL[m as usize] == m`.
    pub const ALL: [Self; 9] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Options,
        Self::Patch,
        Self::Connect,
        Self::Trace,
    ];

    /// As it stands in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Connect => "CONNECT",
            Self::Trace => "TRACE",
        }
    }

    /// The method that stands in a request as `text`; methods have one spelling.
    pub fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == text)
    }
}

/// A condition on a header. One that comes several times counts as its values joined by `, `.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Which header.
    pub name: FieldName,
    /// What its value has to be.
    pub value: ValueMatch,
}

/// A condition on a query parameter, percent-decoded (`+` is a space). Of one that comes several times the first counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QueryMatch {
    /// Which parameter; decoded, never empty.
    pub name: Arc<str>,
    /// What its value has to be.
    pub value: TextMatch,
}

/// What the value of a header has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueMatch {
    /// Just so, byte for byte.
    Exact(FieldValue),
    /// The whole value against a regular expression.
    Regex(Pattern),
}

/// What the value of a query parameter has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextMatch {
    /// Just so, byte for byte.
    Exact(Arc<str>),
    /// The whole value against a regular expression.
    Regex(Pattern),
}
