//! Typed values out of the stream of tokens: what is of the wrong shape or out of range is remarked and left out.
//!
//! Every function consumes its value whole, whatever it is, so that reading goes on behind a mistake.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use crate::Position;

use super::keys::{Absent, Field, Keys, TABLES};
use super::names::Names;
use super::remarks::Stop;
use super::scalar::{Refusal, label, nearest, quote};
use super::yaml::{At, Reader, Scalar, Token};

/// A value as messages call it, and what it should be: `weight`, `a whole number from 0 to 65535`.
#[derive(Clone, Copy)]
pub(super) struct What<'w> {
    pub(super) name: &'w dyn Display,
    pub(super) expected: &'w dyn Display,
}

impl What<'static> {
    /// The value of `key`.
    pub(super) fn of<K: Keys>(key: K) -> Self {
        let Field { key, kind, .. } = key.field();
        Self { name: key, expected: kind }
    }
}

/// No mapping has more keys.
const MOST_KEYS: usize = 16;

impl<'a> Reader<'a> {
    /// One scalar, read by `read`.
    pub(super) fn scalar<T>(
        &mut self,
        what: What<'_>,
        read: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Option<At<T>>, Stop> {
        let token = self.next()?;
        self.scalar_from(token, what, read)
    }

    pub(super) fn scalar_from<T>(
        &mut self,
        token: At<Token<'a>>,
        what: What<'_>,
        read: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Option<At<T>>, Stop> {
        let At { at, value: Token::Scalar(scalar) } = token else {
            self.refuse_shape(token, what)?;
            return Ok(None);
        };
        if scalar.is_null() {
            self.remarks.error(at, format!("{} has no value", what.name), format!("write {}", what.expected));
            return Ok(None);
        }
        Ok(self.checked(at, what.name, &scalar.text, read(&scalar.text)))
    }

    /// A number or `true`/`false`: in quotes it would be text to every other reader of YAML.
    pub(super) fn plain<T>(
        &mut self,
        what: What<'_>,
        read: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Option<At<T>>, Stop> {
        match self.next()? {
            At { at, value: Token::Scalar(Scalar { text, plain: false }) } => {
                self.remarks.error(
                    at,
                    format!("{} {} is text", what.name, quote(&text)),
                    format!("write {}, without quotes", what.expected),
                );
                Ok(None)
            }
            token => self.scalar_from(token, what, read),
        }
    }

    pub(super) fn checked<T>(
        &mut self,
        at: Position,
        name: &dyn Display,
        text: &str,
        read: Result<T, Refusal>,
    ) -> Option<At<T>> {
        match read {
            Ok(value) => Some(At { at, value }),
            Err(Refusal { problem, help }) => {
                self.remarks.error(at, format!("{name} {} {problem}", quote(text)), help);
                None
            }
        }
    }

    /// Calls `each` for every item of a list; `each` consumes what began with the token it is given.
    pub(super) fn list(
        &mut self,
        token: At<Token<'a>>,
        what: What<'_>,
        mut each: impl FnMut(&mut Self, At<Token<'a>>) -> Result<(), Stop>,
    ) -> Result<Option<Position>, Stop> {
        let At { at, value: Token::List } = token else {
            self.refuse_shape(token, what)?;
            return Ok(None);
        };
        loop {
            let item = self.next()?;
            if let Token::End = item.value {
                return Ok(Some(at));
            }
            each(self, item)?;
        }
    }

    /// Calls `each` for every key of the mapping that begins with `token`; `each` consumes the value. Refuses keys
    /// that are unknown or come twice, and remarks on required ones that are missing.
    pub(super) fn mapping<K: Keys>(
        &mut self,
        token: At<Token<'a>>,
        what: What<'_>,
        mut each: impl FnMut(&mut Self, K) -> Result<(), Stop>,
    ) -> Result<Option<Position>, Stop> {
        const { assert!(K::ALL.len() <= MOST_KEYS) };
        let At { at, value: Token::Mapping } = token else {
            self.refuse_shape(token, what)?;
            return Ok(None);
        };
        let mut seen = [None; MOST_KEYS];
        while let Some(key) = self.key()? {
            let found = K::TABLE.fields.iter().position(|field| field.key == key.value);
            let Some((index, first)) = found.and_then(|index| Some((index, seen.get_mut(index)?))) else {
                self.refuse_key::<K>(&key);
                self.skip_value()?;
                continue;
            };
            if let Some(first) = *first {
                self.refuse_repeated(&key, first);
                self.skip_value()?;
                continue;
            }
            *first = Some(key.at);
            each(self, K::ALL[index])?;
        }
        for (field, seen) in K::TABLE.fields.iter().zip(seen) {
            if seen.is_none() && matches!(field.absent, Absent::Refused) {
                self.refuse_missing::<K>(at, field);
            }
        }
        Ok(Some(at))
    }

    /// Calls `each` for every key of a mapping whose keys are the names or values of labels; `each` consumes the value.
    pub(super) fn labels(
        &mut self,
        what: What<'_>,
        names: &mut Names,
        each: impl FnMut(&mut Self, &mut Names, At<Arc<str>>) -> Result<(), Stop>,
    ) -> Result<Option<Position>, Stop> {
        let token = self.next()?;
        self.labels_from(token, what, names, each)
    }

    /// Those of the mapping that begins with `token`.
    pub(super) fn labels_from(
        &mut self,
        token: At<Token<'a>>,
        what: What<'_>,
        names: &mut Names,
        mut each: impl FnMut(&mut Self, &mut Names, At<Arc<str>>) -> Result<(), Stop>,
    ) -> Result<Option<Position>, Stop> {
        let At { at, value: Token::Mapping } = token else {
            self.refuse_shape(token, what)?;
            return Ok(None);
        };
        let mut seen = HashMap::new();
        while let Some(key) = self.key()? {
            let label = label(&key.value).map(|text| names.share(text));
            let Some(label) = self.checked(key.at, &"label", &key.value, label) else {
                self.skip_value()?;
                continue;
            };
            if let Some(first) = seen.insert(Arc::clone(&label.value), label.at) {
                self.refuse_repeated(&key, first);
                self.skip_value()?;
                continue;
            }
            each(self, names, label)?;
        }
        Ok(Some(at))
    }

    /// Calls `each` for every key of a mapping whose keys `read` knows, such as header names; `each` consumes the value.
    /// Refuses a mapping without keys.
    pub(super) fn named<K: Clone + Eq + std::hash::Hash>(
        &mut self,
        what: What<'_>,
        read: impl Fn(&str) -> Result<K, Refusal>,
        mut each: impl FnMut(&mut Self, At<K>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let token = self.next()?;
        let At { at, value: Token::Mapping } = token else {
            return self.refuse_shape(token, what);
        };
        let mut seen: HashMap<K, Position> = HashMap::new();
        let mut empty = true;
        while let Some(key) = self.key()? {
            empty = false;
            let Some(name) = self.checked(key.at, &"name", &key.value, read(&key.value)) else {
                self.skip_value()?;
                continue;
            };
            if let Some(first) = seen.insert(name.value.clone(), name.at) {
                self.refuse_repeated(&key, first);
                self.skip_value()?;
                continue;
            }
            each(self, name)?;
        }
        if empty {
            self.refuse_empty(at, what);
        }
        Ok(())
    }

    pub(super) fn refuse_empty(&mut self, at: Position, what: What<'_>) {
        self.remarks.error(
            at,
            format!("{} is empty", what.name),
            format!("write {}, or take it out", what.expected),
        );
    }

    fn refuse_repeated(&mut self, key: &At<impl AsRef<str>>, first: Position) {
        let first = self.remarks.place(first);
        self.remarks.error(
            key.at,
            format!("key {} is given twice", quote(key.value.as_ref())),
            format!("first at {first}; keep one"),
        );
    }

    /// The next key of a mapping, or `None` at its end; what cannot be a key is remarked and passed over.
    fn key(&mut self) -> Result<Option<At<Cow<'a, str>>>, Stop> {
        loop {
            let At { at, value: token } = self.next()?;
            match token {
                Token::End => return Ok(None),
                Token::Scalar(scalar) if !scalar.is_null() => return Ok(Some(At { at, value: scalar.text })),
                Token::Scalar(_) => self.remarks.error(at, "the key is missing here", "write `key: value`"),
                Token::Refused => {}
                Token::List | Token::Mapping => {
                    self.remarks.error(
                        at,
                        "a key cannot be a list or a mapping",
                        "put text that holds [ ] or { } in quotes",
                    );
                    self.skip(&token)?;
                }
            }
            self.skip_value()?;
        }
    }

    pub(super) fn skip_value(&mut self) -> Result<(), Stop> {
        let token = self.next()?;
        self.skip(&token.value)
    }

    fn refuse_shape(&mut self, At { at, value: token }: At<Token<'a>>, what: What<'_>) -> Result<(), Stop> {
        let found = match &token {
            Token::Scalar(scalar) if scalar.is_null() => "has no value".into(),
            Token::Scalar(scalar) => format!("is the single value {}", quote(&scalar.text)),
            Token::List => "is a list".into(),
            Token::Mapping => "is a mapping".into(),
            Token::End | Token::Refused => return Ok(()),
        };
        self.remarks.error(at, format!("{} {found}", what.name), format!("write {}", what.expected));
        self.skip(&token)
    }

    fn refuse_key<K: Keys>(&mut self, key: &At<impl AsRef<str>>) {
        let table = K::TABLE;
        let text = key.value.as_ref();
        let known: Vec<_> = table.fields.iter().map(|field| field.key).collect();
        let elsewhere = || {
            TABLES.iter().find(|table| table.fields.iter().any(|field| field.key == text)).map(|t| t.title)
        };
        let help = match (text, nearest(text, &known)) {
            ("<<", _) => "merge keys are not supported: write the keys out".into(),
            (_, Some(nearest)) => format!("did you mean `{nearest}`?"),
            (_, None) => match elsewhere() {
                Some(title) => format!("it is a key of {title}"),
                None => format!("keys of {}: {}", table.title, known.join(", ")),
            },
        };
        self.remarks.error(key.at, format!("{} has no key {}", table.title, quote(text)), help);
    }

    fn refuse_missing<K: Keys>(&mut self, at: Position, field: &Field) {
        let Field { key, kind, .. } = field;
        let title = K::TABLE.title;
        self.remarks.error(at, format!("{title} has no `{key}`"), format!("add `{key}`, {kind}"));
    }
}
