//! One endpoint.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::{Endpoint, Labels};

use super::host::check_endpoint;
use super::keys::{self, EndpointKey, Keys, Kind};
use super::names::Names;
use super::scalar::{self, Refusal};
use super::value::expected;
use super::yaml::{At, Reader, Stop, Token};

const EXPECTED: Kind = Kind::Either(&[Kind::Address, Kind::Table(EndpointKey::TABLE)]);

/// Reads the endpoint that begins with `token`: an address, or a mapping.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    names: &mut Names,
) -> Result<Option<At<Endpoint>>, Stop> {
    if let Token::Scalar(_) = token.value {
        let address = reader.scalar_from(token, "endpoints", &EXPECTED, address)?;
        return Ok(address.map(|at| at.map(plain)));
    }
    let mut address = None;
    let mut endpoint = plain(SocketAddr::from(([0, 0, 0, 0], 0)));
    reader.mapping(token, "endpoints", &EXPECTED, |reader, key| {
        let (name, expected) = expected(key);
        match key {
            EndpointKey::Address => address = reader.scalar(name, expected, self::address)?,
            EndpointKey::Weight => {
                let weight = reader.plain(name, expected, |text| keys::WEIGHT.read(text))?;
                endpoint.weight = weight.map_or(endpoint.weight, |weight| weight.value);
            }
            EndpointKey::Labels => endpoint.labels = labels(reader, name, expected, names)?,
            EndpointKey::Draining => {
                let draining = reader.plain(name, expected, scalar::boolean)?;
                endpoint.draining = draining.is_some_and(|draining| draining.value);
            }
        }
        Ok(())
    })?;
    Ok(address.map(|at: At<SocketAddr>| at.map(|address| Endpoint { address, ..endpoint })))
}

fn plain(address: SocketAddr) -> Endpoint {
    Endpoint { address, weight: keys::DEFAULT_WEIGHT, labels: Labels::new(), draining: false }
}

fn address(text: &str) -> Result<SocketAddr, Refusal> {
    let address = scalar::address(text)?;
    check_endpoint(address).map(|()| address)
}

fn labels(
    reader: &mut Reader<'_>,
    name: &str,
    expected: &dyn std::fmt::Display,
    names: &mut Names,
) -> Result<Labels, Stop> {
    let mut labels = Labels::new();
    let mut seen = HashMap::new();
    reader.free_mapping(name, expected, |reader, key| {
        let value =
            reader.scalar(&key.value, &"text", |text| scalar::label(text).map(|text| names.share(text)))?;
        let text = key.value.clone();
        let Some(label) = reader.checked(key.at, name, &text, scalar::label(&text)) else {
            return Ok(());
        };
        let label = names.share(label.value);
        if let Some(first) = seen.insert(label.clone(), key.at) {
            reader.refuse_repeated(&key, first);
        }
        labels.extend(value.map(|value| (label, value.value)));
        Ok(())
    })?;
    Ok(labels)
}
