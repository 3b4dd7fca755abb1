//! The paths of the processes' programs, by process id, as the host tells them.
//!
//! A table of fixed size: who was told of longest ago makes room, among those that share its place.

use kext_types::{ProcessId, ProcessPath, Timestamp};

use crate::memory::{OutOfMemory, Vec, filled};
use crate::table::Table;
use crate::tags;

/// Processes whose path is remembered.
const PROCESSES: usize = 1_024;

/// Stands where no process has stood yet.
const ANY_PROCESS: ProcessId = ProcessId::MAX;

const MAX_LEN: usize = ProcessPath::MAX_LEN;

struct Known {
    /// Where its bytes are; this stays with the entry, whichever process has it.
    slot: usize,
    len: usize,
    is_cut: bool,
    told: Timestamp,
}

pub(crate) struct ProcessPaths {
    known: Table<ProcessId, Known>,
    /// A slot of `MAX_LEN` bytes for each entry. Apart, so that entries are small where they are made: on
    /// a kernel's stack.
    bytes: Vec<u8>,
}

impl ProcessPaths {
    pub(crate) fn try_new() -> Result<Self, OutOfMemory> {
        const WHAT: &str = "paths of processes";
        let entries = tags::buckets_for(PROCESSES) * tags::WAYS;
        let mut slots = 0..entries;
        Ok(Self {
            known: Table::try_new(WHAT, PROCESSES, entries, || {
                let known = Known {
                    slot: slots.next().unwrap_or_default(),
                    len: 0,
                    is_cut: false,
                    told: Timestamp::from_nanos(0),
                };
                (ANY_PROCESS, known)
            })?,
            bytes: filled(WHAT, entries * MAX_LEN, || 0)?,
        })
    }

    /// Remembers a path, in place of what was told of the process before.
    pub(crate) fn set(&mut self, hash: u64, process_id: ProcessId, utf16: &[u8], now: Timestamp) {
        let path = ProcessPath::of(utf16);
        let known = match self.known.find(hash, &process_id) {
            Some(handle) => self.known.get_mut(handle),
            None => self
                .known
                .insert(hash, &process_id, |known| Some(known.told.as_nanos()))
                .map(|(_, known)| known),
        };
        let Some(known) = known else {
            return;
        };
        known.told = now;
        let start = known.slot * MAX_LEN;
        let Some(slot) = self.bytes.get_mut(start..start + path.utf16.len()) else {
            return;
        };
        // Mostly it is what was told before: to look is cheaper than to write it all.
        if known.len != path.utf16.len() || slot != path.utf16 {
            slot.copy_from_slice(path.utf16);
            known.len = path.utf16.len();
        }
        known.is_cut = path.is_cut;
    }

    /// The path of a process, if one was told.
    pub(crate) fn get(&self, hash: u64, process_id: ProcessId) -> Option<ProcessPath<'_>> {
        let known = self.known.get(self.known.find(hash, &process_id)?)?;
        let start = known.slot * MAX_LEN;
        Some(ProcessPath {
            utf16: self.bytes.get(start..start + known.len)?,
            is_cut: known.is_cut,
        })
    }
}
