//! HTTP/1 on the wire, RFC 9112: heads and message framing, read strictly and written plainly.
//!
//! What is read here was written by strangers. A message that two servers could read in two ways is refused whole; a
//! message that passes is written anew from its parts, so that no doubtful byte of it goes further.

#[cfg(test)]
mod alike;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod spelling;
mod write;

pub(crate) use framing::{Decoded, Decoder, Encoder, Framing};
pub(crate) use head::{Fault, RequestHead};
