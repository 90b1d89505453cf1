//! Header blocks (HPACK, RFC 7541), as far as a bystander needs them: the few fields that say what a request is, and
//! the table that later blocks refer to. A bystander may have missed blocks, so a reference to what is not in the table
//! is no error here but a field that is not known; see ADR 0030.

use std::collections::VecDeque;
use std::rc::Rc;

use super::huffman;

/// Entries of a table that are kept: a table of 16 KiB has no more. What is older is not known; who encodes refers to
/// nothing that the table has dropped, so sizes need not be counted.
const ENTRIES: usize = 512;
/// The static table's.
const STATIC: usize = 61;

/// The fields that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Authority,
    Method,
    Path,
    Status,
    ContentType,
    GrpcStatus,
    TraceParent,
    /// None of them.
    Other,
    /// Its name is in a part of the table that was missed.
    Unknown,
}

impl Field {
    fn named(name: &[u8]) -> Self {
        match name {
            b":authority" => Field::Authority,
            b":method" => Field::Method,
            b":path" => Field::Path,
            b":status" => Field::Status,
            b"content-type" => Field::ContentType,
            b"grpc-status" => Field::GrpcStatus,
            b"traceparent" => Field::TraceParent,
            _ => Field::Other,
        }
    }

    fn matters(self) -> bool {
        !matches!(self, Field::Other | Field::Unknown)
    }
}

/// A field that was sent before.
#[derive(Clone)]
struct Entry {
    field: Field,
    /// Empty where it does not matter.
    value: Rc<[u8]>,
}

/// The fields of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) authority: Option<Rc<[u8]>>,
    pub(super) method: Option<Rc<[u8]>>,
    pub(super) path: Option<Rc<[u8]>>,
    pub(super) status: Option<Rc<[u8]>>,
    pub(super) content_type: Option<Rc<[u8]>>,
    pub(super) grpc_status: Option<Rc<[u8]>>,
    pub(super) trace_parent: Option<Rc<[u8]>>,
    /// Some refer to what was missed.
    pub(super) incomplete: bool,
}

impl Fields {
    fn add(&mut self, entry: Entry) {
        let place = match entry.field {
            Field::Authority => &mut self.authority,
            Field::Method => &mut self.method,
            Field::Path => &mut self.path,
            Field::Status => &mut self.status,
            Field::ContentType => &mut self.content_type,
            Field::GrpcStatus => &mut self.grpc_status,
            Field::TraceParent => &mut self.trace_parent,
            Field::Other => return,
            Field::Unknown => {
                self.incomplete = true;
                return;
            }
        };
        *place = Some(entry.value);
    }
}

/// What a block cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What one direction of a connection has sent before, newest first.
#[derive(Default)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
}

impl Table {
    /// Blocks were missed: what is in the table now is at places that nobody knows.
    pub(super) fn forget(&mut self) {
        self.entries.clear();
    }

    /// The fields of a whole block.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Fields, Malformed> {
        let mut fields = Fields::default();
        let mut rest = block;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                fields.add(self.entry(index)?);
            } else if first & 0x40 != 0 {
                let entry = self.literal(&mut rest, 6)?;
                self.entries.push_front(entry.clone());
                self.entries.truncate(ENTRIES);
                fields.add(entry);
            } else if first & 0x20 != 0 {
                // A new size of the table.
                integer(&mut rest, 5)?;
            } else {
                let entry = self.literal(&mut rest, 4)?;
                fields.add(entry);
            }
        }
        Ok(fields)
    }

    fn entry(&self, index: usize) -> Result<Entry, Malformed> {
        if index > STATIC {
            let unknown = || Entry { field: Field::Unknown, value: Rc::default() };
            return Ok(self.entries.get(index - STATIC - 1).cloned().unwrap_or_else(unknown));
        }
        let (field, value): (_, &[u8]) = match index {
            0 => return Err(Malformed),
            1 => (Field::Authority, b""),
            2 => (Field::Method, b"GET"),
            3 => (Field::Method, b"POST"),
            4 => (Field::Path, b"/"),
            5 => (Field::Path, b"/index.html"),
            8 => (Field::Status, b"200"),
            9 => (Field::Status, b"204"),
            10 => (Field::Status, b"206"),
            11 => (Field::Status, b"304"),
            12 => (Field::Status, b"400"),
            13 => (Field::Status, b"404"),
            14 => (Field::Status, b"500"),
            31 => (Field::ContentType, b""),
            _ => (Field::Other, b""),
        };
        Ok(Entry { field, value: value.into() })
    }

    fn literal(&self, rest: &mut &[u8], bits: u32) -> Result<Entry, Malformed> {
        let field = match integer(rest, bits)? {
            0 => Field::named(&string(rest)?.text()?),
            index => self.entry(index)?.field,
        };
        let value = string(rest)?;
        let value = if field.matters() { value.text()?.as_slice().into() } else { Rc::default() };
        Ok(Entry { field, value })
    }
}

/// A string that may not be wanted.
struct Text<'a> {
    bytes: &'a [u8],
    huffman: bool,
}

impl Text<'_> {
    fn text(&self) -> Result<Vec<u8>, Malformed> {
        match self.huffman {
            true => huffman::decode(self.bytes).ok_or(Malformed),
            false => Ok(self.bytes.to_vec()),
        }
    }
}

fn string<'a>(rest: &mut &'a [u8]) -> Result<Text<'a>, Malformed> {
    let huffman = rest.first().ok_or(Malformed)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = after;
    Ok(Text { bytes, huffman })
}

/// An integer whose first `bits` bits are in the first byte (5.1). None that is of use has more than four bytes behind.
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    let (first, mut after) = rest.split_first().ok_or(Malformed)?;
    let most = (1usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        for shift in [0, 7, 14, 21] {
            let (byte, behind) = after.split_first().ok_or(Malformed)?;
            after = behind;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *rest = after;
                return Ok(value);
            }
        }
        return Err(Malformed);
    }
    *rest = after;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: &Option<Rc<[u8]>>) -> &str {
        value.as_deref().map_or("-", |value| std::str::from_utf8(value).unwrap())
    }

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digits: Vec<u8> = hexadecimal.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    /// RFC 7541, C.4: three requests on one connection.
    const REQUESTS: [&str; 3] = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];

    #[test]
    fn reads_the_requests_of_the_standard() {
        let mut table = Table::default();
        let read = REQUESTS.map(|request| table.decode(&bytes(request)).unwrap());
        for (fields, path) in read.iter().zip(["/", "/", "/index.html"]) {
            assert_eq!((text(&fields.method), text(&fields.path)), ("GET", path));
            assert_eq!((text(&fields.authority), fields.incomplete), ("www.example.com", false));
        }
    }

    /// RFC 7541, C.6, whose table is so small that entries are dropped.
    #[test]
    fn reads_the_responses_of_the_standard() {
        let responses = [
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ];
        let mut table = Table::default();
        let read = responses.map(|response| text(&table.decode(&bytes(response)).unwrap().status).to_owned());
        assert_eq!(read, ["302", "307", "200"]);
    }

    /// Who has missed the first block knows what the others have of their own.
    #[test]
    fn what_was_missed_is_unknown_and_no_more() {
        let mut table = Table::default();
        let second = table.decode(&bytes(REQUESTS[1])).unwrap();
        assert_eq!((text(&second.method), text(&second.path)), ("GET", "/"));
        assert_eq!((second.authority.is_none(), second.incomplete), (true, true));
        table.decode(&bytes(REQUESTS[0])).unwrap();
        let third = table.decode(&bytes("828684be")).unwrap();
        assert_eq!((text(&third.authority), third.incomplete), ("www.example.com", false));
    }

    #[test]
    fn refuses_what_is_no_block() {
        for wrong in ["80", "ff", "ffffffffffff01", "40", "4003", "40036162", "0085ffffffffff00"] {
            assert_eq!(Table::default().decode(&bytes(wrong)), Err(Malformed), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_small(blocks: Vec<Vec<u8>>) {
            let mut table = Table::default();
            for block in blocks {
                let _ = table.decode(&block);
                prop_assert!(table.entries.len() <= ENTRIES);
            }
        }
    }
}
