//! The Huffman code of HPACK (RFC 7541, appendix B). It is canonical, so the lengths of the codes are all there is to it.

/// Bits of the code of each byte; the last is that of the end of a string, which is never sent.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

/// Longest code.
const LONGEST: usize = 30;
/// Most codes are shorter than this, and found in one look.
const SHORT: usize = 8;

/// The codes of one length: the first of them, and where their symbols are in [`Code::symbols`].
#[derive(Clone, Copy)]
struct Row {
    first: u32,
    count: u32,
    place: u32,
}

struct Code {
    rows: [Row; LONGEST + 1],
    symbols: [u16; 257],
    /// By the next [`SHORT`] bits: symbol, and the length of its code; length 0 for a longer one.
    short: [(u16, u8); 1 << SHORT],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        rows: [Row { first: 0, count: 0, place: 0 }; LONGEST + 1],
        symbols: [0; 257],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut length, mut next, mut place) = (1, 0u32, 0);
    while length <= LONGEST {
        next <<= 1;
        code.rows[length] = Row { first: next, count: 0, place: place as u32 };
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[place] = symbol as u16;
                code.rows[length].count += 1;
                let mut rest = 0;
                while length <= SHORT && rest < 1 << (SHORT - length) {
                    let at = (next as usize) << (SHORT - length) | rest;
                    code.short[at] = (symbol as u16, length as u8);
                    rest += 1;
                }
                place += 1;
                next += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
}

/// What `bytes` stand for; `None`: they are no such code.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes.len() * 8 / 5);
    let (mut bits, mut held) = (0u64, 0);
    let mut rest = bytes.iter();
    loop {
        while held <= 56
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - held);
            held += 8;
        }
        // What fills up the last byte is the beginning of the longest code, all ones.
        if held < 8 && bits >> (64 - held.max(1)) == (1 << held.max(1)) - 1 || held == 0 {
            return Some(text);
        }
        let (symbol, length) = symbol(bits)?;
        if usize::from(length) > held {
            return None;
        }
        text.push(u8::try_from(symbol).ok()?);
        bits <<= length;
        held -= usize::from(length);
    }
}

/// The symbol whose code `bits` begin with, and the code's length.
fn symbol(bits: u64) -> Option<(u16, u8)> {
    let (symbol, length) = CODE.short[(bits >> (64 - SHORT)) as usize];
    if length != 0 {
        return Some((symbol, length));
    }
    (SHORT + 1..=LONGEST).find_map(|length| {
        let row = CODE.rows[length];
        let place =
            ((bits >> (64 - length)) as u32).checked_sub(row.first).filter(|place| *place < row.count)?;
        Some((CODE.symbols[(row.place + place) as usize], length as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(text: &[u8]) -> Vec<u8> {
        let (mut bytes, mut bits, mut held) = (Vec::new(), 0u64, 0);
        for &byte in text {
            let length = usize::from(LENGTHS[usize::from(byte)]);
            let row = CODE.rows[length];
            let place =
                CODE.symbols[row.place as usize..].iter().position(|at| *at == u16::from(byte)).unwrap();
            bits = bits << length | u64::from(row.first + place as u32);
            held += length;
            while held >= 8 {
                held -= 8;
                bytes.push((bits >> held) as u8);
            }
        }
        if held > 0 {
            bytes.push((bits << (8 - held)) as u8 | ((1 << (8 - held)) - 1) as u8);
        }
        bytes
    }

    /// RFC 7541, C.4 and C.6.
    #[test]
    fn reads_the_examples_of_the_standard() {
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decode(&www).unwrap(), b"www.example.com");
        assert_eq!(decode(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), b"no-cache");
        assert_eq!(decode(&[0x64, 0x02]).unwrap(), b"302");
        assert_eq!(decode(&[]).unwrap(), b"");
    }

    #[test]
    fn refuses_what_is_no_code() {
        assert_eq!(decode(&[0xff; 4]), None, "the end of the string");
        assert_eq!(decode(&[0x00, 0x00]), None, "filled up with zeros");
        assert_eq!(decode(&[0xff]), None, "more than seven bits to fill up");
    }

    proptest! {
        #[test]
        fn reads_what_was_written(text: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            decode(&bytes);
        }
    }
}
