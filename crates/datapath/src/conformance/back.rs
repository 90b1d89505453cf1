//! What requests to endpoints elsewhere rely on beyond the rest: they go out of a socket that its owner put into a
//! sockhash, and what arrives there is redirected.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_cookie;

use super::checks::{
    Bench, Need, Trial, ensure, eventually, expect_end, expect_pattern, failed, pattern, readable,
};
use super::programs::{BackPrograms, Plan, Verb};

pub(super) const TRIALS: [Trial; 5] = [
    Trial {
        name: "back-insertion",
        what: "a connected socket is put into a sockhash by its owner, who reads what came before",
        need: Need::Remote,
        run: insertion,
    },
    Trial {
        name: "back-order",
        what: "pieces of an arriving message come whole and in order to another socket, and wake nobody who waits for the end",
        need: Need::Remote,
        run: order,
    },
    Trial {
        name: "back-pass",
        what: "what is passed after that comes to the owner, then the end, of which the program is told",
        need: Need::Remote,
        run: pass,
    },
    Trial {
        name: "back-target",
        what: "what cannot be redirected because its target is gone comes to the owner",
        need: Need::Remote,
        run: target,
    },
    Trial {
        name: "back-swap",
        what: "a program is replaced under sockets that receive, without missing a message",
        need: Need::Remote,
        run: swap,
    },
];

const SWAPS: u32 = 50;

/// A client, its own server, and the connection that its requests go out of.
struct Crossed<'a> {
    programs: &'a BackPrograms,
    client: TcpStream,
    _own: TcpStream,
    back: TcpStream,
    /// The other end of `back`, in no sockhash.
    far: TcpStream,
    cookie: u64,
}

impl<'a> Crossed<'a> {
    fn make(bench: &'a Bench) -> io::Result<Self> {
        let programs = bench.back.as_ref().map_err(|why| failed(why.clone()))?;
        let (client, own) = bench.nursery.connection()?;
        bench.programs.leave_alone(true)?;
        let made = bench.nursery.connection();
        bench.programs.leave_alone(false)?;
        let (back, far) = made?;
        let cookie = socket_cookie(&back)?;
        programs.insert(&back, cookie)?;
        programs.plan(cookie, Verb::VERB_INGRESS, socket_cookie(&client)?)?;
        Ok(Self { programs, client, _own: own, back, far, cookie })
    }

    fn pass(&self) -> io::Result<()> {
        self.programs.plan(self.cookie, Verb::VERB_PASS, 0)
    }

    fn done(&self) -> io::Result<Plan> {
        self.programs.done(self.cookie)
    }
}

/// Whether the other end has closed; bytes do not count.
fn has_ended(stream: &TcpStream) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::new(stream, PollFlags::RDHUP)], Some(&Timespec::default()))? > 0)
}

fn expect_nothing(stream: &mut TcpStream, what: &str) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false)?;
    ensure(read.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), || {
        format!("{what}: recv() returned {read:?}")
    })
}

fn insertion(bench: &Bench) -> io::Result<()> {
    let programs = bench.back.as_ref().map_err(|why| failed(why.clone()))?;
    bench.programs.leave_alone(true)?;
    let made = bench.nursery.connection();
    bench.programs.leave_alone(false)?;
    let (mut back, mut far) = made?;
    far.write_all(&pattern(0, 100))?;
    ensure(readable(&back)?, || "plain TCP does not work".into())?;
    programs.insert(&back, socket_cookie(&back)?)?;
    ensure(readable(&back)?, || "poll() no longer tells of data that came early".into())?;
    expect_pattern(&mut back, 0, 100)?;
    far.write_all(&pattern(100, 100))?;
    expect_pattern(&mut back, 100, 100)?;
    back.write_all(&pattern(0, 1000))?;
    expect_pattern(&mut far, 0, 1000)
}

fn order(bench: &Bench) -> io::Result<()> {
    let mut crossed = Crossed::make(bench)?;
    let mut sent = 0;
    for length in [1, 97, 1500, 9000, 40_000, 65_000] {
        crossed.far.write_all(&pattern(sent, length))?;
        ensure(readable(&crossed.client)?, || "poll() does not tell of redirected data".into())?;
        expect_pattern(&mut crossed.client, sent, length)?;
        sent += length;
    }
    ensure(!has_ended(&crossed.back)?, || "an end is told that there was not".into())?;
    expect_nothing(&mut crossed.back, "what was redirected came to the owner too")?;
    let plan = crossed.done()?;
    ensure(plan.redirected > 0 && plan.redirected == plan.messages, || {
        format!("{} of {} pieces were redirected", plan.redirected, plan.messages)
    })
}

fn pass(bench: &Bench) -> io::Result<()> {
    const LENGTH: usize = 300_000;
    let mut crossed = Crossed::make(bench)?;
    crossed.far.write_all(&pattern(0, 1000))?;
    expect_pattern(&mut crossed.client, 0, 1000)?;
    crossed.pass()?;
    let mut far = crossed.far.try_clone()?;
    let writer = std::thread::spawn(move || {
        far.write_all(&pattern(0, LENGTH)).and_then(|()| far.shutdown(Shutdown::Write))
    });
    expect_pattern(&mut crossed.back, 0, LENGTH)?;
    expect_end(&mut crossed.back)?;
    writer.join().unwrap_or_else(|_| Err(failed("the writer panicked")))?;
    ensure(has_ended(&crossed.back)?, || "poll() does not tell of the end".into())?;
    ensure(crossed.done()?.guard == 0, || "the program does not see that the other end has closed".into())?;
    expect_nothing(&mut crossed.client, "what was passed came to the client too")
}

fn target(bench: &Bench) -> io::Result<()> {
    let mut crossed = Crossed::make(bench)?;
    let target = socket_cookie(&crossed.client)?;
    let (other, _own) = bench.nursery.connection()?;
    drop(std::mem::replace(&mut crossed.client, other));
    ensure(eventually(|| !bench.programs.holds(target)), || "a closed socket stays in the hash".into())?;
    crossed.far.write_all(&pattern(0, 5000))?;
    expect_pattern(&mut crossed.back, 0, 5000)?;
    let plan = crossed.done()?;
    ensure(plan.redirected == 0 && plan.absent > 0, || {
        "the program was not told that the target is gone".into()
    })
}

fn swap(bench: &Bench) -> io::Result<()> {
    let mut crossed = Crossed::make(bench)?;
    let mut result = Ok(());
    for turn in 0..SWAPS {
        let number = 2 - turn % 2;
        crossed.programs.swap(number)?;
        crossed.far.write_all(b"x")?;
        // As epoll does: a blocking recv() may wake with nothing.
        readable(&crossed.client)?;
        crossed.client.read_exact(&mut [0])?;
        let plan = crossed.done()?;
        if (plan.step, plan.messages) != (number, u64::from(turn) + 1) {
            result = Err(failed(format!(
                "after swap {turn} program {} ran, and {} pieces were seen",
                plan.step, plan.messages
            )));
            break;
        }
    }
    crossed.programs.swap(1)?;
    result
}
