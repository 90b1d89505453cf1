//! Bundles: the kernel objects of one version, what they ask of the maps, and who vouches for them.
//!
//! One is part of this binary, so that a start needs nothing else. Others come as files: see `container` for the form and
//! `manifest` for what it tells. What a bundle is called is its digest; two files with the same digest hold the same
//! objects, whoever signed them.

mod choice;
mod container;
mod key;
mod manifest;
mod store;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

pub use choice::Choice;
pub use key::{PublicKey, SecretKey, Trust};
pub use manifest::{Manifest, MapAbi, ObjectFacts};
pub use store::{Prepared, Store, Stored};

use crate::Error;
use crate::load::{FILES, File, Role};

/// The largest file that is read, in bytes. The bundle in this binary has about 1.3 MiB.
pub const LARGEST: usize = 16 << 20;

/// SHA-256 of a manifest, which has that of each object in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// Objects and manifest that belong together.
#[derive(Clone, Debug)]
pub struct Bundle {
    manifest: Manifest,
    /// As it was read or first written: what the signature is for.
    manifest_bytes: Vec<u8>,
    digest: Digest,
    signature: Option<key::Signature>,
    parts: Vec<Part>,
}

/// One object.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) feature: Option<&'static str>,
    pub(crate) needs: Option<&'static str>,
    pub(crate) role: Role,
}

/// Why a file is no bundle, or none for this machine.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be read as a bundle.
    #[error("it is no bundle, or a damaged one: {0}")]
    Form(String),
    /// The bytes are not those that the manifest was made for.
    #[error("object {object} was altered: its SHA-256 is not that of the manifest; get the bundle anew")]
    Altered {
        /// The object.
        object: String,
    },
    /// Nobody signed it.
    #[error("it is not signed; sign it (`alize bundle sign`), or take it with --allow-unsigned")]
    Unsigned,
    /// It is signed, and not for these bytes.
    #[error("its signature is not for this manifest: it was altered; get the bundle anew")]
    BadSignature,
    /// It is signed by somebody who is not trusted here.
    #[error(
        "it is signed by key {0}, which is not trusted here; put that key into the folder of trusted keys (--keys), or \
         take it with --allow-unsigned"
    )]
    Untrusted(PublicKey),
    /// An object that this binary knows nothing of.
    #[error("this alize does not know object {0:?}; install the version that comes with the bundle")]
    UnknownObject(String),
    /// Not all of what is needed is in it.
    #[error("object {0:?} is missing, without which nothing works")]
    Missing(&'static str),
}

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut own = [0; 32];
        own.copy_from_slice(digest.as_ref());
        Self(own)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Enough of it to tell bundles apart.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Bundle {
    /// The one in this binary.
    pub fn embedded() -> Result<Self, Error> {
        let objects = FILES.iter().map(|file| (file.name.to_owned(), file.bytes.to_vec())).collect();
        Self::build(env!("CARGO_PKG_VERSION"), option_env!("ALIZE_BUILD").unwrap_or("embedded"), objects)
    }

    /// A bundle of the objects `NAME.bpf.o` of a folder.
    pub fn from_folder(folder: &Path, version: &str, build: &str) -> Result<Self, Error> {
        let read = |path: &Path| std::fs::read(path).map_err(|e| Error::path("cannot read", path, e));
        let mut objects = Vec::new();
        for file in &FILES {
            let path = folder.join(format!("{}.bpf.o", file.name));
            if path.exists() {
                objects.push((file.name.to_owned(), read(&path)?));
            }
        }
        Self::build(version, build, objects)
    }

    fn build(version: &str, build: &str, objects: Vec<(String, Vec<u8>)>) -> Result<Self, Error> {
        let manifest = Manifest::of(version, build, &objects)?;
        let manifest_bytes = manifest.bytes();
        let refused = |refused| Error::Bundle { name: version.to_owned(), refused };
        Self::assemble(manifest, manifest_bytes, None, objects).map_err(refused)
    }

    /// Reads the form, and that every object is what the manifest says; who signed is another question
    /// ([`Bundle::check`]).
    pub fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let raw = container::read(bytes)?;
        let manifest = Manifest::read(raw.manifest)?;
        let sizes: Vec<usize> = manifest.objects.iter().map(|object| object.size as usize).collect();
        let parts = container::split(raw.rest, &sizes)?;
        let named = manifest.objects.iter().zip(parts);
        let objects = named.map(|(object, bytes)| (object.name.clone(), bytes.to_vec())).collect();
        let signature = raw.signature.map(key::Signature::read).transpose()?;
        Self::assemble(manifest, raw.manifest.to_vec(), signature, objects)
    }

    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let error = |e| Error::path("cannot read", path, e);
        let size = std::fs::metadata(path).map_err(error)?.len();
        let refused = |refused| Error::Bundle { name: path.display().to_string(), refused };
        if size > LARGEST as u64 {
            return Err(refused(Refused::Form(format!("it has {size} bytes, more than {LARGEST}"))));
        }
        Self::read(&std::fs::read(path).map_err(error)?).map_err(refused)
    }

    fn assemble(
        manifest: Manifest,
        manifest_bytes: Vec<u8>,
        signature: Option<key::Signature>,
        objects: Vec<(String, Vec<u8>)>,
    ) -> Result<Self, Refused> {
        let digest = Digest::of(&manifest_bytes);
        for (facts, (name, bytes)) in manifest.objects.iter().zip(&objects) {
            if Digest::of(bytes).to_string() != facts.sha256 {
                return Err(Refused::Altered { object: name.clone() });
            }
        }
        if let Some((name, _)) = objects.iter().find(|(name, _)| FILES.iter().all(|file| file.name != name)) {
            return Err(Refused::UnknownObject(name.clone()));
        }
        // In the order of this binary, which is that of attaching.
        let mut parts = Vec::new();
        for file in &FILES {
            match objects.iter().find(|(name, _)| name == file.name) {
                Some((_, bytes)) => {
                    let bytes = bytes.clone();
                    let File { name, feature, needs, role, .. } = *file;
                    parts.push(Part { name, bytes, feature, needs, role });
                }
                None if file.feature.is_none() => return Err(Refused::Missing(file.name)),
                None => {}
            }
        }
        Ok(Self { manifest, manifest_bytes, digest, signature, parts })
    }

    /// As a file.
    pub fn bytes(&self) -> Vec<u8> {
        let objects = self.manifest.objects.iter().filter_map(|facts| {
            self.parts.iter().find(|part| part.name == facts.name).map(|part| part.bytes.as_slice())
        });
        let signature = self.signature.as_ref().map(key::Signature::bytes);
        container::write(&self.manifest_bytes, signature.as_deref(), objects)
    }

    /// Puts a signature in, in place of the one that was there.
    pub fn sign(&mut self, key: &SecretKey) {
        self.signature = Some(key.sign(&self.manifest_bytes));
    }

    /// Who vouches for it; the objects are checked already.
    pub fn check(&self, trust: &Trust) -> Result<(), Refused> {
        trust.check(&self.manifest_bytes, self.signature.as_ref())
    }

    /// The key that it says it is signed with.
    pub fn signed_by(&self) -> Option<PublicKey> {
        self.signature.as_ref().map(key::Signature::key)
    }

    /// What it is called.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it tells.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Version and the beginning of the digest.
    pub fn title(&self) -> String {
        format!("{} ({})", self.manifest.version, self.digest.short())
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether it has programs that observe; those of before they were part of bundles have none.
    pub fn observes(&self) -> bool {
        self.parts.iter().any(|part| part.name == "observe")
    }

    /// The bundle whose programs observe while this one is in force: itself, or else that of this binary.
    pub(crate) fn observer(&self) -> Result<Cow<'_, Self>, Error> {
        Ok(if self.observes() { Cow::Borrowed(self) } else { Cow::Owned(Self::embedded()?) })
    }
}

/// Where bundles are kept, unless told otherwise.
pub fn default_store() -> PathBuf {
    "/var/lib/alize/bundles".into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::btf::Types;

    /// A file whose head and manifest are right, with other bytes in it.
    fn small(version: &str, object: &[u8]) -> Vec<u8> {
        let object_facts = |name: &str| ObjectFacts {
            name: name.into(),
            size: object.len() as u32,
            sha256: Digest::of(object).to_string(),
            programs: Default::default(),
        };
        let manifest = Manifest {
            format: 1,
            version: version.into(),
            build: String::new(),
            objects: ["names", "connect"].map(object_facts).to_vec(),
            maps: Vec::new(),
        };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        container::write(&bytes, None, [object, object].into_iter())
    }

    #[test]
    fn a_bundle_is_read_as_it_was_written() {
        let bytes = small("1.2.3", b"object");
        let bundle = Bundle::read(&bytes).unwrap();
        assert_eq!((bundle.bytes(), bundle.manifest().version.as_str()), (bytes, "1.2.3"));
        for bad in ["", "-1", "a b", "..", "x/y", &"9".repeat(33)] {
            assert!(matches!(Bundle::read(&small(bad, b"object")), Err(Refused::Form(_))), "{bad:?}");
        }
        let embedded = Bundle::embedded().unwrap();
        assert_eq!(Bundle::read(&embedded.bytes()).unwrap().digest(), embedded.digest());
        assert!(embedded.manifest().maps.iter().any(|map| map.name == "connections"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_bytes_are_too_odd(at in 0usize..600, byte: u8, cut in 0usize..700, tail in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = small("1.2.3", b"object");
            if at < bytes.len() {
                bytes[at] = byte;
            }
            bytes.truncate(cut.max(10));
            bytes.extend(tail);
            if let Ok(bundle) = Bundle::read(&bytes) {
                prop_assert_eq!(&bundle.bytes(), &bytes);
            }
            let _ = Bundle::read(&bytes[16.min(bytes.len())..]);
        }

        #[test]
        fn type_information_may_be_anything(
            words in prop::collection::vec(prop_oneof![0u32..40, any::<u32>(), Just(0x0400_0002)], 0..60),
            id in 0u32..20,
        ) {
            let length = words.len() as u32 * 4;
            let mut bytes = vec![0x9f, 0xeb, 1, 0];
            for word in [24, 0, length, length, 4] {
                bytes.extend(u32::to_le_bytes(word));
            }
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            bytes.extend([0, b'a', b'b', 0]);
            if let Some(types) = Types::read(&bytes) {
                let _ = types.fields(id);
            }
        }
    }
}
