//! The form of a bundle's file: a head, the manifest, the signature, the objects one after the other. Nothing else.
//!
//! ```text
//!  0  16  "ALIZE BUNDLE 1\n" and a zero
//! 16   4  length of the manifest, little endian
//! 20   4  length of the signature: 0, or 96
//! 24   .  manifest (JSON), signature, then each object, whose length the manifest tells
//! ```

use super::{LARGEST, Refused};

const MAGIC: &[u8; 16] = b"ALIZE BUNDLE 1\n\0";
const HEAD: usize = 24;
const LONGEST_MANIFEST: usize = 1 << 20;

/// The parts of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    pub(super) manifest: &'a [u8],
    pub(super) signature: Option<&'a [u8]>,
    pub(super) rest: &'a [u8],
}

pub(super) fn read(bytes: &[u8]) -> Result<Raw<'_>, Refused> {
    let wrong = |what: &str| Refused::Form(what.to_owned());
    if bytes.len() > LARGEST {
        return Err(wrong("it is larger than 16 MiB"));
    }
    let (head, rest) = bytes.split_at_checked(HEAD).ok_or_else(|| wrong("it is shorter than its head"))?;
    if &head[..16] != MAGIC {
        return Err(wrong("it does not begin with \"ALIZE BUNDLE 1\""));
    }
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (manifest, signature) = (number(16), number(20));
    if manifest > LONGEST_MANIFEST {
        return Err(wrong("its manifest is longer than 1 MiB"));
    }
    if signature != 0 && signature != super::key::SIGNATURE {
        return Err(wrong("its signature has another length than 96 bytes"));
    }
    let (manifest, rest) =
        rest.split_at_checked(manifest).ok_or_else(|| wrong("it ends within its manifest"))?;
    let (signature, rest) =
        rest.split_at_checked(signature).ok_or_else(|| wrong("it ends within its signature"))?;
    Ok(Raw { manifest, signature: (!signature.is_empty()).then_some(signature), rest })
}

/// Cuts `rest` into parts of these sizes, which are all of it.
pub(super) fn split<'a>(mut rest: &'a [u8], sizes: &[usize]) -> Result<Vec<&'a [u8]>, Refused> {
    let mut parts = Vec::new();
    for &size in sizes {
        let (part, behind) =
            rest.split_at_checked(size).ok_or_else(|| Refused::Form("it ends within an object".into()))?;
        parts.push(part);
        rest = behind;
    }
    match rest {
        [] => Ok(parts),
        more => Err(Refused::Form(format!("{} bytes follow its last object", more.len()))),
    }
}

pub(super) fn write<'a>(
    manifest: &[u8],
    signature: Option<&[u8]>,
    objects: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let signature = signature.unwrap_or_default();
    let mut bytes = MAGIC.to_vec();
    bytes.extend((manifest.len() as u32).to_le_bytes());
    bytes.extend((signature.len() as u32).to_le_bytes());
    bytes.extend(manifest);
    bytes.extend(signature);
    objects.for_each(|object| bytes.extend(object));
    bytes
}
