//! What can only be said of all services together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::{Budgets, Frontend, Mode, Position, Protocol, Service, ServiceName, Transport};

use super::http::refuse_labels;
use super::remarks::Remarks;
use super::scalar::{nearest, quote};
use super::service::Member;
use super::yaml::At;

/// Remarks on what the services do to each other, and on what does not fit in the budgets.
pub(super) fn check(members: &[Member], budgets: &Budgets, remarks: &mut Remarks<'_>) {
    let named = check_names(members, remarks);
    check_targets(members, &named, remarks);
    let owners = check_addresses(members, remarks);
    check_loops(members, &owners, remarks);
    check_budgets(members, budgets, remarks);
}

/// The services, if every one is right.
pub(super) fn services(members: Vec<Member>) -> Vec<Arc<Service>> {
    debug_assert!(
        members.iter().all(|member| member.service.is_some()),
        "a service was dropped without an error"
    );
    members.into_iter().filter_map(|member| member.service).collect()
}

type Named<'a> = HashMap<&'a str, (&'a Member, Position)>;

/// Refuses a name that two services have, and returns who has which.
fn check_names<'a>(members: &'a [Member], remarks: &mut Remarks<'_>) -> Named<'a> {
    let mut seen = Named::with_capacity(members.len());
    for (member, name) in members.iter().filter_map(|member| Some((member, member.name.as_ref()?))) {
        match seen.entry(name.value.as_str()) {
            Entry::Vacant(place) => {
                place.insert((member, name.at));
            }
            Entry::Occupied(first) => {
                let first = remarks.place(first.get().1);
                let message = format!("a second service has the name {}", quote(name.value.as_str()));
                remarks.error(name.at, message, format!("first at {first}; names are unique"));
            }
        }
    }
    seen
}

/// Refuses routes that lead to a service that is not there or speaks no HTTP. Its routes are not asked, so that routes
/// cannot go in circles.
fn check_targets(members: &[Member], named: &Named<'_>, remarks: &mut Remarks<'_>) {
    for target in members.iter().flat_map(|member| &member.targets) {
        let Some(name) = &target.value.service else { continue };
        let Some((member, _)) = named.get(name.as_str()) else {
            refuse_unknown(target.at, name, named, remarks);
            continue;
        };
        // What is wrong with that service has been said.
        let Some(service) = &member.service else { continue };
        if service.protocol != Protocol::Http {
            remarks.error(
                target.at,
                format!("{} does not speak HTTP", title(member)),
                "give it `protocol: http`, or lead the route elsewhere",
            );
            continue;
        }
        let labels = &target.value.labels;
        if !labels.is_empty() && !service.endpoints.iter().any(|e| target.value.selects(&e.labels)) {
            refuse_labels(target.at, labels, Some(name), remarks);
        }
    }
}

fn refuse_unknown(at: Position, name: &ServiceName, named: &Named<'_>, remarks: &mut Remarks<'_>) {
    /// A search among many would take longer than reading the file.
    const FEW: usize = 1_000;
    let mut known: Vec<_> = named.keys().copied().filter(|_| named.len() <= FEW).collect();
    known.sort_unstable();
    let help = match nearest(name.as_str(), &known) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "write the name of a service in this file".into(),
    };
    remarks.error(at, format!("there is no service {}", quote(name.as_str())), help);
}

type Owners<'a> = HashMap<(Transport, Frontend), (&'a Member, At<Frontend>)>;

/// Refuses an address that two services have, and returns who has which.
fn check_addresses<'a>(members: &'a [Member], remarks: &mut Remarks<'_>) -> Owners<'a> {
    let mut owners = Owners::with_capacity(members.len());
    for member in members {
        let Some((transport, _)) = member.kind else { continue };
        for frontend in &member.frontends {
            match owners.entry((transport, frontend.value)) {
                Entry::Vacant(place) => {
                    place.insert((member, *frontend));
                }
                Entry::Occupied(owner) => {
                    let (owner, first) = owner.get();
                    let message = match std::ptr::eq(*owner, member) {
                        true => format!("address {} is given twice", show(transport, frontend.value)),
                        false => format!("address {} is {}'s", show(transport, frontend.value), title(owner)),
                    };
                    let (early, late) = (first.at.min(frontend.at), first.at.max(frontend.at));
                    let early = remarks.place(early);
                    remarks.error(
                        late,
                        message,
                        format!("first at {early}; an address belongs to one service"),
                    );
                }
            }
        }
    }
    owners
}

/// Refuses an endpoint at an address that a service takes over: what is sent there would never arrive. A service that
/// only observes leaves its addresses as they are.
fn check_loops(members: &[Member], owners: &Owners<'_>, remarks: &mut Remarks<'_>) {
    for member in members {
        let Some((transport, _)) = member.kind else { continue };
        for endpoint in &member.endpoints {
            let Some(port) = std::num::NonZeroU16::new(endpoint.value.port()) else { continue };
            let frontend = Frontend { address: endpoint.value.ip(), port };
            let Some((owner, first)) = owners.get(&(transport, frontend)) else { continue };
            if owner.kind.is_some_and(|(_, mode)| mode == Mode::Observe) {
                continue;
            }
            let first = remarks.place(first.at);
            remarks.error(
                endpoint.at,
                format!("endpoint {} is the address of {}", endpoint.value, title(owner)),
                format!("given at {first}; an endpoint is a real server"),
            );
        }
    }
}

fn check_budgets(members: &[Member], budgets: &Budgets, remarks: &mut Remarks<'_>) {
    let services = budgets.services as usize;
    if let Some(name) = members.get(services..).and_then(|beyond| beyond.iter().find_map(|m| m.name.as_ref()))
    {
        remarks.error(
            name.at,
            format!(
                "service {} does not fit: {} services, {services} allowed",
                quote(name.value.as_str()),
                members.len()
            ),
            format!("start the agent with --max-services {} or more", members.len()),
        );
    }
    // The kernel's table of addresses is made twice as long as that of services.
    let addresses = services.saturating_mul(2);
    let all: usize = members.iter().map(|member| member.frontends.len()).sum();
    if let Some(frontend) = members.iter().flat_map(|member| &member.frontends).nth(addresses) {
        remarks.error(
            frontend.at,
            format!(
                "service address {} does not fit: {all} addresses, {addresses} allowed",
                frontend.value.socket_addr()
            ),
            format!(
                "start the agent with --max-services {} or more; each allows two addresses",
                all.div_ceil(2)
            ),
        );
    }
    let endpoints = budgets.endpoints as usize;
    let all: usize = members.iter().map(|member| member.endpoints.len()).sum();
    if let Some(endpoint) = members.iter().flat_map(|member| &member.endpoints).nth(endpoints) {
        remarks.error(
            endpoint.at,
            format!("endpoint {} does not fit: {all} endpoints, {endpoints} allowed", endpoint.value),
            format!("start the agent with --max-endpoints {all} or more"),
        );
    }
}

fn title(member: &Member) -> String {
    match &member.name {
        Some(name) => format!("service {}", quote(name.value.as_str())),
        None => "a service without a name".into(),
    }
}

fn show(transport: Transport, frontend: Frontend) -> String {
    let transport = match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    format!("{}/{transport}", frontend.socket_addr())
}
