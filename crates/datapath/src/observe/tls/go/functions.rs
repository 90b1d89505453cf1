//! The table of functions that every program of Go has within it (`.gopclntab`), stripped or not: its runtime unwinds stacks by
//! it. The format is that of `runtime/symtab.go` since Go 1.18; only what names and addresses need is read.

/// Bytes of the header, up to the offset of the table.
const HEADER: usize = 72;
/// A function in the table: where it begins, and where there is more about it.
const ENTRY: usize = 8;

/// Why there is no such table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// From a Go before 1.18.
    Old,
    /// It is none, or is of another machine, or a newer format.
    Other,
}

/// The table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Functions<'data> {
    names: &'data [u8],
    entries: &'data [u8],
    count: usize,
    /// What the header says is where code begins; 0: it does not say (Go 1.26), or the loader writes it.
    pub(crate) text: u64,
}

/// A function, by distance from where code begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) begin: u32,
    pub(crate) end: u32,
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// Whether such a table may begin here: magic, two zeros, and what x86-64 has for instructions and pointers.
pub(crate) fn begins(bytes: &[u8]) -> Result<(), Unknown> {
    match bytes.get(..8) {
        // Go 1.18 and 1.20.
        Some([0xf0 | 0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]) => Ok(()),
        // Go 1.2 and 1.16.
        Some([0xfa | 0xfb, 0xff, 0xff, 0xff, 0, 0, 1, 8]) => Err(Unknown::Old),
        _ => Err(Unknown::Other),
    }
}

impl<'data> Functions<'data> {
    pub(crate) fn read(bytes: &'data [u8]) -> Result<Self, Unknown> {
        begins(bytes)?;
        Self::read_header(bytes).ok_or(Unknown::Other)
    }

    fn read_header(bytes: &'data [u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        let at = |place| word(header, place).and_then(|offset| usize::try_from(offset).ok());
        let (count, names, entries) = (at(8)?, at(32)?, at(64)?);
        let entries = bytes.get(entries..)?;
        // Behind the last is where its code ends.
        let size = count.checked_mul(ENTRY)?.checked_add(4)?;
        (size <= entries.len()).then_some(())?;
        Some(Self { names: bytes.get(names..)?, entries, count, text: word(header, 24)? })
    }

    /// Where the functions of these names are. A name may be there twice: assembly has a function for either way to call it.
    pub(crate) fn find<const N: usize>(&self, names: [&str; N]) -> [Vec<Place>; N] {
        let mut found = [const { Vec::new() }; N];
        for number in 0..self.count {
            let Some(name) = self.name(number) else { continue };
            let is = |wanted: &&str| {
                name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
            };
            let Some(wanted) = names.iter().position(is) else { continue };
            found[wanted].extend(self.place(number));
        }
        found
    }

    /// The name, and what stands behind it.
    fn name(&self, number: usize) -> Option<&'data [u8]> {
        let more = half(self.entries, number * ENTRY + 4)? as usize;
        let name = half(self.entries, more.checked_add(4)?)? as usize;
        self.names.get(name..)
    }

    fn place(&self, number: usize) -> Option<Place> {
        let begin = half(self.entries, number * ENTRY)?;
        let end = half(self.entries, (number + 1) * ENTRY)?;
        (begin < end).then_some(Place { begin, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with these functions, each as long as its name.
    fn table(names: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
        let entries = HEADER + names.iter().map(|name| name.len() + 1).sum::<usize>();
        for word in [names.len(), 0, 0x40_1000, HEADER, 0, 0, 0, entries] {
            bytes.extend((word as u64).to_le_bytes());
        }
        names.iter().for_each(|name| bytes.extend([name.as_bytes(), &[0]].concat()));
        let more = names.len() * ENTRY + 4;
        let (mut code, mut place) = (0, 0);
        for (number, name) in names.iter().enumerate() {
            bytes.extend([code, (more + number * 8) as u32].map(u32::to_le_bytes).concat());
            code += name.len() as u32;
        }
        bytes.extend(code.to_le_bytes());
        for name in names {
            bytes.extend([0, place].map(u32::to_le_bytes).concat());
            place += name.len() as u32 + 1;
        }
        bytes
    }

    const NAMES: [&str; 4] = ["main.main", "runtime.memmove", "main.main.func1", "runtime.memmove"];

    #[test]
    fn functions_are_found_by_their_whole_names() {
        let bytes = table(&NAMES);
        let functions = Functions::read(&bytes).unwrap();
        assert_eq!(functions.text, 0x40_1000);
        let place = |begin, end| Place { begin, end };
        let found = functions.find(["runtime.memmove", "main.main", "main.mai", "main.main.func1"]);
        let expected = [vec![place(9, 24), place(39, 54)], vec![place(0, 9)], vec![], vec![place(24, 39)]];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_older_is_told_from_what_is_none() {
        let mut bytes = table(&NAMES);
        for (magic, why) in [(0xfa, Unknown::Old), (0xfb, Unknown::Old), (0xf2, Unknown::Other)] {
            bytes[0] = magic;
            assert_eq!(Functions::read(&bytes).unwrap_err(), why);
        }
        assert_eq!(Functions::read(&[]).unwrap_err(), Unknown::Other);
        let mut bytes = table(&NAMES);
        // More functions than there are bytes.
        bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Functions::read(&bytes).unwrap_err(), Unknown::Other);
    }

    proptest::proptest! {
        #[test]
        fn no_damage_makes_it_fail(changes: Vec<(u16, u8)>, cut: u16) {
            let mut bytes = table(&NAMES);
            for (place, byte) in changes {
                let place = place as usize % bytes.len();
                bytes[place] = byte;
            }
            bytes.truncate(bytes.len() - cut as usize % bytes.len() * usize::from(cut % 2 == 0));
            if let Ok(functions) = Functions::read(&bytes) {
                let found = functions.find(NAMES);
                proptest::prop_assert!(found.iter().flatten().all(|place| place.begin < place.end));
            }
        }

        #[test]
        fn no_bytes_make_it_fail(mut bytes: Vec<u8>) {
            let magic = [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
            bytes.splice(..bytes.len().min(8), magic);
            if let Ok(functions) = Functions::read(&bytes) {
                functions.find(NAMES);
            }
        }
    }
}
