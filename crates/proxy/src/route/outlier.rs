//! Endpoints whose answers get them ejected for a while.

use std::time::{Duration, Instant};

use alize_model::http::Outlier;
use http::StatusCode;

/// What a try said about its endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sign {
    /// It answered, after this time.
    Status(StatusCode, Duration),
    /// It could not be reached, or broke off.
    Broken,
}

/// What is remembered of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Record {
    errors: u16,
    gateway_errors: u16,
    slow: u16,
    ejected_until: Option<Instant>,
    ejections: u32,
}

impl Record {
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    /// Takes a sign in; whether it is enough to eject.
    pub(super) fn note(&mut self, rules: &Outlier, sign: Sign) -> bool {
        let (error, gateway) = match sign {
            Sign::Status(status, _) => (status.is_server_error(), matches!(status.as_u16(), 502..=504)),
            Sign::Broken => (true, true),
        };
        let count = |bad: bool, counted: &mut u16| *counted = if bad { counted.saturating_add(1) } else { 0 };
        count(error, &mut self.errors);
        count(gateway, &mut self.gateway_errors);
        if let (Some((_, bound)), Sign::Status(_, took)) = (rules.consecutive_slow, sign) {
            count(took > bound, &mut self.slow);
        }
        let reached =
            |limit: Option<std::num::NonZeroU16>, counted: u16| limit.is_some_and(|n| counted >= n.get());
        reached(rules.consecutive_5xx, self.errors)
            || reached(rules.consecutive_gateway_errors, self.gateway_errors)
            || reached(rules.consecutive_slow.map(|(number, _)| number), self.slow)
    }

    /// Ejects, twice as long each time that follows soon.
    pub(super) fn eject(&mut self, rules: &Outlier, now: Instant) {
        let long_well =
            self.ejected_until.is_some_and(|until| now.saturating_duration_since(until) > rules.max);
        if long_well {
            self.ejections = 0;
        }
        let length = rules.base.saturating_mul(1 << self.ejections.min(20)).min(rules.max);
        *self = Self {
            ejected_until: Some(now + length),
            ejections: self.ejections.saturating_add(1),
            ..Self::default()
        };
    }
}

/// Whether one more of `endpoints` may be ejected when `ejected` are.
pub(super) fn may_eject(rules: &Outlier, endpoints: usize, ejected: usize) -> bool {
    let share = endpoints * usize::from(rules.max_ejected) / 100;
    endpoints > ejected + 1 && ejected < share.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU16;

    fn rules() -> Outlier {
        Outlier {
            consecutive_5xx: NonZeroU16::new(3),
            consecutive_gateway_errors: NonZeroU16::new(2),
            consecutive_slow: Some((NonZeroU16::new(2).unwrap(), Duration::from_millis(100))),
            base: Duration::from_secs(10),
            max: Duration::from_secs(30),
            max_ejected: 50,
        }
    }

    fn status(status: u16) -> Sign {
        Sign::Status(StatusCode::from_u16(status).unwrap(), Duration::ZERO)
    }

    #[test]
    fn only_errors_in_a_row_eject() {
        let rules = rules();
        let verdicts = |signs: &[Sign]| {
            let mut record = Record::default();
            signs.iter().map(|sign| record.note(&rules, *sign)).collect::<Vec<_>>()
        };
        assert_eq!(
            verdicts(&[status(500), status(500), status(200), status(500), status(500), status(500)]),
            [false, false, false, false, false, true]
        );
        assert_eq!(verdicts(&[status(503), Sign::Broken]), [false, true]);
        assert_eq!(verdicts(&[status(404), status(404), status(404)]), [false; 3]);
        let slow = Sign::Status(StatusCode::OK, Duration::from_millis(101));
        assert_eq!(verdicts(&[slow, slow]), [false, true]);
    }

    #[test]
    fn ejections_grow_and_end() {
        let (rules, start) = (rules(), Instant::now());
        let mut record = Record::default();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        record.eject(&rules, start);
        assert!(record.is_ejected(after(9)) && !record.is_ejected(after(10)));
        record.eject(&rules, after(10));
        assert!(record.is_ejected(after(29)) && !record.is_ejected(after(30)));
        record.eject(&rules, after(30));
        assert!(record.is_ejected(after(59)) && !record.is_ejected(after(60)), "no longer than max");
        record.eject(&rules, after(91));
        assert!(!record.is_ejected(after(101)), "it was well for long");
    }

    #[test]
    fn one_endpoint_always_stays() {
        assert!(!may_eject(&rules(), 1, 0));
        assert!(may_eject(&rules(), 2, 0) && !may_eject(&rules(), 2, 1));
        assert!(may_eject(&rules(), 10, 4) && !may_eject(&rules(), 10, 5));
        let few = Outlier { max_ejected: 0, ..rules() };
        assert!(may_eject(&few, 3, 0) && !may_eject(&few, 3, 1));
    }
}
