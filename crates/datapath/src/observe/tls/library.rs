//! Which functions of a file are those of a TLS library, and where probes for them go.

use std::fs::File;
use std::path::Path;

use object::elf::PT_LOAD;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, ReadCache, ReadRef};

use super::super::abi::{tls_cookie, tls_function};
use super::go;
use super::site::{self, Costly, Signature, Site, Text};

/// Files above this size are left alone: their tables of symbols are read whole, and whoever made the file says how large
/// they are.
const LARGEST: u64 = 512 << 20;

/// The libraries whose functions are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// OpenSSL since 1.1.1, and what keeps its interface.
    OpenSsl,
    /// GnuTLS since 3.6.3.
    GnuTls,
    /// Go's own, `crypto/tls`.
    Go,
}

impl Family {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::OpenSsl => "OpenSSL",
            Family::GnuTls => "GnuTLS",
            Family::Go => "Go",
        }
    }
}

/// A function that is probed, or ought to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// Why it is not probed; `None`: it is.
    pub skipped: Option<Costly>,
    pub(super) probes: Vec<Probe>,
}

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) offset: usize,
    pub(super) cookie: u64,
    pub(super) function: u32,
}

impl Probe {
    /// The program that looks at what passes here.
    pub(super) fn program(self) -> &'static str {
        match tls_function(self.function) {
            FREE => "alize_tls_free",
            READ | WRITE | HANDSHAKE => "alize_tls_enter",
            _ => "alize_tls_go",
        }
    }
}

/// What was found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Whose interface it has.
    pub family: Family,
    /// Its functions that matter.
    pub functions: Vec<Function>,
    /// What stands against it, whatever its functions are.
    pub(super) obstacle: Option<&'static str>,
}

struct Known {
    family: Family,
    name: &'static str,
    function: tls_function,
    signature: Signature,
}

const fn known(
    family: Family,
    name: &'static str,
    function: tls_function,
    data: u8,
    count: u8,
    inner: bool,
) -> Known {
    let returns = function.0 != tls_function::TLS_FUNCTION_FREE.0;
    Known { family, name, function, signature: Signature { data, count, inner, returns } }
}

const READ: tls_function = tls_function::TLS_FUNCTION_READ;
const WRITE: tls_function = tls_function::TLS_FUNCTION_WRITE;
const HANDSHAKE: tls_function = tls_function::TLS_FUNCTION_HANDSHAKE;
const FREE: tls_function = tls_function::TLS_FUNCTION_FREE;

/// `gnutls_record_recv` and its like all lead to one function, and each to another first if the kernel does the
/// decrypting; `gnutls_record_recv_seq` leads nowhere else. `gnutls_record_send` is `gnutls_record_send2`.
const KNOWN: [Known; 10] = [
    known(Family::OpenSsl, "SSL_read", READ, 2, 0, false),
    known(Family::OpenSsl, "SSL_read_ex", READ, 2, 4, false),
    known(Family::OpenSsl, "SSL_write", WRITE, 2, 0, false),
    known(Family::OpenSsl, "SSL_write_ex", WRITE, 2, 4, false),
    known(Family::OpenSsl, "SSL_do_handshake", HANDSHAKE, 0, 0, false),
    known(Family::OpenSsl, "SSL_free", FREE, 0, 0, false),
    known(Family::GnuTls, "gnutls_record_recv_seq", READ, 2, 0, true),
    known(Family::GnuTls, "gnutls_record_send2", WRITE, 2, 0, false),
    known(Family::GnuTls, "gnutls_handshake", HANDSHAKE, 0, 0, false),
    known(Family::GnuTls, "gnutls_deinit", FREE, 0, 0, false),
];

impl Library {
    /// Looks into the file; `None`: it is no ELF file for x86-64, or has none of these functions.
    pub fn open(path: &Path) -> std::io::Result<Option<Self>> {
        let file = File::open(path)?;
        let found = file.metadata()?;
        if !found.is_file() || found.len() > LARGEST {
            return Ok(None);
        }
        Ok(Self::read(&ReadCache::new(file)))
    }

    /// The same for what was read already.
    pub fn read<'data>(data: impl ReadRef<'data>) -> Option<Self> {
        let file = ElfFile64::<Endianness, _>::parse(data).ok()?;
        if file.architecture() != object::Architecture::X86_64 {
            return None;
        }
        let image = Image { file: &file, data };
        if let Some(library) = go::find(&image) {
            return Some(library);
        }
        let mut found: [Option<u64>; KNOWN.len()] = [None; KNOWN.len()];
        learn(file.dynamic_symbols(), &mut found);
        // A program that has a library within it may not export its symbols.
        if found.iter().all(Option::is_none) {
            learn(file.symbols(), &mut found);
        }
        let family = KNOWN.iter().zip(&found).find(|(_, address)| address.is_some())?.0.family;
        let mut functions: Vec<Function> = Vec::new();
        for (known, address) in KNOWN.iter().zip(found) {
            let Some(address) = address.filter(|_| known.family == family) else { continue };
            let placed = site::find(&image, address, known.signature).and_then(|site| {
                image.offset(site.address).map(|offset| (site, offset)).ok_or(Costly::Unreadable)
            });
            let (skipped, probes) = match placed {
                Ok((site, offset)) => {
                    let cookie = cookie(known.function, &site);
                    (None, vec![Probe { offset, cookie, function: known.function.0 }])
                }
                Err(costly) => (Some(costly), Vec::new()),
            };
            functions.push(Function { name: known.name, skipped, probes });
        }
        Some(Self { family, functions, obstacle: None })
    }

    /// The places of probes, each once: several functions may lead to one.
    pub(super) fn probes(&self) -> Vec<Probe> {
        let mut probes: Vec<Probe> =
            self.functions.iter().flat_map(|function| &function.probes).copied().collect();
        probes.sort_by_key(|probe| probe.offset);
        probes.dedup_by_key(|probe| probe.offset);
        probes
    }

    /// What there is to say of it, in words; it is called `name`.
    pub fn told(&self, name: &str) -> String {
        let probed = self.functions.iter().filter(|function| function.skipped.is_none()).count();
        let skipped = self.functions.iter().filter_map(|function| {
            function.skipped.as_ref().map(|why| format!(", not {}: {why}", function.name))
        });
        let skipped: String = skipped.collect();
        let (family, all) = (self.family.as_str(), self.functions.len());
        // Whoever made the file has named it.
        format!("{family}: {probed} of {all} functions in {}{skipped}", name.escape_debug())
    }

    /// Why it has no probe at all; `None`: enough is probed to follow what is sent and received.
    pub fn refused(&self) -> Option<String> {
        if let Some(obstacle) = self.obstacle {
            return Some(obstacle.to_owned());
        }
        let has = |either: [tls_function; 2]| {
            let mut probes = self.functions.iter().flat_map(|function| &function.probes);
            probes.any(|probe| either.iter().any(|wanted| wanted.0 == probe.function))
        };
        let usable = has([READ, tls_function::TLS_FUNCTION_GO_READ])
            && has([WRITE, tls_function::TLS_FUNCTION_GO_WRITE]);
        let skipped = self.functions.iter().filter_map(|function| {
            function.skipped.as_ref().map(|why| format!("; not {}: {why}", function.name))
        });
        (!usable).then(|| {
            let skipped: String = skipped.collect();
            format!("what it reads and what it writes cannot both be probed cheaply{skipped}")
        })
    }
}

fn cookie(function: tls_function, site: &Site) -> u64 {
    let part = |value: u8, shift: tls_cookie| u64::from(value) << shift.0;
    part(function.0 as u8, tls_cookie::TLS_COOKIE_FUNCTION_SHIFT)
        | part(site.data, tls_cookie::TLS_COOKIE_DATA_SHIFT)
        | part(site.count, tls_cookie::TLS_COOKIE_COUNT_SHIFT)
        | part(site.kind, tls_cookie::TLS_COOKIE_TYPE_SHIFT)
}

fn learn<'data, S: ObjectSymbol<'data>>(
    symbols: impl Iterator<Item = S>,
    found: &mut [Option<u64>; KNOWN.len()],
) {
    for symbol in symbols.filter(|symbol| symbol.is_definition()) {
        let Ok(name) = symbol.name_bytes() else { continue };
        if let Some(place) = KNOWN.iter().position(|known| known.name.as_bytes() == name) {
            found[place].get_or_insert(symbol.address());
        }
    }
}

/// The file as it is in memory.
pub(super) struct Image<'a, 'data, R: ReadRef<'data>> {
    pub(super) file: &'a ElfFile64<'data, Endianness, R>,
    pub(super) data: R,
}

impl<'data, R: ReadRef<'data>> Image<'_, 'data, R> {
    /// Where in the file the byte at `address` is, and how many follow.
    fn place(&self, address: u64) -> Option<(u64, u64)> {
        let endian = self.file.endian();
        self.file.elf_program_headers().iter().find_map(|header| {
            let into = address.checked_sub(header.p_vaddr(endian))?;
            let size = header.p_filesz(endian);
            (header.p_type(endian) == PT_LOAD && into < size)
                .then(|| header.p_offset(endian).checked_add(into).map(|offset| (offset, size - into)))
                .flatten()
        })
    }

    pub(super) fn offset(&self, address: u64) -> Option<usize> {
        self.place(address).and_then(|(offset, _)| usize::try_from(offset).ok())
    }
}

impl<'data, R: ReadRef<'data>> Text for Image<'_, 'data, R> {
    fn at(&self, address: u64, length: usize) -> Vec<u8> {
        let Some((offset, follow)) = self.place(address) else { return Vec::new() };
        let length = (length as u64).min(follow);
        self.data.read_bytes_at(offset, length).map(<[u8]>::to_vec).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(path: &str) -> Library {
        Library::open(Path::new(path)).unwrap().unwrap_or_else(|| panic!("{path} has a TLS library"))
    }

    fn probed(library: &Library) -> Vec<&str> {
        let whole = library.functions.iter().filter(|function| function.skipped.is_none());
        whole.map(|function| function.name).collect()
    }

    #[test]
    fn debian_s_libraries_and_programs_can_be_probed_cheaply() {
        let all = ["SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex", "SSL_do_handshake", "SSL_free"];
        let openssl = library("/usr/lib/x86_64-linux-gnu/libssl.so.3");
        assert_eq!((openssl.family, probed(&openssl)), (Family::OpenSsl, all.to_vec()));
        // SSL_read and SSL_read_ex lead to one function, and those that write to another.
        assert_eq!(openssl.probes().len(), 4, "{openssl:?}");
        let gnutls = library("/usr/lib/x86_64-linux-gnu/libgnutls.so.30");
        let all = ["gnutls_record_recv_seq", "gnutls_record_send2", "gnutls_handshake", "gnutls_deinit"];
        assert_eq!((gnutls.family, probed(&gnutls)), (Family::GnuTls, all.to_vec()));
        assert_eq!(gnutls.probes().len(), 4, "{gnutls:?}");
        assert_eq!((openssl.refused(), gnutls.refused()), (None, None));
    }

    #[test]
    fn other_files_have_none() {
        assert_eq!(Library::open(Path::new("/usr/bin/env")).unwrap(), None);
        assert_eq!(Library::open(Path::new("/etc/passwd")).unwrap(), None);
        assert!(Library::open(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn no_damage_to_a_library_makes_it_fail() {
        let whole = std::fs::read("/usr/lib/x86_64-linux-gnu/libssl.so.3").unwrap();
        let mut bytes = whole.clone();
        let mut chance = 1u64;
        let mut next = |below: usize| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) as usize % below
        };
        for turn in 0..400 {
            // Headers decide most, so every other byte that is damaged is in one.
            for _ in 0..8 {
                let place = if turn % 2 == 0 { next(4096) } else { next(whole.len()) };
                bytes[place] = next(256) as u8;
            }
            let found = Library::read(&bytes[..whole.len() - next(2) * next(whole.len())]);
            let inside = |probe: &Probe| probe.offset < whole.len();
            assert!(found.is_none_or(|library| library.probes().iter().all(inside)));
            if turn % 8 == 7 {
                bytes.copy_from_slice(&whole);
            }
        }
    }
}
