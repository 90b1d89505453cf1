//! The pinned maps, opened for reading.

use std::collections::HashMap;
use std::net::SocketAddr;

use alize_model::Transport;

use super::{is_ipv4, open, transport_name};
use crate::Error;
use crate::abi::{
    self, ServiceWord, affinity, affinity_key, endpoint, endpoint_load, frontend_key, service, service_name,
};
use crate::maps::Map;
use crate::pin::Pins;

pub(super) struct Tables {
    frontends: Map<frontend_key, u32>,
    services: Map<u32, service>,
    service_names: Map<u32, service_name>,
    endpoints: Map<u32, endpoint>,
    endpoint_load: Map<u32, endpoint_load>,
    slots: Map<u32, u64>,
    turns: Map<u32, u64>,
    affinity: Map<affinity_key, affinity>,
}

impl Tables {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            frontends: Map::new(open(pins, "frontends")?)?,
            services: Map::new(open(pins, "services")?)?,
            service_names: Map::new(open(pins, "service_names")?)?,
            endpoints: Map::new(open(pins, "endpoints")?)?,
            endpoint_load: Map::new(open(pins, "endpoint_load")?)?,
            slots: Map::new(open(pins, "slots")?)?,
            turns: Map::new(open(pins, "turns")?)?,
            affinity: Map::new(open(pins, "affinity")?)?,
        })
    }

    pub(super) fn service_at(&self, address: SocketAddr, transport: Transport) -> Result<Option<u32>, Error> {
        self.frontends.get(&abi::frontend_key(address, transport))
    }

    /// The word that the programs read for a caller of `address`.
    pub(super) fn word(&self, number: u32, address: SocketAddr) -> Result<ServiceWord, Error> {
        let service = self.services.get(&number)?.unwrap_or_default();
        Ok(ServiceWord::unpack(if is_ipv4(address) { service.word4 } else { service.word6 }))
    }

    pub(super) fn name_of(&self, number: u32) -> Result<String, Error> {
        let entry = self.service_names.get(&number)?;
        Ok(entry.map_or_else(|| format!("number {number}"), |entry| abi::name_text(&entry)))
    }

    /// The lowest address of the service called `name`.
    pub(super) fn first_address(
        &self,
        name: &str,
        transport: Transport,
    ) -> Result<Option<SocketAddr>, Error> {
        let mut found = None;
        self.service_names.for_each(|number, entry| {
            if entry.first().is_some_and(|entry| abi::name_text(entry) == name) {
                found = Some(number);
            }
        })?;
        let mut addresses = Vec::new();
        self.frontends.for_each(|key, number| {
            if number.first().copied() == found && abi::transport_of(key.protocol) == Some(transport) {
                addresses.push(abi::socket_addr(key.address, key.port));
            }
        })?;
        Ok(addresses.into_iter().min())
    }

    /// What else is at the address of `dialled`: other ports, other transports.
    pub(super) fn neighbours(&self, dialled: SocketAddr) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        self.frontends.for_each(|key, number| {
            let address = abi::socket_addr(key.address, key.port);
            if let (true, Some(transport), Some(&number)) = (
                address.ip().to_canonical() == dialled.ip().to_canonical(),
                abi::transport_of(key.protocol),
                number.first(),
            ) {
                found.push((address.port(), transport, number));
            }
        })?;
        found.sort();
        found
            .into_iter()
            .map(|(port, transport, number)| {
                Ok(format!(
                    "service {} at port {port} over {}",
                    self.name_of(number)?,
                    transport_name(transport)
                ))
            })
            .collect()
    }

    /// Number and entry of every endpoint of a service.
    pub(super) fn endpoints_of(&self, number: u32) -> Result<Vec<(u32, endpoint)>, Error> {
        let mut found = Vec::new();
        self.endpoints.for_each(|id, entry| {
            found.extend(
                entry
                    .first()
                    .filter(|entry| entry.port != 0 && entry.service == number)
                    .map(|entry| (id, *entry)),
            );
        })?;
        Ok(found)
    }

    pub(super) fn slots(&self, word: ServiceWord) -> Result<Vec<u64>, Error> {
        if word.length == 0 {
            return Ok(Vec::new());
        }
        self.slots.get_run(word.base, word.length)
    }

    pub(super) fn load(&self, endpoint: u32) -> Result<endpoint_load, Error> {
        Ok(self.endpoint_load.get(&endpoint)?.unwrap_or_default())
    }

    pub(super) fn loads(
        &self,
        endpoints: impl Iterator<Item = u32>,
    ) -> Result<HashMap<u32, endpoint_load>, Error> {
        endpoints.map(|endpoint| Ok((endpoint, self.load(endpoint)?))).collect()
    }

    /// Turns taken so far.
    pub(super) fn turns(&self, number: u32) -> Result<u64, Error> {
        Ok(self.turns.get(&number)?.unwrap_or(0))
    }

    pub(super) fn remembered(&self, key: affinity_key) -> Result<Option<affinity>, Error> {
        self.affinity.get(&key)
    }
}
