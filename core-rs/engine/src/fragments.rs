//! Which flow the later fragments of a packet belong to.

use core::time::Duration;

use kext_packet::{Fragment, Headers};
use kext_types::{Address, Direction, FlowKey, IpVersion, Timestamp};

use crate::hash::KeyHasher;
use crate::memory::OutOfMemory;
use crate::table::Table;

/// How long a first fragment is remembered: as long as a receiver waits for the rest of a packet
/// (RFC 1122 §3.3.2, RFC 8200 §4.5).
const LIFETIME: Duration = Duration::from_mins(1);

/// What all fragments of one packet share: RFC 791 §3.2, and RFC 8200 §4.5 without the protocol. The
/// direction tells a packet's two passages through a loopback interface apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FragmentKey {
    source: Address,
    destination: Address,
    id: u32,
    version: IpVersion,
    protocol: u8,
    direction: Direction,
}

impl FragmentKey {
    fn new(headers: &Headers, fragment: &Fragment, direction: Direction) -> Self {
        Self {
            source: headers.source,
            destination: headers.destination,
            id: fragment.id,
            version: headers.version,
            protocol: match headers.version {
                IpVersion::V4 => headers.protocol,
                IpVersion::V6 => 0,
            },
            direction,
        }
    }
}

/// What later fragments cannot tell themselves.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) flow: FlowKey,
    /// Whether the packet is one that the network needs to work at all.
    pub(crate) infrastructure: bool,
}

impl Origin {
    /// What the packet with these headers is by itself.
    #[inline]
    pub(crate) fn of(headers: &Headers, direction: Direction) -> Self {
        Self {
            flow: headers.flow_key(direction),
            infrastructure: headers.is_infrastructure(),
        }
    }
}

struct Followed {
    origin: Origin,
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

    /// Remembers a first fragment.
    pub(crate) fn first(
        &mut self,
        hasher: &KeyHasher,
        headers: &Headers,
        fragment: &Fragment,
        direction: Direction,
        origin: Origin,
        now: Timestamp,
    ) {
        let key = FragmentKey::new(headers, fragment, direction);
        let hash = hasher.hash(&key);
        let followed = Followed { origin, seen: now };
        if let Some(entry) = self.table.find_mut(hash, &key) {
            *entry = followed;
            return;
        }
        // Every entry has a rank, so that this always finds a place.
        let _ = self
            .table
            .insert(hash, key, followed, |entry| Some(entry.seen.as_nanos()));
    }

    /// What the first fragment of a later one was, if it was seen of late.
    pub(crate) fn later(
        &mut self,
        hasher: &KeyHasher,
        headers: &Headers,
        fragment: &Fragment,
        direction: Direction,
        now: Timestamp,
    ) -> Option<Origin> {
        let key = FragmentKey::new(headers, fragment, direction);
        let entry = self.table.find_mut(hasher.hash(&key), &key)?;
        (now.since(entry.seen) <= LIFETIME).then_some(entry.origin)
    }
}
