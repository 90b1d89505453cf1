//! Typed values out of the stream of tokens: what is of the wrong shape or out of range is remarked and left out.
//!
//! Every function consumes its value whole, whatever it is, so that reading goes on behind a mistake.

use crate::Position;

use super::keys::{Absent, Field, Keys, Kind, TABLES};
use super::scalar::{Refusal, nearest, quote};
use super::yaml::{At, Reader, Scalar, Stop, Token};

/// The name of a key and what it takes.
pub(super) fn expected<K: Keys>(key: K) -> (&'static str, &'static Kind) {
    let Field { key, kind, .. } = key.field();
    (key, kind)
}

/// No mapping has more keys.
const MOST_KEYS: usize = 16;

impl<'a> Reader<'a> {
    /// One scalar, read by `read`; `key` and `expected` are for the message when it is none.
    pub(super) fn scalar<T>(
        &mut self,
        key: &str,
        expected: &dyn std::fmt::Display,
        read: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Option<At<T>>, Stop> {
        let token = self.next()?;
        self.scalar_from(token, key, expected, read)
    }

    pub(super) fn scalar_from<T>(
        &mut self,
        token: At<Token<'a>>,
        key: &str,
        expected: &dyn std::fmt::Display,
        read: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Option<At<T>>, Stop> {
        let At { at, value: Token::Scalar(scalar) } = token else {
            self.refuse_shape(token, key, expected)?;
            return Ok(None);
        };
        if scalar.is_null() {
            self.remarks.error(at, format!("`{key}` has no value"), format!("write {expected}"));
            return Ok(None);
        }
        Ok(self.checked(at, key, &scalar.text, read(&scalar.text)))
    }

    /// A number or `true`/`false`: in quotes it would be text to every other reader of YAML.
    pub(super) fn plain<T>(
        &mut self,
        key: &str,
        expected: &dyn std::fmt::Display,
        read: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Option<At<T>>, Stop> {
        match self.next()? {
            At { at, value: Token::Scalar(Scalar { text, plain: false }) } => {
                self.remarks.error(
                    at,
                    format!("`{key}` {} is text", quote(&text)),
                    format!("write {expected}, without quotes"),
                );
                Ok(None)
            }
            token => self.scalar_from(token, key, expected, read),
        }
    }

    pub(super) fn checked<T>(
        &mut self,
        at: Position,
        key: &str,
        text: &str,
        read: Result<T, Refusal>,
    ) -> Option<At<T>> {
        match read {
            Ok(value) => Some(At { at, value }),
            Err(Refusal { problem, help }) => {
                self.remarks.error(at, format!("`{key}` {} {problem}", quote(text)), help);
                None
            }
        }
    }

    /// Calls `each` for every item of a list; `each` consumes what began with the token it is given.
    pub(super) fn list(
        &mut self,
        token: At<Token<'a>>,
        key: &str,
        expected: &dyn std::fmt::Display,
        mut each: impl FnMut(&mut Self, At<Token<'a>>) -> Result<(), Stop>,
    ) -> Result<Option<Position>, Stop> {
        let At { at, value: Token::List } = token else {
            self.refuse_shape(token, key, expected)?;
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
        key: &str,
        expected: &dyn std::fmt::Display,
        mut each: impl FnMut(&mut Self, K) -> Result<(), Stop>,
    ) -> Result<Option<Position>, Stop> {
        const { assert!(K::ALL.len() <= MOST_KEYS) };
        let At { at, value: Token::Mapping } = token else {
            self.refuse_shape(token, key, expected)?;
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

    /// Calls `each` for every key of a mapping whose keys the writer chooses.
    pub(super) fn free_mapping(
        &mut self,
        key: &str,
        expected: &dyn std::fmt::Display,
        mut each: impl FnMut(&mut Self, At<std::borrow::Cow<'a, str>>) -> Result<(), Stop>,
    ) -> Result<Option<Position>, Stop> {
        let token = self.next()?;
        let At { at, value: Token::Mapping } = token else {
            self.refuse_shape(token, key, expected)?;
            return Ok(None);
        };
        while let Some(key) = self.key()? {
            each(self, key)?;
        }
        Ok(Some(at))
    }

    pub(super) fn refuse_repeated(&mut self, key: &At<impl AsRef<str>>, first: Position) {
        let first = self.remarks.place(first);
        self.remarks.error(
            key.at,
            format!("key {} is given twice", quote(key.value.as_ref())),
            format!("first at {first}; keep one"),
        );
    }

    /// The next key of a mapping, or `None` at its end; what cannot be a key is remarked and passed over.
    fn key(&mut self) -> Result<Option<At<std::borrow::Cow<'a, str>>>, Stop> {
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

    fn refuse_shape(
        &mut self,
        At { at, value: token }: At<Token<'a>>,
        key: &str,
        expected: &dyn std::fmt::Display,
    ) -> Result<(), Stop> {
        match &token {
            Token::Scalar(scalar) if scalar.is_null() => {
                self.remarks.error(at, format!("`{key}` has no value"), format!("write {expected}"));
            }
            Token::Scalar(scalar) => {
                let text = quote(&scalar.text);
                self.remarks.error(
                    at,
                    format!("`{key}` is the single value {text}"),
                    format!("write {expected}"),
                );
            }
            Token::List => self.remarks.error(at, format!("`{key}` is a list"), format!("write {expected}")),
            Token::Mapping => {
                self.remarks.error(at, format!("`{key}` is a mapping"), format!("write {expected}"))
            }
            Token::End | Token::Refused => {}
        }
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
