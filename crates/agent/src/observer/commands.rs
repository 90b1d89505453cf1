//! First words of command lines: `/proc` is asked once a second and process, as 100,000 requests of it may be shown in that time.

use std::collections::HashMap;
use std::time::Duration;

use rustix::time::ClockId;

use super::LOOK;
use crate::events::clock;
use crate::process;

/// Processes remembered; when there are more, all are asked for anew.
const MOST: usize = 1024;

/// What is known of processes, by their numbers.
#[derive(Default)]
pub(super) struct Commands {
    known: HashMap<u32, Known>,
}

/// A process as it was found. Times are those of the monotonic clock.
struct Known {
    /// `None`: it was gone.
    word: Option<String>,
    started: Duration,
    found: Duration,
}

impl Commands {
    /// That of the process whose number was `pid` at `time` of the monotonic clock; `None` when it has ended.
    pub(super) fn first_word(&mut self, pid: u32, time: Duration) -> Option<String> {
        if self.known.get(&pid).is_none_or(|known| time > known.found + LOOK) {
            if self.known.len() >= MOST {
                self.known.clear();
            }
            self.known.insert(pid, Known::find(pid));
        }
        let known = self.known.get(&pid)?;
        // Another process may have got the number since.
        known.word.clone().filter(|_| known.started <= time)
    }
}

impl Known {
    fn find(pid: u32) -> Self {
        let found = clock(ClockId::Monotonic);
        // In this order: who has got the number between the two has started too late.
        let word = process::first_word(pid);
        let started = process::started(pid);
        // Since the machine started, time asleep included, which the monotonic clock leaves out.
        let asleep = clock(ClockId::Boottime).saturating_sub(clock(ClockId::Monotonic));
        Self {
            word: word.filter(|_| started.is_some()),
            started: started.unwrap_or_default().saturating_sub(asleep),
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_first_word_is_one_without_arguments_and_of_the_same_process() {
        let mut child = Command::new("sleep").arg0("\u{1b}doze --token=a").arg("60").spawn().unwrap();
        let (pid, time) = (child.id(), clock(ClockId::Monotonic));
        // The kernel lets go of the parent before the line is in its place.
        while process::first_word(pid).is_none() {
            std::thread::yield_now();
        }
        let mut commands = Commands::default();
        assert_eq!(commands.first_word(pid, time).as_deref(), Some("\u{fffd}doze"));
        let before = time - Duration::from_secs(3);
        assert_eq!(commands.first_word(pid, before), None, "the number was another's then");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(commands.first_word(pid, time).is_some(), "/proc is not asked again");
        let after = time + 2 * LOOK;
        assert_eq!(commands.first_word(pid, after), None, "it has ended");
        assert_eq!(commands.known.len(), 1);
        for gone in 0..2 * MOST as u32 {
            assert_eq!(commands.first_word(u32::MAX - gone, time), None);
        }
        assert!(commands.known.len() <= MOST);
    }
}
