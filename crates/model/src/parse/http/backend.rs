//! The key `to`: where requests go.

use crate::http::{Backend, Target};
use crate::{Labels, ServiceName};

use super::super::endpoint;
use super::super::keys::http::BackendKey;
use super::super::keys::{self, Keys, Kind};
use super::super::names::Names;
use super::super::remarks::Stop;
use super::super::scalar;
use super::super::service::read_name;
use super::super::value::What;
use super::super::yaml::{At, Reader, Token};

const BACKEND: What<'static> =
    What { name: &"backend", expected: &Kind::Either(&[Kind::Name, Kind::Table(BackendKey::TABLE)]) };

/// Reads the value of `to`: a service, labels, or a list; those that are right.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
    names: &mut Names,
) -> Result<Vec<At<Backend>>, Stop> {
    if !matches!(token.value, Token::List) {
        let target = read_target(reader, token, what, names)?;
        return Ok(target.into_iter().map(|at| at.map(|target| Backend { target, weight: 1 })).collect());
    }
    let mut all: Vec<At<Backend>> = Vec::new();
    let errors_before = reader.remarks.errors();
    let at = reader.list(token, what, |reader, item| {
        let Some(backend) = read_one(reader, item, names)? else { return Ok(()) };
        match all.iter().find(|other| other.value.target == backend.value.target) {
            Some(first) => {
                let first = reader.remarks.place(first.at);
                reader.remarks.error(
                    backend.at,
                    "a second backend has the same endpoints",
                    format!("first at {first}; for a larger share raise its `weight`"),
                );
            }
            None => all.push(backend),
        }
        Ok(())
    })?;
    if let Some(at) = at.filter(|_| reader.remarks.errors() == errors_before) {
        if all.is_empty() {
            reader.refuse_empty(at, what);
        } else if all.iter().all(|backend| backend.value.weight == 0) {
            let help = "give at least one backend a weight above 0";
            reader.remarks.error(at, "no backend has a weight above 0", help);
        }
    }
    Ok(all)
}

/// Reads a service or labels of the own service.
pub(super) fn read_target<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
    names: &mut Names,
) -> Result<Option<At<Target>>, Stop> {
    if let Token::Scalar(_) = token.value {
        let name = reader.scalar_from(token, what, read_name)?;
        return Ok(name.map(|name| name.map(whole)));
    }
    let mut labels = Labels::new();
    let at = reader.labels_from(token, what, names, |reader, names, label| {
        let name = format_args!("label {}", label.value);
        let what = What { name: &name, expected: &expected(&label.value) };
        let value = reader.scalar(what, |text| scalar::label(text).map(|text| names.share(text)))?;
        labels.extend(value.map(|value| (label.value, value.value)));
        Ok(())
    })?;
    Ok(at.map(|at| At { at, value: Target { service: None, labels } }))
}

fn expected(label: &str) -> &'static str {
    match label {
        "labels" => {
            "a text such as v1; with a weight it stands in a list: to: [{labels: {version: v1}, weight: 9}]"
        }
        _ => "a text such as v1",
    }
}

fn whole(name: ServiceName) -> Target {
    Target { service: Some(name), labels: Labels::new() }
}

fn read_one<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    names: &mut Names,
) -> Result<Option<At<Backend>>, Stop> {
    if let Token::Scalar(_) = token.value {
        let name = reader.scalar_from(token, BACKEND, read_name)?;
        return Ok(name.map(|name| name.map(|name| Backend { target: whole(name), weight: 1 })));
    }
    let mut backend = Backend::all();
    let mut given = false;
    let at = reader.mapping(token, BACKEND, |reader, key| {
        let what = What::of(key);
        match key {
            BackendKey::Service => {
                given = true;
                backend.target.service = reader.scalar(what, read_name)?.map(|name| name.value);
            }
            BackendKey::Labels => {
                given = true;
                backend.target.labels = endpoint::labels(reader, what, names)?;
            }
            BackendKey::Weight => {
                let weight = reader.plain(what, |text| keys::SHARE.read(text))?;
                backend.weight = weight.map_or(backend.weight, |weight| weight.value);
            }
        }
        Ok(())
    })?;
    if let (Some(at), false) = (at, given) {
        reader.remarks.error(
            at,
            "backend says not which endpoints",
            "add `labels`, or `service` with the name of another service",
        );
        return Ok(None);
    }
    Ok(at.map(|at| At { at, value: backend }))
}
