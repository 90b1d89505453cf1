//! Names and values of HTTP fields, valid by type.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// The name of a header: a token (RFC 9110, 5.6.2), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FieldName(Arc<str>);

impl FieldName {
    /// The longest name, in bytes.
    pub const MAX: usize = 256;

    /// Takes `name` in any case if it is a token; says what is wrong with it otherwise.
    pub fn new(name: &str) -> Result<Self, String> {
        if name.is_empty() || name.len() > Self::MAX {
            return Err(format!("has {} bytes, allowed are 1 to {}", name.len(), Self::MAX));
        }
        match name.chars().find(|c| !is_token(*c)) {
            Some(bad) => Err(format!("holds {bad:?}, which a header name cannot")),
            None => Ok(Self(name.to_ascii_lowercase().into())),
        }
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&text).map_err(|problem| serde::de::Error::custom(format!("{text:?} {problem}")))
    }
}

/// The value of a header: visible ASCII, spaces and tabs, no space at either end; may be empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FieldValue(Arc<str>);

impl FieldValue {
    /// The longest value, in bytes.
    pub const MAX: usize = 4096;

    /// Takes `value` if it can stand in a header; says what is wrong with it otherwise.
    pub fn new(value: &str) -> Result<Self, String> {
        if value.len() > Self::MAX {
            return Err(format!("has {} bytes, allowed are at most {}", value.len(), Self::MAX));
        }
        if value.trim_matches([' ', '\t']).len() < value.len() {
            return Err("begins or ends with a space".into());
        }
        match value.chars().find(|c| !matches!(c, ' '..='~' | '\t')) {
            Some(bad) => Err(format!("holds {bad:?}, which a header cannot")),
            None => Ok(Self(value.into())),
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&text).map_err(|problem| serde::de::Error::custom(format!("{text:?} {problem}")))
    }
}
