//! The load generator: a child process in a network namespace and a cgroup of its own, told by [`Order`]s what to do.
//!
//! Blocking sockets, one connection at a time and thread: so a closed loop on one CPU measures nothing but the work
//! done, of client, kernel and server together.

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::time::ClockId;

use super::histogram::Histogram;
use super::order::{Answer, Loaded, Order, Targets, Work};
use crate::statistics::Random;

/// The end of every response, from whichever server.
pub(crate) const BODY: &str = "alize-bench: here I am\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Connections that a thread keeps open for [`Work::KeepAlive`].
const KEPT: u32 = 8;
/// No single read, write or connect lasts longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// UDP connects between two looks at the clock, which would cost a tenth of one.
const BATCH: u32 = 64;
/// After so many errors a slice ends early: it is void anyway.
const MOST_ERRORS: u64 = 100;

/// Reads orders from standard input and answers on standard output until the input ends.
pub(crate) fn run() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    for line in io::stdin().lock().lines() {
        let order = serde_json::from_str(&line?)?;
        let answer = obey(order).unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        say(&answer)?;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(io::stdout().lock().write_all(&line)?)
}

fn obey(order: Order) -> Result<Answer> {
    match order {
        Order::Prepare => prepare().map(|()| Answer::Done),
        Order::Visit { targets, udp, times } => visit(targets, udp, times).map(|()| Answer::Done),
        Order::Load { work, targets, threads, cpu, warm_up, seconds } => {
            let until = Duration::from_secs_f64(seconds);
            load(work, targets, threads, cpu, Duration::from_secs_f64(warm_up), until).map(Answer::Loaded)
        }
        Order::Watch { service, source, timeout } => watch(service, source, Duration::from_secs_f64(timeout)),
    }
}

/// A connection in TIME_WAIT gives its port free after a second, for all subjects alike; else ports run short.
/// /proc/sys/net shows the network namespace of whoever opens it.
fn prepare() -> Result<()> {
    set("net/ipv4/tcp_tw_reuse", "1")?;
    set("net/ipv4/ip_local_port_range", "1024 65535")?;
    set("net/ipv4/tcp_syn_retries", "1")?;
    // Only there once rules need connection tracking; its table would otherwise grow from round to round.
    let _ = set("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "5");
    Ok(())
}

fn set(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("cannot set {name} to {value}"))
}

fn visit(targets: Targets, udp: bool, times: u32) -> Result<()> {
    for address in (0..targets.count()).map(|index| targets.address(index)) {
        for _ in 0..times {
            if udp {
                rustix::net::connect(udp_socket()?, &address)
                    .with_context(|| format!("first UDP connect to {address}"))?;
            } else {
                exchange(&mut connect(address)?, &mut [0; 1024])
                    .with_context(|| format!("first request to {address}"))?;
            }
        }
    }
    Ok(())
}

fn load(
    work: Work,
    targets: Targets,
    threads: u32,
    cpu: Option<usize>,
    warm_up: Duration,
    length: Duration,
) -> Result<Loaded> {
    let cpu_before = clock(ClockId::ProcessCPUTime);
    let measured = Instant::now() + warm_up;
    let slice = Slice { targets, measured, end: measured + length };
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let slice = slice.clone();
            thread::spawn(move || {
                pin(cpu)?;
                slice.work(work, Random::new(u64::from(std::process::id()) << 8 | u64::from(number)))
            })
        })
        .collect();
    let mut all = Tally::new();
    for worker in workers {
        match worker.join() {
            Ok(tally) => all.merge(tally?),
            Err(_) => bail!("a load thread panicked"),
        }
    }
    Ok(all.finish(length, clock(ClockId::ProcessCPUTime) - cpu_before))
}

/// Keeps the calling thread on one CPU.
pub(crate) fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot stay on CPU {cpu}"))
}

/// What one thread did.
struct Tally {
    connect: Histogram,
    whole: Histogram,
    operations: u64,
    all_operations: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    fn new() -> Self {
        let (connect, whole) = (Histogram::new(), Histogram::new());
        Self { connect, whole, operations: 0, all_operations: 0, errors: 0, first_error: None }
    }

    fn failed(&mut self, error: anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
    }

    fn merge(&mut self, other: Tally) {
        self.connect.merge(&other.connect);
        self.whole.merge(&other.whole);
        self.operations += other.operations;
        self.all_operations += other.all_operations;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn finish(self, length: Duration, cpu: u64) -> Loaded {
        Loaded {
            operations: self.operations,
            all_operations: self.all_operations,
            seconds: length.as_secs_f64(),
            cpu,
            errors: self.errors,
            first_error: self.first_error,
            connect: self.connect.quantiles(),
            whole: self.whole.quantiles(),
        }
    }
}

/// When and to whom.
#[derive(Clone)]
struct Slice {
    targets: Targets,
    measured: Instant,
    end: Instant,
}

impl Slice {
    fn work(&self, work: Work, random: Random) -> Result<Tally> {
        match work {
            Work::Short => Ok(self.short(random)),
            Work::KeepAlive => self.keep_alive(random),
            Work::UdpReconnect => self.udp(random, Some(udp_socket()?)),
            Work::UdpConnect => self.udp(random, None),
        }
    }

    fn draw(&self, random: &mut Random) -> SocketAddrV4 {
        self.targets.address(random.below(self.targets.count()))
    }

    fn short(&self, mut random: Random) -> Tally {
        let (mut tally, mut buffer) = (Tally::new(), [0; 1024]);
        while tally.errors < MOST_ERRORS {
            let target = self.draw(&mut random);
            let start = Instant::now();
            if start >= self.end {
                break;
            }
            match short_connection(target, &mut buffer) {
                Err(error) => tally.failed(error),
                Ok(in_connect) => {
                    tally.all_operations += 1;
                    if start >= self.measured {
                        tally.operations += 1;
                        tally.connect.record(nanoseconds(in_connect));
                        tally.whole.record(nanoseconds(start.elapsed()));
                    }
                }
            }
        }
        tally
    }

    fn keep_alive(&self, mut random: Random) -> Result<Tally> {
        let (mut tally, mut buffer) = (Tally::new(), [0; 1024]);
        let mut kept = Vec::new();
        for _ in 0..KEPT {
            kept.push(connect(self.draw(&mut random))?);
        }
        while tally.errors < MOST_ERRORS {
            for stream in &mut kept {
                let start = Instant::now();
                if start >= self.end {
                    return Ok(tally);
                }
                match exchange(stream, &mut buffer) {
                    Err(error) => {
                        tally.failed(error);
                        *stream = connect(self.draw(&mut random))?;
                    }
                    Ok(()) => {
                        tally.all_operations += 1;
                        if start >= self.measured {
                            tally.operations += 1;
                            tally.whole.record(nanoseconds(start.elapsed()));
                        }
                    }
                }
            }
        }
        Ok(tally)
    }

    /// With `kept` the same socket is connected again and again.
    fn udp(&self, mut random: Random, kept: Option<OwnedFd>) -> Result<Tally> {
        let mut tally = Tally::new();
        loop {
            let targets: Vec<_> = (0..BATCH).map(|_| self.draw(&mut random)).collect();
            let start = Instant::now();
            if start >= self.end {
                return Ok(tally);
            }
            for target in &targets {
                match &kept {
                    Some(socket) => rustix::net::connect(socket, target),
                    None => rustix::net::connect(udp_socket()?, target),
                }
                .with_context(|| format!("UDP connect to {target}"))?;
            }
            tally.all_operations += u64::from(BATCH);
            if start >= self.measured {
                tally.operations += u64::from(BATCH);
                tally.connect.record(nanoseconds(start.elapsed()) / u64::from(BATCH));
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Says how long connect() took.
fn short_connection(target: SocketAddrV4, buffer: &mut [u8]) -> Result<Duration> {
    let socket = tcp_socket()?;
    let start = Instant::now();
    rustix::net::connect(&socket, &target).with_context(|| format!("connect to {target}"))?;
    let in_connect = start.elapsed();
    exchange(&mut TcpStream::from(socket), buffer)?;
    Ok(in_connect)
}

fn connect(target: SocketAddrV4) -> Result<TcpStream> {
    let socket = tcp_socket()?;
    rustix::net::connect(&socket, &target).with_context(|| format!("connect to {target}"))?;
    Ok(TcpStream::from(socket))
}

fn tcp_socket() -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

fn udp_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?)
}

/// One request and its whole response.
fn exchange(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<()> {
    stream.write_all(REQUEST).context("send the request")?;
    let mut filled = 0;
    loop {
        let free =
            buffer.get_mut(filled..).filter(|free| !free.is_empty()).context("the response is too long")?;
        match stream.read(free).context("receive the response")? {
            0 => bail!("the server closed before the end of its response"),
            read => filled += read,
        }
        if buffer[..filled].ends_with(BODY.as_bytes()) {
            return Ok(());
        }
    }
}

fn watch(service: SocketAddrV4, source: Ipv4Addr, timeout: Duration) -> Result<Answer> {
    let socket = udp_socket()?;
    rustix::net::connect(&socket, &service).with_context(|| format!("UDP connect to {service}"))?;
    say(&Answer::Watching)?;
    let end = Instant::now() + timeout;
    while Instant::now() < end {
        // A socket that has a source address keeps it: only AF_UNSPEC makes the kernel choose again.
        rustix::net::connect_unspec(&socket)?;
        rustix::net::connect(&socket, &service).with_context(|| format!("UDP connect to {service}"))?;
        if SocketAddrV4::try_from(rustix::net::getsockname(&socket)?)?.ip() == &source {
            return Ok(Answer::Seen(monotonic()));
        }
    }
    bail!("no connect to {service} saw the change within {timeout:?}")
}

/// Nanoseconds of the clock that all processes of a machine share.
pub(crate) fn monotonic() -> u64 {
    clock(ClockId::Monotonic)
}

fn clock(id: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(id);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
