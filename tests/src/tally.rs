//! What clients saw.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Outcomes of many connections or datagrams, as the clients themselves saw them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers by the name of the server that gave them.
    pub answers: BTreeMap<String, u64>,
    /// Failures by what the system call said, such as `ConnectionRefused`.
    pub errors: BTreeMap<String, u64>,
    /// Peer or source addresses that the clients were shown.
    pub peers: BTreeMap<SocketAddr, u64>,
    /// Names by the address that the client had bound, in order of time; for clients that bind.
    pub by_source: BTreeMap<IpAddr, Vec<String>>,
    /// Names in order of time; kept for up to [`Tally::ORDER`] answers.
    pub order: Vec<String>,
    /// The slowest outcome, in seconds.
    pub slowest: f64,
}

impl Tally {
    /// How many names are kept in order.
    pub const ORDER: usize = 10_000;

    /// Takes one outcome in.
    pub fn record(&mut self, outcome: io::Result<Answer>, source: Option<IpAddr>, elapsed: Duration) {
        self.slowest = self.slowest.max(elapsed.as_secs_f64());
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                *self.errors.entry(format!("{:?}", error.kind())).or_default() += 1;
                return;
            }
        };
        *self.answers.entry(answer.name.clone()).or_default() += 1;
        *self.peers.entry(answer.peer).or_default() += 1;
        if let Some(source) = source {
            self.by_source.entry(source).or_default().push(answer.name.clone());
        }
        if self.order.len() < Self::ORDER {
            self.order.push(answer.name);
        }
    }

    /// Adds what another client saw; the order of time is kept within each.
    pub fn add(&mut self, other: Tally) {
        other.answers.into_iter().for_each(|(name, count)| *self.answers.entry(name).or_default() += count);
        other.errors.into_iter().for_each(|(kind, count)| *self.errors.entry(kind).or_default() += count);
        other.peers.into_iter().for_each(|(peer, count)| *self.peers.entry(peer).or_default() += count);
        for (source, names) in other.by_source {
            self.by_source.entry(source).or_default().extend(names);
        }
        self.order.extend(other.order);
        self.order.truncate(Self::ORDER);
        self.slowest = self.slowest.max(other.slowest);
    }

    /// All answers.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// All failures.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Answers of servers whose name begins with `prefix`.
    pub fn of(&self, prefix: &str) -> u64 {
        self.answers.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The peer as the client was shown it.
    pub peer: SocketAddr,
}
