//! The HTTP router's headers, the same C, compiled for the host: heads in, what the kernel reads of them out.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use alize_datapath::http::reason_name;

/// What may lie in a window behind a message, for reading past its end to show.
const STALE: [&[u8]; 5] = [b"\0", b"\xff", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"0: HTTP/1.1 "];

/// In the order of `enum http_method`.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// The longest head that is read.
pub const HEAD_SIZE: usize = 4096;

/// The longest message that is taken.
pub const MESSAGE_SIZE: usize = 65536;

/// Why a head is the proxy's, `enum http_reason`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(pub u32);

impl Reason {
    /// The head came in more than one piece, or is too long.
    pub const SPLIT_HEAD: Self = Self(3);

    /// As counters call it.
    pub fn name(self) -> &'static str {
        reason_name(self.0)
    }
}

impl std::fmt::Debug for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What the kernel reads of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// One of [`METHODS`].
    pub method: &'static str,
    /// Where the path is, without the query.
    pub path: Range<usize>,
    /// Of the head, with the empty line.
    pub length: usize,
    /// Bytes that follow it.
    pub body: usize,
    /// Servers may read the path differently.
    pub odd: bool,
}

/// What the kernel reads of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Of the head, with the empty line.
    pub length: usize,
    /// Bytes that follow it.
    pub body: usize,
}

/// `struct host_head` of http.c.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    length: u32,
    flags: u32,
    body: u32,
    path: u16,
    path_length: u16,
    status: u16,
    method: u8,
}

/// `HTTP_HEADERS_VAGUE` of abi.h.
const HEADERS_VAGUE: u32 = 0x8000_0000;

/// `HEAD_ODD_PATH` of head.h.
const ODD_PATH: u32 = 4;

unsafe extern "C" {
    fn host_http_read(
        bytes: *const u8,
        size: u32,
        stale: *const u8,
        stale_size: u32,
        method: i32,
        told: *mut Told,
    ) -> u32;
}

fn read_over(message: &[u8], stale: &[u8], method: i32) -> Result<Told, Reason> {
    let seen = &message[..message.len().min(HEAD_SIZE)];
    let mut told = Told::default();
    // SAFETY: the C side reads the given numbers of bytes, and writes a `struct host_head`.
    let reason = unsafe {
        host_http_read(
            seen.as_ptr(),
            seen.len() as u32,
            stale.as_ptr(),
            stale.len() as u32,
            method,
            &raw mut told,
        )
    };
    if reason == 0 { Ok(told) } else { Err(Reason(reason)) }
}

/// Reads the message over several stale windows. It must be read alike over all.
fn read(message: &[u8], method: i32) -> Result<Told, Reason> {
    let mut readings = STALE.iter().map(|stale| read_over(message, stale, method));
    let first = readings.next().expect("there are windows");
    for (stale, other) in STALE[1..].iter().zip(readings) {
        let (stale, message) = (stale.escape_ascii(), message.escape_ascii());
        assert_eq!(first, other, "bytes behind the message are read: {stale} behind {message}");
    }
    first
}

/// What the kernel reads of a message that a client sends.
pub fn request(message: &[u8]) -> Result<Request, Reason> {
    let told = read(message, -1)?;
    let path = usize::from(told.path);
    Ok(Request {
        method: METHODS[usize::from(told.method)],
        path: path..path + usize::from(told.path_length),
        length: told.length as usize,
        body: told.body as usize,
        odd: told.flags & ODD_PATH != 0,
    })
}

/// What the kernel reads of the response to a request of the method with place `method` in [`METHODS`].
pub fn response(message: &[u8], method: usize) -> Result<Response, Reason> {
    let told = read(message, method as i32)?;
    Ok(Response { status: told.status, length: told.length as usize, body: told.body as usize })
}

impl Request {
    /// The target in `message`, of which this is the reading: path and query.
    pub fn target<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        let from = &message[self.path.start..self.length];
        let end = from.iter().position(|&byte| byte == b' ').unwrap_or(from.len());
        &from[..end]
    }
}

/// `HTTP_METHODS` of abi.h.
const METHOD_COUNT: usize = METHODS.len();

static TURN: Mutex<()> = Mutex::new(());

/// The trie of classes, of which there is one.
pub struct Classes {
    _turn: MutexGuard<'static, ()>,
}

unsafe extern "C" {
    fn host_http_classes_clear();
    fn host_http_headers_set(bytes: *const u8, size: u32) -> i32;
    fn host_http_class_add(table: u32, path: *const u8, bits: u32, verdicts: *const u32) -> i32;
    fn host_http_route(bytes: *const u8, size: u32, service: u64, reason: *mut u32, found: *mut u64) -> u32;
}

impl Default for Classes {
    fn default() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the lock makes this the only user of the C side's trie.
        unsafe { host_http_classes_clear() };
        Self { _turn: turn }
    }
}

impl Classes {
    /// Puts a class in; `bits` counts the table's number too.
    pub fn add(&mut self, table: u32, bits: u32, path: &[u8; 64], verdicts: &[u32; METHOD_COUNT]) {
        // SAFETY: the C side copies at most 64 bytes of the path and the verdicts of all methods; the lock is held.
        let error = unsafe { host_http_class_add(table, path.as_ptr(), bits, verdicts.as_ptr()) };
        assert_eq!(error, 0, "the trie takes {bits} bits and has room");
    }

    /// A `struct http_headers`: what the routes of the one table that has any ask of headers.
    pub fn headers(&mut self, bytes: &[u8]) {
        // SAFETY: the C side copies the bytes if they are as many as it wants; the lock is held.
        let error = unsafe { host_http_headers_set(bytes.as_ptr(), bytes.len() as u32) };
        assert_eq!(error, 0, "a struct http_headers has another size than {}", bytes.len());
    }

    /// The number of the rule for a request that fits into a window, of the service with this word.
    pub fn route(&mut self, message: &[u8], service: u64) -> Result<u32, Reason> {
        self.route_by(message, service).map(|(rule, _)| rule)
    }

    /// The same, and the place of the header's value by which requests are balanced; nothing where it cannot be told.
    pub fn route_by(&mut self, message: &[u8], service: u64) -> Result<(u32, Option<Option<u32>>), Reason> {
        assert!(message.len() <= HEAD_SIZE);
        let (mut reason, mut found) = (0, 0);
        // SAFETY: the C side reads the message's bytes and writes a reason; the lock is held.
        let rule = unsafe {
            host_http_route(message.as_ptr(), message.len() as u32, service, &raw mut reason, &raw mut found)
        };
        let vague = found as u32 & HEADERS_VAGUE != 0;
        let place = (!vague).then(|| ((found >> 32) as u32).checked_sub(1));
        rule.checked_sub(1).map(|rule| (rule, place)).ok_or(Reason(reason))
    }
}

/// The buckets of rate limits, of which there are few.
pub struct Buckets {
    _turn: MutexGuard<'static, ()>,
}

unsafe extern "C" {
    fn host_http_buckets_clear(room: u32);
    fn host_http_buckets_sweep(now: u64);
    fn host_http_draw(rates: *const u8, netns: u64, now: u64, wait: *mut u64) -> u32;
    fn host_http_caller_place(netns: u64, address: *const u32) -> u32;
}

impl Buckets {
    /// None, and room for so many, at most 512.
    pub fn new(room: u32) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the lock makes this the only user of the C side's buckets.
        unsafe { host_http_buckets_clear(room) };
        Self { _turn: turn }
    }

    /// Removes what has been full for a while at `now`, in nanoseconds.
    pub fn sweep(&mut self, now: u64) {
        // SAFETY: the lock is held.
        unsafe { host_http_buckets_sweep(now) };
    }

    /// Draws for a caller in namespace `netns`; `rates` is a `struct http_rates`. `enum http_draw_outcome`, and how long to
    /// wait.
    pub fn draw(&mut self, rates: &[u8], netns: u64, now: u64) -> (u32, u64) {
        assert_eq!(rates.len(), 2 * 32, "two limits of four words");
        let mut wait = 0;
        // SAFETY: the C side reads the two limits and writes one word; the lock is held.
        let outcome = unsafe { host_http_draw(rates.as_ptr(), netns, now, &raw mut wait) };
        (outcome, wait)
    }
}

/// The place of who calls from `address`, words in network order, in namespace `netns`.
pub fn caller_place(netns: u64, address: [u32; 4]) -> u32 {
    // SAFETY: the C side reads the four words.
    unsafe { host_http_caller_place(netns, address.as_ptr()) }
}
