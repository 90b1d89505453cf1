//! The border with the observing programs: the types of `bpf/observe/abi.h`, generated.
#![allow(unsafe_code)]

use crate::abi::Plain;

#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "written by libbpf-cargo; of the skeleton only the types are used"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/observe_abi.rs"));
}

pub(crate) use generated::types::{
    dns_event, dns_flags, dns_key, dns_transport, filter, filter_cgroup, filter_endpoint, filter_sets,
    filter_state, http2_record, identity, latency, method, path, record, request_event, request_flags,
    series, series_key, slowest_order, tcp_event, template, template_byte, tls_cookie, tls_function, tls_key,
    tls_limits, tls_server,
};
use generated::types::{event_type, http2_kind, observe_abi, path_label, side, tally, tcp_kind, tcp_reason};

pub(crate) const PATH_SIZE: usize = observe_abi::PATH_SIZE.0 as usize;
pub(crate) const TEMPLATES: usize = observe_abi::TEMPLATES.0 as usize;
pub(crate) const FILTERS: usize = observe_abi::FILTERS.0 as usize;
pub(crate) const PREFIX_SIZE: usize = observe_abi::PREFIX_SIZE.0 as usize;
pub(crate) const COMM_SIZE: usize = observe_abi::COMM_SIZE.0 as usize;
pub(crate) const METHODS: usize = method::METHODS.0 as usize;
pub(crate) const TALLIES: usize = tally::TALLIES.0 as usize;
pub(crate) const UNFOLLOWED: usize = tally::TALLY_UNFOLLOWED.0 as usize;
pub(crate) const HTTP2_RECORD: u32 = tally::TALLY_HTTP2_RECORD.0;
pub(crate) const EVENT_TYPE_REQUEST: u32 = event_type::EVENT_TYPE_REQUEST.0;
pub(crate) const EVENT_TYPE_TCP: u32 = event_type::EVENT_TYPE_TCP.0;
pub(crate) const EVENT_TYPE_DNS: u32 = event_type::EVENT_TYPE_DNS.0;
pub(crate) const HTTP2_KIND_BLOCK: u32 = http2_kind::HTTP2_KIND_BLOCK.0;
pub(crate) const HTTP2_KIND_DATA: u32 = http2_kind::HTTP2_KIND_DATA.0;
pub(crate) const HTTP2_KIND_RESET: u32 = http2_kind::HTTP2_KIND_RESET.0;
pub(crate) const HTTP2_KIND_GAP: u32 = http2_kind::HTTP2_KIND_GAP.0;
pub(crate) const HTTP2_KIND_END: u32 = http2_kind::HTTP2_KIND_END.0;
pub(crate) const RECORDS: usize = observe_abi::RECORDS.0 as usize;
pub(crate) const HOST_SIZE: usize = observe_abi::HOST_SIZE.0 as usize;
pub(crate) const PATH_LABELS: usize = path_label::PATH_LABELS.0 as usize;
pub(crate) const TCP_KINDS: usize = tcp_kind::TCP_KINDS.0 as usize;
pub(crate) const TCP_REASONS: usize = tcp_reason::TCP_REASONS.0 as usize;
pub(crate) const SIDE_CLIENT: u8 = side::SIDE_CLIENT.0 as u8;
pub(crate) const SIDE_SERVER: u8 = side::SIDE_SERVER.0 as u8;

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: integers, and arrays and structs of integers that -Wpadded has found free of padding.
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(series_key, series, path, request_event, filter, filter_state, record, slowest_order);
plain!(
    http2_record,
    template,
    tcp_event,
    dns_event,
    dns_key,
    filter_endpoint,
    filter_cgroup,
    tls_server,
    tls_key
);
