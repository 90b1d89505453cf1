//! How endpoints are chosen: the algorithm, and the shares of a split.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::maglev::{default_table_size, is_prime, nearest_prime};
use crate::{Balance, Endpoint, Position, Split};

use super::keys::{self, Algorithm, BalanceKey, Keys, Kind, MaglevKey};
use super::names::Names;
use super::remarks::{Remarks, Stop};
use super::scalar::{Choice, Refusal, quote};
use super::value::What;
use super::yaml::{At, Reader, Token};

/// The value of `balance` before the number of endpoints is known.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    algorithm: Algorithm,
    table_size: Option<At<u32>>,
}

impl Chosen {
    pub(super) const DEFAULT: Self = Self { algorithm: Algorithm::WeightedRandom, table_size: None };

    pub(super) fn balance(self, endpoints: usize) -> Balance {
        match self.algorithm {
            Algorithm::WeightedRandom => Balance::WeightedRandom,
            Algorithm::RoundRobin => Balance::RoundRobin,
            Algorithm::LeastConnections => Balance::LeastConnections,
            Algorithm::Maglev => {
                let written = self.table_size.and_then(|size| NonZeroU32::new(size.value));
                Balance::Maglev { table_size: written.unwrap_or_else(|| default_table_size(endpoints)) }
            }
        }
    }

    /// Every endpoint must have a place in the table.
    pub(super) fn check(self, at: Position, endpoints: usize, remarks: &mut Remarks<'_>) {
        let Balance::Maglev { table_size } = self.balance(endpoints) else { return };
        if (table_size.get() as usize) < endpoints {
            remarks.error(
                self.table_size.map_or(at, |size| size.at),
                format!("a maglev table of {table_size} entries is too small for {endpoints} endpoints"),
                format!(
                    "write a `table-size` of at least {}, or split the service",
                    default_table_size(endpoints)
                ),
            );
        }
    }
}

/// Reads the value of `balance`: a word, or a mapping.
pub(super) fn read(reader: &mut Reader<'_>, what: What<'_>) -> Result<Option<Chosen>, Stop> {
    let token = reader.next()?;
    if let Token::Scalar(_) = token.value {
        let algorithm = reader.scalar_from(token, what, Algorithm::read)?;
        return Ok(algorithm.map(|algorithm| Chosen { algorithm: algorithm.value, table_size: None }));
    }
    let mut chosen = None;
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            BalanceKey::Maglev => {
                let token = reader.next()?;
                let mut table_size = None;
                reader.mapping(token, what, |reader, key| {
                    let what = What::of(key);
                    match key {
                        MaglevKey::TableSize => table_size = reader.plain(what, self::table_size)?,
                    }
                    Ok(())
                })?;
                chosen = Some(Chosen { algorithm: Algorithm::Maglev, table_size });
            }
        }
        Ok(())
    })?;
    Ok(chosen)
}

fn table_size(text: &str) -> Result<u32, Refusal> {
    let size = keys::TABLE_SIZE.read(text)?;
    if is_prime(size) {
        return Ok(size);
    }
    Err(Refusal::new("is no prime", format!("the nearest is {}", nearest_prime(size))))
}

/// A [`Split`] with the places of its parts.
pub(super) struct Shares {
    label: At<Arc<str>>,
    shares: BTreeMap<Arc<str>, At<u16>>,
}

impl Shares {
    pub(super) fn into_split(self) -> Split {
        let shares = self.shares.into_iter().map(|(value, share)| (value, share.value)).collect();
        Split { label: self.label.value, shares }
    }

    /// Compares the shares with the endpoints that should carry them.
    pub(super) fn check(&self, endpoints: &[At<Endpoint>], remarks: &mut Remarks<'_>) {
        let label = &self.label.value;
        if self.shares.values().all(|share| share.value == 0) {
            let help = "give at least one value a share above 0";
            remarks.error(self.label.at, format!("split by {} has no share above 0", quote(label)), help);
            return;
        }
        if endpoints.is_empty() {
            return;
        }
        if !endpoints.iter().any(|endpoint| endpoint.value.labels.contains_key(label)) {
            remarks.error(
                self.label.at,
                format!("split is by label {}, but no endpoint carries it", quote(label)),
                format!("add `labels: {{{label}: ...}}` to the endpoints"),
            );
            return;
        }
        self.check_values(endpoints, remarks);
        self.check_carriers(endpoints, remarks);
    }

    /// Shares that no endpoint can take: all of them are an error, some of them a warning.
    fn check_values(&self, endpoints: &[At<Endpoint>], remarks: &mut Remarks<'_>) {
        let label = &self.label.value;
        let carried: HashSet<_> =
            endpoints.iter().filter_map(|endpoint| endpoint.value.labels.get(label)).collect();
        let (with, without): (Vec<_>, Vec<_>) = self
            .shares
            .iter()
            .filter(|(_, share)| share.value > 0)
            .partition(|(value, _)| carried.contains(value));
        if with.is_empty() {
            remarks.error(
                self.label.at,
                format!("split by {}: no endpoint carries a value that has a share above 0", quote(label)),
                "look at the spelling of the values in split and in `labels`",
            );
            return;
        }
        for (value, share) in without {
            remarks.warning(
                share.at,
                format!("no endpoint has {} {}", quote(label), quote(value)),
                format!("its share {} goes to the others", share.value),
            );
        }
    }

    /// Endpoints that no share reaches.
    fn check_carriers(&self, endpoints: &[At<Endpoint>], remarks: &mut Remarks<'_>) {
        let label = &self.label.value;
        let forgotten =
            |e: &&At<Endpoint>| !e.value.labels.get(label).is_some_and(|v| self.shares.contains_key(v));
        let Some(first) = endpoints.iter().filter(forgotten).min_by_key(|endpoint| endpoint.at) else {
            return;
        };
        let message = match (first.value.labels.get(label), endpoints.iter().filter(forgotten).count()) {
            (Some(value), 1) => format!(
                "endpoint {} has {} {}, which has no share",
                first.value.address,
                quote(label),
                quote(value)
            ),
            (None, 1) => format!("endpoint {} has no label {}", first.value.address, quote(label)),
            (_, count) => {
                format!(
                    "endpoint {} and {} more have no share in the split by {}",
                    first.value.address,
                    count - 1,
                    quote(label)
                )
            }
        };
        remarks.warning(
            first.at,
            message,
            "it gets no new connection: give its value a share in split, 0 if that is meant",
        );
    }
}

/// Reads the value of split: one label, and shares by its values.
pub(super) fn read_split(
    reader: &mut Reader<'_>,
    what: What<'_>,
    names: &mut Names,
) -> Result<Option<Shares>, Stop> {
    let errors_before = reader.remarks.errors();
    let mut split: Option<Shares> = None;
    let at = reader.labels(what, names, |reader, names, label| {
        if split.is_some() {
            reader.remarks.error(
                label.at,
                format!("split names a second label, {}", quote(&label.value)),
                "a service is split by one label: take the others out",
            );
            return reader.skip_value();
        }
        split = Some(Shares { shares: read_shares(reader, &label.value, names)?, label });
        Ok(())
    })?;
    let refused = reader.remarks.errors() > errors_before;
    if let (Some(at), None, false) = (at, &split, refused) {
        reader.remarks.error(at, "split is empty", format!("write {}, or take it out", what.expected));
    }
    Ok(split.filter(|_| !refused))
}

fn read_shares(
    reader: &mut Reader<'_>,
    label: &str,
    names: &mut Names,
) -> Result<BTreeMap<Arc<str>, At<u16>>, Stop> {
    let mut shares = BTreeMap::new();
    let name = format_args!("label {}", label);
    let what = What { name: &name, expected: &"a share for each value, such as {v1: 90, v2: 10}" };
    reader.labels(what, names, |reader, _, value| {
        let name = format_args!("share of {}", value.value);
        let what = What { name: &name, expected: &Kind::Whole(keys::SHARE) };
        let share = reader.plain(what, |text| keys::SHARE.read(text))?;
        shares.extend(share.map(|share| (value.value, share)));
        Ok(())
    })?;
    Ok(shares)
}

const _: () = assert!(BalanceKey::ALL.len() == 1, "with two keys, both could be written");
