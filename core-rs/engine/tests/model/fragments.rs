//! The model's fragments: of one datagram for each identification and direction.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use kext_types::{Direction, FlowKey, Timestamp};

/// How long what has come of a packet is remembered.
const LIFETIME: Duration = Duration::from_mins(1);
/// How long a fragment waits for its first one.
const WAIT: Duration = Duration::from_secs(1);

/// The data of each piece, in units of eight bytes: three that make a datagram, and one across.
pub(crate) const PIECES: [(usize, usize); 4] = [(0, 3), (3, 3), (6, 3), (2, 3)];
/// All units of a datagram.
const WHOLE: u16 = 0x1ff;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) id: u16,
    pub(crate) piece: usize,
}

impl Piece {
    pub(crate) fn is_first(self) -> bool {
        self.piece == 0
    }

    fn units(self) -> u16 {
        let (start, len) = PIECES[self.piece];
        ((1 << len) - 1) << start
    }
}

#[derive(Default)]
struct Followed {
    origin: Option<FlowKey>,
    seen: Timestamp,
    came: u16,
    overlapped: bool,
}

pub(crate) struct Fragments<P> {
    followed: HashMap<(u16, Direction), Followed>,
    /// In order of arrival.
    waiting: Vec<(Piece, Direction, Timestamp, P)>,
    /// Their first one has come.
    pub(crate) ready: VecDeque<(Piece, P)>,
}

/// Where a fragment belongs.
pub(crate) enum Belongs {
    To(FlowKey),
    Overlaps,
    /// To a datagram whose first fragment has not come.
    Early,
}

impl<P> Default for Fragments<P> {
    fn default() -> Self {
        Self {
            followed: HashMap::new(),
            waiting: Vec::new(),
            ready: VecDeque::new(),
        }
    }
}

impl<P> Fragments<P> {
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn has_early(&self, id: u16, way: Direction) -> bool {
        self.waiting
            .iter()
            .any(|(piece, w, ..)| piece.id == id && *w == way)
    }

    /// Notes a fragment of a packet of this flow, if it is the first.
    pub(crate) fn note(
        &mut self,
        piece: Piece,
        flow: &FlowKey,
        way: Direction,
        now: Timestamp,
    ) -> Belongs {
        let waits = self.has_early(piece.id, way);
        let fresh = Followed {
            seen: now,
            ..Followed::default()
        };
        let key = (piece.id, way);
        let followed = self.followed.entry(key).or_default();
        let is_over = followed.came == WHOLE || now.since(followed.seen) > LIFETIME;
        if is_over && !waits {
            *followed = fresh;
        }
        let units = piece.units();
        let goes_on = !followed.overlapped && followed.came & units == 0;
        // What brings nothing new may be a duplicate.
        followed.overlapped |= !goes_on && followed.came & units != units;
        if goes_on {
            followed.came |= units;
            if piece.is_first() {
                followed.origin = Some(*flow);
            }
        }
        if piece.is_first() && (goes_on || followed.overlapped) {
            let (ready, waiting): (Vec<_>, _) = self
                .waiting
                .drain(..)
                .partition(|(early, w, ..)| (early.id, *w) == key);
            self.waiting = waiting;
            let ready = ready.into_iter().map(|(piece, .., packet)| (piece, packet));
            self.ready.extend(ready);
        }
        match followed.origin {
            _ if !goes_on => Belongs::Overlaps,
            Some(origin) => Belongs::To(origin),
            None => Belongs::Early,
        }
    }

    /// Where a fragment belongs that waited.
    pub(crate) fn again(&self, piece: Piece, way: Direction) -> Belongs {
        let followed = &self.followed[&(piece.id, way)];
        match followed.origin {
            _ if followed.overlapped => Belongs::Overlaps,
            Some(origin) => Belongs::To(origin),
            None => Belongs::Early,
        }
    }

    pub(crate) fn wait(&mut self, piece: Piece, way: Direction, now: Timestamp, packet: P) {
        self.waiting.push((piece, way, now, packet));
    }

    /// Drops what has waited for too long, or everything: how many.
    pub(crate) fn expire(&mut self, now: Option<Timestamp>) -> u64 {
        let mut gone = 0;
        while let Some((piece, way, since, _)) = self.waiting.first()
            && now.is_none_or(|now| now.since(*since) >= WAIT)
        {
            let (id, way) = (piece.id, *way);
            self.waiting.remove(0);
            gone += 1;
            let waits = self.has_early(id, way);
            let followed = self.followed.get_mut(&(id, way)).unwrap();
            if !waits && !followed.overlapped {
                followed.came = 0;
            }
        }
        gone
    }
}
