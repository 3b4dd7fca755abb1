//! A sliding window over a byte stream: look at bytes before taking them, in constant memory.

use std::io::{self, ErrorKind, Read};

use super::MAX_RECORD_LEN;

/// The window's size: the longest record and room to read on behind it, so that most records are
/// met in the window without a move.
pub(super) const WINDOW: usize = MAX_RECORD_LEN as usize + 64 * 1024;

/// A reader with a window of [`WINDOW`] bytes on what it has yet to deliver.
pub(super) struct Source {
    inner: Box<dyn Read + Send>,
    window: Box<[u8]>,
    /// The bytes in the window that are not taken yet are `start..end`.
    start: usize,
    end: usize,
    position: u64,
}

impl Source {
    pub(super) fn new(inner: Box<dyn Read + Send>) -> Self {
        Self {
            inner,
            window: vec![0; WINDOW].into_boxed_slice(),
            start: 0,
            end: 0,
            position: 0,
        }
    }

    /// How many bytes have been taken.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next `wanted` bytes without taking them; fewer where the stream ends first. `wanted` is
    /// at most [`WINDOW`], and no more than that is ever given.
    pub(super) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        self.fill(wanted.min(WINDOW))?;
        let window = self.window.get(self.start..self.end).unwrap_or_default();
        Ok(window.get(..wanted).unwrap_or(window))
    }

    /// Takes `count` bytes that were peeked at.
    pub(super) fn take(&mut self, count: usize) {
        let count = count.min(self.end - self.start);
        self.start += count;
        self.position += count as u64;
    }

    /// Takes `count` bytes without looking at them, and returns how many there were before the
    /// stream ended.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<u64> {
        let mut skipped = 0;
        // Bound: every round takes at least one byte of `count`.
        while skipped < count {
            let step = usize::try_from(count - skipped).map_or(WINDOW, |rest| rest.min(WINDOW));
            if self.start == self.end {
                self.fill(1)?;
            }
            let available = step.min(self.end - self.start);
            if available == 0 {
                break;
            }
            self.take(available);
            skipped += available as u64;
        }
        Ok(skipped)
    }

    /// Reads until the window holds `wanted` bytes or the stream ends.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start + wanted > self.window.len() {
            self.window.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        // Bound: every round adds at least one byte of `wanted`, ends, or repeats an interrupted
        // system call.
        while self.end - self.start < wanted {
            let room = self.window.get_mut(self.end..).unwrap_or_default();
            let room_len = room.len();
            match self.inner.read(room) {
                Ok(0) => break,
                // A reader that claims more than it was given room for is not to be believed.
                Ok(count) => self.end += count.min(room_len),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
