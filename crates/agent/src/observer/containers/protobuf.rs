//! As much of protocol buffers as containerd's answers need: fields with bytes in them. Strict: a message that breaks a
//! rule of the encoding is no message.

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A message with `text` as field `number`, below 16.
pub(super) fn text(number: u8, text: &str) -> Vec<u8> {
    let mut message = vec![number << 3 | BYTES as u8];
    let mut length = text.len();
    while length >= 0x80 {
        message.push(length as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(text.as_bytes());
    message
}

/// What field `number` of `message` has in it; the first one, if there are several.
pub(super) fn first(message: &[u8], number: u64) -> Result<Option<&[u8]>, Malformed> {
    all(message, number).next().transpose()
}

/// The same of all of them, in their order. After one that is malformed comes nothing.
pub(super) fn all(message: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Fields { rest: message }.filter_map(move |field| match field {
        Ok((found, Some(bytes))) if found == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;
/// Highest number of a field.
const LAST: u64 = (1 << 29) - 1;

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The number of the next field, and its bytes if it is of the kind that has any.
    fn field(&mut self) -> Result<(u64, Option<&'a [u8]>), Malformed> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if !(1..=LAST).contains(&number) {
            return Err(Malformed);
        }
        let bytes = match tag & 7 {
            VARINT => self.varint().map(|_| None)?,
            FIXED64 => self.take(8).map(|_| None)?,
            FIXED32 => self.take(4).map(|_| None)?,
            BYTES => {
                let length = self.varint()?;
                Some(self.take(length)?)
            }
            // Groups are not made any more.
            _ => return Err(Malformed),
        };
        Ok((number, bytes))
    }

    /// Seven bits a byte, the lowest first; ten bytes at most.
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Option<&'a [u8]>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_found_by_number() {
        // 1: "a", 2: 300, 3: eight bytes, 4: four bytes, 1: "b".
        let message = b"\x0a\x01a\x10\xac\x02\x1912345678\x251234\x0a\x01b";
        assert_eq!(first(message, 1), Ok(Some(&b"a"[..])));
        assert_eq!(all(message, 1).collect::<Result<Vec<_>, _>>(), Ok(vec![&b"a"[..], b"b"]));
        assert_eq!((first(message, 2), first(b"", 1)), (Ok(None), Ok(None)));
    }

    #[test]
    fn what_breaks_a_rule_is_no_message() {
        let endless = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        let huge = b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a";
        for wrong in [&b"\x0a\x02a"[..], b"\x0a", b"\x02\x01a", b"\x0b", b"\x0f\x01", b"\x80", &endless, huge]
        {
            assert_eq!(all(wrong, 1).collect::<Vec<_>>(), [Err(Malformed)], "{wrong:?}");
        }
        assert_eq!(all(b"\x0a\x01a\x0b", 1).collect::<Vec<_>>(), [Ok(&b"a"[..]), Err(Malformed)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let fields: Vec<_> = Fields { rest: &bytes }.collect();
            prop_assert!(fields.iter().rev().skip(1).all(Result::is_ok));
        }

        #[test]
        fn what_is_written_is_read(number in 1u8..16, value in ".{0,300}") {
            let message = text(number, &value);
            prop_assert_eq!(all(&message, u64::from(number)).collect::<Vec<_>>(), [Ok(value.as_bytes())]);
            for cut in 1..message.len() {
                prop_assert_eq!(first(&message[..cut], u64::from(number)), Err(Malformed));
            }
        }
    }
}
