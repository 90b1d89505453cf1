//! What the verifier spent on a program, which it tells in its log only, and only of one that is being loaded.
#![allow(unsafe_code)]

use libbpf_rs::{AsRawLibbpf, OpenObject, libbpf_sys};

/// BPF_LOG_STATS of linux/bpf_verifier.h: the last lines of the log and nothing else.
const STATISTICS: u32 = 4;

/// These lines take a few hundred bytes.
const ROOM: usize = 16 * 1024;

/// What the verifier spent on one program.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Effort {
    /// Instructions that it walked, of [`crate::inspect::VERIFIER_LIMIT`].
    pub walked: u64,
    /// States that it made.
    pub states: u64,
    /// States that it held at once, which is what its memory depends on.
    pub peak_states: u64,
    /// Bytes of stack: of the program, and of each of its functions that are verified on their own.
    pub stack: Vec<u32>,
}

/// Room for what the verifier will say of the programs of an object; must outlive its load.
pub(crate) struct Statistics {
    /// Boxed, so that the kernel's place to write does not move.
    logs: Vec<(String, Box<[u8]>)>,
}

impl Statistics {
    /// Has the verifier tell of each program of `object`.
    pub(crate) fn ask(object: &mut OpenObject) -> Self {
        let mut logs = Vec::new();
        for mut program in object.progs_mut() {
            let mut log = vec![0u8; ROOM].into_boxed_slice();
            program.set_log_level(STATISTICS);
            // SAFETY: the object keeps the pointer until it is loaded or dropped, which the caller does before it drops
            // this; the box has `ROOM` bytes and stays where it is.
            unsafe {
                libbpf_sys::bpf_program__set_log_buf(
                    program.as_libbpf_object().as_ptr(),
                    log.as_mut_ptr().cast(),
                    ROOM as _,
                );
            }
            logs.push((program.name().to_string_lossy().into_owned(), log));
        }
        Self { logs }
    }

    /// What was told of the program `name`.
    pub(crate) fn of(&self, name: &str) -> Option<Effort> {
        let (_, log) = self.logs.iter().find(|(program, _)| program == name)?;
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        read(&String::from_utf8_lossy(&log[..end]))
    }

    /// Of nothing.
    pub(crate) fn none() -> Self {
        Self { logs: Vec::new() }
    }
}

/// `stack depth 104+32`, and `processed 6633 insns (limit 1000000) max_states_per_insn 4 total_states 418 peak_states 96
/// mark_read 20`.
fn read(log: &str) -> Option<Effort> {
    let after = |words: &str| {
        let rest = log.rsplit_once(words)?.1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    let stack = log.rsplit_once("stack depth ").map(|(_, rest)| rest.lines().next().unwrap_or(""));
    // Since Linux 6.18 the line goes on: ` max 64`.
    let stack = stack.and_then(|stack| stack.split_whitespace().next()).unwrap_or("");
    Some(Effort {
        walked: after("processed ")?,
        states: after("total_states ")?,
        peak_states: after("peak_states ")?,
        stack: stack.split('+').filter_map(|bytes| bytes.parse().ok()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_log_are_read() {
        let log = "verification time 1034 usec\nstack depth 104+32 max 136\nprocessed 6633 insns (limit 1000000) \
                   max_states_per_insn 4 total_states 418 peak_states 96 mark_read 20\n";
        let effort = Effort { walked: 6633, states: 418, peak_states: 96, stack: vec![104, 32] };
        assert_eq!(read(log), Some(effort));
        assert_eq!(
            read("stack depth 0\nprocessed 2 insns (limit 1) total_states 0 peak_states 0").unwrap().stack,
            [0]
        );
        assert_eq!(read(""), None);
        assert_eq!(read("processed no insns"), None);
    }
}
