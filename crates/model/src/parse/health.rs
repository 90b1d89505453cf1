//! Active and passive checks.

use std::num::{NonZeroU8, NonZeroU16};
use std::sync::Arc;
use std::time::Duration;

use crate::{HealthCheck, PassiveEjection, Position, Probe};

use super::keys::{self, EjectionKey, HealthKey, ShortProbe};
use super::remarks::Stop;
use super::scalar::{self, Choice, Refusal, show};
use super::value::What;
use super::yaml::{At, Reader, Token};

/// The values of a `health` mapping as far as they are written and right.
#[derive(Default)]
struct Health {
    http: Option<At<Arc<str>>>,
    host: Option<At<Arc<str>>>,
    status: Option<At<(u16, u16)>>,
    port: Option<At<u16>>,
    interval: Option<At<Duration>>,
    timeout: Option<At<Duration>>,
    jitter: Option<At<u8>>,
    healthy: Option<At<u8>>,
    unhealthy: Option<At<u8>>,
    /// `http` is there, right or not.
    http_given: bool,
}

/// Reads the value of `health`: a word, or a mapping.
pub(super) fn read(reader: &mut Reader<'_>, what: What<'_>) -> Result<Option<At<HealthCheck>>, Stop> {
    let token = reader.next()?;
    let mut health = Health::default();
    if let Token::Scalar(_) = token.value {
        let word = reader.scalar_from(token, what, read_word)?;
        return Ok(word.map(|word| word.map(|ShortProbe::Tcp| health.into_check())));
    }
    let at = reader.mapping(token, what, |reader, key| health.read(reader, key))?;
    let Some(at) = at else { return Ok(None) };
    health.check(reader);
    Ok(Some(At { at, value: health.into_check() }))
}

fn read_word(text: &str) -> Result<ShortProbe, Refusal> {
    let help =
        |refusal: Refusal| Refusal::new(refusal.problem, "write tcp, or {http: /healthz} to ask a path");
    ShortProbe::read(text).map_err(help)
}

impl Health {
    fn read(&mut self, reader: &mut Reader<'_>, key: HealthKey) -> Result<(), Stop> {
        let what = What::of(key);
        match key {
            HealthKey::Http => {
                self.http_given = true;
                self.http = reader.scalar(what, |text| scalar::path(text).map(Arc::from))?;
            }
            HealthKey::Host => self.host = reader.scalar(what, |text| scalar::host(text).map(Arc::from))?,
            HealthKey::Status => {
                self.status = reader.scalar(what, |text| scalar::statuses(text, keys::STATUS))?;
            }
            HealthKey::Port => self.port = reader.plain(what, |text| keys::PORT.read(text))?,
            HealthKey::Interval => self.interval = reader.scalar(what, |text| keys::INTERVAL.read(text))?,
            HealthKey::Timeout => self.timeout = reader.scalar(what, |text| keys::TIMEOUT.read(text))?,
            HealthKey::Jitter => self.jitter = reader.plain(what, |text| keys::PERCENT.read(text))?,
            HealthKey::Healthy => self.healthy = reader.plain(what, |text| keys::IN_A_ROW.read(text))?,
            HealthKey::Unhealthy => self.unhealthy = reader.plain(what, |text| keys::IN_A_ROW.read(text))?,
        }
        Ok(())
    }

    fn check(&self, reader: &mut Reader<'_>) {
        if !self.http_given {
            let only_http =
                [("host", self.host.as_ref().map(|v| v.at)), ("status", self.status.map(|v| v.at))];
            for (key, at) in only_http.into_iter().filter_map(|(key, at)| Some((key, at?))) {
                reader.remarks.error(
                    at,
                    format!("{key} is of no use to a TCP check"),
                    "add `http` with a path, or take it out",
                );
            }
        }
        if let Some(timeout) = self.timeout
            && timeout.value >= self.interval()
        {
            reader.remarks.error(
                timeout.at,
                format!(
                    "timeout {} is not below the interval {}",
                    show(timeout.value),
                    show(self.interval())
                ),
                "a check must end before the next begins: lower `timeout` or raise `interval`",
            );
        }
    }

    fn interval(&self) -> Duration {
        self.interval.map_or(keys::DEFAULT_INTERVAL, |interval| interval.value)
    }

    fn into_check(self) -> HealthCheck {
        let interval = self.interval();
        let in_a_row = |given: Option<At<u8>>, default| {
            NonZeroU8::new(given.map_or(default, |given| given.value)).unwrap_or(NonZeroU8::MIN)
        };
        HealthCheck {
            probe: match self.http {
                None => Probe::Tcp,
                Some(path) => Probe::Http {
                    path: path.value,
                    host: self.host.map(|host| host.value),
                    status: self.status.map_or(keys::DEFAULT_STATUS, |status| status.value),
                },
            },
            port: self.port.and_then(|port| NonZeroU16::new(port.value)),
            interval,
            timeout: self.timeout.map_or(keys::DEFAULT_TIMEOUT.min(interval / 2), |timeout| timeout.value),
            jitter: self.jitter.map_or(keys::DEFAULT_JITTER, |jitter| jitter.value),
            healthy: in_a_row(self.healthy, keys::DEFAULT_HEALTHY),
            unhealthy: in_a_row(self.unhealthy, keys::DEFAULT_UNHEALTHY),
        }
    }
}

/// Reads the value of `ejection`.
pub(super) fn read_ejection(
    reader: &mut Reader<'_>,
    what: What<'_>,
) -> Result<Option<PassiveEjection>, Stop> {
    let (mut failures, mut base, mut max, mut max_ejected) = (None, None, None, None);
    let token = reader.next()?;
    let found: Option<Position> = reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            EjectionKey::Failures => failures = reader.plain(what, |text| keys::IN_A_ROW.read(text))?,
            EjectionKey::Base => base = reader.scalar(what, |text| keys::EJECTION.read(text))?,
            EjectionKey::Max => max = reader.scalar(what, |text| keys::EJECTION.read(text))?,
            EjectionKey::MaxEjected => max_ejected = reader.plain(what, |text| keys::PERCENT.read(text))?,
        }
        Ok(())
    })?;
    let base_or_default = base.map_or(keys::DEFAULT_BASE, |base: At<Duration>| base.value);
    if let Some(max) = max
        && max.value < base_or_default
    {
        reader.remarks.error(
            max.at,
            format!("max {} is below the base {}", show(max.value), show(base_or_default)),
            "raise `max` or lower `base`",
        );
    }
    let failures = failures.map_or(keys::DEFAULT_FAILURES, |failures: At<u8>| failures.value);
    Ok(found.map(|_| PassiveEjection {
        failures: NonZeroU8::new(failures).unwrap_or(NonZeroU8::MIN),
        base: base_or_default,
        max: max.map_or(keys::DEFAULT_MAX.max(base_or_default), |max| max.value),
        max_ejected: max_ejected.map_or(keys::DEFAULT_MAX_EJECTED, |percent: At<u8>| percent.value),
    }))
}
