//! The observing kernel programs, the same C, compiled for the host: packets in, requests and tallies out; and the HTTP
//! router's headers likewise, in [`http`].
#![allow(unsafe_code)]

pub mod corpus;
pub mod heads;
pub mod http;
pub mod oracle;

use std::sync::{Mutex, MutexGuard, PoisonError};

use alize_datapath::observe::{Decoder, DnsQuery, Malformed, Request};

/// TCP flags of a segment.
pub mod flags {
    /// No more data from this side.
    pub const FIN: u8 = 1;
    /// The first of a side, which takes a number of its own.
    pub const SYN: u8 = 2;
    /// The connection is broken off.
    pub const RST: u8 = 4;
}

/// Whether a socket of the host sends a segment or receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It sends.
    Egress,
    /// It receives.
    Ingress,
}

/// A segment on its way.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Of its first byte.
    pub sequence: u32,
    /// The next byte that its sender expects.
    pub acknowledged: u32,
    /// See [`flags`].
    pub flags: u8,
    /// No data went either way before it.
    pub first: bool,
    /// At most 64 KiB.
    pub payload: &'a [u8],
}

unsafe extern "C" {
    fn host_reset();
    fn host_segment(
        socket: u32,
        egress: i32,
        sequence: u32,
        acknowledged: u32,
        flags: u8,
        first: i32,
        payload: *const u8,
        size: u32,
    ) -> i32;
    fn host_tally(which: u32) -> u64;
    fn host_event(number: u32, size: *mut u32) -> *const u8;
    fn host_http2(size: *mut usize) -> *const u8;
    fn host_latency_bucket(ns: u64) -> u32;
    fn host_dns(message: *const u8, size: u32, response: u32, event: *mut u8) -> i32;
    fn host_dns_segment(
        stream: *mut u64,
        from: u32,
        segment: *const u8,
        size: u32,
        response: u32,
        events: *mut u8,
        room: u32,
    ) -> i32;
    fn host_dns_stream_size() -> u32;
    fn host_path(key: *const u64, text: *mut u8) -> u32;
}

static TURN: Mutex<()> = Mutex::new(());

/// The programs with empty maps, and a trace that wants every request.
pub struct Host {
    _turn: MutexGuard<'static, ()>,
}

impl Default for Host {
    fn default() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the lock makes this the only user of the C side's statics.
        unsafe { host_reset() };
        Self { _turn: turn }
    }
}

impl Host {
    /// Number of sockets there are.
    pub const SOCKETS: u32 = 8;

    /// Has the segment go by at `socket`; gives the program's verdict.
    pub fn segment(&mut self, socket: u32, way: Way, segment: Segment<'_>) -> i32 {
        let size = segment.payload.len().min(65_536) as u32;
        // SAFETY: the C side copies `size` bytes of the payload; the lock is held.
        unsafe {
            host_segment(
                socket,
                (way == Way::Egress).into(),
                segment.sequence,
                segment.acknowledged,
                segment.flags,
                segment.first.into(),
                segment.payload.as_ptr(),
                size,
            )
        }
    }

    /// Tally number `which`, in the order of `enum tally`.
    pub fn tally(&self, which: u32) -> u64 {
        // SAFETY: the lock is held.
        unsafe { host_tally(which) }
    }

    /// The requests traced so far.
    pub fn requests(&self) -> Vec<Result<Request, Malformed>> {
        (0..).map_while(|number| self.record(number)).map(|bytes| Request::decode(&bytes)).collect()
    }

    /// The requests of HTTP/2 so far, decoded from the records of heads.
    pub fn http2_requests(&self) -> Vec<Request> {
        let mut size = 0;
        // SAFETY: the lock is held; the C side gives `size` bytes that stay until the next reset.
        let mut rest = unsafe {
            let heads = host_http2(&mut size);
            std::slice::from_raw_parts(heads, size)
        };
        let (mut decoder, mut requests) = (Decoder::default(), Vec::new());
        while let Some((length, after)) = rest.split_first_chunk() {
            let (record, after) = after.split_at(usize::from_ne_bytes(*length));
            decoder
                .take(record, &mut |request| requests.push(request))
                .expect("the kernel writes what can be read");
            rest = after;
        }
        requests
    }

    fn record(&self, number: u32) -> Option<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the lock is held; the C side gives a record of `size` bytes that stays until the next reset.
        unsafe {
            let record = host_event(number, &mut size);
            (!record.is_null()).then(|| std::slice::from_raw_parts(record, size as usize).to_vec())
        }
    }

    /// The folded path under which request number `number` is counted.
    pub fn path(&self, number: u32) -> Option<String> {
        /// Offset of `path` in `struct request_event`.
        const PATH: usize = 48;
        let record = self.record(number)?;
        let key = u64::from_ne_bytes(record[PATH..PATH + 8].try_into().ok()?);
        let mut text = [0; 112];
        // SAFETY: the lock is held; the C side writes 112 bytes at most.
        let length = unsafe { host_path(&key, text.as_mut_ptr()) } as usize;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    }
}

/// Size of `struct dns_event`.
const DNS_EVENT: usize = 232;

/// One direction of DNS over TCP.
pub struct DnsStream<'a> {
    _host: &'a mut Host,
    stream: Vec<u64>,
    response: bool,
}

impl<'a> DnsStream<'a> {
    /// Before its first byte, whose number is 0.
    pub fn new(host: &'a mut Host, response: bool) -> Self {
        // SAFETY: no state.
        let size = unsafe { host_dns_stream_size() } as usize;
        Self { _host: host, stream: vec![0; size.div_ceil(8)], response }
    }

    /// The questions of the messages that a segment completes, which begins with byte number `from`; `None`: it cannot be
    /// followed.
    pub fn segment(&mut self, from: u32, bytes: &[u8]) -> Option<Vec<Result<DnsQuery, Malformed>>> {
        const ROOM: usize = 64;
        assert!(bytes.len() <= 65_536, "a packet has room for it");
        let mut events = vec![0u8; ROOM * DNS_EVENT];
        // SAFETY: `_host` is proof that nobody else uses the C side's packet, which has room for the segment; the stream
        // has the size that the C side says, and at most ROOM events are written.
        let count = unsafe {
            host_dns_segment(
                self.stream.as_mut_ptr(),
                from,
                bytes.as_ptr(),
                bytes.len() as u32,
                self.response.into(),
                events.as_mut_ptr(),
                ROOM as u32,
            )
        };
        let count = usize::try_from(count).ok()?;
        Some(events.chunks_exact(DNS_EVENT).take(count).map(DnsQuery::decode).collect())
    }
}

/// The question of a DNS message, as the kernel reads it; `None`: it is no message of that kind.
pub fn dns(message: &[u8], response: bool) -> Option<Result<DnsQuery, Malformed>> {
    let mut event = [0u8; DNS_EVENT];
    let size = message.len().min(65_536) as u32;
    // SAFETY: no state; the C side copies at most `size` bytes of the message and writes DNS_EVENT bytes of the event.
    let read = unsafe { host_dns(message.as_ptr(), size, response.into(), event.as_mut_ptr()) };
    (read != 0).then(|| DnsQuery::decode(&event))
}

/// The bucket in which the kernel counts a latency.
pub fn latency_bucket(ns: u64) -> usize {
    // SAFETY: no state.
    unsafe { host_latency_bucket(ns) as usize }
}

/// A connection between a client at socket 0 and a server at socket 1 of the same host, byte after byte.
pub struct Connection<'a> {
    host: &'a mut Host,
    sent: [u32; 2],
    begun: bool,
    /// Whether the server's socket is looked at too.
    pub both: bool,
    /// Whether the client's socket is looked at.
    pub client: bool,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The client, from socket 0.
    Client,
    /// The server, from socket 1.
    Server,
}

impl<'a> Connection<'a> {
    /// A new connection; sequence numbers begin shortly before they wrap.
    pub fn new(host: &'a mut Host) -> Self {
        Self { host, sent: [u32::MAX - 50, u32::MAX - 1000], begun: false, both: true, client: true }
    }

    /// Sends bytes as one segment.
    pub fn send(&mut self, from: From, payload: &[u8]) {
        self.send_flagged(from, payload, 0);
    }

    /// Sends bytes as one segment with flags.
    pub fn send_flagged(&mut self, from: From, payload: &[u8], flags: u8) {
        let segment = self.next(from, payload, flags);
        self.pass(from, segment);
    }

    /// The segment that would come next, and takes its place in the sequence.
    pub fn next<'b>(&mut self, from: From, payload: &'b [u8], flags: u8) -> Segment<'b> {
        let (mine, other) = if from == From::Client { (0, 1) } else { (1, 0) };
        let segment = Segment {
            sequence: self.sent[mine],
            acknowledged: self.sent[other],
            flags,
            first: !self.begun,
            payload,
        };
        self.begun |= !payload.is_empty();
        self.sent[mine] = self.sent[mine].wrapping_add(payload.len() as u32);
        segment
    }

    /// Has a segment go by, whatever its place in the sequence is.
    pub fn pass(&mut self, from: From, segment: Segment<'_>) {
        let (sender, receiver) = if from == From::Client { (0, 1) } else { (1, 0) };
        let looked_at = [self.client, self.both];
        for (socket, way) in [(sender, Way::Egress), (receiver, Way::Ingress)] {
            if looked_at[socket as usize] {
                assert_eq!(self.host.segment(socket, way, segment), 1, "every packet must pass");
            }
        }
    }
}
