//! Reads the pinned maps back: which service and endpoint has which number, which slots are in use.

use std::collections::HashMap;

use alize_model::{Budgets, ServiceName};

use crate::Error;
use crate::abi;
use crate::allocate::Run;
use crate::maps::Maps;
use crate::picture::{LiveEndpoint, LiveService, Picture, Stage};

/// The picture of what the maps hold. What cannot be (another program wrote to them, or a machine lost power between
/// two writes) is left out and thereby overwritten by the next change.
pub(crate) fn read(maps: &Maps, budgets: &Budgets) -> Result<Picture, Error> {
    let mut picture = Picture::new(budgets, maps.frontends.max_entries());
    let mut services = names(maps, &mut picture)?;
    words(maps, &mut services)?;
    frontends(maps, &mut picture, &mut services)?;
    endpoints(maps, &mut picture, &mut services)?;
    for (number, mut service) in services {
        service.frontends.sort();
        service.endpoints.sort_by_key(LiveEndpoint::key);
        // A service has at least one address; without, an earlier agent had let it go.
        service.removed = service.frontends.is_empty();
        if service.removed {
            let kept = service.endpoints.iter_mut().filter(|endpoint| !endpoint.stage.is_removed());
            kept.for_each(|endpoint| endpoint.stage = Stage::Leaving);
            service.words = [0; 2];
            picture.garbage.leaving.insert(number);
        }
        adopt_runs(&mut picture, &mut service);
        if service.endpoints.iter().any(|endpoint| endpoint.stage == Stage::Gone) {
            picture.garbage.gone.insert(number);
        }
        if let Some(name) = picture.names.get(&number) {
            picture.services.insert(name.clone(), service);
        }
    }
    Ok(picture)
}

fn adopt_runs(picture: &mut Picture, service: &mut LiveService) {
    let runs: Vec<Run> = service.runs().collect();
    let owned = runs.iter().take_while(|run| picture.runs.adopt(**run)).count();
    if owned < runs.len() {
        tracing::warn!(service = service.number, "its slots overlap another's; they will be written anew");
        runs[..owned].iter().for_each(|run| picture.runs.give_back(*run));
        service.words = [0; 2];
    }
}

fn names(maps: &Maps, picture: &mut Picture) -> Result<HashMap<u32, LiveService>, Error> {
    let mut services = HashMap::new();
    maps.service_names.for_each(|number, entry| {
        let text = entry.first().map(abi::name_text).unwrap_or_default();
        let Ok(name) = ServiceName::new(&text) else {
            tracing::warn!(number, "service_names holds {text:?}, which is no name; ignored");
            return;
        };
        if picture.service_numbers.adopt(number) {
            picture.names.insert(number, name);
            services.insert(number, empty(number));
        }
    })?;
    Ok(services)
}

fn empty(number: u32) -> LiveService {
    LiveService {
        number,
        definition: None,
        sick: Vec::new(),
        frontends: Vec::new(),
        endpoints: Vec::new(),
        words: [0; 2],
        removed: false,
    }
}

fn words(maps: &Maps, services: &mut HashMap<u32, LiveService>) -> Result<(), Error> {
    maps.services.for_each(|number, entry| {
        if let (Some(service), Some(entry)) = (services.get_mut(&number), entry.first()) {
            service.words = [entry.word4, entry.word6];
        }
    })
}

fn frontends(
    maps: &Maps,
    picture: &mut Picture,
    services: &mut HashMap<u32, LiveService>,
) -> Result<(), Error> {
    let mut strays = Vec::new();
    maps.frontends.for_each(|key, number| {
        let service = number.first().and_then(|number| services.get_mut(number));
        match (service, abi::transport_of(key.protocol)) {
            (Some(service), Some(transport)) => {
                service.frontends.push((abi::socket_addr(key.address, key.port), transport));
                picture.frontends += 1;
            }
            _ => strays.push(key),
        }
    })?;
    maps.frontends.delete_all(strays.into_iter())
}

fn endpoints(
    maps: &Maps,
    picture: &mut Picture,
    services: &mut HashMap<u32, LiveService>,
) -> Result<(), Error> {
    let mut strays = Vec::new();
    maps.endpoints.for_each(|number, entry| {
        let Some(entry) = entry.first().filter(|entry| entry.port != 0) else { return };
        let service = services.get_mut(&entry.service);
        match (service, abi::transport_of(entry.protocol)) {
            (Some(service), Some(transport)) if picture.endpoint_numbers.adopt(number) => {
                let address = abi::socket_addr(entry.address, entry.port);
                let stage = Stage::adopt(entry.state);
                service.endpoints.push(LiveEndpoint { address, transport, number, stage });
            }
            _ => strays.push(number),
        }
    })?;
    maps.endpoints.put_all(strays.into_iter().map(|number| (number, abi::endpoint::default())))
}
