//! Capture files: reading pcap and pcapng, finding the IP packet behind the link layer, and writing
//! pcapng.
//!
//! [`CaptureReader`] delivers the records of a file in order, [`network_layer`] says where the IP
//! packet of a record begins, and [`CaptureWriter`] writes IP packets with direction and comment.
//! All three are total: any file and any record end in a value or in a [`CaptureError`].

mod error;
mod link;
mod link_names;
mod pcap;
mod pcapng;
mod pcapng_fields;
mod reader;
mod source;
mod timing;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{At, BlockProblem, CaptureError, CaptureErrorKind};
pub use link::{LinkPacket, LinkType, network_layer};
pub use link_names::link_type_name;
pub use reader::{CaptureReader, Record};
pub use writer::{CaptureWriter, Outgoing};

/// The longest record that is read, in bytes: the largest snap length that capture tools use.
pub const MAX_RECORD_LEN: u32 = 256 * 1024;
