//! One service: its keys, and what can be said of it without looking at the others.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::http::Target;
use crate::{
    Affinity, Endpoint, Frontend, HealthCheck, Mode, PassiveEjection, Position, Probe, Protocol, Removal,
    Service, ServiceName, Tls, Transport,
};

use super::balance::{Chosen, Shares};
use super::host::Host;
use super::keys::{self, Keys, Kind, ServiceKey};
use super::names::Names;
use super::remarks::{Remarks, Stop};
use super::scalar::{self, Choice, Refusal, quote, show};
use super::value::What;
use super::yaml::{At, Reader, Token};
use super::{balance, endpoint, health, http};

const SERVICE: What<'static> = What { name: &"service", expected: &Kind::Table(ServiceKey::TABLE) };
const ADDRESS: What<'static> = What { name: &"address", expected: &Kind::Address };

/// What the checks among services need to know of one, whether or not it is right in itself.
pub(super) struct Member {
    pub(super) name: Option<At<ServiceName>>,
    /// Absent when the protocol or the mode could not be read.
    pub(super) kind: Option<(Transport, Mode)>,
    pub(super) frontends: Vec<At<Frontend>>,
    pub(super) endpoints: Vec<At<SocketAddr>>,
    /// Endpoints of other services that its routes lead to.
    pub(super) targets: Vec<At<Target>>,
    /// Absent when something is wrong with it.
    pub(super) service: Option<Arc<Service>>,
}

/// A service as far as it is written and right.
struct Draft {
    at: Position,
    name: Option<At<ServiceName>>,
    address: Option<Position>,
    addresses: Option<Position>,
    frontends: Vec<At<Frontend>>,
    protocol: Option<Protocol>,
    mode: Option<Mode>,
    balance: Option<Chosen>,
    balance_at: Position,
    balance_given: bool,
    affinity: Option<At<Affinity>>,
    health: Option<At<HealthCheck>>,
    ejection: Option<PassiveEjection>,
    removal: Removal,
    tls: Option<At<Tls>>,
    split: Option<Shares>,
    http: Option<At<http::Settings>>,
    routes: Option<At<http::Routes>>,
    endpoints: Vec<At<Endpoint>>,
    endpoints_at: Position,
    /// No endpoint was refused, so that what they have in common can be judged.
    endpoints_whole: bool,
}

/// Reads and checks the service that begins with `token`.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    host: &Host<'_>,
    names: &mut Names,
) -> Result<Option<Member>, Stop> {
    let errors_before = reader.remarks.errors();
    let mut draft = Draft::new(token.at);
    let found = reader.mapping(token, SERVICE, |reader, key| draft.read(reader, key, names))?;
    if found.is_none() {
        return Ok(None);
    }
    draft.check(host, &mut reader.remarks);
    let whole = reader.remarks.errors() == errors_before;
    Ok(Some(draft.into_member(whole)))
}

impl Draft {
    fn new(at: Position) -> Self {
        Self {
            at,
            name: None,
            address: None,
            addresses: None,
            frontends: Vec::new(),
            protocol: Some(Protocol::default()),
            mode: Some(Mode::default()),
            balance: Some(Chosen::DEFAULT),
            balance_at: at,
            balance_given: false,
            affinity: None,
            health: None,
            ejection: None,
            removal: Removal::default(),
            tls: None,
            split: None,
            http: None,
            routes: None,
            endpoints: Vec::new(),
            endpoints_at: at,
            endpoints_whole: true,
        }
    }

    fn read(&mut self, reader: &mut Reader<'_>, key: ServiceKey, names: &mut Names) -> Result<(), Stop> {
        let what = What::of(key);
        match key {
            ServiceKey::Name => self.name = reader.scalar(what, read_name)?,
            ServiceKey::Address => self.read_address(reader, what)?,
            ServiceKey::Addresses => self.read_addresses(reader, what)?,
            ServiceKey::Protocol => self.protocol = reader.scalar(what, Protocol::read)?.map(|at| at.value),
            ServiceKey::Mode => self.mode = reader.scalar(what, Mode::read)?.map(|at| at.value),
            ServiceKey::Balance => {
                self.balance_given = true;
                self.balance = balance::read(reader, what)?;
            }
            ServiceKey::Affinity => self.affinity = reader.scalar(what, read_affinity)?,
            ServiceKey::Health => self.health = health::read(reader, what)?,
            ServiceKey::Ejection => self.ejection = health::read_ejection(reader, what)?,
            ServiceKey::Removal => {
                let removal = reader.scalar(what, Removal::read)?;
                self.removal = removal.map_or(self.removal, |removal| removal.value);
            }
            ServiceKey::Tls => self.tls = reader.scalar(what, Tls::read)?,
            ServiceKey::Split => self.split = balance::read_split(reader, what, names)?,
            ServiceKey::Http => {
                let token = reader.next()?;
                let at = token.at;
                self.http = Some(At { at, value: http::read_settings(reader, token, what)? });
            }
            ServiceKey::Routes => {
                let token = reader.next()?;
                let at = token.at;
                self.routes = Some(At { at, value: http::read_routes(reader, token, what, names)? });
            }
            ServiceKey::Endpoints => self.read_endpoints(reader, what, names)?,
        }
        Ok(())
    }

    fn read_address(&mut self, reader: &mut Reader<'_>, what: What<'_>) -> Result<(), Stop> {
        let token = reader.next()?;
        self.address = Some(token.at);
        if let Token::List = token.value {
            let help = "for several call it `addresses`; an address that holds [ ] stands in quotes";
            reader.remarks.error(token.at, "address is a list", help);
            return reader.skip(&token.value);
        }
        let address = reader.scalar_from(token, what, read_frontend)?;
        self.frontends.extend(address);
        Ok(())
    }

    fn read_addresses(&mut self, reader: &mut Reader<'_>, what: What<'_>) -> Result<(), Stop> {
        let token = reader.next()?;
        self.addresses = Some(token.at);
        if let Token::Scalar(scalar) = &token.value
            && !scalar.is_null()
        {
            let text = quote(&scalar.text);
            reader.remarks.error(
                token.at,
                format!("addresses is the single value {text}"),
                "call it `address`",
            );
            return Ok(());
        }
        let mut count = 0;
        let found = reader.list(token, what, |reader, item| {
            count += 1;
            let address = reader.scalar_from(item, ADDRESS, read_frontend)?;
            self.frontends.extend(address);
            Ok(())
        })?;
        if let (Some(at), 0) = (found, count) {
            reader.remarks.error(at, "addresses is empty", format!("add {}", Kind::Address));
        }
        Ok(())
    }

    fn read_endpoints(
        &mut self,
        reader: &mut Reader<'_>,
        what: What<'_>,
        names: &mut Names,
    ) -> Result<(), Stop> {
        let errors_before = reader.remarks.errors();
        let token = reader.next()?;
        self.endpoints_at = token.at;
        reader.list(token, what, |reader, item| {
            let endpoint = endpoint::read(reader, item, names)?;
            self.endpoints.extend(endpoint);
            Ok(())
        })?;
        self.endpoints_whole = reader.remarks.errors() == errors_before;
        Ok(())
    }

    fn check(&mut self, host: &Host<'_>, remarks: &mut Remarks<'_>) {
        self.check_addresses(host, remarks);
        self.check_duplicate_endpoints(remarks);
        self.check_health(remarks);
        self.check_http(remarks);
        self.check_tls(remarks);
        if !self.endpoints_whole {
            return;
        }
        if let Some(balance) = self.balance {
            balance.check(self.balance_at, self.endpoints.len(), remarks);
        }
        if let Some(split) = &self.split {
            split.check(&self.endpoints, remarks);
        }
        if let Some(Mode::Shadow | Mode::Enforce) = self.mode {
            self.check_reach(remarks);
        }
    }

    fn check_addresses(&self, host: &Host<'_>, remarks: &mut Remarks<'_>) {
        match (self.address, self.addresses) {
            (None, None) => {
                remarks.error(
                    self.at,
                    "service has no `address`",
                    format!("add `address`, {}", Kind::Address),
                );
            }
            (Some(one), Some(several)) => remarks.error(
                one.max(several),
                "service has both `address` and `addresses`",
                "put all into `addresses`",
            ),
            _ => {}
        }
        let Some(mode) = self.mode else { return };
        for frontend in &self.frontends {
            let address = frontend.value.socket_addr();
            if let Err(Refusal { problem, help }) = host.check_service(address, mode) {
                remarks.error(frontend.at, format!("service address {address} {problem}"), help);
            }
        }
    }

    /// Sorts the endpoints and refuses those that come twice.
    fn check_duplicate_endpoints(&mut self, remarks: &mut Remarks<'_>) {
        self.endpoints.sort_by_key(|endpoint| (endpoint.value.address, endpoint.at));
        for pair in self.endpoints.windows(2) {
            let [first, second] = pair else { continue };
            if first.value.address == second.value.address {
                let place = remarks.place(first.at);
                remarks.error(
                    second.at,
                    format!("endpoint {} is given twice", second.value.address),
                    format!("first at {place}; for a larger share raise its `weight`"),
                );
            }
        }
    }

    fn check_health(&self, remarks: &mut Remarks<'_>) {
        let Some(health) = &self.health else { return };
        let over_http = matches!(health.value.probe, Probe::Http { .. });
        if over_http && health.value.port.is_none() && self.protocol == Some(Protocol::Udp) {
            remarks.error(
                health.at,
                "an HTTP health check cannot ask the port of a UDP service",
                "add `port`, the TCP port where the endpoints answer HTTP",
            );
        }
    }

    fn check_tls(&self, remarks: &mut Remarks<'_>) {
        let Some(At { at, value: Tls::Observe }) = self.tls else { return };
        match self.protocol {
            Some(Protocol::Udp) => remarks.error(
                at,
                "tls: observe is of no use to a udp service",
                "take it out: only TLS over TCP is looked at",
            ),
            Some(Protocol::Http) => remarks.error(
                at,
                "tls: observe is of no use to an http service, whose requests are in plain text",
                "take it out, or write `protocol: tcp` if clients speak TLS to it",
            ),
            Some(Protocol::Tcp) | None => {}
        }
    }

    fn check_http(&self, remarks: &mut Remarks<'_>) {
        if let Some(protocol @ (Protocol::Tcp | Protocol::Udp)) = self.protocol {
            let given =
                [("http", self.http.as_ref().map(|v| v.at)), ("routes", self.routes.as_ref().map(|v| v.at))];
            for (key, at) in given.into_iter().filter_map(|(key, at)| Some((key, at?))) {
                let protocol = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
                remarks.error(
                    at,
                    format!("{key} is of no use to a {protocol} service"),
                    "add `protocol: http`",
                );
            }
            return;
        }
        if let Some(routes) = &self.routes {
            let endpoints = self.endpoints_whole.then_some(&*self.endpoints);
            routes.value.check(self.name.as_ref().map(|name| &name.value), endpoints, remarks);
        }
        if let (Some(affinity), Some(Protocol::Http)) = (&self.affinity, self.protocol) {
            remarks.warning(
                affinity.at,
                "affinity is of no use to requests, which are balanced one by one",
                "write `http: {balance: {consistent-hash: source}}`",
            );
        }
    }

    /// Warns where clients will be refused.
    fn check_reach(&self, remarks: &mut Remarks<'_>) {
        let takes_new = |e: &&At<Endpoint>| e.value.weight > 0 && !e.value.draining;
        if self.endpoints.is_empty() {
            let message = format!("{} has no endpoints", self.title());
            remarks.warning(self.endpoints_at, message, "every connect to it is refused");
            return;
        }
        if !self.endpoints.iter().any(|e| takes_new(&e)) {
            let message = format!("every endpoint of {} is draining or has weight 0", self.title());
            remarks.warning(self.endpoints_at, message, "every connect to it is refused");
            return;
        }
        let dialled = self.frontends.iter().find(|frontend| frontend.value.address.is_ipv4());
        let reachable =
            self.endpoints.iter().filter(takes_new).any(|endpoint| endpoint.value.address.is_ipv4());
        if let (Some(frontend), false) = (dialled, reachable) {
            remarks.warning(
                frontend.at,
                format!(
                    "{} is IPv4, but no IPv4 endpoint takes new connections",
                    frontend.value.socket_addr()
                ),
                "IPv4 callers are refused: add an IPv4 endpoint",
            );
        }
    }

    fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("service {}", quote(name.value.as_str())),
            None => "the service".into(),
        }
    }

    fn into_member(mut self, whole: bool) -> Member {
        self.frontends.sort_by_key(|frontend| frontend.value);
        Member {
            kind: self.protocol.map(Protocol::transport).zip(self.mode),
            frontends: self.frontends.clone(),
            endpoints: self.endpoints.iter().map(|e| At { at: e.at, value: e.value.address }).collect(),
            targets: match &self.routes {
                Some(routes) => routes.value.elsewhere(self.name.as_ref().map(|name| &name.value)),
                None => Vec::new(),
            },
            name: self.name.clone(),
            service: if whole { self.into_service().map(Arc::new) } else { None },
        }
    }

    fn into_service(self) -> Option<Service> {
        let name = self.name?.value;
        let protocol = self.protocol?;
        let balance = self.balance?.balance(self.endpoints.len());
        let split = self.split.map(Shares::into_split);
        let http = (protocol == Protocol::Http).then(|| {
            let balance = self.balance_given.then_some(balance);
            let service = http::Service { name: &name, split: split.as_ref(), balance };
            http::build(self.http.map(|http| http.value), self.routes.map(|routes| routes.value), &service)
        });
        Some(Service {
            name,
            protocol,
            mode: self.mode?,
            frontends: values(self.frontends),
            balance,
            affinity: self.affinity.map(|affinity| affinity.value),
            health: self.health.map(|health| health.value),
            ejection: self.ejection,
            removal: self.removal,
            tls: self.tls.map_or(Tls::default(), |tls| tls.value),
            split,
            http,
            endpoints: values(self.endpoints),
        })
    }
}

/// Without their places, and in no more memory than they need: they live as long as the service.
fn values<T>(placed: Vec<At<T>>) -> Vec<T> {
    let mut values: Vec<T> = placed.into_iter().map(|placed| placed.value).collect();
    values.shrink_to_fit();
    values
}

pub(super) fn read_name(text: &str) -> Result<ServiceName, Refusal> {
    ServiceName::new(text).map_err(|_| {
        let help = format!(
            "a-z, 0-9, '.', '_', '/' and '-', beginning and ending with a letter or digit, at most {} bytes",
            ServiceName::MAX
        );
        Refusal::new("is no service name", help)
    })
}

fn read_frontend(text: &str) -> Result<Frontend, Refusal> {
    let address = scalar::address(text)?;
    let port =
        NonZeroU16::new(address.port()).ok_or_else(|| Refusal::new("has port 0", "allowed: 1 to 65535"))?;
    Ok(Frontend { address: address.ip(), port })
}

fn read_affinity(text: &str) -> Result<Affinity, Refusal> {
    let timeout = keys::AFFINITY.read(text)?;
    if timeout.subsec_nanos() != 0 {
        let whole = std::time::Duration::from_secs(timeout.as_secs());
        return Err(Refusal::new("is not in whole seconds", format!("write {}", show(whole))));
    }
    Ok(Affinity { timeout })
}
