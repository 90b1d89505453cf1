//! Bounds in time: rate limits and budgets of further tries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alize_datapath::http::{Draw, Rate};
use alize_model::ServiceName;
use alize_model::http::{Budget, Caller, Http, LimitPer, RateLimit};

use crate::back::lock;
use crate::front::Origin;
use crate::kernel::Kernel;

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

    fn give_back(&mut self, limit: &RateLimit) {
        self.0 -= Duration::from_secs(1) / limit.requests.get();
    }
}

/// A rate limit, and who has used how much of it where the kernel does not keep that.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: RateLimit,
    /// The same for the kernel.
    rate: Rate,
    /// One without a client is for all.
    buckets: Mutex<HashMap<Option<Caller>, Bucket>>,
}

impl Limiter {
    fn who(&self, caller: &Caller) -> Option<Caller> {
        (self.limit.per == LimitPer::Client).then_some(*caller)
    }

    fn take(&self, caller: &Caller, now: Instant) -> Result<(), Duration> {
        let who = self.who(caller);
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

    fn give_back(&self, caller: &Caller) {
        if let Some(bucket) = lock(&self.buckets).get_mut(&self.who(caller)) {
            bucket.give_back(&self.limit);
        }
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
    /// Those of the service `name`; a limit that is the same as `before` goes on where it was.
    pub(super) fn new(name: &ServiceName, http: &Http, before: Option<&Self>) -> Self {
        let keep = |old: Option<&Arc<Limiter>>, limit: RateLimit, route: Option<&str>| match old {
            Some(old) if old.limit == limit => Arc::clone(old),
            _ => {
                let rate = Rate::new(&limit, name, route);
                Arc::new(Limiter { limit, rate, buckets: Mutex::default() })
            }
        };
        let mut limits = Self {
            service: http
                .rate_limit
                .map(|limit| keep(before.and_then(|before| before.service.as_ref()), limit, None)),
            ..Self::default()
        };
        for (rule, route) in (0..).zip(&http.routes) {
            let Some(limit) = route.rate_limit else { continue };
            let limiter =
                keep(before.and_then(|before| before.routes.get(&route.name)), limit, Some(&route.name));
            limits.routes.insert(Arc::clone(&route.name), Arc::clone(&limiter));
            limits.rules.insert(rule, limiter);
        }
        limits
    }

    /// Takes a request in, or says when to come back.
    pub(super) fn take(&self, rule: u16, origin: &Origin, kernel: &dyn Kernel) -> Result<(), Duration> {
        let both = [self.service.as_ref(), self.rules.get(&rule)];
        if both.iter().all(Option::is_none) {
            return Ok(());
        }
        let caller = kernel.caller(origin.netns, origin.peer.ip());
        match kernel.draw(both.map(|limiter| limiter.map(|limiter| limiter.rate)), &caller) {
            Some(Draw::Taken) => Ok(()),
            Some(Draw::Over { wait }) => Err(wait),
            Some(Draw::Full) | None => draw_here(both, &caller),
        }
    }
}

/// From all of them, or from none.
fn draw_here(limiters: [Option<&Arc<Limiter>>; 2], caller: &Caller) -> Result<(), Duration> {
    let now = Instant::now();
    let mut drawn: Option<&Arc<Limiter>> = None;
    for limiter in limiters.into_iter().flatten() {
        if let Err(wait) = limiter.take(caller, now) {
            if let Some(before) = drawn {
                before.give_back(caller);
            }
            return Err(wait);
        }
        drawn = Some(limiter);
    }
    Ok(())
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
