//! What the kernel tells of HTTP/2: pieces of header blocks, and the ends of streams.

use crate::abi::Plain;
use crate::observe::abi::{self, http2_record};
use crate::observe::event::{Malformed, PathLabel};

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of a header block.
    Block,
    /// A run of DATA is over, maybe with its stream.
    Data,
    /// RST_STREAM.
    Reset,
    /// Bytes of this direction were missed.
    Gap,
    /// The connection is over.
    End,
}

/// A record and what belongs to it.
pub(super) struct Record<'a> {
    pub(super) head: http2_record,
    pub(super) kind: Kind,
    pub(super) path_label: PathLabel,
    pub(super) piece: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let expected = size_of::<http2_record>();
        let short = Malformed::Size { found: bytes.len(), expected };
        let head = http2_record::read(bytes).ok_or(short)?;
        let piece = bytes.get(expected..).unwrap_or_default();
        if piece.len() != usize::from(head.length) {
            return Err(short);
        }
        let kind = match u32::from(head.kind) {
            abi::HTTP2_KIND_BLOCK => Kind::Block,
            abi::HTTP2_KIND_DATA => Kind::Data,
            abi::HTTP2_KIND_RESET => Kind::Reset,
            abi::HTTP2_KIND_GAP => Kind::Gap,
            abi::HTTP2_KIND_END => Kind::End,
            _ => return Err(Malformed::Field { field: "kind", value: head.kind.into() }),
        };
        for (field, value) in [("direction", head.response), ("side", head.side)] {
            if value > 1 {
                return Err(Malformed::Field { field, value: value.into() });
            }
        }
        let field = Malformed::Field { field: "path label", value: head.path_label.into() };
        let path_label = PathLabel::from_number(head.path_label).ok_or(field)?;
        Ok(Self { head, kind, path_label, piece })
    }
}
