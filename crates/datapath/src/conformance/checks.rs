//! The checks. Each takes connections of its own, so that none depends on how another left a socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_cookie;

use super::nursery::{Nursery, PATIENCE};
use super::programs::{self, BackPrograms, Programs, Verb};

/// Egress redirection stopped at 4 MiB on Linux 6.18, which is the default limit of a socket's send buffer.
const MOST_QUEUED: usize = 32 << 20;

/// How long a FIN may go unacknowledged on loopback: delayed ACKs take 40 ms.
const FIN_ACKNOWLEDGED: Duration = Duration::from_millis(60);

const SWAPS: u32 = 100;

/// What needs the kernel to do as was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// HTTP in the kernel.
    Path,
    /// The part of it that goes to other hosts.
    Remote,
    /// Nothing any more.
    Nothing,
}

/// What a check has to work with.
pub(super) struct Bench {
    pub(super) programs: Programs,
    /// Or why the kernel does not take them.
    pub(super) back: Result<BackPrograms, String>,
    pub(super) nursery: Nursery,
}

/// One thing that may be relied upon.
pub(super) struct Trial {
    pub(super) name: &'static str,
    /// What is tried, for people.
    pub(super) what: &'static str,
    /// What is not correct without it.
    pub(super) need: Need,
    pub(super) run: fn(&Bench) -> io::Result<()>,
}

/// Named as in the metrics. The first is what all others stand on.
pub(super) const TRIALS: [Trial; 13] = [
    Trial {
        name: "insertion",
        what: "both ends of a new connection enter the sockhash before they are used",
        need: Need::Path,
        run: insertion,
    },
    Trial {
        name: "storage",
        what: "a program sees each message once and changes state on the socket by compare-and-swap",
        need: Need::Path,
        run: storage,
    },
    Trial {
        name: "ingress-order",
        what: "messages redirected into a receive queue come whole, in order, and wake poll()",
        need: Need::Path,
        run: ingress_order,
    },
    Trial {
        name: "ingress-end",
        what: "a FIN does not overtake redirected data",
        need: Need::Path,
        run: ingress_end,
    },
    Trial {
        name: "egress-order",
        what: "messages redirected out of another socket come whole and in order, both ways",
        need: Need::Path,
        run: egress_order,
    },
    Trial {
        name: "egress-bound",
        what: "a reader that does not read stops the sender, and nothing taken is lost",
        need: Need::Path,
        run: egress_bound,
    },
    Trial {
        name: "dead-target",
        what: "what cannot be redirected because its target is gone goes by TCP",
        need: Need::Path,
        run: dead_target,
    },
    Trial {
        name: "early-data",
        what: "data that came before a socket entered the sockhash can still be read",
        need: Need::Path,
        run: early_data,
    },
    Trial {
        name: "program-swap",
        what: "a program is replaced under sockets that are in use, without missing a message",
        need: Need::Path,
        run: program_swap,
    },
    Trial {
        name: "second-program",
        what: "a socket that has a program refuses another, and says so",
        need: Need::Path,
        run: second_program,
    },
    Trial {
        name: "state-callback",
        what: "the end of every socket is told",
        need: Need::Path,
        run: state_callback,
    },
    // Known limits: the path must live with them, and does; docs/kernels.md says how.
    Trial {
        name: "queue-order",
        what: "redirected data wait for unread data that came by TCP",
        need: Need::Nothing,
        run: queue_order,
    },
    Trial {
        name: "blocking-receive",
        what: "a blocking recv() waits for data although its own FIN is acknowledged",
        need: Need::Nothing,
        run: blocking_receive,
    },
];

pub(super) fn failed(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> io::Result<()> {
    if holds { Ok(()) } else { Err(failed(what())) }
}

impl Bench {
    /// Two connections, of which what the first client sends goes to the second server: client, its own server, the
    /// second client, the second server.
    fn crossed(&self, verb: Verb) -> io::Result<[TcpStream; 4]> {
        let (from, own) = self.nursery.connection()?;
        let (back, far) = self.nursery.connection()?;
        let target = if verb == Verb::VERB_EGRESS { &back } else { &far };
        self.programs.plan(&from, verb, socket_cookie(target)?)?;
        Ok([from, own, back, far])
    }
}

/// Bytes that tell their place.
pub(super) fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|place| (place ^ place >> 8) as u8).collect()
}

/// Reads `length` bytes of the pattern, and says where it was broken.
pub(super) fn expect_pattern(stream: &mut TcpStream, from: usize, length: usize) -> io::Result<()> {
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < length {
        match hear(stream, &mut bytes[read..]) {
            Ok(0) => return Err(failed(format!("the end came after {read} of {length} bytes"))),
            Ok(number) => read += number,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(failed(format!("only {read} of {length} bytes came")));
            }
            Err(error) => return Err(failed(format!("after {read} of {length} bytes: {error}"))),
        }
    }
    let broken = bytes.iter().zip(pattern(from, length)).position(|(came, sent)| *came != sent);
    ensure(broken.is_none(), || format!("the bytes are not in order from {} on", broken.unwrap_or(0)))
}

pub(super) fn expect_end(stream: &mut TcpStream) -> io::Result<()> {
    match hear(stream, &mut [0; 64]) {
        Ok(0) => Ok(()),
        Ok(number) => Err(failed(format!("{number} bytes came in place of the end"))),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(failed("the end never came")),
        Err(error) => Err(failed(format!("in place of the end: {error}"))),
    }
}

/// Reads as those do that wait by epoll, and ask again when there was nothing: a recv() that blocks may wake with nothing
/// (net/ipv4/tcp_bpf.c, and the check `blocking-receive`), which is more likely the busier the machine is.
fn hear(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    let end = Instant::now() + PATIENCE;
    loop {
        readable(stream)?;
        match stream.read(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {}
            heard => return heard,
        }
    }
}

/// Waits as epoll does.
pub(super) fn readable(stream: &TcpStream) -> io::Result<bool> {
    let patience = Timespec { tv_sec: 0, tv_nsec: PATIENCE.subsec_nanos().into() };
    Ok(poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&patience))? > 0)
}

pub(super) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Both ends of a new connection are put into the hash before either end can be used.
fn insertion(bench: &Bench) -> io::Result<()> {
    let (client, server) = bench.nursery.connection()?;
    let programs = &bench.programs;
    if programs.seen(programs::REFUSED) > 0 {
        let errno = programs.seen(programs::ERRNO) as i32;
        let why = match errno {
            libc::EBUSY => "another sk_msg program holds it already; `alize doctor` names its owner".into(),
            libc::EOPNOTSUPP => "the kernel takes no such socket".into(),
            errno => io::Error::from_raw_os_error(errno).to_string(),
        };
        return Err(failed(format!("a new socket was not taken into the sockhash: {why}")));
    }
    ensure(programs.seen(programs::ACTIVE) == 1, || "no program ran when connect() was answered".into())?;
    ensure(programs.seen(programs::PASSIVE) == 1, || "no program ran on the accepted socket".into())?;
    for (end, name) in [(&client, "the client's"), (&server, "the accepted")] {
        let held = programs.holds(socket_cookie(end)?);
        ensure(held, || format!("{name} socket is not in the hash under its cookie"))?;
    }
    Ok(())
}

/// A program sees each message once, keeps state on the socket and changes it by compare-and-swap.
fn storage(bench: &Bench) -> io::Result<()> {
    let (mut client, mut server) = bench.nursery.connection()?;
    bench.programs.plan(&client, Verb::VERB_PASS, 0)?;
    for (sent, guard) in [(1, 2), (2, 1), (3, 2)] {
        client.write_all(b"x")?;
        server.read_exact(&mut [0])?;
        let plan = bench.programs.done(&client)?;
        ensure((plan.messages, plan.guard) == (sent, guard), || {
            format!("after {sent} messages the socket's state says {}, guard {}", plan.messages, plan.guard)
        })?;
    }
    Ok(())
}

/// Messages that are redirected into a receive queue come whole and in order, and wake who waits for them.
fn ingress_order(bench: &Bench) -> io::Result<()> {
    let [mut from, mut own, _back, mut far] = bench.crossed(Verb::VERB_INGRESS)?;
    let mut sent = 0;
    for length in (1..=64).map(|number| number * 97) {
        from.write_all(&pattern(sent, length))?;
        ensure(readable(&far)?, || "poll() does not tell of redirected data".into())?;
        if length % 2 == 0 {
            sent += length;
            continue;
        }
        // Every other time two messages are read as one.
        let unread = if length == 97 { 0 } else { length - 97 };
        expect_pattern(&mut far, sent - unread, unread + length)?;
        sent += length;
    }
    expect_pattern(&mut far, sent - 64 * 97, 64 * 97)?;
    let plan = bench.programs.done(&from)?;
    ensure(plan.redirected == 64, || format!("{} of 64 messages were redirected", plan.redirected))?;
    own.set_nonblocking(true)?;
    ensure(own.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock), || {
        "what was redirected came by TCP too".into()
    })
}

/// A FIN that comes after redirected data ends the stream after them, not before.
fn ingress_end(bench: &Bench) -> io::Result<()> {
    const LENGTH: usize = 50_000;
    let [mut from, _own, back, mut far] = bench.crossed(Verb::VERB_INGRESS)?;
    from.write_all(&pattern(0, LENGTH))?;
    back.shutdown(Shutdown::Write)?;
    expect_pattern(&mut far, 0, LENGTH)?;
    expect_end(&mut far)?;
    // The same with one that waits already.
    let [mut from, _own, back, mut far] = bench.crossed(Verb::VERB_INGRESS)?;
    let reader = thread::spawn(move || expect_pattern(&mut far, 0, 1000).and_then(|()| expect_end(&mut far)));
    from.write_all(&pattern(0, 1000))?;
    drop(back);
    reader.join().unwrap_or_else(|_| Err(failed("the reader panicked")))
}

/// The same out of another socket, by TCP, in both directions: the accepted socket answers out of the first client's.
fn egress_order(bench: &Bench) -> io::Result<()> {
    let [mut from, mut own, mut back, mut far] = bench.crossed(Verb::VERB_EGRESS)?;
    bench.programs.plan(&far, Verb::VERB_EGRESS, socket_cookie(&own)?)?;
    let mut sent = 0;
    for length in [1, 1000, 20_000, 3, 70_000] {
        from.write_all(&pattern(sent, length))?;
        expect_pattern(&mut far, sent, length)?;
        far.write_all(&pattern(sent, length))?;
        expect_pattern(&mut from, sent, length)?;
        sent += length;
    }
    for (end, name) in [(&mut own, "sender"), (&mut back, "answer")] {
        end.set_nonblocking(true)?;
        let came = end.read(&mut [0]);
        ensure(came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), || {
            format!("what the {name}'s program redirected came by its own connection too")
        })?;
    }
    Ok(())
}

/// Nobody reads: the sender must be stopped before the machine's memory is, and nothing that was taken may be lost.
fn egress_bound(bench: &Bench) -> io::Result<()> {
    let [mut from, _own, _back, mut far] = bench.crossed(Verb::VERB_EGRESS)?;
    from.set_nonblocking(true)?;
    let piece = vec![7; 256 << 10];
    let mut taken = 0;
    loop {
        match from.write(&piece) {
            Ok(number) => taken += number,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(failed(format!("after {taken} bytes: {error}"))),
        }
        ensure(taken <= MOST_QUEUED, || format!("{taken} bytes were taken although nobody reads"))?;
    }
    let mut came = 0;
    let mut bytes = vec![0; 1 << 20];
    while came < taken {
        match far.read(&mut bytes) {
            Ok(number) if number > 0 => came += number,
            _ => return Err(failed(format!("{taken} bytes were taken, {came} came"))),
        }
    }
    Ok(())
}

/// The target is gone: the message goes by TCP to whom the sender is connected.
fn dead_target(bench: &Bench) -> io::Result<()> {
    for verb in [Verb::VERB_INGRESS, Verb::VERB_EGRESS] {
        let [mut from, mut own, back, far] = bench.crossed(verb)?;
        let target = socket_cookie(if verb == Verb::VERB_EGRESS { &back } else { &far })?;
        drop((back, far));
        ensure(eventually(|| !bench.programs.holds(target)), || "a closed socket stays in the hash".into())?;
        from.write_all(&pattern(0, 100))?;
        expect_pattern(&mut own, 0, 100)?;
        let plan = bench.programs.done(&from)?;
        ensure((plan.redirected, plan.absent) == (0, 1), || {
            "the program was not told that the target is gone".into()
        })?;
    }
    Ok(())
}

/// What had come before a socket was put into the hash can still be read, and what is redirected then comes after it.
fn early_data(bench: &Bench) -> io::Result<()> {
    bench.programs.leave_alone(true)?;
    let made = bench.nursery.connection();
    bench.programs.leave_alone(false)?;
    let (mut back, mut far) = made?;
    let (mut from, _own) = bench.nursery.connection()?;
    back.write_all(&pattern(0, 100))?;
    ensure(readable(&far)?, || "plain TCP does not work".into())?;
    let cookie = socket_cookie(&far)?;
    bench.programs.insert(&far, cookie)?;
    ensure(readable(&far)?, || "poll() no longer tells of data that came early".into())?;
    expect_pattern(&mut far, 0, 100)?;
    bench.programs.plan(&from, Verb::VERB_INGRESS, cookie)?;
    from.write_all(&pattern(100, 100))?;
    expect_pattern(&mut far, 100, 100)
}

/// Another program is in force for sockets that are in the hash already, and no message passes by it.
fn program_swap(bench: &Bench) -> io::Result<()> {
    let [mut from, _own, _back, mut far] = bench.crossed(Verb::VERB_INGRESS)?;
    let mut result = Ok(());
    for turn in 0..SWAPS {
        let number = 2 - turn % 2;
        bench.programs.swap(number)?;
        from.write_all(b"x")?;
        far.read_exact(&mut [0])?;
        let plan = bench.programs.done(&from)?;
        if (plan.step, plan.messages) != (number, u64::from(turn) + 1) {
            result = Err(failed(format!(
                "after swap {turn} program {} ran, and {} messages were seen",
                plan.step, plan.messages
            )));
            break;
        }
    }
    bench.programs.swap(1)?;
    result
}

/// That another program has the socket already is told, and leaves the first in place.
fn second_program(bench: &Bench) -> io::Result<()> {
    let (mut client, mut server) = bench.nursery.connection()?;
    bench.programs.plan(&client, Verb::VERB_PASS, 0)?;
    match bench.programs.insert_elsewhere(&client, socket_cookie(&client)?) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) => return Err(failed(format!("a second program is refused with {error}, not EBUSY"))),
        Ok(()) => return Err(failed("a socket takes a second sk_msg program")),
    }
    client.write_all(b"x")?;
    server.read_exact(&mut [0])?;
    let messages = bench.programs.done(&client)?.messages;
    ensure(messages == 1, || "the first program no longer runs after a second was refused".into())
}

/// The end of both sockets of a connection is told.
fn state_callback(bench: &Bench) -> io::Result<()> {
    let (client, server) = bench.nursery.connection()?;
    let before = bench.programs.seen(programs::CLOSED);
    drop(client);
    drop(server);
    ensure(eventually(|| bench.programs.seen(programs::CLOSED) >= before + 2), || {
        let told = bench.programs.seen(programs::CLOSED) - before;
        format!("the end of {told} of 2 sockets was told")
    })
}

/// Bytes that came by TCP and are unread, and then some that are redirected: read in that order.
fn queue_order(bench: &Bench) -> io::Result<()> {
    let [mut from, _own, mut back, mut far] = bench.crossed(Verb::VERB_INGRESS)?;
    back.write_all(&pattern(0, 100))?;
    ensure(readable(&far)?, || "plain TCP does not work".into())?;
    from.write_all(&pattern(100, 100))?;
    let in_order = expect_pattern(&mut far, 0, 200);
    ensure(in_order.is_ok(), || "redirected data overtake unread data that came by TCP before".into())
}

/// A blocking recv() on a socket of the hash, during which the same process sends its FIN.
fn blocking_receive(bench: &Bench) -> io::Result<()> {
    let (client, mut server) = bench.nursery.connection()?;
    let mut reading = client.try_clone()?;
    let answered = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let read = reading.read(&mut [0]);
            (read, answered.load(Ordering::SeqCst))
        });
        thread::sleep(Duration::from_millis(5));
        client.shutdown(Shutdown::Write)?;
        thread::sleep(FIN_ACKNOWLEDGED);
        answered.store(true, Ordering::SeqCst);
        server.write_all(b"x")?;
        match reader.join() {
            Ok((Ok(1), _)) => Ok(()),
            Ok((Err(error), false)) if error.kind() == ErrorKind::WouldBlock => Err(failed(
                "a blocking recv() returns EAGAIN when the socket's own FIN is acknowledged; a second one gets the data",
            )),
            Ok((read, _)) => Err(failed(format!("a blocking recv() returned {read:?}"))),
            Err(_) => Err(failed("the reader panicked")),
        }
    })
}
