//! Child processes: run to their end and timed, or kept and ended by their own number; none outlives the bench.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and SIGTERM end the bench at its next step, so that it cleans up behind itself.
pub(crate) fn catch_interrupts() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        });
        INTERRUPTED.store(true, Ordering::SeqCst);
        // The runtime lives on: without it a second Ctrl-C would be the end, in the middle of cleaning up.
        loop {
            thread::park();
        }
    });
    Ok(())
}

/// An error once somebody wants the bench to end.
pub(crate) fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted; nothing was written");
    }
    Ok(())
}

/// What a command that ended well said and took.
pub(crate) struct Finished {
    pub(crate) stdout: String,
    pub(crate) elapsed: Duration,
}

/// Runs a command to its end, with the contents of `input` as its standard input. An error holds what it complained of.
pub(crate) fn run(command: &mut Command, input: Option<&Path>) -> Result<Finished> {
    check_interrupt()?;
    let shown = show(command);
    let stdin = match input {
        Some(path) => {
            Stdio::from(fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
        }
        None => Stdio::null(),
    };
    let start = Instant::now();
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child)?;
    let elapsed = start.elapsed();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if !status.success() {
        let complaint: String = stderr.trim().chars().take(400).collect();
        bail!("{shown}: {status}: {complaint}");
    }
    Ok(Finished { stdout, elapsed })
}

fn collect(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut all);
        }
        all
    })
}

fn text(collected: thread::JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&collected.join().unwrap_or_default()).into_owned()
}

/// Waits in small steps, so that an interrupt ends the command too; a step is below 1 % of what is timed.
fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Err(interrupted) = check_interrupt() {
            end(child, Duration::from_secs(2));
            return Err(interrupted);
        }
        thread::sleep(Duration::from_micros(100));
    }
}

fn show(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

/// Asks a child to end, and ends it if it has not after `patience`.
fn end(child: &mut Child, patience: Duration) {
    signal(child, Signal::TERM);
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(2)),
            _ => return,
        }
    }
    signal(child, Signal::KILL);
    let _ = child.wait();
}

/// Only to a child that has not been waited for, so that its number cannot be another's.
fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Asks a process to end that is no child of the bench, if it is still the same program; kills it after two seconds.
pub(crate) fn end_orphan(pid: u32, program: &Path) {
    let is_it = || fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == program);
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    for (signal, patience) in [(Signal::TERM, 2_000), (Signal::KILL, 500)] {
        if !is_it() {
            return;
        }
        let _ = kill_process(number, signal);
        let deadline = Instant::now() + Duration::from_millis(patience);
        while is_it() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A child that is kept; ended when dropped.
pub(crate) struct Kept {
    child: Child,
    output: BufReader<ChildStdout>,
    shown: String,
}

impl Kept {
    /// Starts `command` in a process group of its own, out of reach of the terminal's Ctrl-C, with pipes for standard
    /// input and output. Standard error goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let shown = show(command);
        let log = fs::File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {shown}"))?;
        let output = BufReader::new(child.stdout.take().context("the child has no standard output")?);
        Ok(Self { child, output, shown })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended: {status}", self.shown),
        }
    }

    /// Writes a line to its standard input.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let mut input = self.child.stdin.as_ref().context("no pipe to the child")?;
        input
            .write_all(line.as_bytes())
            .and_then(|()| input.write_all(b"\n"))
            .with_context(|| self.shown.clone())
    }

    /// Its next line on standard output.
    pub(crate) fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("{} has ended while it was asked something", self.shown);
        }
        Ok(line)
    }

    /// Time all its living threads have spent on CPUs so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        process_cpu_time(self.pid())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        end(&mut self.child, Duration::from_secs(5));
    }
}

/// Time on CPUs in nanoseconds, from the scheduler; the clock ticks of /proc/PID/stat are too coarse.
pub(crate) fn process_cpu_time(pid: u32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut total = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        let path = task?.path().join("schedstat");
        let text = fs::read_to_string(&path).unwrap_or_default();
        total += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}

/// The children of a process that has one thread.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
