//! Which flow the later fragments of a packet belong to.

use core::time::Duration;

use kext_packet::{Fragment, Headers};
use kext_types::{Address, FlowKey, IpVersion, Timestamp};

use crate::hash::KeyHasher;
use crate::memory::OutOfMemory;
use crate::table::Table;

/// How long a first fragment is remembered: as long as a receiver waits for the rest of a packet
/// (RFC 1122 §3.3.2, RFC 8200 §4.5).
const LIFETIME: Duration = Duration::from_mins(1);

/// What all fragments of one packet share: RFC 791 §3.2, and RFC 8200 §4.5 without the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FragmentKey {
    source: Address,
    destination: Address,
    id: u32,
    version: IpVersion,
    protocol: u8,
}

impl FragmentKey {
    fn new(headers: &Headers, fragment: &Fragment) -> Self {
        Self {
            source: headers.source,
            destination: headers.destination,
            id: fragment.id,
            version: headers.version,
            protocol: match headers.version {
                IpVersion::V4 => headers.protocol,
                IpVersion::V6 => 0,
            },
        }
    }
}

struct Followed {
    flow: FlowKey,
    seen: Timestamp,
}

/// First fragments seen of late, and their flows. The oldest make room for newer ones.
pub(crate) struct FragmentTable {
    table: Table<FragmentKey, Followed>,
}

impl FragmentTable {
    pub(crate) fn try_new(capacity: u32) -> Result<Self, OutOfMemory> {
        Ok(Self {
            table: Table::try_new("followed fragments", capacity as usize)?,
        })
    }

    /// Remembers the flow of a first fragment.
    pub(crate) fn first(
        &mut self,
        hasher: &KeyHasher,
        headers: &Headers,
        fragment: &Fragment,
        flow: FlowKey,
        now: Timestamp,
    ) {
        let key = FragmentKey::new(headers, fragment);
        let hash = hasher.hash(&key);
        let followed = Followed { flow, seen: now };
        if let Some(entry) = self.table.find_mut(hash, &key) {
            *entry = followed;
            return;
        }
        // Every entry has a rank, so that this always finds a place.
        let _ = self
            .table
            .insert(hash, key, followed, |entry| Some(entry.seen.as_nanos()));
    }

    /// The flow of a later fragment, if its first one was seen of late.
    pub(crate) fn later(
        &mut self,
        hasher: &KeyHasher,
        headers: &Headers,
        fragment: &Fragment,
        now: Timestamp,
    ) -> Option<FlowKey> {
        let key = FragmentKey::new(headers, fragment);
        let entry = self.table.find_mut(hasher.hash(&key), &key)?;
        (now.since(entry.seen) <= LIFETIME).then_some(entry.flow)
    }
}
