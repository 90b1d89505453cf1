//! Bounds in time: rate limits and budgets of further tries.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alize_model::http::{Budget, Http, LimitPer, RateLimit};

use crate::back::lock;
use crate::front::Origin;
use crate::kernel::Netns;

/// Clients remembered by one limit; those that have nothing to fear are forgotten first.
const MOST_CLIENTS: usize = 10_000;

/// A token bucket, as the time at which it will be full again (the "generic cell rate algorithm").
#[derive(Debug)]
struct Bucket(Instant);

impl Bucket {
    fn take(&mut self, limit: &RateLimit, now: Instant) -> Result<(), Duration> {
        let one = Duration::from_secs(1) / limit.requests.get();
        let full = self.0.max(now);
        let room = one * (limit.burst.get() - 1);
        match full.duration_since(now).checked_sub(room) {
            Some(wait) if wait > Duration::ZERO => Err(wait),
            _ => {
                self.0 = full + one;
                Ok(())
            }
        }
    }
}

/// A rate limit and who has used how much of it.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: RateLimit,
    /// One without a client is for all.
    buckets: Mutex<HashMap<Option<(Netns, IpAddr)>, Bucket>>,
}

impl Limiter {
    fn new(limit: RateLimit) -> Self {
        Self { limit, buckets: Mutex::default() }
    }

    fn take(&self, origin: &Origin, now: Instant) -> Result<(), Duration> {
        let who = match self.limit.per {
            LimitPer::All => None,
            LimitPer::Client => Some((origin.netns, origin.peer.ip())),
        };
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= MOST_CLIENTS && !buckets.contains_key(&who) {
            buckets.retain(|_, bucket| bucket.0 > now);
            if buckets.len() >= MOST_CLIENTS {
                // All of them are over it at once: one bucket for the rest is fairer than none.
                return buckets.entry(None).or_insert(Bucket(now)).take(&self.limit, now);
            }
        }
        buckets.entry(who).or_insert(Bucket(now)).take(&self.limit, now)
    }
}

/// The limits of a service and its routes.
#[derive(Debug, Default)]
pub(super) struct Limits {
    service: Option<Arc<Limiter>>,
    routes: HashMap<Arc<str>, Arc<Limiter>>,
    /// By the route's number.
    rules: HashMap<u16, Arc<Limiter>>,
}

impl Limits {
    /// Those of `http`; a limit that is the same as `before` goes on where it was.
    pub(super) fn new(http: &Http, before: Option<&Self>) -> Self {
        let keep = |old: Option<&Arc<Limiter>>, limit: RateLimit| match old {
            Some(old) if old.limit == limit => Arc::clone(old),
            _ => Arc::new(Limiter::new(limit)),
        };
        let mut limits = Self {
            service: http
                .rate_limit
                .map(|limit| keep(before.and_then(|before| before.service.as_ref()), limit)),
            ..Self::default()
        };
        for (rule, route) in (0..).zip(&http.routes) {
            let Some(limit) = route.rate_limit else { continue };
            let limiter = keep(before.and_then(|before| before.routes.get(&route.name)), limit);
            limits.routes.insert(Arc::clone(&route.name), Arc::clone(&limiter));
            limits.rules.insert(rule, limiter);
        }
        limits
    }

    /// Takes a request in, or says when to come back.
    pub(super) fn take(&self, rule: u16, origin: &Origin) -> Result<(), Duration> {
        let now = Instant::now();
        let both = [self.service.as_ref(), self.rules.get(&rule)];
        both.into_iter().flatten().try_for_each(|limiter| limiter.take(origin, now))
    }
}

/// The last ten seconds of requests and further tries.
#[derive(Debug, Default)]
pub(super) struct Tries {
    window: Mutex<[Second; 10]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    requests: u32,
    further: u32,
}

impl Tries {
    pub(super) fn request(&self, second: u64) {
        Self::at(&mut lock(&self.window), second).requests += 1;
    }

    /// Whether one more try may be made; it is counted then.
    pub(super) fn further(&self, budget: Option<&Budget>, second: u64) -> bool {
        let mut window = lock(&self.window);
        if let Some(budget) = budget {
            let recent = window.iter().filter(|slot| slot.number + 10 > second);
            let (requests, further) = recent.fold((0, 0), |(requests, further), slot| {
                (requests + u64::from(slot.requests), further + u64::from(slot.further))
            });
            let share = requests * u64::from(budget.percent) / 100;
            if further >= share.max(u64::from(budget.min_per_second) * 10) {
                return false;
            }
        }
        Self::at(&mut window, second).further += 1;
        true
    }

    fn at(window: &mut [Second; 10], second: u64) -> &mut Second {
        let slot = &mut window[(second % 10) as usize];
        if slot.number != second {
            *slot = Second { number: second, ..Second::default() };
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn limit(requests: u32, burst: u32) -> RateLimit {
        let number = |n| NonZeroU32::new(n).unwrap();
        RateLimit { requests: number(requests), burst: number(burst), per: LimitPer::All }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let limit = limit(10, 5);
        let mut bucket = Bucket(start);
        let taken = (0..100).filter(|_| bucket.take(&limit, start).is_ok()).count();
        assert_eq!(taken, 5);
        let wait = bucket.take(&limit, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert!(bucket.take(&limit, start + wait).is_ok() && bucket.take(&limit, start + wait).is_err());
        let second = |n: u64| start + Duration::from_millis(200 + n * 10);
        let taken = (0..100).filter(|n| bucket.take(&limit, second(*n)).is_ok()).count();
        assert!((10..=11).contains(&taken), "{taken} in a second");
    }

    #[test]
    fn a_budget_is_a_share_of_the_recent_requests() {
        let tries = Tries::default();
        let budget = Budget { percent: 20, min_per_second: 0 };
        (0..100).for_each(|_| tries.request(50));
        assert_eq!((0..100).filter(|_| tries.further(Some(&budget), 50)).count(), 20);
        assert!(!tries.further(Some(&budget), 59), "still within ten seconds");
        assert!(!tries.further(Some(&budget), 60), "no requests any more");
        let least = Budget { percent: 0, min_per_second: 1 };
        assert_eq!((0..100).filter(|_| tries.further(Some(&least), 70)).count(), 10);
    }
}
