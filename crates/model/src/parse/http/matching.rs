//! The key `match`: which requests a route is for.

use std::sync::Arc;

use crate::http::{HeaderMatch, Match, Method, PathMatch, Pattern, QueryMatch, TextMatch, ValueMatch};

use super::super::keys::http::{ConditionKey, GrpcKey, MatchKey, PathKey};
use super::super::keys::{Keys, Kind};
use super::super::remarks::Stop;
use super::super::scalar::{self, Choice, Refusal};
use super::super::value::What;
use super::super::yaml::{At, Reader, Token};

const MATCH: What<'static> =
    What { name: &"match", expected: &Kind::Either(&[Kind::Path, Kind::Table(MatchKey::TABLE)]) };

/// Reads the value of `match`: one, or a list; those that are right.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Vec<At<Match>>, Stop> {
    let mut all = Vec::new();
    if !matches!(token.value, Token::List) {
        all.extend(read_one(reader, token)?);
        return Ok(all);
    }
    let mut count = 0;
    let at = reader.list(token, what, |reader, item| {
        count += 1;
        all.extend(read_one(reader, item)?);
        Ok(())
    })?;
    if let (Some(at), 0) = (at, count) {
        reader.refuse_empty(at, what);
    }
    Ok(all)
}

fn read_one<'a>(reader: &mut Reader<'a>, token: At<Token<'a>>) -> Result<Option<At<Match>>, Stop> {
    if let Token::Scalar(_) = token.value {
        let path = reader.scalar_from(token, MATCH, path)?;
        return Ok(
            path.map(|path| path.map(|path| Match { path: PathMatch::prefix(&path), ..Match::default() }))
        );
    }
    let errors_before = reader.remarks.errors();
    let mut found = Match::default();
    let (mut path, mut method, mut grpc) = (None, None, None);
    let at = reader.mapping(token, MATCH, |reader, key| {
        let what = What::of(key);
        match key {
            MatchKey::Path => {
                let token = reader.next()?;
                path = Some(token.at);
                found.path = read_path(reader, token, what)?.unwrap_or_else(PathMatch::everything);
            }
            MatchKey::Method => {
                let token = reader.next()?;
                method = Some(token.at);
                found.method = reader.scalar_from(token, what, read_method)?.map(|method| method.value);
            }
            MatchKey::Headers => found.headers = read_headers(reader, what)?,
            MatchKey::Query => found.query = read_query(reader, what)?,
            MatchKey::Grpc => {
                let token = reader.next()?;
                grpc = Some((token.at, read_grpc(reader, token, what)?));
            }
        }
        Ok(())
    })?;
    let Some(at) = at else { return Ok(None) };
    if let Some((at, rpc)) = grpc {
        if let Some((other, name)) = path.zip(Some("path")).or(method.zip(Some("method"))) {
            reader.remarks.error(
                at.max(other),
                format!("match has both `grpc` and `{name}`"),
                "a gRPC method is a path: take one out",
            );
        }
        let Some(rpc) = rpc else { return Ok(None) };
        found.path = rpc;
    }
    // With a part left out it would be another match.
    Ok((reader.remarks.errors() == errors_before).then_some(At { at, value: found }))
}

fn read_method(text: &str) -> Result<Method, Refusal> {
    Method::read(&text.to_ascii_uppercase()).filter(|method| method.as_str() != text).map_or_else(
        || <Method as Choice>::read(text),
        |method| {
            Err(Refusal::new("is not known", format!("methods have one spelling: write {}", method.as_str())))
        },
    )
}

/// A path without a query.
pub(super) fn path(text: &str) -> Result<Arc<str>, Refusal> {
    let path = scalar::path(text)?;
    match path.contains('?') {
        true => Err(Refusal::new("holds '?'", "a path ends before the query: match that with `query`")),
        false => Ok(path.into()),
    }
}

fn read_path<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Option<PathMatch>, Stop> {
    if let Token::Scalar(_) = token.value {
        return Ok(reader.scalar_from(token, what, path)?.map(|path| PathMatch::prefix(&path.value)));
    }
    let mut found = Vec::new();
    let mut given = 0;
    let at = reader.mapping(token, what, |reader, key| {
        given += 1;
        let what = What::of(key);
        let one = match key {
            PathKey::Exact => reader.scalar(what, |text| path(text).map(PathMatch::Exact))?,
            PathKey::Prefix => reader.scalar(what, |text| path(text).map(|path| PathMatch::prefix(&path)))?,
            PathKey::Regex => reader.scalar(what, |text| scalar::regex(text).map(PathMatch::Regex))?,
        };
        found.extend(one.map(|one| one.value));
        Ok(())
    })?;
    if let Some(at) = at.filter(|_| given != 1) {
        let help = "for several, write a list of matches";
        reader.remarks.error(at, "path needs one of `exact`, `prefix` and `regex`", help);
    }
    Ok(found.pop())
}

/// Either kind of value: a text, or `{regex: ...}`.
fn read_condition<T>(
    reader: &mut Reader<'_>,
    what: What<'_>,
    exact: impl FnOnce(&str) -> Result<T, Refusal>,
    regex: impl FnOnce(Pattern) -> T,
) -> Result<Option<T>, Stop> {
    let token = reader.next()?;
    if !matches!(token.value, Token::Mapping) {
        return Ok(reader.scalar_from(token, what, exact)?.map(|value| value.value));
    }
    let mut pattern = None;
    reader.mapping(token, what, |reader, ConditionKey::Regex| {
        pattern = reader.scalar(What::of(ConditionKey::Regex), scalar::regex)?;
        Ok(())
    })?;
    Ok(pattern.map(|pattern| regex(pattern.value)))
}

fn read_headers(reader: &mut Reader<'_>, what: What<'_>) -> Result<Vec<HeaderMatch>, Stop> {
    let mut all = Vec::new();
    reader.named(what, scalar::header_name, |reader, name| {
        let shown = format_args!("header {}", name.value.as_str());
        let what = What { name: &shown, expected: &CONDITION };
        let exact = |text: &str| scalar::header_value(text).map(ValueMatch::Exact);
        let value = read_condition(reader, what, exact, ValueMatch::Regex)?;
        all.extend(value.map(|value| HeaderMatch { name: name.value, value }));
        Ok(())
    })?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

const CONDITION: &str = "a text, or {regex: \"[0-9]+\"}";

fn read_query(reader: &mut Reader<'_>, what: What<'_>) -> Result<Vec<QueryMatch>, Stop> {
    let mut all = Vec::new();
    let text = |text: &str| match text.len() {
        0 | 1025.. => Err(Refusal::new(format!("has {} bytes", text.len()), "1 to 1024 bytes")),
        _ => Ok(Arc::<str>::from(text)),
    };
    reader.named(what, text, |reader, name| {
        let shown = format_args!("parameter {}", name.value);
        let what = What { name: &shown, expected: &CONDITION };
        let exact = |text: &str| Ok(TextMatch::Exact(text.into()));
        let value = read_condition(reader, what, exact, TextMatch::Regex)?;
        all.extend(value.map(|value| QueryMatch { name: name.value, value }));
        Ok(())
    })?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// A gRPC method is the path `/package.Service/Method`.
fn read_grpc<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Option<PathMatch>, Stop> {
    let (mut service, mut method): (Option<At<String>>, Option<At<String>>) = (None, None);
    let mut given = 0;
    let at = reader.mapping(token, what, |reader, key| {
        given += 1;
        let what = What::of(key);
        match key {
            GrpcKey::Service => service = reader.scalar(what, |text| identifier(text, true))?,
            GrpcKey::Method => method = reader.scalar(what, |text| identifier(text, false))?,
        }
        Ok(())
    })?;
    if let (Some(at), 0) = (at, given) {
        reader.refuse_empty(at, what);
    }
    Ok(match (service, method) {
        (Some(service), Some(method)) => {
            Some(PathMatch::Exact(format!("/{}/{}", service.value, method.value).into()))
        }
        (Some(service), None) => Some(PathMatch::prefix(&format!("/{}", service.value))),
        (None, Some(method)) => Pattern::new(&format!("/[^/]+/{}", method.value)).ok().map(PathMatch::Regex),
        (None, None) => None,
    })
}

fn identifier(text: &str, dots: bool) -> Result<String, Refusal> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_' || (dots && c == '.');
    let right = !text.is_empty() && text.len() <= 256 && text.chars().all(inner);
    match right {
        true => Ok(text.into()),
        false if dots => Err(Refusal::new("is no gRPC service", "a name with its package such as shop.Cart")),
        false => Err(Refusal::new("is no gRPC method", "a name such as AddItem")),
    }
}
