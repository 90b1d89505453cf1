//! The load generator: one thread, one epoll, told by orders on standard input.
//!
//! At a fixed rate it is an open loop: requests are due at fixed times whatever the server does, wait for a free
//! connection if there is none, and their latency counts from when they were due (no coordinated omission).

pub(crate) mod connection;
mod engine;
pub(crate) mod order;
mod schedule;

use std::io::{self, BufRead, Write};

use anyhow::{Context, Result};

pub(crate) use engine::Engine;
use order::Answer;
pub(crate) use order::{Loaded, Order};

/// Reads orders from standard input and answers on standard output until the input ends.
pub(crate) fn run() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // By default the kernel wakes a sleeper up to 50 µs late.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    ready_namespace();
    let mut engine = Engine::new()?;
    for line in io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?).context("an order that is none")?;
        let answer = match engine.load(&order, say) {
            Ok(loaded) => Answer::Loaded(loaded),
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        say(&answer)?;
    }
    Ok(())
}

/// A connection in TIME_WAIT gives its port free after a second, for all subjects alike; else ports run short.
/// /proc/sys/net shows the network namespace of whoever opens it. What a namespace lacks stays as it is.
pub(crate) fn ready_namespace() {
    for (name, value) in
        [("tcp_tw_reuse", "1"), ("ip_local_port_range", "1024 65535"), ("tcp_syn_retries", "1")]
    {
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value);
    }
}

fn say(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    Ok(output.flush()?)
}
