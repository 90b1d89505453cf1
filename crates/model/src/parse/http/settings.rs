//! The key `http`: how a service treats its endpoints.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use crate::http::{Circuit, HashOn, HttpBalance, LimitPer, Outlier, Pool, RateLimit, Upstream};

use super::super::keys::http::{
    self as keys, CircuitKey, HashKey, HttpBalanceKey, HttpKey, OutlierKey, PoolKey, RateLimitKey,
    RequestBalance, ShortHash,
};
use super::super::keys::{DEFAULT_BASE, DEFAULT_MAX, DEFAULT_MAX_EJECTED, EJECTION, PERCENT, TIMEOUT};
use super::super::remarks::Stop;
use super::super::scalar::{self, Choice, Refusal, Whole, show};
use super::super::value::What;
use super::super::yaml::{At, Reader, Token};

/// The values of an `http` mapping.
#[derive(Default)]
pub(in crate::parse) struct Settings {
    pub(super) upstream: Upstream,
    /// Absent when it is not written.
    pub(super) balance: Option<HttpBalance>,
    pub(super) pool: Pool,
    pub(super) circuit: Option<Circuit>,
    pub(super) outlier: Option<Outlier>,
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) silent: bool,
}

/// Reads the value of `http`.
pub(in crate::parse) fn read<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Settings, Stop> {
    let mut settings = Settings::default();
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            HttpKey::Upstream => {
                settings.upstream =
                    reader.scalar(what, Upstream::read)?.map(|at| at.value).unwrap_or_default();
            }
            HttpKey::Balance => settings.balance = read_balance(reader, what)?,
            HttpKey::Pool => settings.pool = read_pool(reader, what)?,
            HttpKey::Circuit => settings.circuit = read_circuit(reader, what)?,
            HttpKey::Outlier => settings.outlier = read_outlier(reader, what)?,
            HttpKey::RateLimit => {
                let token = reader.next()?;
                settings.rate_limit = read_rate_limit(reader, token, what)?;
            }
            HttpKey::ReasonHeader => {
                settings.silent = reader.plain(what, scalar::boolean)?.is_some_and(|shown| !shown.value);
            }
        }
        Ok(())
    })?;
    Ok(settings)
}

fn read_balance(reader: &mut Reader<'_>, what: What<'_>) -> Result<Option<HttpBalance>, Stop> {
    let token = reader.next()?;
    if let Token::Scalar(_) = token.value {
        let word = reader.scalar_from(token, what, RequestBalance::read)?;
        return Ok(word.map(|word| match word.value {
            RequestBalance::LeastRequests => HttpBalance::LeastRequests,
            RequestBalance::RoundRobin => HttpBalance::RoundRobin,
            RequestBalance::WeightedRandom => HttpBalance::WeightedRandom,
        }));
    }
    let mut balance = None;
    reader.mapping(token, what, |reader, HttpBalanceKey::ConsistentHash| {
        balance =
            read_hash(reader, What::of(HttpBalanceKey::ConsistentHash))?.map(HttpBalance::ConsistentHash);
        Ok(())
    })?;
    Ok(balance)
}

fn read_hash(reader: &mut Reader<'_>, what: What<'_>) -> Result<Option<HashOn>, Stop> {
    let token = reader.next()?;
    if let Token::Scalar(_) = token.value {
        let word = reader.scalar_from(token, what, ShortHash::read)?;
        return Ok(word.map(|word| match word.value {
            ShortHash::Source => HashOn::Source,
        }));
    }
    let mut on = Vec::new();
    let mut given = 0;
    let at = reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        given += 1;
        match key {
            HashKey::Header => {
                on.extend(reader.scalar(what, scalar::header_name)?.map(|name| HashOn::Header(name.value)));
            }
            HashKey::Cookie => {
                on.extend(reader.scalar(what, cookie_name)?.map(|name| HashOn::Cookie(name.value.into())));
            }
        }
        Ok(())
    })?;
    if let (Some(at), 0 | 2) = (at, given) {
        reader.remarks.error(
            at,
            "consistent-hash needs one of `header` and `cookie`",
            "write one of them, or `consistent-hash: source` for the client's address",
        );
        return Ok(None);
    }
    Ok(on.pop())
}

/// Cookie names are tokens too (RFC 6265, 4.1.1), but keep their case.
fn cookie_name(text: &str) -> Result<String, Refusal> {
    scalar::header_name(text).map(|_| text.into())
}

fn read_pool(reader: &mut Reader<'_>, what: What<'_>) -> Result<Pool, Stop> {
    let mut pool = Pool::default();
    let (mut min_idle, mut max): (Option<At<u32>>, Option<At<u32>>) = (None, None);
    let token = reader.next()?;
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            PoolKey::MinIdle => min_idle = reader.plain(what, |text| keys::IDLE.read(text))?,
            PoolKey::Max => max = reader.plain(what, |text| keys::CONNECTIONS.read(text))?,
            PoolKey::IdleTimeout => {
                let given = reader.scalar(what, |text| keys::IDLE_TIMEOUT.read(text))?;
                pool.idle_timeout = given.map_or(pool.idle_timeout, |given| given.value);
            }
            PoolKey::ConnectTimeout => {
                let given = reader.scalar(what, |text| TIMEOUT.read(text))?;
                pool.connect_timeout = given.map_or(pool.connect_timeout, |given| given.value);
            }
            PoolKey::ResponseTimeout => {
                let given = reader.scalar(what, |text| keys::REQUEST.read(text))?;
                pool.response_timeout = given.map(|given| given.value);
            }
        }
        Ok(())
    })?;
    pool.max = max.and_then(|max| NonZeroU32::new(max.value)).unwrap_or(pool.max);
    if let Some(min_idle) = min_idle {
        pool.min_idle = min_idle.value;
        if min_idle.value > pool.max.get() {
            reader.remarks.error(
                min_idle.at,
                format!("min-idle {} is above max {}", min_idle.value, pool.max),
                "lower `min-idle` or raise `max`",
            );
        }
    }
    Ok(pool)
}

fn read_circuit(reader: &mut Reader<'_>, what: What<'_>) -> Result<Option<Circuit>, Stop> {
    let mut circuit = Circuit { max_connections: None, max_pending: None, max_requests: None };
    let mut given = false;
    let token = reader.next()?;
    let at = reader.mapping(token, what, |reader, key| {
        given = true;
        let what = What::of(key);
        match key {
            CircuitKey::MaxConnections => {
                circuit.max_connections = above_zero(reader, what, keys::CONNECTIONS)?
            }
            CircuitKey::MaxPending => {
                let pending = reader.plain(what, |text| keys::PENDING.read(text))?;
                circuit.max_pending = pending.map(|pending| pending.value);
            }
            CircuitKey::MaxRequests => circuit.max_requests = above_zero(reader, what, keys::CONNECTIONS)?,
        }
        Ok(())
    })?;
    if let (Some(at), false) = (at, given) {
        reader.refuse_empty(at, what);
    }
    Ok(given.then_some(circuit))
}

fn above_zero(reader: &mut Reader<'_>, what: What<'_>, range: Whole) -> Result<Option<NonZeroU32>, Stop> {
    let number = reader.plain(what, |text| range.read(text))?;
    Ok(number.and_then(|number| NonZeroU32::new(number.value)))
}

fn read_outlier(reader: &mut Reader<'_>, what: What<'_>) -> Result<Option<Outlier>, Stop> {
    let mut in_a_row: [Option<NonZeroU16>; 3] = [None; 3];
    let (mut slower_than, mut base, mut max, mut max_ejected) = (None, None, None, None);
    let mut given = [false; 3];
    let token = reader.next()?;
    let at = reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        let mut count = |reader: &mut Reader<'_>, kind: usize| {
            let number = reader.plain(what, |text| keys::IN_SUCCESSION.read(text))?;
            in_a_row[kind] = number.and_then(|number| NonZeroU16::new(number.value));
            given[kind] = true;
            Ok(())
        };
        match key {
            OutlierKey::ServerErrors => count(reader, 0)?,
            OutlierKey::GatewayErrors => count(reader, 1)?,
            OutlierKey::Slow => count(reader, 2)?,
            OutlierKey::SlowerThan => slower_than = reader.scalar(what, |text| keys::REQUEST.read(text))?,
            OutlierKey::Base => base = reader.scalar(what, |text| EJECTION.read(text))?,
            OutlierKey::Max => max = reader.scalar(what, |text| EJECTION.read(text))?,
            OutlierKey::MaxEjected => max_ejected = reader.plain(what, |text| PERCENT.read(text))?,
        }
        Ok(())
    })?;
    let Some(at) = at else { return Ok(None) };
    if given == [false; 3] {
        reader.remarks.error(
            at,
            "outlier says not what ejects",
            "add `server-errors`, `gateway-errors` or `slow`, so many in a row",
        );
        return Ok(None);
    }
    if let (Some(slower_than), false) = (slower_than, given[2]) {
        let slower_than: At<Duration> = slower_than;
        reader.remarks.error(slower_than.at, "slower-than is of no use without `slow`", "add `slow: 5`");
    }
    let first: Duration = base.map_or(DEFAULT_BASE, |base| base.value);
    if let Some(max) = max.filter(|max| max.value < first) {
        reader.remarks.error(
            max.at,
            format!("max {} is below the base {}", show(max.value), show(first)),
            "raise `max` or lower `base`",
        );
    }
    let [consecutive_5xx, consecutive_gateway_errors, slow] = in_a_row;
    let slower_than = slower_than.map_or(keys::DEFAULT_SLOWER_THAN, |slower_than| slower_than.value);
    Ok(Some(Outlier {
        consecutive_5xx,
        consecutive_gateway_errors,
        consecutive_slow: slow.map(|slow| (slow, slower_than)),
        base: first,
        max: max.map_or(DEFAULT_MAX.max(first), |max| max.value),
        max_ejected: max_ejected.map_or(DEFAULT_MAX_EJECTED, |max_ejected| max_ejected.value),
    }))
}

/// Reads the value of `rate-limit`, of a service or of a route.
pub(super) fn read_rate_limit<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Option<RateLimit>, Stop> {
    let (mut requests, mut burst, mut per) = (None, None, LimitPer::default());
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            RateLimitKey::Requests => requests = above_zero(reader, what, keys::RATE)?,
            RateLimitKey::Burst => burst = above_zero(reader, what, keys::RATE)?,
            RateLimitKey::Per => per = reader.scalar(what, LimitPer::read)?.map_or(per, |per| per.value),
        }
        Ok(())
    })?;
    Ok(requests.map(|requests| RateLimit { requests, burst: burst.unwrap_or(requests), per }))
}
