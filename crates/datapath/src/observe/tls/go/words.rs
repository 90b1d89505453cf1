//! What a program's data will be once it is loaded.

use std::collections::HashMap;

use object::elf::{PF_X, PT_LOAD, R_X86_64_RELATIVE};
use object::read::elf::ProgramHeader;
use object::{Object, ReadRef, RelocationFlags, RelocationTarget};

use super::super::library::Image;
use super::super::site::Text;

/// Words of it, all by the addresses of the file.
pub(super) struct Words<'i, 'a, 'data, R: ReadRef<'data>> {
    image: &'i Image<'a, 'data, R>,
    /// What the loader writes.
    written: HashMap<u64, u64>,
}

impl<'i, 'a, 'data, R: ReadRef<'data>> Words<'i, 'a, 'data, R> {
    pub(super) fn read(image: &'i Image<'a, 'data, R>) -> Self {
        let relocations = image.file.dynamic_relocations().into_iter().flatten();
        let relative = relocations.filter_map(|(place, relocation)| {
            let is = matches!(relocation.flags(), RelocationFlags::Elf { r_type: R_X86_64_RELATIVE })
                && relocation.target() == RelocationTarget::Absolute;
            is.then(|| (place, relocation.addend() as u64))
        });
        Self { image, written: relative.collect() }
    }

    pub(super) fn at(&self, address: u64) -> Option<u64> {
        let in_file = || self.image.at(address, 8).try_into().ok().map(u64::from_le_bytes);
        self.written.get(&address).copied().or_else(in_file)
    }

    /// Where one of these words is, in what is no code.
    pub(super) fn places(&self, wanted: &[u64]) -> impl Iterator<Item = u64> {
        let is = |word: u64| wanted.contains(&word);
        let written = self.written.iter().filter(move |(_, word)| is(**word)).map(|(&place, _)| place);
        written.chain(self.in_file(wanted))
    }

    /// Where the file has one of these words, in what is no code.
    fn in_file(&self, wanted: &[u64]) -> Vec<u64> {
        let endian = self.image.file.endian();
        let mut places = Vec::new();
        for header in self.image.file.elf_program_headers() {
            if header.p_type(endian) != PT_LOAD || header.p_flags(endian).contains(PF_X) {
                continue;
            }
            let Ok(bytes) = header.data(endian, self.image.data) else { continue };
            let words = bytes.chunks_exact(8).enumerate();
            let found = words.filter(|(_, word)| wanted.iter().any(|wanted| wanted.to_le_bytes() == **word));
            places.extend(
                found.filter_map(|(number, _)| header.p_vaddr(endian).checked_add(number as u64 * 8)),
            );
        }
        places
    }
}
