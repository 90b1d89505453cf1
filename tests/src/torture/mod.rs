//! Torture: what its clients, its server and its test have agreed on.
//!
//! Each request carries a nonce, and every byte of either body follows from it, so that whoever reads a body can tell where
//! it is wrong, and whose it is.

pub(crate) mod client;
pub(crate) mod origin;
mod plan;
mod talk;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// A prime, so that a body shifted by a buffer's length is wrong.
const BLOCK: usize = 1_048_573;

fn block() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(7);
        (0..BLOCK).map(|_| random.u8(..)).collect()
    })
}

/// The bytes of a body, from its beginning.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    at: usize,
}

impl Pattern {
    pub(crate) fn new(nonce: u64) -> Self {
        Self { at: (nonce.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize % BLOCK }
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let some = &block()[self.at..(self.at + length - bytes.len()).min(BLOCK)];
            bytes.extend_from_slice(some);
            self.at = (self.at + some.len()) % BLOCK;
        }
        bytes
    }

    /// Whether `bytes` come next.
    pub(crate) fn matches(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = rest.len().min(BLOCK - self.at);
            let (some, more) = rest.split_at(length);
            if some != &block()[self.at..self.at + length] {
                return false;
            }
            self.at = (self.at + length) % BLOCK;
            rest = more;
        }
        true
    }
}

/// Nanoseconds of the monotonic clock, which all processes share.
pub fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// How a request ended that was not answered as it should have been.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// No connection could be made.
    Refused,
    /// The connection ended before a byte of the response.
    Cut,
    /// The connection ended within the response.
    CutWithin,
    /// The mesh answered, and said why.
    Answered {
        /// Status code.
        status: u16,
        /// `x-alize-reason`.
        reason: String,
    },
    /// Nothing happened for as long as nothing ever takes. Never excused.
    Hung,
    /// A wrong byte, in either direction. Never excused.
    Wrong,
    /// The response to another request. Never excused.
    MixedUp,
    /// What came is no response. Never excused.
    Malformed,
    /// The endpoint broke off its response, and it looked whole. Never excused.
    MadeWhole,
}

/// A request that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// How.
    pub kind: Kind,
    /// Of the request; 0 where none was sent.
    pub nonce: u64,
    /// What was asked, and what was seen.
    pub what: String,
    /// When the connection was made, see [`now`].
    pub connected: u64,
    /// When the request began.
    pub began: u64,
    /// When it failed.
    pub ended: u64,
}

/// What clients saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Book {
    /// Requests that were sent, or were meant to be.
    pub requests: u64,
    /// By what was special about them: those that were answered as they should be.
    pub right: BTreeMap<String, u64>,
    /// Bytes of bodies that were compared, in both directions.
    pub bytes: u64,
    /// Connections.
    pub connections: u64,
    /// Requests that were given up on purpose.
    pub given_up: u64,
    /// Reads of blocking sockets that returned with nothing although they have no time limit, by what the client had done.
    pub spurious: BTreeMap<String, u64>,
    /// Those that failed.
    pub failures: Vec<Failure>,
}

impl Book {
    /// Adds another's.
    pub fn add(&mut self, other: Book) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.given_up += other.given_up;
        for (to, from) in [(&mut self.right, other.right), (&mut self.spurious, other.spurious)] {
            from.into_iter().for_each(|(name, count)| *to.entry(name).or_default() += count);
        }
        self.failures.extend(other.failures);
    }

    /// Requests answered as they should be.
    pub fn right(&self) -> u64 {
        self.right.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_tells_where_it_is_wrong_and_whose_it_is() {
        let body = Pattern::new(5).take(3_000_000);
        let mut check = Pattern::new(5);
        assert!(body.chunks(70_001).all(|piece| check.matches(piece)));
        assert!(!Pattern::new(6).matches(&body[..16]));
        let mut wrong = body;
        wrong[2_345_678] ^= 1;
        let mut check = Pattern::new(5);
        assert!(!wrong.chunks(4096).all(|piece| check.matches(piece)));
    }
}
