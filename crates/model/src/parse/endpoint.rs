//! One endpoint.

use std::net::SocketAddr;

use crate::{Endpoint, Labels};

use super::host::check_endpoint;
use super::keys::{self, EndpointKey, Keys, Kind};
use super::names::Names;
use super::remarks::Stop;
use super::scalar::{self, Refusal};
use super::value::What;
use super::yaml::{At, Reader, Token};

const ENDPOINT: What<'static> =
    What { name: &"endpoint", expected: &Kind::Either(&[Kind::Address, Kind::Table(EndpointKey::TABLE)]) };

/// Reads the endpoint that begins with `token`: an address, or a mapping.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    names: &mut Names,
) -> Result<Option<At<Endpoint>>, Stop> {
    if let Token::Scalar(_) = token.value {
        let address = reader.scalar_from(token, ENDPOINT, address)?;
        return Ok(address.map(|at| at.map(plain)));
    }
    let mut address = None;
    let mut endpoint = plain(SocketAddr::from(([0, 0, 0, 0], 0)));
    reader.mapping(token, ENDPOINT, |reader, key| {
        let what = What::of(key);
        match key {
            EndpointKey::Address => address = reader.scalar(what, self::address)?,
            EndpointKey::Weight => {
                let weight = reader.plain(what, |text| keys::WEIGHT.read(text))?;
                endpoint.weight = weight.map_or(endpoint.weight, |weight| weight.value);
            }
            EndpointKey::Labels => endpoint.labels = labels(reader, what, names)?,
            EndpointKey::Draining => {
                let draining = reader.plain(what, scalar::boolean)?;
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

pub(super) fn labels(reader: &mut Reader<'_>, what: What<'_>, names: &mut Names) -> Result<Labels, Stop> {
    let mut labels = Labels::new();
    reader.labels(what, names, |reader, names, label| {
        let name = format_args!("label {}", label.value);
        let what = What { name: &name, expected: &"a text such as v1" };
        let value = reader.scalar(what, |text| scalar::label(text).map(|text| names.share(text)))?;
        labels.extend(value.map(|value| (label.value, value.value)));
        Ok(())
    })?;
    Ok(labels)
}
