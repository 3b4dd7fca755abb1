//! Names of held packets.

use core::fmt;
use core::num::NonZeroU64;

/// The name of one held packet: never zero and never reused while the extension is loaded.
///
/// The low 32 bits are never zero either and unique among the packets held at any moment: they are
/// the packet's name in the v1 interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU64);

impl PacketId {
    /// The id with this number; `None` for a number that can never be an id.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(id) if number as u32 != 0 => Some(Self(id)),
            _ => None,
        }
    }

    /// The whole number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The name in the v1 interface.
    pub const fn v1(self) -> u32 {
        self.0.get() as u32
    }
}

impl fmt::Debug for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}
