//! IP headers, checksums, replies, rewriting and fragmentation.
//!
//! Everything here is a function of one packet's bytes: no state, no clock, no memory. Bytes from
//! the network are walked under fixed bounds and end in a value or in an error that says what and
//! where; nothing panics.
//!
//! - [`Headers::parse`] walks a packet to its 5-tuple;
//! - [`reply::build`] makes the answer to a blocked packet;
//! - [`stand_in`] makes the packet that stands for a connect;
//! - [`rewrite::rewrite`] changes addresses and ports in place;
//! - [`Fragmentation`] divides what is longer than its path takes;
//! - [`checksum`] holds the arithmetic of them all.

#![no_std]
#![forbid(unsafe_code)]
// The names of protocols are not code.
#![allow(clippy::doc_markdown)]

#[cfg(test)]
extern crate std;

mod bytes;
mod error;
mod extensions;
mod fragmentation;
mod frame;
mod headers;
mod ipv4;
mod ipv6;
#[cfg(test)]
mod properties;
mod syn;
mod transport;

pub mod checksum;
pub mod reply;
pub mod rewrite;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::{ParseError, ParseErrorKind};
pub use extensions::{MAX_EXTENSION_BYTES, MAX_EXTENSIONS};
pub use fragmentation::{Fragmentation, FragmentationError, MAX_FRAGMENTS};
pub use headers::{Fragment, Headers};
pub use reply::{MAX_REPLY_LEN, Reply, ReplyForbidden, ReplyKind};
pub use rewrite::{Rewrite, RewriteError};
pub use syn::{MAX_STAND_IN_LEN, stand_in};
pub use transport::{IcmpMessage, TcpFlags, TcpSegment, TransportInfo};
