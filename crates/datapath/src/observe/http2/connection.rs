//! One connection: its header blocks become requests and responses, and those of one stream an exchange.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::hpack::{Fields, Table};
use super::record::{Kind, Record};
use crate::abi::{NONE, socket_addr};
use crate::observe::abi::{self, http2_record};
use crate::observe::event::{
    Grpc, Identity, Method, PathLabel, Protocol, Request, Side, cut_text, identity_of,
};

/// Largest header block that is put together; servers take 8 to 64 KiB.
const LARGEST_BLOCK: usize = 64 * 1024;
/// Streams outstanding at a time that are told apart.
const STREAMS: usize = 2048;

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// What happened with no exchange to show for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missed {
    /// Header blocks that could not be decoded, or not be put together.
    pub(super) undecoded: u64,
    /// Responses whose request, or requests whose response, was missed.
    pub(super) unpaired: u64,
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Number of the next record; `None`: none has come.
    next: Option<u32>,
    table: Table,
    /// Blocks were missed, so that the table lacks something.
    partial: bool,
    frame: Vec<u8>,
    block: Vec<u8>,
    block_began: Duration,
    /// Of the frame with which the block began: its stream, type and flags.
    stream: u32,
    frame_type: u8,
    flags: u8,
}

impl Way {
    fn lose(&mut self) {
        self.table.forget();
        self.partial = true;
        self.frame.clear();
        self.block.clear();
        self.stream = 0;
    }
}

/// A request that waits for the end of its response.
struct Stream {
    started: Duration,
    first_byte: Option<Duration>,
    method: Method,
    path: Option<Rc<[u8]>>,
    host: Option<Rc<[u8]>>,
    trace_parent: Option<Rc<[u8]>>,
    grpc: bool,
    status: Option<u16>,
    grpc_status: Option<u8>,
    request_bytes: u64,
    response_bytes: u64,
    /// Others were outstanding.
    beside: bool,
    partial: bool,
}

/// A connection that speaks HTTP/2.
pub(super) struct Connection {
    ways: [Way; 2],
    streams: HashMap<u32, Stream>,
    client: Option<Identity>,
    server: Option<Identity>,
    requests: u64,
    pub(super) missed: Missed,
    /// When something was last heard of it.
    pub(super) heard: Duration,
    path_label: PathLabel,
}

/// A whole block, and what its frame said.
struct Block {
    stream: u32,
    frame_type: u8,
    ends_stream: bool,
    began: Duration,
    size: u64,
    fields: Fields,
    partial: bool,
}

impl Connection {
    /// By its first record that came.
    pub(super) fn new(first: &Record<'_>) -> Self {
        let mut connection = Self {
            ways: [Way::default(), Way::default()],
            streams: HashMap::new(),
            client: None,
            server: None,
            requests: 0,
            missed: Missed::default(),
            heard: Duration::from_nanos(first.head.time_ns),
            path_label: first.path_label,
        };
        if first.head.late != 0 {
            connection.ways.iter_mut().for_each(Way::lose);
        }
        connection
    }

    /// Takes a record; exchanges that end with it go to `each`. False: the connection is over.
    pub(super) fn take(&mut self, record: &Record<'_>, each: &mut dyn FnMut(Request)) -> bool {
        let head = &record.head;
        let response = head.response != 0;
        self.heard = Duration::from_nanos(head.time_ns);
        self.follow(head);
        let data = self.streams.get_mut(&head.data_stream);
        if let Some(stream) = data {
            let bytes = if response { &mut stream.response_bytes } else { &mut stream.request_bytes };
            *bytes += head.data_bytes;
        }
        match record.kind {
            Kind::Block => {
                let who = if response { &mut self.server } else { &mut self.client };
                if let Some(identity) = identity_of(&head.sender) {
                    *who = Some(identity);
                }
                if let Some(block) = self.block(record) {
                    self.headed(head, block, response, each);
                }
            }
            Kind::Data if head.frame_flags & END_STREAM != 0 && response => {
                self.finish(head, head.stream, false, each);
            }
            Kind::Data => {}
            Kind::Reset => self.finish(head, head.stream, true, each),
            Kind::Gap => self.ways[usize::from(response)].lose(),
            Kind::End => {
                let open: Vec<u32> = self.streams.keys().copied().collect();
                // After a gap the response may have come and gone unseen.
                let known = !self.ways[1].partial;
                for stream in open {
                    match known {
                        true => self.finish(head, stream, true, each),
                        false => self.missed.unpaired += 1,
                    }
                }
                return false;
            }
        }
        true
    }

    /// A hole in the numbers of a direction is a record that was lost.
    fn follow(&mut self, head: &http2_record) {
        let way = &mut self.ways[usize::from(head.response != 0)];
        if way.next.unwrap_or(0) != head.number {
            way.lose();
        }
        way.next = Some(head.number.wrapping_add(1));
    }

    /// Puts pieces together; a block that is whole.
    fn block(&mut self, record: &Record<'_>) -> Option<Block> {
        let head = &record.head;
        let way = &mut self.ways[usize::from(head.response != 0)];
        let time = Duration::from_nanos(head.time_ns);
        if head.offset as usize != way.frame.len() {
            // The beginning was missed, and said so.
            way.lose();
            return None;
        }
        way.frame.extend_from_slice(record.piece);
        let begins = matches!(head.frame_type, HEADERS | PUSH_PROMISE);
        if begins && head.offset == 0 {
            way.block.clear();
            way.block_began = time;
            (way.stream, way.frame_type, way.flags) = (head.stream, head.frame_type, head.frame_flags);
        }
        if way.frame.len() < head.frame_length as usize {
            return None;
        }
        let frame = std::mem::take(&mut way.frame);
        let fragment = fragment(head, &frame);
        let whole = way.stream == head.stream && way.block.len() + frame.len() <= LARGEST_BLOCK;
        let Some(fragment) = fragment.filter(|_| whole) else {
            way.lose();
            self.missed.undecoded += 1;
            return None;
        };
        way.block.extend_from_slice(fragment);
        if head.frame_flags & END_HEADERS == 0 {
            return None;
        }
        let block = std::mem::take(&mut way.block);
        way.stream = 0;
        let Ok(fields) = way.table.decode(&block) else {
            way.lose();
            self.missed.undecoded += 1;
            return None;
        };
        Some(Block {
            stream: head.stream,
            frame_type: way.frame_type,
            ends_stream: way.flags & END_STREAM != 0,
            began: way.block_began,
            size: block.len() as u64,
            partial: fields.incomplete,
            fields,
        })
    }

    /// A head is complete, or trailers are.
    fn headed(&mut self, head: &http2_record, block: Block, response: bool, each: &mut dyn FnMut(Request)) {
        match (response, self.streams.get_mut(&block.stream)) {
            // What a server would like to send is no request of the client's.
            (true, _) if block.frame_type == PUSH_PROMISE => {}
            (false, None) => self.request(block),
            (false, Some(stream)) => stream.request_bytes += block.size,
            // Its request was missed.
            (true, None) => self.missed.unpaired += u64::from(block.ends_stream),
            (true, Some(stream)) => {
                stream.response_bytes += block.size;
                stream.first_byte.get_or_insert(block.began);
                stream.partial |= block.partial;
                if let Some(status) =
                    number(&block.fields.status).filter(|status| (200..1000).contains(status))
                {
                    stream.status = Some(status);
                }
                if let Some(status) = number(&block.fields.grpc_status) {
                    stream.grpc_status = u8::try_from(status).ok();
                }
                if block.ends_stream {
                    self.finish(head, block.stream, false, each);
                }
            }
        }
    }

    fn request(&mut self, block: Block) {
        let fields = block.fields;
        if self.streams.len() >= STREAMS {
            self.missed.unpaired += 1;
            return;
        }
        let grpc = fields.content_type.as_deref().is_some_and(|kind| kind.starts_with(b"application/grpc"));
        let method = fields.method.as_deref().map_or(Method::Other, Method::named);
        let stream = Stream {
            started: block.began,
            first_byte: None,
            method,
            path: fields.path,
            host: fields.authority,
            trace_parent: fields.trace_parent,
            grpc,
            status: None,
            grpc_status: None,
            request_bytes: block.size,
            response_bytes: 0,
            beside: !self.streams.is_empty(),
            partial: block.partial,
        };
        self.streams.insert(block.stream, stream);
    }

    /// A stream has ended.
    fn finish(&mut self, head: &http2_record, stream: u32, broken: bool, each: &mut dyn FnMut(Request)) {
        let Some(stream) = self.streams.remove(&stream) else { return };
        let ended = Duration::from_nanos(head.time_ns);
        let (target, target_cut) = cut_text(stream.path.as_deref().unwrap_or_default(), abi::PATH_SIZE);
        let (host, _) = cut_text(stream.host.as_deref().unwrap_or_default(), abi::HOST_SIZE);
        let trace_parent = stream.trace_parent.as_deref().and_then(|text| std::str::from_utf8(text).ok());
        let side = if head.side == abi::SIDE_CLIENT { Side::Client } else { Side::Server };
        self.requests += 1;
        each(Request {
            matched: 0,
            started: stream.started,
            first_byte: stream.first_byte.map(|first| first.saturating_sub(stream.started)),
            latency: ended.saturating_sub(stream.started),
            request_bytes: stream.request_bytes,
            response_bytes: stream.response_bytes,
            client: self.client.clone(),
            server: self.server.clone(),
            client_address: socket_addr(head.client_address, head.client_port),
            server_address: socket_addr(head.server_address, head.server_port),
            service: (head.service != NONE).then_some(head.service),
            status: stream.status,
            method: stream.method,
            side,
            path_label: self.path_label,
            protocol: Protocol::Http2,
            grpc: stream.grpc.then(|| Grpc::of(&target, stream.grpc_status)),
            trace_parent: trace_parent.map(str::to_owned),
            target,
            target_cut,
            host,
            reused: self.requests > 1,
            pipelined: stream.beside,
            broken: broken && stream.status.is_some(),
            partial: stream.partial || stream.path.is_none(),
        });
    }
}

/// The part of a frame's payload that belongs to the block (RFC 9113, 6.2 and 6.6).
fn fragment<'a>(head: &http2_record, mut payload: &'a [u8]) -> Option<&'a [u8]> {
    let begins = matches!(head.frame_type, HEADERS | PUSH_PROMISE);
    let mut padding = 0;
    if begins && head.frame_flags & PADDED != 0 {
        let (length, rest) = payload.split_first()?;
        (padding, payload) = (usize::from(*length), rest);
    }
    if head.frame_type == PUSH_PROMISE {
        payload = payload.get(4..)?;
    } else if begins && head.frame_flags & PRIORITY != 0 {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

fn number(text: &Option<Rc<[u8]>>) -> Option<u16> {
    std::str::from_utf8(text.as_deref()?).ok()?.parse().ok()
}
