//! Signatures: Ed25519 (RFC 8032) over the bytes of the manifest.

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::Refused;
use crate::Error;

/// Key and signature.
pub(super) const SIGNATURE: usize = 96;

/// A key that signatures are checked with; 64 hexadecimal digits in files and messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// A key that signs. On disk it is PKCS#8 (RFC 8410).
pub struct SecretKey(Ed25519KeyPair);

/// Whose signatures count.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// These keys'.
    pub keys: Vec<PublicKey>,
    /// Also what nobody signed, or somebody else. What was altered is refused all the same.
    pub allow_unsigned: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Signature {
    key: PublicKey,
    signature: [u8; 64],
}

impl PublicKey {
    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut key = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
        }
        Some(Self(key))
    }

    /// Reads a file that holds one.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|e| Error::path("cannot read", path, e))?;
        let wrong = || std::io::Error::other("it is no public key: 64 hexadecimal digits");
        Self::parse(&text).ok_or_else(|| Error::path("cannot use", path, wrong()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl SecretKey {
    /// Makes a pair and writes it to `path` and `path`.pub; neither may be there yet.
    pub fn make(path: &Path) -> Result<PublicKey, Error> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let bytes = made.map_err(|_| {
            Error::path("cannot make a key for", path, std::io::Error::other("no random bytes"))
        })?;
        let key = Self::read(path, bytes.as_ref())?.public();
        write_new(path, 0o600, bytes.as_ref())?;
        let mut public = path.as_os_str().to_owned();
        public.push(".pub");
        write_new(Path::new(&public), 0o644, format!("{key}\n").as_bytes())?;
        Ok(key)
    }

    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::read(path, &fs::read(path).map_err(|e| Error::path("cannot read", path, e))?)
    }

    fn read(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let wrong =
            |_| std::io::Error::other("it is no Ed25519 key in PKCS#8 (`alize bundle key` makes one)");
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes);
        key.map(Self).map_err(|e| Error::path("cannot use", path, wrong(e)))
    }

    /// The other half.
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    pub(super) fn sign(&self, manifest: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.sign(manifest).as_ref());
        Signature { key: self.public(), signature }
    }
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(mode).open(path);
    opened.and_then(|mut file| file.write_all(bytes)).map_err(|e| Error::path("cannot write", path, e))
}

impl Signature {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let (key, signature) =
            bytes.split_at_checked(32).ok_or_else(|| Refused::Form("its signature is cut".into()))?;
        match (key.try_into(), signature.try_into()) {
            (Ok(key), Ok(signature)) => Ok(Self { key: PublicKey(key), signature }),
            _ => Err(Refused::Form("its signature is cut".into())),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        [&self.key.0[..], &self.signature[..]].concat()
    }

    pub(super) fn key(&self) -> PublicKey {
        self.key
    }
}

impl Trust {
    /// The keys `*.pub` of a folder; none when it does not exist.
    pub fn of_folder(folder: &Path, allow_unsigned: bool) -> Result<Self, Error> {
        let mut keys = Vec::new();
        let listed = match fs::read_dir(folder) {
            Ok(listed) => listed,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self { keys, allow_unsigned }),
            Err(e) => return Err(Error::path("cannot read", folder, e)),
        };
        for entry in listed {
            let path = entry.map_err(|e| Error::path("cannot read", folder, e))?.path();
            if path.extension().is_some_and(|extension| extension == "pub") {
                keys.push(PublicKey::open(&path)?);
            }
        }
        Ok(Self { keys, allow_unsigned })
    }

    pub(super) fn check(&self, manifest: &[u8], signature: Option<&Signature>) -> Result<(), Refused> {
        let Some(signature) = signature else {
            return if self.allow_unsigned { Ok(()) } else { Err(Refused::Unsigned) };
        };
        let key = UnparsedPublicKey::new(&ED25519, signature.key.0);
        key.verify(manifest, &signature.signature).map_err(|_| Refused::BadSignature)?;
        match self.allow_unsigned || self.keys.contains(&signature.key) {
            true => Ok(()),
            false => Err(Refused::Untrusted(signature.key)),
        }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {}", self.public())
    }
}
