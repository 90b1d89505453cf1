use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::dial::Dial;
use super::{Speech, tell};
use crate::Tally;

#[derive(Debug, clap::Args)]
pub struct Stream {
    target: SocketAddr,
    #[arg(long, default_value = "line")]
    speech: Speech,
    /// Callers at the same time
    #[arg(long, default_value_t = 1)]
    callers: u32,
    /// Milliseconds that a caller waits between two calls
    #[arg(long, default_value_t = 0)]
    pause: u64,
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
}

impl Stream {
    pub(super) fn run(self) -> Result<()> {
        let dial =
            Dial { target: self.target, speech: self.speech, limit: Duration::from_secs_f64(self.timeout) };
        let seen = Mutex::new(Tally::default());
        let ending = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..self.callers {
                scope.spawn(|| self.call(&dial, &seen, &ending));
            }
            let told = each_line(|| tell(&take(&seen)));
            ending.store(true, Ordering::Relaxed);
            told
        })?;
        tell(&take(&seen))
    }

    fn call(&self, dial: &Dial, seen: &Mutex<Tally>, ending: &AtomicBool) {
        while !ending.load(Ordering::Relaxed) {
            let mut tally = Tally::default();
            dial.ask(None, &mut tally);
            if let Ok(mut seen) = seen.lock() {
                seen.add(tally);
            }
            if self.pause > 0 {
                std::thread::sleep(Duration::from_millis(self.pause));
            }
        }
    }
}

pub(super) fn take(seen: &Mutex<Tally>) -> Tally {
    seen.lock().map(|mut seen| std::mem::take(&mut *seen)).unwrap_or_default()
}

/// Does `what` at each line of standard input, until that ends.
pub(super) fn each_line(mut what: impl FnMut() -> Result<()>) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        line?;
        what()?;
    }
    Ok(())
}
