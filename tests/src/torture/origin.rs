//! The torture's server: it does what the target of a request says, and compares what it is sent.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};

use super::plan::{Down, Ending, Plan};
use super::talk::{Broken, Framing, Head, Talk};
use super::{Pattern, now};

#[derive(Debug, clap::Args)]
pub struct Origin {
    /// Where to listen
    address: SocketAddr,
}

const STACK: usize = 256 * 1024;

impl Origin {
    pub(crate) fn run(self) -> Result<()> {
        let listener =
            TcpListener::bind(self.address).with_context(|| format!("cannot listen at {}", self.address))?;
        let mut number = 0_u64;
        loop {
            let Ok((stream, _)) = listener.accept() else { continue };
            number += 1;
            let blocking = number.is_multiple_of(2);
            let thread =
                std::thread::Builder::new().stack_size(STACK).spawn(move || converse(stream, blocking));
            if let Err(error) = thread {
                eprintln!("{error}");
            }
        }
    }
}

fn converse(stream: TcpStream, blocking: bool) {
    let Ok(mut talk) = Talk::new(stream, blocking) else { return };
    loop {
        let head = match talk.head() {
            Ok(head) => head,
            Err(Broken::Before | Broken::Within(_)) => return,
            Err(broken) => return eprintln!("GRAVE a request is {broken:?}"),
        };
        let Some(plan) = Plan::read(head.word(1)) else { return eprintln!("GRAVE {head:?}") };
        match serve(&mut talk, &head, &plan) {
            Some(true) => {}
            Some(false) | None => return,
        }
    }
}

/// Whether the connection goes on; `None` if it has ended.
fn serve(talk: &mut Talk, head: &Head, plan: &Plan) -> Option<bool> {
    let framing = match (head.field("transfer-encoding"), head.field("content-length")) {
        (Some(_), _) => Framing::Chunked,
        (None, Some(length)) => Framing::Length(length.parse().ok()?),
        (None, None) => Framing::Length(0),
    };
    let mut pattern = Pattern::new(plan.nonce);
    if plan.early {
        respond(talk, head, plan, "early")?;
        talk.body(framing, &mut pattern).ok()?;
        return Some(true);
    }
    let got = match talk.body(framing, &mut pattern) {
        Ok(length) => format!("right {length}"),
        Err(Broken::Wrong(at)) => {
            eprintln!("GRAVE the body of {:x} is wrong at {at}", plan.nonce);
            format!("wrong {at}")
        }
        Err(Broken::Malformed(what)) => {
            eprintln!("GRAVE the body of {:x} is malformed: {what}", plan.nonce);
            return None;
        }
        Err(Broken::Before | Broken::Within(_)) => return None,
    };
    std::thread::sleep(plan.delay);
    if plan.ending == Ending::DieBefore {
        return Some(false);
    }
    let from = now();
    let goes_on = respond(talk, head, plan, &got)?;
    if plan.ending == Ending::CloseAfter {
        // Whoever asks between the response and the end asks nobody: no mesh can know. Here is when that was.
        let _ = talk.stream().shutdown(Shutdown::Write);
        eprintln!("closed {from} {} {:x}", now(), plan.nonce);
    }
    Some(goes_on)
}

fn respond(talk: &mut Talk, head: &Head, plan: &Plan, got: &str) -> Option<bool> {
    let closes = if plan.ending == Ending::CloseSaid { "Connection: close\r\n" } else { "" };
    let framing = match plan.down {
        _ if plan.status == 204 => String::new(),
        Down::Length => format!("Content-Length: {}\r\n", plan.size),
        Down::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Down::UntilClose => String::new(),
    };
    let Plan { nonce, status, .. } = plan;
    let mut bytes =
        format!("HTTP/1.1 {status} Said\r\nX-Nonce: {nonce:x}\r\nX-Got: {got}\r\n{closes}{framing}\r\n")
            .into_bytes();
    let bodiless = head.word(0) == "HEAD" || *status == 204 || *status == 304;
    // Of what the client sent and of what it gets the bytes differ.
    let mut pattern = Pattern::new(!nonce);
    if !bodiless {
        match plan.down {
            Down::Chunked => {
                let mut left = plan.size as usize;
                while left > 0 {
                    let some = left.min(1 + (*nonce as usize ^ left) % 20_000);
                    bytes.extend_from_slice(format!("{some:x}\r\n").as_bytes());
                    bytes.extend(pattern.take(some));
                    bytes.extend_from_slice(b"\r\n");
                    left -= some;
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            _ if plan.ending == Ending::DieWithin => bytes.extend(pattern.take(plan.size as usize / 2)),
            _ => bytes.extend(pattern.take(plan.size as usize)),
        }
    }
    // Heads apart from bodies now and then, and bodies in pieces.
    let step = [usize::MAX, bytes.len() / 2 + 1, 60, 16 * 1024][*nonce as usize % 4].max(60);
    for piece in bytes.chunks(step).take(40) {
        talk.write(piece).ok()?;
    }
    if bytes.len() / step >= 40 {
        talk.write(&bytes[step * 40..]).ok()?;
    }
    Some(plan.ending == Ending::Stay)
}
