//! What a bundle tells of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Refused};
use crate::Error;
use crate::layout::{self, MapLayout};

const FORMAT: u32 = 1;
const MOST_OBJECTS: usize = 64;
const MOST_MAPS: usize = 256;

/// What a bundle tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of this form: 1.
    pub format: u32,
    /// Version, such as `0.2.0`.
    pub version: String,
    /// From what it was built, in the builder's words.
    pub build: String,
    /// In the order in which they stand in the file.
    pub objects: Vec<ObjectFacts>,
    /// The maps that are shared by objects and pinned, by name.
    pub maps: Vec<MapAbi>,
}

/// An object file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectFacts {
    /// Its name.
    pub name: String,
    /// Its size, in bytes.
    pub size: u32,
    /// Of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its programs and the hook that each needs, such as `cgroup/connect4`.
    pub programs: BTreeMap<String, String>,
}

/// What the programs ask of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapAbi {
    /// Its name.
    pub name: String,
    /// The kernel's number of the kind (`enum bpf_map_type`).
    pub kind: u32,
    /// In bytes.
    pub key_size: u32,
    /// In bytes.
    pub value_size: u32,
    /// `BPF_F_*`.
    pub flags: u32,
    /// SHA-256 of names, places and sizes of the fields of key and value: equal for equal layouts, whatever compiler and
    /// type numbers.
    pub layout: String,
}

impl Manifest {
    pub(super) fn of(version: &str, build: &str, objects: &[(String, Vec<u8>)]) -> Result<Self, Error> {
        let mut maps: BTreeMap<String, MapAbi> = BTreeMap::new();
        let mut facts = Vec::new();
        for (name, bytes) in objects {
            let object = layout::of_object(name, bytes)?;
            for map in object.maps {
                let abi = MapAbi::of(&map);
                if let Some(other) = maps.insert(abi.name.clone(), abi.clone())
                    && other != abi
                {
                    let source = std::io::Error::other("two objects of the bundle disagree about its layout");
                    return Err(Error::kernel("cannot take map", abi.name, source));
                }
            }
            let (size, sha256) = (bytes.len() as u32, Digest::of(bytes).to_string());
            facts.push(ObjectFacts { name: name.clone(), size, sha256, programs: object.programs });
        }
        let manifest = Self {
            format: FORMAT,
            version: version.to_owned(),
            build: build.to_owned(),
            objects: facts,
            maps: maps.into_values().collect(),
        };
        let refused = |refused| Error::Bundle { name: version.to_owned(), refused };
        manifest.check().map_err(refused)?;
        Ok(manifest)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        // Maps with text for keys and integers: there is nothing that JSON cannot say.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| Refused::Form(format!("its manifest: {e}")))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), Refused> {
        let wrong = |what: String| Err(Refused::Form(what));
        let is_word = |text: &str, more: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            !text.is_empty() && text.len() <= 32 && text.chars().all(fits)
        };
        if self.format != FORMAT {
            return wrong(format!("its format is {}, and this alize reads {FORMAT}", self.format));
        }
        if !is_word(&self.version, ".+-_") || !self.version.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return wrong(format!("{:?} is no version: 1 to 32 of letters, digits and .+-_", self.version));
        }
        if self.build.len() > 128 || self.build.chars().any(char::is_control) {
            return wrong(
                "what it was built from is longer than 128 bytes, or holds control characters".into(),
            );
        }
        if self.objects.len() > MOST_OBJECTS || self.maps.len() > MOST_MAPS {
            return wrong(format!("it has more than {MOST_OBJECTS} objects or {MOST_MAPS} maps"));
        }
        let names =
            self.objects.iter().map(|object| &object.name).chain(self.maps.iter().map(|map| &map.name));
        if let Some(name) = names.into_iter().find(|name| !is_word(name, "_")) {
            return wrong(format!("{name:?} cannot name an object or a map"));
        }
        let mut objects: Vec<&str> = self.objects.iter().map(|object| object.name.as_str()).collect();
        objects.sort_unstable();
        match objects.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => wrong(format!("object {:?} is in it twice", pair[0])),
            None => Ok(()),
        }
    }
}

impl MapAbi {
    pub(crate) fn of(map: &MapLayout) -> Self {
        Self {
            name: map.name.clone(),
            kind: map.kind,
            key_size: map.key_size,
            value_size: map.value_size,
            flags: map.flags,
            layout: Digest::of(map.description().as_bytes()).to_string(),
        }
    }
}
