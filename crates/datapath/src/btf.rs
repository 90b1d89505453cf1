//! Type information (BTF), read just as far as the layout of keys and values goes. Foreign bytes: an object file may come
//! from anywhere.

use std::collections::HashSet;

/// Fields that one type may have, arrays of structs spelled out.
const MOST_FIELDS: usize = 4096;
/// Types looked at for one layout: an array of a million empty structs has no field, and would take as long.
const MOST_LOOKS: u32 = 65_536;
/// Structs within structs.
const DEEPEST: usize = 16;

/// A scalar, or an array of scalars, at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// Such as `flow[3].used_ns`; empty where the whole is a scalar.
    pub(crate) path: String,
    /// In bytes, from the beginning.
    pub(crate) offset: u32,
    /// In bytes, of one.
    pub(crate) size: u32,
    /// How many there are.
    pub(crate) count: u32,
}

/// What has been found so far.
#[derive(Default)]
struct Layout {
    fields: Vec<Field>,
    looks: u32,
}

/// Types by number, from 1.
pub(crate) struct Types<'a> {
    bytes: &'a [u8],
    types: Vec<usize>,
    strings: &'a [u8],
}

/// Kinds of `include/uapi/linux/btf.h`.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

impl<'a> Types<'a> {
    /// Finds where each type begins; `None` when this is no BTF.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| word(bytes, at);
        if bytes.get(..2)? != [0x9f, 0xeb] {
            return None;
        }
        let header = word(4)? as usize;
        let part = |offset: u32, length: u32| {
            let start = header.checked_add(offset as usize)?;
            Some((start, start.checked_add(length as usize)?))
        };
        let (mut at, end) = part(word(8)?, word(12)?)?;
        let (strings, strings_end) = part(word(16)?, word(20)?)?;
        if end > bytes.len() {
            return None;
        }
        let mut types = Vec::new();
        while at < end {
            types.push(at);
            at += 12 + more(word(at + 4)?)?;
        }
        (at == end).then_some(Self { bytes, types, strings: bytes.get(strings..strings_end)? })
    }

    /// The fields of type `id`, in the order of their places; `None` when it cannot be laid out.
    pub(crate) fn fields(&self, id: u32) -> Option<Vec<Field>> {
        let mut layout = Layout::default();
        self.lay_out(id, String::new(), 0, 0, &mut layout)?;
        let mut fields = layout.fields;
        fields.sort_by(|a, b| (a.offset, &a.path).cmp(&(b.offset, &b.path)));
        Some(fields)
    }

    fn lay_out(&self, id: u32, path: String, offset: u32, depth: usize, layout: &mut Layout) -> Option<()> {
        layout.looks += 1;
        if depth > DEEPEST || layout.looks > MOST_LOOKS || layout.fields.len() >= MOST_FIELDS {
            return None;
        }
        let id = self.plain(id)?;
        let at = self.at(id)?;
        let (info, size) = (word(self.bytes, at + 4)?, word(self.bytes, at + 8)?);
        match info >> 24 & 0x1f {
            kind::INT | kind::ENUM | kind::ENUM64 | kind::FLOAT => {
                layout.fields.push(Field { path, offset, size, count: 1 });
            }
            kind::PTR => layout.fields.push(Field { path, offset, size: 8, count: 1 }),
            kind::ARRAY => {
                let (element, count) = (word(self.bytes, at + 12)?, word(self.bytes, at + 20)?);
                let each = self.size(element, 0)?;
                if self.is_scalar(element)? {
                    layout.fields.push(Field { path, offset, size: each, count });
                    return Some(());
                }
                for index in 0..count {
                    let place = offset.checked_add(index.checked_mul(each)?)?;
                    self.lay_out(element, format!("{path}[{index}]"), place, depth + 1, layout)?;
                }
            }
            kind::STRUCT | kind::UNION => {
                let dot = if path.is_empty() { "" } else { "." };
                for member in 0..(info & 0xffff) as usize {
                    let at = at + 12 + member * 12;
                    let name = self.string(word(self.bytes, at)?)?;
                    // With the flag of bit fields the offset has the field's bits above 24.
                    let bits = word(self.bytes, at + 8)?;
                    let bits = if info >> 31 == 1 { bits & 0x00ff_ffff } else { bits };
                    let place = offset.checked_add(bits / 8)?;
                    let member = format!("{path}{dot}{name}");
                    self.lay_out(word(self.bytes, at + 4)?, member, place, depth + 1, layout)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn is_scalar(&self, id: u32) -> Option<bool> {
        let info = word(self.bytes, self.at(self.plain(id)?)? + 4)?;
        Some(matches!(info >> 24 & 0x1f, kind::INT | kind::ENUM | kind::ENUM64 | kind::FLOAT | kind::PTR))
    }

    /// In bytes.
    fn size(&self, id: u32, depth: usize) -> Option<u32> {
        if depth > DEEPEST {
            return None;
        }
        let at = self.at(self.plain(id)?)?;
        match word(self.bytes, at + 4)? >> 24 & 0x1f {
            kind::PTR => Some(8),
            kind::ARRAY => {
                let (element, count) = (word(self.bytes, at + 12)?, word(self.bytes, at + 20)?);
                self.size(element, depth + 1)?.checked_mul(count)
            }
            _ => word(self.bytes, at + 8),
        }
    }

    /// Behind typedefs and qualifiers.
    fn plain(&self, mut id: u32) -> Option<u32> {
        let mut seen = HashSet::new();
        loop {
            let at = self.at(id)?;
            match word(self.bytes, at + 4)? >> 24 & 0x1f {
                kind::TYPEDEF..=kind::RESTRICT | kind::TYPE_TAG if seen.insert(id) => {
                    id = word(self.bytes, at + 8)?
                }
                kind::TYPEDEF..=kind::RESTRICT | kind::TYPE_TAG => return None,
                _ => return Some(id),
            }
        }
    }

    fn at(&self, id: u32) -> Option<usize> {
        self.types.get((id as usize).checked_sub(1)?).copied()
    }

    fn string(&self, offset: u32) -> Option<String> {
        let rest = self.strings.get(offset as usize..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    }
}

/// What follows the three words of a type, in bytes.
fn more(info: u32) -> Option<usize> {
    let many = (info & 0xffff) as usize;
    Some(match info >> 24 & 0x1f {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => many * 12,
        kind::ENUM | kind::FUNC_PROTO => many * 8,
        kind::PTR
        | kind::FWD
        | kind::TYPEDEF..=kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}
