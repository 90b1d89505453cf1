//! Clients: processes that call and tell what they saw.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{Place, Tally};

impl Place {
    /// Connects `count` times, one after the other, to servers that tell their name in the first line.
    pub fn connect(&self, target: SocketAddr, count: u64) -> Result<Tally> {
        self.connect_with(target, &["--count", &count.to_string()])
    }

    /// As [`Place::connect`], with other flags of `alize-world connect`.
    pub fn connect_with(&self, target: SocketAddr, flags: &[&str]) -> Result<Tally> {
        self.tally("connect", target, flags)
    }

    /// Sends datagrams, with flags of `alize-world datagram`.
    pub fn datagram(&self, target: SocketAddr, flags: &[&str]) -> Result<Tally> {
        self.tally("datagram", target, flags)
    }

    /// Starts a client that connects again and again, with flags of `alize-world stream`.
    pub fn stream(&self, target: SocketAddr, flags: &[&str]) -> Result<Conversation> {
        Conversation::start(self, "stream", target, flags)
    }

    /// Starts a client that sends a megabyte again and again and compares what comes back, with flags of `alize-world
    /// download`.
    pub fn download(&self, target: SocketAddr, flags: &[&str]) -> Result<Conversation> {
        Conversation::start(self, "download", target, flags)
    }

    /// Opens `count` connections and keeps them; also what happened when they were opened.
    pub fn hold(&self, target: SocketAddr, count: u32) -> Result<(Conversation, Tally)> {
        let mut held = Conversation::start(self, "hold", target, &["--count", &count.to_string()])?;
        let opened = held.read()?;
        Ok((held, opened))
    }

    /// Starts a client that asks a shop, with flags of `alize-world request`; with `--idle`, also what happened when the
    /// connections were opened.
    pub fn request(&self, target: SocketAddr, flags: &[&str]) -> Result<Conversation> {
        Conversation::start(self, "request", target, flags)
    }

    /// Opens WebSockets, with flags of `alize-world websocket`; also what happened when they were opened.
    pub fn websocket(&self, target: SocketAddr, flags: &[&str]) -> Result<(Conversation, Tally)> {
        let mut chats = Conversation::start(self, "websocket", target, flags)?;
        let opened = chats.read()?;
        Ok((chats, opened))
    }

    fn tally(&self, command: &str, target: SocketAddr, flags: &[&str]) -> Result<Tally> {
        let world = crate::place::binary("alize-world")?;
        let target = target.to_string();
        let arguments = [&[command, target.as_str()], flags].concat();
        let text = self.run(&world.to_string_lossy(), &arguments)?;
        serde_json::from_str(&text).with_context(|| format!("not a tally: {text:?}"))
    }
}

/// A client that goes on, and tells what it saw when asked.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Conversation {
    fn start(place: &Place, command: &str, target: SocketAddr, flags: &[&str]) -> Result<Self> {
        let world = crate::place::binary("alize-world")?;
        let mut child = place
            .command(&world.to_string_lossy())?
            .args([command, &target.to_string()])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the output of a client")?);
        Ok(Self { child, questions, answers })
    }

    /// A stream: what it saw since it was asked last. Held connections: what came back over each.
    pub fn ask(&mut self) -> Result<Tally> {
        let questions = self.questions.as_mut().context("the client has been told to end")?;
        questions.write_all(b"tell\n").context("the client has ended")?;
        self.read()
    }

    /// Lets a stream end; what it saw since it was asked last.
    pub fn finish(mut self) -> Result<Tally> {
        drop(self.questions.take());
        self.read()
    }

    /// What it tells unasked.
    pub fn read(&mut self) -> Result<Tally> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the client has ended");
        serde_json::from_str(&line).with_context(|| format!("not a tally: {line:?}"))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
