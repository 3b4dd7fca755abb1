//! The v1 interface: the five structures of the original extension, byte for byte.
//!
//! Padding is written as zero and ignored when read; lengths are exact.

mod packet_info;
mod stats;
mod verdict;
mod words;

pub use packet_info::{PacketInfo, VersionAnswer};
pub use stats::{Connection, StatsRequest, connections};
pub use verdict::{PayloadRequest, VerdictInfo, VerdictUpdate};

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::DecodeError;
use crate::error::Place;

/// The largest packet that `GET_PAYLOAD` hands out, in bytes.
pub const MAX_PAYLOAD_LEN: u32 = 10_240;

/// How long `RECV_VERDICT_REQ` waits, in milliseconds.
pub const RECEIVE_WAIT_MS: u32 = 1_000;

/// The longest input that `RECV_VERDICT_REQ` ignores, in bytes.
pub const MAX_IGNORED_INPUT: usize = 4_096;

/// A structure that must be the whole input or output.
fn exact<T>(place: Place, bytes: &[u8]) -> Result<&T, DecodeError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    place.length(size_of::<T>(), bytes.len())?;
    T::ref_from_bytes(bytes).map_err(|_| {
        place.error(
            "length",
            0,
            crate::DecodeErrorKind::Length {
                expected: size_of::<T>(),
                actual: bytes.len(),
            },
        )
    })
}
