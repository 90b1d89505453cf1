//! How the keys and values of maps are laid out: as an object asks for it, and as a pinned map has it.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write;

use libbpf_rs::{AsRawLibbpf, MapCore, MapHandle, MapType, ObjectBuilder, libbpf_sys};

use crate::Error;
use crate::btf::{Field, Types};
use crate::error::io_error;
use crate::load::{is_private, is_sized_by_source};
use crate::pin::open_map;

/// A map, as programs know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapLayout {
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) flags: u32,
    /// As many as were asked for, or made.
    pub(crate) entries: u32,
    /// `None`: nothing is known beyond the sizes.
    pub(crate) key: Option<Vec<Field>>,
    pub(crate) value: Option<Vec<Field>>,
}

/// What is in an object.
pub(crate) struct ObjectLayout {
    /// Program to section.
    pub(crate) programs: BTreeMap<String, String>,
    /// The shared maps.
    pub(crate) maps: Vec<MapLayout>,
}

/// How the layout that is wanted stands to the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The map can be taken over as it is.
    Same,
    /// Its contents have to be carried over into a map of the new layout.
    Changed,
}

impl MapLayout {
    /// The fields in one text, which is equal for equal layouts.
    pub(crate) fn description(&self) -> String {
        let mut text = String::new();
        for (what, fields) in [("key", &self.key), ("value", &self.value)] {
            for Field { path, offset, size, count } in fields.iter().flatten() {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{what} {path} @{offset} {size}*{count}");
            }
        }
        text
    }

    pub(crate) fn fit(&self, pinned: &Self) -> Fit {
        let is_resized = is_sized_by_source(&self.name) && self.entries != pinned.entries;
        let sizes = |map: &Self| (map.kind, map.key_size, map.value_size, map.flags);
        let differ =
            |a: &Option<Vec<Field>>, b: &Option<Vec<Field>>| matches!((a, b), (Some(a), Some(b)) if a != b);
        match is_resized
            || sizes(self) != sizes(pinned)
            || differ(&self.key, &pinned.key)
            || differ(&self.value, &pinned.value)
        {
            true => Fit::Changed,
            false => Fit::Same,
        }
    }

    /// Whether whoever knows `known` can read this: the same key, and a value that begins the same way.
    pub(crate) fn extends(&self, known: &Self) -> bool {
        let begins = |whole: &Option<Vec<Field>>, part: &Option<Vec<Field>>| match (whole, part) {
            (Some(whole), Some(part)) => part.iter().all(|field| whole.contains(field)),
            _ => true,
        };
        self.kind == known.kind
            && self.key_size == known.key_size
            && self.value_size >= known.value_size
            && begins(&self.key, &known.key)
            && begins(&known.key, &self.key)
            && begins(&self.value, &known.value)
    }
}

/// Reads an object file without loading it.
pub(crate) fn of_object(name: &str, bytes: &[u8]) -> Result<ObjectLayout, Error> {
    let error = |e| Error::kernel("cannot read object", name, io_error(e));
    let bytes = Words::of(bytes);
    let opened =
        ObjectBuilder::default().name(name).and_then(|builder| builder.open_memory(bytes.as_bytes()));
    let object = opened.map_err(error)?;
    // SAFETY: the object lives until the end of this function, and so does its type information.
    let btf = unsafe { raw(libbpf_sys::bpf_object__btf(object.as_libbpf_object().as_ptr())) };
    let types = btf.and_then(Types::read);
    let mut maps = Vec::new();
    for map in object.maps().filter(|map| !is_private(&map.name().to_string_lossy())) {
        let raw = map.as_libbpf_object().as_ptr();
        // SAFETY: the map belongs to the object; the kernel's library only reads a number of it.
        let (key, value) = unsafe {
            (libbpf_sys::bpf_map__btf_key_type_id(raw), libbpf_sys::bpf_map__btf_value_type_id(raw))
        };
        let fields = |id| types.as_ref().and_then(|types| types.fields(id));
        maps.push(MapLayout {
            name: map.name().to_string_lossy().into_owned(),
            kind: map.map_type() as u32,
            key_size: map.key_size(),
            value_size: map.value_size(),
            flags: map.map_flags(),
            entries: map.max_entries(),
            key: fields(key),
            value: fields(value),
        });
    }
    let programs = object.progs().map(|program| {
        (program.name().to_string_lossy().into_owned(), program.section().to_string_lossy().into_owned())
    });
    Ok(ObjectLayout { programs: programs.collect(), maps })
}

/// What the kernel says of a map.
pub(crate) fn of_map(name: &str, map: &MapHandle) -> Result<MapLayout, Error> {
    let info = map.info().map_err(|e| Error::kernel("cannot ask about map", name, io_error(e)))?.info;
    let (mut key, mut value) = (None, None);
    if info.btf_id != 0 {
        // SAFETY: the number is the kernel's; what is returned is ours to free, and is, after the last use.
        unsafe {
            let btf = libbpf_sys::btf__load_from_kernel_by_id(info.btf_id);
            let types = raw(btf).and_then(Types::read);
            key = types.as_ref().and_then(|types| types.fields(info.btf_key_type_id));
            value = types.as_ref().and_then(|types| types.fields(info.btf_value_type_id));
            libbpf_sys::btf__free(btf);
        }
    }
    Ok(MapLayout {
        name: name.to_owned(),
        kind: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        flags: info.map_flags,
        entries: info.max_entries,
        key,
        value,
    })
}

/// The bytes of type information.
///
/// # Safety
/// `btf` is null, an error, or lives as long as the result is used.
unsafe fn raw<'a>(btf: *const libbpf_sys::btf) -> Option<&'a [u8]> {
    let mut size = 0;
    if btf.is_null() {
        return None;
    }
    // SAFETY: `btf` is valid; the result is null or `size` bytes that live as long.
    unsafe {
        let data = libbpf_sys::btf__raw_data(btf, &mut size);
        (!data.is_null()).then(|| std::slice::from_raw_parts(data.cast(), size as usize))
    }
}

/// Whether a map's entries belong to sockets: no other map can take them over.
pub(crate) fn belongs_to_sockets(kind: u32) -> bool {
    is_one_of(kind, [MapType::SkStorage, MapType::Sockmap, MapType::Sockhash])
}

/// Whether a map leads to programs.
pub(crate) fn leads_on(kind: u32) -> bool {
    is_one_of(kind, [MapType::ProgArray])
}

fn is_one_of<const N: usize>(kind: u32, kinds: [MapType; N]) -> bool {
    kinds.into_iter().any(|own| own as u32 == kind)
}

/// Bytes at an aligned place: libelf reads words where they are.
pub(crate) struct Words {
    words: Vec<u128>,
    length: usize,
}

impl Words {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let words = bytes.chunks(16).map(|chunk| {
            let mut word = [0; 16];
            word[..chunk.len()].copy_from_slice(chunk);
            u128::from_ne_bytes(word)
        });
        Self { words: words.collect(), length: bytes.len() }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: the words hold at least `length` bytes, all of them initialized.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.length) }
    }
}

/// The file descriptor's map, where `name` is pinned; `None` when nothing is.
pub(crate) fn pinned(path: &std::path::Path) -> Result<Option<MapHandle>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    open_map(path).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::FILES;

    fn map_of(object: &str, map: &str) -> MapLayout {
        let file = FILES.iter().find(|file| file.name == object).unwrap();
        let found = of_object(object, file.bytes).unwrap().maps.into_iter().find(|found| found.name == map);
        found.unwrap()
    }

    #[test]
    fn fields_have_names_and_places() {
        let endpoints = map_of("connect", "endpoints");
        assert_eq!(endpoints.value_size as usize, size_of::<crate::abi::endpoint>());
        let text = endpoints.description();
        assert!(
            text.contains("value address @0 4*4\n") && text.contains("value service @20 4*1\n"),
            "{text}"
        );
        assert!(text.contains("key  @0 4*1\n"), "{text}");
        let flows = map_of("sendmsg", "flows").description();
        assert!(flows.contains("value flow[7].used_ns @376 8*1\n"), "{flows}");
    }

    #[test]
    fn objects_agree_about_their_maps() {
        assert_eq!(map_of("connect", "endpoint_traffic"), map_of("sockops", "endpoint_traffic"));
        let mut longer = map_of("connect", "endpoint_traffic");
        let known = longer.clone();
        longer.value_size += 8;
        longer.value.as_mut().unwrap().push(Field {
            path: "new".into(),
            offset: known.value_size,
            size: 8,
            count: 1,
        });
        assert!(longer.extends(&known) && !known.extends(&longer));
        assert_eq!((longer.fit(&known), known.fit(&known)), (Fit::Changed, Fit::Same));
    }
}
