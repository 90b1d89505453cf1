use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::dial::Dial;
use super::stream::{each_line, take};
use super::{Speech, tell};
use crate::Tally;
use crate::tally::Answer;

/// Sends bytes to a server that echoes, and compares each that comes back.
#[derive(Debug, clap::Args)]
pub struct Download {
    target: SocketAddr,
    /// Bytes of one transfer
    #[arg(long, default_value_t = 1 << 20)]
    bytes: usize,
    /// Transfers at the same time
    #[arg(long, default_value_t = 1)]
    callers: u32,
    #[arg(long, default_value_t = 20.0)]
    timeout: f64,
}

impl Download {
    pub(super) fn run(self) -> Result<()> {
        let limit = Duration::from_secs_f64(self.timeout);
        let dial = Dial { target: self.target, speech: Speech::Line, limit };
        let (seen, ending, seed) = (Mutex::new(Tally::default()), AtomicBool::new(false), AtomicU64::new(1));
        std::thread::scope(|scope| {
            for _ in 0..self.callers {
                scope.spawn(|| {
                    while !ending.load(Ordering::Relaxed) {
                        let begin = Instant::now();
                        let outcome = self.transfer(&dial, seed.fetch_add(1, Ordering::Relaxed));
                        if let Ok(mut seen) = seen.lock() {
                            seen.record(outcome, None, begin.elapsed());
                        }
                    }
                });
            }
            let told = each_line(|| tell(&take(&seen)));
            ending.store(true, Ordering::Relaxed);
            told
        })?;
        tell(&take(&seen))
    }

    fn transfer(&self, dial: &Dial, seed: u64) -> io::Result<Answer> {
        let (answer, mut reader) = dial.connect(None).and_then(|stream| dial.listen(stream))?;
        let sent = bytes(seed, self.bytes);
        let mut writer = reader.get_ref().try_clone()?;
        let mut back = Vec::with_capacity(sent.len());
        std::thread::scope(|scope| {
            let writing =
                scope.spawn(|| writer.write_all(&sent).and_then(|()| writer.shutdown(Shutdown::Write)));
            reader.read_to_end(&mut back)?;
            writing.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })?;
        if back == sent { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// Other bytes for each transfer, so that none can be taken for another's (SplitMix64).
pub(super) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(length);
    bytes
}
