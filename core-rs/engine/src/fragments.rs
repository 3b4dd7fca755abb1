//! Which flow the later fragments of a packet belong to, and later fragments that come too early.
//!
//! A fragment after the first has no ports: it goes the way of its first one. If that has not come,
//! it waits for it, up to [`WAIT`], in a store of its own that is bounded in number and bytes. Once
//! the first has come, those that waited are *ready*: who presented it lets it go, then takes them, in
//! order of arrival, and classifies them again.

use core::time::Duration;

use kext_packet::{Fragment, Headers};
use kext_types::{Address, Arrival, Direction, FlowKey, IpVersion, Timestamp};

use crate::blocks::{BLOCK, BlockPool, Chain};
use crate::hash::KeyHasher;
use crate::list::{Link, Links, List};
use crate::memory::{OutOfMemory, Vec, filled};
use crate::ranges::{Added, Ranges};
use crate::table::{Handle, Table};
use crate::tags;

/// How long a first fragment is remembered: as long as a receiver waits for the rest of a packet
/// (RFC 1122 §3.3.2, RFC 8200 §4.5).
const LIFETIME: Duration = Duration::from_mins(1);

/// How long an early fragment waits for its first one.
pub(crate) const WAIT: Duration = Duration::from_secs(1);
/// How many early fragments wait at once, at most: those of two of the largest packets, and some. In
/// a small table it is one for each `ENTRIES_EACH` entries, so that hardly ever all places that a
/// packet's entry could take are those of packets that wait.
pub const EARLY_FRAGMENTS: u32 = 128;
const ENTRIES_EACH: u32 = 4;
/// How many bytes of them wait at once: four of the largest packets.
const EARLY_BYTES: usize = 1 << 18;

/// Lists that a slot can stand in. A free slot stands in the free list by its age link.
const AGE: usize = 0;
const PACKET: usize = 1;

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

/// Stands where no packet has stood yet.
const NO_PACKET: FragmentKey = FragmentKey {
    source: Address::UNSPECIFIED,
    destination: Address::UNSPECIFIED,
    id: 0,
    version: IpVersion::V4,
    protocol: 0,
    direction: Direction::Outbound,
};

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
    #[inline(always)]
    pub(crate) fn of(headers: &Headers, direction: Direction) -> Self {
        Self {
            flow: headers.flow_key(direction),
            infrastructure: headers.is_infrastructure(),
        }
    }
}

/// What is known of a packet of which a fragment has come.
struct Followed {
    /// `None` until the first fragment has come.
    origin: Option<Origin>,
    seen: Timestamp,
    ranges: Ranges,
    /// Fragments have overlapped: nothing more of this packet is let go.
    overlapped: bool,
    /// Early fragments that wait, or all of which are `ready`, in order of arrival.
    early: List<PACKET>,
    /// The first fragment has come: none waits any more.
    ready: bool,
}

impl Followed {
    const fn new(now: Timestamp) -> Self {
        Self {
            origin: None,
            seen: now,
            ranges: Ranges::EMPTY,
            overlapped: false,
            early: List::EMPTY,
            ready: false,
        }
    }

    /// Whether fragments that come now belong to another packet of the same identification.
    fn is_over(&self, now: Timestamp) -> bool {
        self.early.is_empty() && (self.ranges.is_complete() || now.since(self.seen) > LIFETIME)
    }

    /// Adds a fragment's bytes; `false` if it must not go on.
    fn add(&mut self, fragment: &Fragment) -> bool {
        if !self.overlapped {
            match self
                .ranges
                .add(fragment.offset, fragment.len, !fragment.more)
            {
                Added::New => return true,
                Added::Nothing => return false,
                Added::Overlap => self.overlapped = true,
            }
        }
        false
    }
}

/// What becomes of a later fragment.
#[derive(Clone, Copy)]
pub(crate) enum Later {
    /// It goes the way of its first one.
    Follows(Origin),
    /// Its first one has not come.
    Early,
    /// It overlaps others.
    Overlaps,
}

/// A fragment that waits, or may go on.
pub(crate) struct Early {
    pub(crate) arrival: Arrival,
    /// The packet's length by its header.
    pub(crate) on_wire: u32,
    chain: Chain,
    since: Timestamp,
    /// The packet that it is of, while it waits.
    packet: Handle,
}

struct Slot {
    links: [Link; 2],
    early: Option<Early>,
}

struct Slots(Vec<Slot>);

impl Links for Slots {
    fn link(&mut self, list: usize, index: u32) -> Option<&mut Link> {
        self.0.get_mut(index as usize)?.links.get_mut(list)
    }
}

/// Packets of which fragments have come of late. The oldest make room for newer ones.
pub(crate) struct FragmentTable {
    table: Table<FragmentKey, Followed>,
    slots: Slots,
    free: List<AGE>,
    /// Waiting, oldest first.
    waiting: List<AGE>,
    /// How many may go on.
    ready: u32,
    blocks: BlockPool,
}

impl FragmentTable {
    pub(crate) fn try_new(capacity: u32) -> Result<Self, OutOfMemory> {
        let early = (capacity / ENTRIES_EACH).min(EARLY_FRAGMENTS);
        // As many as there are ways to find them by, so that who has a free way has an entry.
        let packets = tags::buckets_for(capacity as usize) * tags::WAYS;
        let mut slots = Slots(filled("early fragments", early as usize, || Slot {
            links: [Link::NONE; 2],
            early: None,
        })?);
        let mut free = List::EMPTY;
        // Bound: EARLY_FRAGMENTS.
        for slot in 0..early {
            free.push_back(&mut slots, slot);
        }
        Ok(Self {
            table: Table::try_new("followed fragments", packets, packets, || {
                (NO_PACKET, Followed::new(Timestamp::from_nanos(0)))
            })?,
            slots,
            free,
            waiting: List::EMPTY,
            ready: 0,
            blocks: BlockPool::try_new(EARLY_BYTES)?,
        })
    }

    /// Notes a first fragment, and makes those that waited for it ready. `false` if it overlaps
    /// others: then it must not go on.
    pub(crate) fn first(
        &mut self,
        hasher: &KeyHasher,
        headers: &Headers,
        fragment: &Fragment,
        direction: Direction,
        origin: Origin,
        now: Timestamp,
    ) -> bool {
        let key = FragmentKey::new(headers, fragment, direction);
        let Some(handle) = self.entry(hasher.hash(&key), key, now) else {
            // Its later fragments will find no first one.
            return true;
        };
        let Some(followed) = self.table.get_mut(handle) else {
            return true;
        };
        let goes_on = followed.add(fragment);
        if goes_on {
            followed.origin = Some(origin);
        }
        if goes_on || followed.overlapped {
            self.make_ready(handle);
        }
        goes_on
    }

    /// Notes a later fragment, and says what becomes of it.
    pub(crate) fn later(
        &mut self,
        hasher: &KeyHasher,
        headers: &Headers,
        fragment: &Fragment,
        direction: Direction,
        now: Timestamp,
    ) -> Later {
        let key = FragmentKey::new(headers, fragment, direction);
        let Some(followed) = self
            .entry(hasher.hash(&key), key, now)
            .and_then(|handle| self.table.get_mut(handle))
        else {
            return Later::Early;
        };
        if !followed.add(fragment) {
            return Later::Overlaps;
        }
        match followed.origin {
            Some(origin) => Later::Follows(origin),
            None => Later::Early,
        }
    }

    /// What becomes of a later fragment that was noted before, and waited.
    pub(crate) fn ready_again(
        &mut self,
        hasher: &KeyHasher,
        headers: &Headers,
        fragment: &Fragment,
        direction: Direction,
    ) -> Option<Later> {
        let key = FragmentKey::new(headers, fragment, direction);
        let followed = self.table.find_mut(hasher.hash(&key), &key)?;
        if followed.overlapped {
            return Some(Later::Overlaps);
        }
        followed.origin.map(Later::Follows)
    }

    /// The entry of a packet, a fresh one if there is none or it is over.
    fn entry(&mut self, hash: u64, key: FragmentKey, now: Timestamp) -> Option<Handle> {
        if let Some(handle) = self.table.find(hash, &key) {
            let followed = self.table.get_mut(handle)?;
            if followed.is_over(now) {
                *followed = Followed::new(now);
            }
            return Some(handle);
        }
        // What waits has a way to its entry, which therefore stays.
        let rank = |entry: &Followed| entry.early.is_empty().then_some(entry.seen.as_nanos());
        let (handle, followed) = self.table.insert(hash, &key, rank)?;
        *followed = Followed::new(now);
        Some(handle)
    }

    /// Keeps a copy of an early fragment, at the cost of the oldest where there is no room. Says
    /// whether it is kept, and how many of the others went.
    pub(crate) fn keep(
        &mut self,
        hasher: &KeyHasher,
        headers: &Headers,
        fragment: &Fragment,
        bytes: &[u8],
        arrival: &Arrival,
        now: Timestamp,
    ) -> (bool, u32) {
        let mut gone = 0;
        // Bound: a slot or a block is won each time.
        for _ in 0..EARLY_BYTES / BLOCK {
            if !self.free.is_empty() && self.blocks.fits(bytes.len()) {
                break;
            }
            let Some(oldest) = self.waiting.front() else {
                break;
            };
            self.forget(oldest);
            gone += 1;
        }
        let key = FragmentKey::new(headers, fragment, arrival.direction);
        let kept = self.table.find(hasher.hash(&key), &key).and_then(|packet| {
            let slot = self.free.front()?;
            let early = Early {
                arrival: *arrival,
                on_wire: headers.total_len,
                chain: self.blocks.store(bytes)?,
                since: now,
                packet,
            };
            self.free.remove(&mut self.slots, slot);
            self.slots.0.get_mut(slot as usize)?.early = Some(early);
            self.waiting.push_back(&mut self.slots, slot);
            let followed = self.table.get_mut(packet)?;
            followed.early.push_back(&mut self.slots, slot);
            Some(())
        });
        (kept.is_some(), gone)
    }

    /// Drops a waiting fragment.
    fn forget(&mut self, slot: u32) {
        let early = self
            .slots
            .0
            .get_mut(slot as usize)
            .and_then(|slot| slot.early.take());
        if let Some(early) = early {
            self.waiting.remove(&mut self.slots, slot);
            if let Some(followed) = self.table.get_mut(early.packet) {
                followed.early.remove(&mut self.slots, slot);
                // What no one has let go cannot be overlapped. What waits has no first one yet.
                if followed.early.is_empty() && !followed.overlapped {
                    followed.ranges = Ranges::EMPTY;
                }
            }
            self.blocks.free(early.chain);
            self.free.push_back(&mut self.slots, slot);
        }
    }

    /// Lets the early fragments of a packet go on: they cannot have waited for too long any more.
    fn make_ready(&mut self, packet: Handle) {
        let Some(followed) = self.table.get_mut(packet).filter(|f| !f.ready) else {
            return;
        };
        followed.ready = true;
        let mut next = followed.early.front();
        // Bound: EARLY_FRAGMENTS.
        while let Some(slot) = next {
            self.waiting.remove(&mut self.slots, slot);
            self.ready += 1;
            next = List::<PACKET>::after(&mut self.slots, slot);
        }
    }

    /// How many early fragments may go on, and how many wait.
    pub(crate) fn early(&self) -> (u32, u32) {
        (self.ready, self.waiting.len())
    }

    /// Takes the next fragment that may go on behind this first one, with its bytes in a buffer if one
    /// can be had. `allocate` runs under this table's lock.
    pub(crate) fn take_ready<B: AsMut<[u8]>>(
        &mut self,
        hasher: &KeyHasher,
        first: &Headers,
        direction: Direction,
        allocate: impl FnOnce(usize) -> Option<B>,
    ) -> Option<(Early, Option<B>)> {
        let key = FragmentKey::new(first, first.fragment.as_ref()?, direction);
        let followed = self.table.find_mut(hasher.hash(&key), &key)?;
        if !followed.ready {
            return None;
        }
        let slot = followed.early.front()?;
        followed.early.remove(&mut self.slots, slot);
        let mut early = self.slots.0.get_mut(slot as usize)?.early.take()?;
        self.ready = self.ready.saturating_sub(1);
        self.free.push_back(&mut self.slots, slot);
        let chain = core::mem::replace(&mut early.chain, Chain::EMPTY);
        let buffer = allocate(chain.len()).and_then(|mut buffer| {
            let copied = self.blocks.copy(&chain, buffer.as_mut());
            (copied == chain.len()).then_some(buffer)
        });
        self.blocks.free(chain);
        Some((early, buffer))
    }

    /// Drops the oldest waiting fragment if it has waited for too long, or whenever there is no `now`;
    /// whether it did.
    pub(crate) fn expire(&mut self, now: Option<Timestamp>) -> bool {
        let Some(oldest) = self.waiting.front() else {
            return false;
        };
        let slot = self.slots.0.get(oldest as usize);
        let expired = slot
            .and_then(|slot| slot.early.as_ref())
            .is_some_and(|early| now.is_none_or(|now| now.since(early.since) >= WAIT));
        if expired {
            self.forget(oldest);
        }
        expired
    }
}
