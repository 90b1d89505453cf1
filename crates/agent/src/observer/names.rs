//! What the mesh calls the numbers and addresses that the kernel tells.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// The services of one generation of the state.
#[derive(Debug, Default)]
pub(crate) struct Names {
    generation: Option<u64>,
    services: HashMap<u32, Arc<str>>,
    /// `None` for an endpoint that several services share.
    endpoints: HashMap<SocketAddr, Option<Arc<str>>>,
    /// Addresses of services that ask for the plaintext of TLS: those that clients dial, and the endpoints.
    tls: BTreeSet<SocketAddr>,
}

impl Names {
    pub(crate) fn new(generation: u64) -> Self {
        Self { generation: Some(generation), ..Self::default() }
    }

    /// Whether they are of `generation`.
    pub(crate) fn are_of(&self, generation: u64) -> bool {
        self.generation == Some(generation)
    }

    pub(crate) fn add(&mut self, id: u32, name: &str, endpoints: impl Iterator<Item = SocketAddr>) {
        let name: Arc<str> = name.into();
        for endpoint in endpoints {
            let owner = self.endpoints.entry(endpoint).or_insert_with(|| Some(Arc::clone(&name)));
            if owner.as_ref().is_some_and(|owner| *owner != name) {
                *owner = None;
            }
        }
        self.services.insert(id, name);
    }

    /// One of the addresses where the plaintext of TLS is asked for.
    pub(crate) fn add_tls(&mut self, address: SocketAddr) {
        self.tls.insert(address);
    }

    /// All of them.
    pub(crate) fn tls(&self) -> &BTreeSet<SocketAddr> {
        &self.tls
    }

    /// The service that was dialled by number; or else, and where the number is of one that was removed, the only one that
    /// has this endpoint.
    pub(crate) fn service(&self, dialled: Option<u32>, endpoint: SocketAddr) -> Option<Arc<str>> {
        let dialled = dialled.and_then(|id| self.services.get(&id));
        dialled.cloned().or_else(|| self.endpoints.get(&endpoint).cloned().flatten())
    }

    /// The number of service `name`.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.services.iter().find(|(_, known)| ***known == *name).map(|(number, _)| *number)
    }

    /// The endpoints that no other service has.
    pub(crate) fn endpoints_of(&self, name: &str) -> Vec<SocketAddr> {
        let own = |owner: &Option<Arc<str>>| owner.as_ref().is_some_and(|owner| **owner == *name);
        self.endpoints.iter().filter(|(_, owner)| own(owner)).map(|(endpoint, _)| *endpoint).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_tells_its_service_only_if_there_is_one() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut names = Names::new(1);
        names.add(0, "web", [address(1), address(2), address(1)].into_iter());
        names.add(1, "api", [address(2), address(3)].into_iter());
        assert_eq!(names.service(Some(1), address(1)).as_deref(), Some("api"));
        assert_eq!(names.service(Some(9), address(1)).as_deref(), Some("web"), "it was made anew");
        assert_eq!(names.service(Some(9), address(2)), None);
        assert_eq!(names.service(None, address(1)).as_deref(), Some("web"));
        assert_eq!(names.service(None, address(2)), None, "which of the two is not known");
        assert_eq!(names.service(None, address(9)), None);
        assert_eq!((names.number("api"), names.number("ap")), (Some(1), None));
        assert_eq!(names.endpoints_of("api"), [address(3)]);
        assert!(names.are_of(1) && !names.are_of(2) && !Names::default().are_of(0));
    }
}
