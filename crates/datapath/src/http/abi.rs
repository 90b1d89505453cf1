//! The border with the HTTP router's programs: the types of `bpf/http/abi.h`, generated.
#![allow(unsafe_code)]

use crate::abi::plain;

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
    include!(concat!(env!("OUT_DIR"), "/http_abi.rs"));
}

pub(crate) use generated::types::{
    http_balance, http_bucket_key, http_caller, http_choice, http_class, http_class_key, http_condition,
    http_dial_key, http_draw, http_draw_outcome, http_event, http_far, http_front, http_front_key,
    http_group, http_headers, http_lane, http_limit, http_listener, http_method, http_pool, http_pool_key,
    http_proxied, http_rates, http_reason, http_reasons, http_rest, http_rule, http_slot, http_traffic,
    http_traffic_key,
};
use generated::types::{
    http_limits, http_next_program, http_pool_head, http_program, http_service_word as word,
    http_slot_word as flag,
};

plain!(
    http_bucket_key,
    http_class,
    http_class_key,
    http_dial_key,
    http_draw,
    http_event,
    http_far,
    http_front,
    http_front_key,
    http_group,
    http_headers,
    http_lane,
    http_listener,
    http_pool,
    http_pool_key,
    http_proxied,
    http_rates,
    http_reasons,
    http_rest,
    http_rule,
    http_slot,
    http_traffic,
    http_traffic_key
);

pub(crate) const PATTERN_SIZE: usize = http_limits::HTTP_PATTERN_SIZE.0 as usize;
pub(crate) const WINDOWS_PER_CPU: u32 = http_limits::HTTP_WINDOWS_PER_CPU.0;
pub(crate) const METHODS: usize = http_method::HTTP_METHODS.0 as usize;
/// In a verdict: the rest of it is the place of a choice.
pub(crate) const VERDICT_CHOICE: u32 = 0x8000_0000;
pub(crate) const REASONS: usize = http_reason::HTTP_REASONS.0 as usize;
pub(crate) const PROGRAM_CLIENT: u32 = http_program::HTTP_PROGRAM_CLIENT.0;
pub(crate) const NEXT_TOLD: u32 = http_next_program::HTTP_NEXT_TOLD.0;
pub(crate) const PROGRAM_FAR: u32 = http_program::HTTP_PROGRAM_FAR.0;
pub(crate) const PROGRAM_BACK: u32 = http_program::HTTP_PROGRAM_BACK.0;

pub(crate) const PROGRAM_LIMIT: u32 = http_program::HTTP_PROGRAM_LIMIT.0;
const _: () = assert!(http_limits::HTTP_PLACES.0 == alize_model::http::PLACES);
pub(crate) const LANES: usize = http_limits::HTTP_LANES.0 as usize;

pub(crate) const BUSY: u64 = flag::HTTP_SLOT_BUSY.0 as u64;
pub(crate) const OPEN: u64 = flag::HTTP_SLOT_OPEN.0 as u64;
pub(crate) const COPY: u64 = flag::HTTP_SLOT_COPY.0 as u64;
pub(crate) const DEAD: u64 = flag::HTTP_SLOT_DEAD.0 as u64;
pub(crate) const OUT: u64 = flag::HTTP_SLOT_OUT.0 as u64;
pub(crate) const LOST: u64 = flag::HTTP_SLOT_LOST.0 as u64;
pub(crate) const LAST: u64 = flag::HTTP_SLOT_LAST.0 as u64;
pub(crate) const FLAGS: u64 = flag::HTTP_SLOT_FLAGS.0 as u64;
pub(crate) const GENERATION_SHIFT: u32 = flag::HTTP_SLOT_GENERATION_SHIFT.0;
pub(crate) const GENERATION_BITS: u32 = flag::HTTP_SLOT_GENERATION_BITS.0;
pub(crate) const COOKIE_SHIFT: u32 = flag::HTTP_SLOT_COOKIE_SHIFT.0;
pub(crate) const HEAD_SLOT_BITS: u32 = http_pool_head::HTTP_HEAD_SLOT_BITS.0;

/// A word of `http_services`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceWord {
    pub(crate) on: bool,
    /// Without a proxy connections are refused.
    pub(crate) strict: bool,
    /// The kernel may route.
    pub(crate) kernel: bool,
    /// The table has conditions on headers.
    pub(crate) headers: bool,
    /// Who calls matters.
    pub(crate) caller: bool,
    /// Number of the one rule for all requests.
    pub(crate) any: Option<u32>,
    pub(crate) table: u32,
}

impl ServiceWord {
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.on) << word::HTTP_SERVICE_ON_SHIFT.0
            | u64::from(self.strict) << word::HTTP_SERVICE_STRICT_SHIFT.0
            | u64::from(self.kernel) << word::HTTP_SERVICE_KERNEL_SHIFT.0
            | u64::from(self.headers) << word::HTTP_SERVICE_HEADERS_SHIFT.0
            | u64::from(self.caller) << word::HTTP_SERVICE_CALLER_SHIFT.0
            | self.any.map_or(0, |rule| u64::from(rule) + 1) << word::HTTP_SERVICE_ANY_SHIFT.0
            | u64::from(self.table) << word::HTTP_SERVICE_TABLE_SHIFT.0
    }

    pub(crate) fn unpack(packed: u64) -> Self {
        let field = |shift: u32, bits: u32| (packed >> shift & ((1u64 << bits) - 1)) as u32;
        Self {
            on: field(word::HTTP_SERVICE_ON_SHIFT.0, word::HTTP_SERVICE_ON_BITS.0) != 0,
            strict: field(word::HTTP_SERVICE_STRICT_SHIFT.0, word::HTTP_SERVICE_STRICT_BITS.0) != 0,
            kernel: field(word::HTTP_SERVICE_KERNEL_SHIFT.0, word::HTTP_SERVICE_KERNEL_BITS.0) != 0,
            headers: field(word::HTTP_SERVICE_HEADERS_SHIFT.0, word::HTTP_SERVICE_HEADERS_BITS.0) != 0,
            caller: field(word::HTTP_SERVICE_CALLER_SHIFT.0, word::HTTP_SERVICE_CALLER_BITS.0) != 0,
            any: field(word::HTTP_SERVICE_ANY_SHIFT.0, word::HTTP_SERVICE_ANY_BITS.0).checked_sub(1),
            table: field(word::HTTP_SERVICE_TABLE_SHIFT.0, word::HTTP_SERVICE_TABLE_BITS.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn service_words_come_back(on: bool, strict: bool, kernel: bool, headers: bool, caller: bool, any in proptest::option::of(0u32..1 << 20), table: u32) {
            let packed = ServiceWord { on, strict, kernel, headers, caller, any, table };
            prop_assert_eq!(ServiceWord::unpack(packed.pack()), packed);
        }
    }
}
