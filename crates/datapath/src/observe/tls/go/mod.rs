//! Programs of Go: where their `crypto/tls` has plaintext in hand, and how a connection of it is known to be on TCP.

mod functions;
mod site;
mod words;

use std::ops::Range;

use object::{Object, ObjectSection, ReadRef};

use super::super::abi::{tls_cookie, tls_function};
use super::library::{Family, Function, Image, Library, Probe};
use super::site::Costly;
use functions::{Functions, Place, Unknown};
use site::Site;
use words::Words;

/// Sections that may have the table of functions: its own, and that into which the system's linker puts it.
const TABLES: [&str; 3] = [".gopclntab", ".data.rel.ro.gopclntab", ".data.rel.ro"];
/// In front of its methods a table of an interface's methods (`internal/abi.ITab`) has this.
const METHODS: u64 = 24;
/// Where `Close`, `Read` and `Write` are among the eight methods of `net.Conn`, which are in order of their names.
const OF_NET_CONN: [u64; 3] = [0, 2 * 8, 7 * 8];
/// Where `runtime.moduledata` says where code begins, in the section that it has to itself since Go 1.26.
const TEXT_OF_MODULE: u64 = 176;

const GO_READ: tls_function = tls_function::TLS_FUNCTION_GO_READ;
const GO_WRITE: tls_function = tls_function::TLS_FUNCTION_GO_WRITE;
const GO_CONNECT: tls_function = tls_function::TLS_FUNCTION_GO_CONNECT;
const GO_ACCEPT: tls_function = tls_function::TLS_FUNCTION_GO_ACCEPT;

/// The functions that are probed, those that two of them call, and the methods by which [`interface`] is known.
const NAMES: [&str; 9] = [
    "crypto/tls.(*Conn).Read",
    "crypto/tls.(*Conn).Write",
    "crypto/tls.(*Conn).clientHandshake",
    "crypto/tls.(*Conn).serverHandshake",
    "crypto/tls.(*Conn).writeRecordLocked",
    "runtime.memmove",
    "net.(*TCPConn).Close",
    "net.(*TCPConn).Read",
    "net.(*TCPConn).Write",
];

const OLD: &str = "it was built by a Go before 1.18, whose functions take their arguments elsewhere; build it with Go 1.18 or newer";
const NO_TCP: &str = "it has no connections of TCP, or none that can be told from others";

/// `None`: it is no program of Go, or has no TLS of Go's within it.
pub(super) fn find<'data, R: ReadRef<'data>>(image: &Image<'_, 'data, R>) -> Option<Library> {
    image.file.section_by_name(".go.buildinfo")?;
    let refused = |why| Some(Library { family: Family::Go, functions: Vec::new(), obstacle: Some(why) });
    let (table, address) = match table(image) {
        Ok(found) => found,
        Err(Unknown::Old) => return refused(OLD),
        Err(Unknown::Other) => return None,
    };
    let words = Words::read(image);
    let text = text(image, &words, &table, address)?;
    let found = table.find(NAMES).map(|places| ranges(&places, text));
    let [read, write, connect, accept, record, copy, methods @ ..] = &found;
    let (read, write) = (read.first()?, write.first()?);
    let Some(interface) = interface(&words, methods) else { return refused(NO_TCP) };
    let placing = Placing { image, interface };
    let mut functions = vec![
        placing.function(NAMES[0], GO_READ, site::of_read(image, read, &begins(copy)).map(|site| vec![site])),
        placing.function(NAMES[1], GO_WRITE, site::of_write(image, write, &begins(record))),
    ];
    for (name, function, ranges) in [(NAMES[2], GO_CONNECT, connect), (NAMES[3], GO_ACCEPT, accept)] {
        // A program that is only a client has no server's handshake.
        let Some(range) = ranges.first() else { continue };
        functions.push(placing.function(
            name,
            function,
            site::of_beginning(image, range).map(|site| vec![site]),
        ));
    }
    Some(Library { family: Family::Go, functions, obstacle: None })
}

fn ranges(places: &[Place], text: u64) -> Vec<Range<u64>> {
    let range =
        |place: &Place| Some(text.checked_add(place.begin.into())?..text.checked_add(place.end.into())?);
    places.iter().filter_map(range).collect()
}

fn begins(ranges: &[Range<u64>]) -> Vec<u64> {
    ranges.iter().map(|range| range.start).collect()
}

/// The table of functions, and its address.
fn table<'data, R: ReadRef<'data>>(image: &Image<'_, 'data, R>) -> Result<(Functions<'data>, u64), Unknown> {
    let mut old: Option<&[u8]> = None;
    for name in TABLES {
        let Some(section) = image.file.section_by_name(name) else { continue };
        let Ok(bytes) = section.data() else { continue };
        let places = if name.ends_with(".gopclntab") { 0..1 } else { 0..bytes.len() / 8 };
        for at in places.map(|word| word * 8) {
            match Functions::read(&bytes[at..]) {
                Ok(found) => return Ok((found, section.address().saturating_add(at as u64))),
                Err(Unknown::Old) => old = Some(bytes),
                Err(Unknown::Other) => {}
            }
        }
    }
    // That format is not read, but a name is a name.
    let has_tls = |bytes: &[u8]| bytes.windows(NAMES[1].len()).any(|name| name == NAMES[1].as_bytes());
    Err(if old.is_some_and(has_tls) { Unknown::Old } else { Unknown::Other })
}

/// Where the program's code of Go begins: there may be code of C before.
fn text<'data, R: ReadRef<'data>>(
    image: &Image<'_, 'data, R>,
    words: &Words<'_, '_, 'data, R>,
    table: &Functions<'_>,
    address: u64,
) -> Option<u64> {
    let section = |name| image.file.section_by_name(name).map(|section| section.address());
    let said = |word: u64| (word != 0).then_some(word);
    let of_table = || said(table.text).or_else(|| words.at(address.checked_add(24)?).and_then(said));
    let of_module = || words.at(section(".go.module")?.checked_add(TEXT_OF_MODULE)?).and_then(said);
    of_table().or_else(of_module).or_else(|| section(".text"))
}

/// The table of the methods that `*net.TCPConn` has as a `net.Conn`, given where those of [`OF_NET_CONN`] may be.
fn interface<'data, R: ReadRef<'data>>(
    words: &Words<'_, '_, 'data, R>,
    methods: &[Vec<Range<u64>>],
) -> Option<u64> {
    let has = |place: u64, method: &[Range<u64>]| {
        words.at(place).is_some_and(|word| method.iter().any(|range| range.start == word))
    };
    let fits = |&first: &u64| {
        let mut all = OF_NET_CONN.iter().zip(methods);
        all.all(|(offset, method)| first.checked_add(*offset).is_some_and(|place| has(place, method)))
    };
    words.places(&begins(methods.first()?)).find(fits)?.checked_sub(METHODS)
}

struct Placing<'i, 'a, 'data, R: ReadRef<'data>> {
    image: &'i Image<'a, 'data, R>,
    /// Address of the table by which a connection of TCP is known.
    interface: u64,
}

impl<'data, R: ReadRef<'data>> Placing<'_, '_, 'data, R> {
    fn function(
        &self,
        name: &'static str,
        function: tls_function,
        sites: Result<Vec<Site>, Costly>,
    ) -> Function {
        let probes = sites.and_then(|sites| {
            let probes = sites.iter().map(|site| self.probe(function, site));
            probes.collect::<Option<Vec<_>>>().ok_or(Costly::Unreadable)
        });
        match probes {
            Ok(probes) => Function { name, skipped: None, probes },
            Err(costly) => Function { name, skipped: Some(costly), probes: Vec::new() },
        }
    }

    fn probe(&self, function: tls_function, site: &Site) -> Option<Probe> {
        let distance = (self.interface as i64).checked_sub(site.address as i64)?;
        let interface = i32::try_from(distance).ok()? as u32;
        let cookie = u64::from(function.0) << tls_cookie::TLS_COOKIE_FUNCTION_SHIFT.0
            | u64::from(site.kept) << tls_cookie::TLS_COOKIE_STACK_SHIFT.0
            | u64::from(interface) << tls_cookie::TLS_COOKIE_INTERFACE_SHIFT.0;
        Some(Probe { offset: self.image.offset(site.address)?, cookie, function: function.0 })
    }
}
