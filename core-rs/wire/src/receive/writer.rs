//! Builds a RECEIVE response in the caller's output buffer.
//!
//! How many requests wait and how long their packets are is not known before they are taken one by
//! one, so records grow from the front of the buffer and payload from its back, until they meet.
//! At the end the payload is moved down to the records: nothing is wasted, and no byte between is
//! left over from what the buffer held before.

use core::mem::offset_of;

use kext_types::RequestInfo;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::record::RawRecord;
use super::{CODE, PayloadMode, RawResponse, ReceiveResponse, ReceivedRequest};
use crate::header::RawHeader;
use crate::layout::{len_u32, len_usize};
use crate::{BufferTooSmall, MAX_BATCH};

/// A RECEIVE response that is being built.
#[derive(Debug)]
pub struct ReceiveWriter<'a> {
    out: &'a mut [u8],
    max: usize,
    payload: PayloadMode,
    count: usize,
    /// Where the payload written so far begins; it reaches to the end of `out`.
    payload_start: usize,
}

impl<'a> ReceiveWriter<'a> {
    /// Begins a response of at most `max_records` records, never more than [`MAX_BATCH`].
    ///
    /// The request must have been decoded before: it shares the buffer. `out` must hold
    /// [`ReceiveResponse::MIN_OUTPUT`] bytes. Nothing is written yet.
    pub fn new(
        out: &'a mut [u8],
        max_records: u32,
        payload: PayloadMode,
    ) -> Result<Self, BufferTooSmall> {
        let needed = ReceiveResponse::MIN_OUTPUT;
        // Offsets are 32 bits wide; what lies beyond them is not used.
        let usable = out.len().min(len_usize(u32::MAX));
        let out = out.get_mut(..usable).ok_or(BufferTooSmall { needed })?;
        if out.len() < needed {
            return Err(BufferTooSmall { needed });
        }
        Ok(Self {
            payload_start: out.len(),
            out,
            max: len_usize(max_records.min(MAX_BATCH)),
            payload,
            count: 0,
        })
    }

    /// How many requests were pushed.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether as many requests were pushed as were asked for.
    pub const fn is_full(&self) -> bool {
        self.count >= self.max
    }

    /// Whether a request of which `held` bytes are held can be pushed, with the payload asked for.
    pub fn room_for(&self, held: usize) -> bool {
        !self.is_full() && self.fit(held).is_ok()
    }

    /// Adds a request. `fill` is given a slice for the payload asked for, at most
    /// `request.held_len` bytes, and says how many of its first bytes it has written; it is not
    /// called if that is none.
    ///
    /// Without room (see [`ReceiveWriter::room_for`]) nothing is written and `fill` is not called;
    /// the error tells the buffer that would have been long enough.
    pub fn push(
        &mut self,
        request: &RequestInfo,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), BufferTooSmall> {
        let held = len_usize(request.held_len);
        let start = self.fit(held)?;
        if self.is_full() {
            let needed = self.out.len().saturating_add(ReceiveResponse::RECORD_LEN);
            return Err(BufferTooSmall { needed });
        }
        let mut payload_start = self.payload_start;
        if start < payload_start
            && let Some(slot) = self.out.get_mut(start..payload_start)
        {
            let len = fill(slot).min(slot.len());
            // What was not filled must not stay between payloads.
            let unused = slot.len().saturating_sub(len);
            slot.copy_within(..len, unused);
            payload_start = start.saturating_add(unused);
        }
        let record = RawRecord::new(
            &ReceivedRequest::from(request),
            len_u32(payload_start),
            len_u32(self.payload_start.saturating_sub(payload_start)),
        );
        let at = records_end(self.count);
        if let Some(slot) = self.out.get_mut(at..) {
            let _ = record.write_to_prefix(slot);
        }
        self.count = self.count.saturating_add(1);
        self.payload_start = payload_start;
        Ok(())
    }

    /// Completes the response and gives its length; `queued` requests still wait.
    pub fn finish(self, queued: u32) -> usize {
        let table_end = records_end(self.count);
        let shift = self.payload_start.saturating_sub(table_end);
        let length = self.out.len().saturating_sub(shift);
        if shift > 0 {
            self.out.copy_within(self.payload_start.., table_end);
            if let Some(table) = self.out.get_mut(ReceiveResponse::FIXED_LEN..table_end) {
                // Bounded by MAX_BATCH.
                for record in table.chunks_exact_mut(ReceiveResponse::RECORD_LEN) {
                    move_payload(record, shift);
                }
            }
        }
        let raw = RawResponse {
            header: RawHeader::new(CODE, length),
            count: U32::new(len_u32(self.count)),
            queued: U32::new(queued),
            payload_start: U32::new(len_u32(table_end)),
            reserved: [0; 4],
        };
        // `new` has seen to it that this fits.
        let _ = raw.write_to_prefix(self.out);
        length
    }

    /// Where the payload of a packet of `held` bytes would begin.
    fn fit(&self, held: usize) -> Result<usize, BufferTooSmall> {
        let len = self.payload.len_of(held);
        let table_end = records_end(self.count.saturating_add(1));
        match self.payload_start.checked_sub(len) {
            Some(start) if start >= table_end => Ok(start),
            _ => {
                let written = self.out.len().saturating_sub(self.payload_start);
                let needed = table_end.saturating_add(written).saturating_add(len);
                Err(BufferTooSmall { needed })
            }
        }
    }
}

/// Where a table of this many records ends.
const fn records_end(count: usize) -> usize {
    ReceiveResponse::FIXED_LEN.saturating_add(count.saturating_mul(ReceiveResponse::RECORD_LEN))
}

/// Makes a record point to where its payload has been moved.
fn move_payload(record: &mut [u8], shift: usize) {
    const OFFSET: usize = offset_of!(RawRecord, payload_offset);
    if let Some(slot) = record.get_mut(OFFSET..)
        && let Ok((offset, _)) = U32::mut_from_prefix(slot)
    {
        // Saturating: the 0 of a record without payload stays 0.
        offset.set(offset.get().saturating_sub(len_u32(shift)));
    }
}
