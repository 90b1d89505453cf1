//! The proxy's way to the buckets that the kernel draws from: it has the kernel run the same code.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alize_model::ServiceName;
use alize_model::http::{Caller, LimitPer, RateLimit};
use libbpf_rs::{MapHandle, Program, libbpf_sys};

use super::abi::{PROGRAM_LIMIT, http_caller, http_draw, http_draw_outcome, http_limit, http_rates};
use super::{RouterOptions, pins};
use crate::Error;
use crate::error::io_error;
use crate::switch::number_in;

/// Others may always be faster, but not so often.
const TRIES: u32 = 1000;

/// A rate limit as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bucket: NonZeroU64,
    interval_ns: u64,
    room_ns: u64,
    per_caller: bool,
}

impl Rate {
    /// That of `service`, or of its route `route`.
    pub fn new(limit: &RateLimit, service: &ServiceName, route: Option<&str>) -> Self {
        Self {
            bucket: limit.bucket(service, route),
            interval_ns: limit.interval_ns(),
            room_ns: limit.room_ns(),
            per_caller: limit.per == LimitPer::Client,
        }
    }

    fn pack(self) -> http_limit {
        let Self { bucket, interval_ns, room_ns, per_caller } = self;
        http_limit { bucket: bucket.get(), interval_ns, room_ns, per_caller: per_caller.into(), zero: 0 }
    }

    /// The limits of a service and of its route, as the kernel has them.
    pub(super) fn pack_both(rates: [Option<Self>; 2]) -> http_rates {
        http_rates { limit: rates.map(|rate| rate.map_or_else(http_limit::default, Self::pack)) }
    }
}

/// What came of a request to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// It is within all limits, and counts.
    Taken,
    /// It is over a limit, and does not count.
    Over {
        /// After this time one may be taken.
        wait: Duration,
    },
    /// There is no room for another bucket: whoever asks keeps one.
    Full,
}

/// The buckets of all rate limits of an instance.
#[derive(Debug)]
pub struct Limits {
    slot: MapHandle,
    /// The program in force, and its number.
    program: Mutex<(u32, OwnedFd)>,
}

impl Limits {
    /// Opens what the agent has pinned.
    pub fn open(options: &RouterOptions) -> Result<Self, Error> {
        let slot = pins(options)?.open("http_limit_programs")?;
        let program = Mutex::new(in_force(&slot)?);
        Ok(Self { slot, program })
    }

    /// Draws one request from the buckets of the service's limit and the route's, or from none.
    pub fn draw(&self, rates: [Option<Rate>; 2], caller: &Caller) -> Result<Draw, Error> {
        let mut asked = http_draw {
            rates: Rate::pack_both(rates),
            caller: http_caller { netns: caller.netns, address: caller.words() },
            ..Default::default()
        };
        let program = self.program.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..TRIES {
            run(program.1.as_fd(), &mut asked)?;
            match http_draw_outcome(asked.outcome) {
                http_draw_outcome::HTTP_DRAW_TAKEN => return Ok(Draw::Taken),
                http_draw_outcome::HTTP_DRAW_OVER => {
                    return Ok(Draw::Over { wait: Duration::from_nanos(asked.wait_ns) });
                }
                http_draw_outcome::HTTP_DRAW_BUSY => {}
                _ => return Ok(Draw::Full),
            }
        }
        Ok(Draw::Full)
    }

    /// Forgets the buckets that have been full for a while, and asks for the program in force; to be called now and then.
    /// How many buckets there were.
    pub fn sweep(&self) -> Result<u32, Error> {
        let mut program = self.program.lock().unwrap_or_else(PoisonError::into_inner);
        if number_in(&self.slot, PROGRAM_LIMIT) != Some(program.0) {
            *program = in_force(&self.slot)?;
        }
        let mut asked = http_draw { sweep: 1, ..Default::default() };
        run(program.1.as_fd(), &mut asked)?;
        Ok(asked.sweep)
    }
}

fn in_force(slot: &MapHandle) -> Result<(u32, OwnedFd), Error> {
    let error = |source| Error::kernel("cannot find the program in", "http_limit_programs", source);
    let missing = || error(io::Error::other("the slot is empty"));
    let number = number_in(slot, PROGRAM_LIMIT).ok_or_else(missing)?;
    Ok((number, Program::fd_from_id(number).map_err(|e| error(io_error(e)))?))
}

/// Programs of this type run when they are asked to, with what they are given (Linux 5.14).
fn run(program: BorrowedFd<'_>, asked: &mut http_draw) -> Result<(), Error> {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        ctx_in: std::ptr::from_mut(asked).cast(),
        ctx_size_in: size_of::<http_draw>() as u32,
        ..Default::default()
    };
    // SAFETY: the kernel reads and writes the structure that `ctx_in` names, whose size it is told (net/bpf/test_run.c,
    // bpf_prog_test_run_syscall), and nothing else.
    let done = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) };
    match done {
        0 => Ok(()),
        _ => Err(Error::kernel("cannot run", "alize_http_limit", io::Error::last_os_error())),
    }
}
