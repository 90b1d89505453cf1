//! When requests are due.

use super::order::Pace;

/// Times in nanoseconds of the monotonic clock.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: u64,
    end: u64,
    pace: Pace,
    issued: u64,
}

impl Schedule {
    pub(crate) fn new(pace: Pace, start: u64, end: u64) -> Self {
        Self { start, end, pace, issued: 0 }
    }

    /// The next request that is due by `now`; `None` at saturation, where a free connection makes it due.
    pub(crate) fn due(&mut self, now: u64) -> Option<u64> {
        let next = self.next()?;
        (next <= now).then(|| {
            self.issued += 1;
            next
        })
    }

    /// When the next request is due; `None` when no more are.
    pub(crate) fn next(&self) -> Option<u64> {
        let Pace::Rate(rate) = self.pace else { return None };
        let next = self.start + (self.issued as f64 * 1e9 / rate) as u64;
        (next < self.end).then_some(next)
    }

    pub(crate) fn saturates(&self, now: u64) -> bool {
        self.pace == Pace::Saturate && now < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_whatever_the_server_does() {
        let mut schedule = Schedule::new(Pace::Rate(1_000.0), 5_000, 5_000 + 1_000_000_000);
        assert_eq!(schedule.due(4_999), None);
        assert_eq!(schedule.due(5_000), Some(5_000));
        assert_eq!(schedule.due(5_001), None);
        assert_eq!(schedule.next(), Some(1_005_000));
        // The generator was held up for half a second: what was due meanwhile is due from when it was.
        let late: Vec<u64> = std::iter::from_fn(|| schedule.due(500_005_000)).collect();
        assert_eq!(late.len(), 500);
        assert_eq!((late[0], late[499]), (1_005_000, 500_005_000));
        let rest = std::iter::from_fn(|| schedule.due(u64::MAX)).count();
        assert_eq!(1 + late.len() + rest, 1_000);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn saturation_is_due_by_free_connections_only() {
        let mut schedule = Schedule::new(Pace::Saturate, 0, 100);
        assert_eq!(schedule.due(50), None);
        assert!(schedule.saturates(99));
        assert!(!schedule.saturates(100));
    }
}
