//! Buffers of packets that leave: each thread uses one again.

use std::cell::Cell;

thread_local! {
    /// The memory of the last buffer that was dropped.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The bytes of a packet that is about to leave.
pub(super) struct PacketBuffer(Vec<u8>);

impl PacketBuffer {
    /// A buffer of this length; `None` if there is no memory.
    pub(super) fn new(len: usize) -> Option<Self> {
        // While the thread ends there is none any more.
        let mut bytes = SPARE.try_with(Cell::take).unwrap_or_default();
        bytes.clear();
        bytes.try_reserve(len).ok()?;
        bytes.resize(len, 0);
        Some(Self(bytes))
    }
}

impl AsRef<[u8]> for PacketBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for PacketBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for PacketBuffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let _ = SPARE.try_with(|spare| spare.set(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zero_and_as_long_as_asked_for_whatever_was_in_the_last_one() {
        for len in [5, 60_000, 3, 0, 70] {
            let mut buffer = PacketBuffer::new(len).unwrap();
            let mut other = PacketBuffer::new(7).unwrap();
            assert!(buffer.as_ref().iter().all(|byte| *byte == 0));
            assert_eq!(buffer.as_ref().len(), len);
            buffer.as_mut().fill(0xA5);
            other.as_mut().fill(0xA5);
        }
    }
}
