//! Bounded waiting.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` finds something; says `what` was waited for, and what was in the way last, when time is up.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let seen = look();
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if Instant::now() >= end {
            match seen {
                Err(error) => bail!("waited {limit:?} for {what}: {error:#}"),
                Ok(_) => bail!("waited {limit:?} for {what}"),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// As [`until`], for a plain condition.
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(look()?.then_some(())))
}
