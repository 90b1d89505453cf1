//! Several servers of one kind, each in a namespace of its own.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::servers::at;
use crate::{Place, Process, World};

/// What a fleet's servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Servers of [`Place::serve`]: TCP and UDP.
    Name,
    /// nginx.
    Nginx,
}

/// One server of a fleet.
#[derive(Debug)]
pub struct Server {
    /// What it answers.
    pub name: String,
    /// Its IPv4 address.
    pub v4: SocketAddr,
    /// Its IPv6 address.
    pub v6: SocketAddr,
    place: Place,
    kind: Kind,
    process: Option<Process>,
}

impl Server {
    fn start(world: &World, kind: Kind, name: &str, port: u16) -> Result<Self> {
        let place = world.plain(name)?;
        let (v4, v6) = (at(place.namespace.v4(), port), at(place.namespace.v6(), port));
        let mut server = Self { name: name.to_owned(), v4, v6, place, kind, process: None };
        server.resume()?;
        Ok(server)
    }

    /// Starts it again.
    pub fn resume(&mut self) -> Result<()> {
        let addresses = [self.v4, self.v6];
        self.process = Some(match self.kind {
            Kind::Name => self.place.serve(&self.name, &addresses)?,
            Kind::Nginx => self.place.nginx(&self.name, &addresses)?,
        });
        Ok(())
    }

    /// Kills it; its connections are reset, new ones refused.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the server does not run")?.kill()
    }
}

impl World {
    /// Starts a server for each name, at `port` of IPv4 and of IPv6.
    pub fn fleet(&self, kind: Kind, names: &[&str], port: u16) -> Result<Vec<Server>> {
        names.iter().map(|name| Server::start(self, kind, name, port)).collect()
    }
}
