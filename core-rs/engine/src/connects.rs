//! Connects that wait for their verdict before they send a packet, and what they are told.
//!
//! What waits in the packet cache for a connect is a packet that stands for it, under the rules of packets.
//! Here is what becomes of the connect, step by step:
//!
//! 1. **Asking**: the host is about to hold it. If it cannot, that is all.
//! 2. **Held**: its stand-in is in the packet cache.
//! 3. **Decided**: the stand-in has left, whatever set it free. The host is to end the hold.
//! 4. **Ending**: the host does so, and at any moment asks about the connect again, to be told what was
//!    decided. It is told the same as often as it asks, since it may also ask for reasons of its own. If the
//!    verdict is for this packet alone, that is the connect's first one, so nobody is asked about it again.
//!
//! It is part of the packet cache's state, under its lock.

use kext_types::{FlowKey, Reason, Timestamp};

use crate::ANY_FLOW;
use crate::action::Action;
use crate::memory::OutOfMemory;
use crate::table::{Handle, Table};
use crate::tags;

/// Places for connects: as many can wait at once, or a few less if they happen to want the same places.
pub const MAX_CONNECTS: usize = 1_024;

const _: () = assert!(tags::buckets_for(MAX_CONNECTS) * tags::WAYS == MAX_CONNECTS);

/// How long it is remembered what a connect was told, in nanoseconds: the host asks again, and the first
/// packet follows, as soon as the hold ends.
const REMEMBERED: u64 = 5_000_000_000;

/// How the stand-in of a connect that was closed meanwhile ends, whatever lets it go: the connect was told
/// that it is refused.
pub(crate) const CLOSED: Reason = Reason::BlockedConnect;

/// A connect that the host holds, or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectId(Handle);

impl ConnectId {
    /// Its place, less than [`MAX_CONNECTS`]: for what the host keeps beside it. It is another
    /// connect's once the host has ended this one.
    pub const fn place(self) -> usize {
        self.0.place()
    }
}

/// What a host is to tell a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorized {
    /// Nothing: it goes on as if nobody had been asked.
    PassOn,
    /// It is refused.
    Refuse,
    /// Nothing yet. It is to be held, and [`Engine::hold_connect`](crate::Engine::hold_connect) asks for
    /// its verdict; or if it cannot be,
    /// [`Engine::let_connect_pass`](crate::Engine::let_connect_pass) forgets it.
    Hold(ConnectId),
}

/// What was decided about a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Refuse,
    Permit,
    /// It goes on, and with its first packet this is done.
    PermitFirst(Action),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asking,
    /// By the stand-in in this slot.
    Held(u32),
    Decided(Outcome),
    Ending(Outcome),
}

struct Connect {
    /// The host's name for the socket.
    endpoint: u64,
    state: State,
    /// When it was told that its hold is to end, if it was.
    since: Timestamp,
    /// The connect that was decided after this one, and is to be ended.
    next_decided: Option<Handle>,
}

pub(crate) struct Connects {
    table: Table<FlowKey, Connect>,
    /// First and last of those that the host is to end, and how many there are.
    decided: Option<(Handle, Handle)>,
    decided_len: u32,
}

impl Connect {
    /// Since when nothing more has to be done with it, though it is remembered.
    const fn over_since(&self) -> Option<Timestamp> {
        match self.state {
            State::Ending(_) => Some(self.since),
            State::Asking | State::Held(_) | State::Decided(_) => None,
        }
    }

    fn is_forgotten(&self, now: Timestamp) -> bool {
        self.over_since()
            .is_some_and(|since| now.as_nanos().saturating_sub(since.as_nanos()) > REMEMBERED)
    }
}

impl Connects {
    pub(crate) fn try_new() -> Result<Self, OutOfMemory> {
        let table = Table::try_new("connects", MAX_CONNECTS, MAX_CONNECTS, || {
            let none = Connect {
                endpoint: 0,
                state: State::Asking,
                since: Timestamp::from_nanos(0),
                next_decided: None,
            };
            (ANY_FLOW, none)
        })?;
        Ok(Self {
            table,
            decided: None,
            decided_len: 0,
        })
    }

    /// How many are known, in whatever state.
    pub(crate) fn len(&self) -> u32 {
        self.table.len() as u32
    }

    /// How many the host is to end.
    pub(crate) const fn decided(&self) -> u32 {
        self.decided_len
    }

    /// The connect of a flow, unless it is forgotten by now.
    fn find(&mut self, hash: u64, flow: &FlowKey, now: Timestamp) -> Option<Handle> {
        let handle = self.table.find(hash, flow)?;
        if self.table.get(handle)?.is_forgotten(now) {
            self.table.remove(handle);
            return None;
        }
        Some(handle)
    }

    /// What the host is to say of a connect that was held and is decided; `None` if this one is not.
    pub(crate) fn answer(
        &mut self,
        hash: u64,
        flow: &FlowKey,
        endpoint: u64,
        now: Timestamp,
    ) -> Option<Authorized> {
        let handle = self.find(hash, flow, now)?;
        let connect = self.table.get(handle)?;
        if connect.endpoint != endpoint {
            return None;
        }
        match connect.state {
            State::Decided(outcome) | State::Ending(outcome) => Some(match outcome {
                Outcome::Refuse => Authorized::Refuse,
                Outcome::Permit | Outcome::PermitFirst(_) => Authorized::PassOn,
            }),
            State::Asking | State::Held(_) => None,
        }
    }

    /// A place for a connect that is to be held; `None` if there is none, or if another one between the
    /// same ends has not ended.
    pub(crate) fn ask(
        &mut self,
        hash: u64,
        flow: &FlowKey,
        endpoint: u64,
        now: Timestamp,
    ) -> Option<ConnectId> {
        if let Some(handle) = self.find(hash, flow, now) {
            self.table.get(handle)?.over_since()?;
            self.table.remove(handle);
        }
        let rank = |connect: &Connect| connect.over_since().map(Timestamp::as_nanos);
        let (handle, connect) = self.table.insert(hash, flow, rank)?;
        *connect = Connect {
            endpoint,
            state: State::Asking,
            since: now,
            next_decided: None,
        };
        Some(ConnectId(handle))
    }

    /// Forgets a connect that the host could not hold.
    pub(crate) fn forget(&mut self, id: ConnectId) {
        let asking = |connect: &Connect| connect.state == State::Asking;
        if self.table.get(id.0).is_some_and(asking) {
            self.table.remove(id.0);
        }
    }

    /// A connect's stand-in is in this slot.
    pub(crate) fn held(&mut self, id: ConnectId, slot: u32) {
        if let Some(connect) = self.table.get_mut(id.0) {
            connect.state = State::Held(slot);
        }
    }

    /// A connect that was to be held needs no stand-in: it is decided.
    pub(crate) fn decide(&mut self, id: ConnectId, ending: Ending) {
        self.end(id.0, State::Asking, ending);
    }

    /// The stand-in in this slot leaves, and with it its connect's wait ends. Says whether it had not ended
    /// before: a connect that was closed has another state by now, or another slot.
    pub(crate) fn stand_in_leaves(&mut self, id: ConnectId, slot: u32, ending: Ending) -> bool {
        self.end(id.0, State::Held(slot), ending)
    }

    /// A socket was closed: if its connect waits, that ends. Its stand-in stays, as packets do whose
    /// connection has ended.
    pub(crate) fn close(&mut self, hash: u64, flow: &FlowKey, endpoint: u64) {
        let Some(handle) = self.table.find(hash, flow) else {
            return;
        };
        let Some(connect) = self.table.get(handle) else {
            return;
        };
        if connect.endpoint != endpoint {
            return;
        }
        match connect.state {
            state @ State::Held(_) => {
                self.end(handle, state, Ending::Refused);
            }
            State::Ending(_) => self.table.remove(handle),
            // Whoever is at it goes on with it.
            State::Asking | State::Decided(_) => {}
        }
    }

    fn end(&mut self, handle: Handle, from: State, ending: Ending) -> bool {
        let Some(connect) = self.table.get_mut(handle) else {
            return false;
        };
        if connect.state != from {
            return false;
        }
        connect.state = State::Decided(match ending {
            Ending::Refused => Outcome::Refuse,
            Ending::GoesOn => Outcome::Permit,
            Ending::GoesOnWith(action) => Outcome::PermitFirst(action),
        });
        connect.next_decided = None;
        self.decided = Some(match self.decided {
            None => (handle, handle),
            Some((first, last)) => {
                if let Some(last) = self.table.get_mut(last) {
                    last.next_decided = Some(handle);
                }
                (first, handle)
            }
        });
        self.decided_len += 1;
        true
    }

    /// Takes the next connect that the host is to end.
    pub(crate) fn take_decided(&mut self, now: Timestamp) -> Option<ConnectId> {
        let (first, last) = self.decided.take()?;
        self.decided_len = self.decided_len.saturating_sub(1);
        let connect = self.table.get_mut(first)?;
        let next = connect.next_decided.take();
        if let State::Decided(outcome) = connect.state {
            connect.state = State::Ending(outcome);
            connect.since = now;
        }
        self.decided = next.map(|next| (next, last));
        Some(ConnectId(first))
    }

    /// What is to be done with the first packet of a connect that was let go on for this packet alone.
    pub(crate) fn take_first(
        &mut self,
        hash: u64,
        flow: &FlowKey,
        now: Timestamp,
    ) -> Option<Action> {
        let handle = self.find(hash, flow, now)?;
        let State::Ending(Outcome::PermitFirst(action)) = self.table.get(handle)?.state else {
            return None;
        };
        self.table.remove(handle);
        Some(action)
    }
}

/// How a connect's wait ends.
#[derive(Clone, Copy)]
pub(crate) enum Ending {
    Refused,
    /// Its packets are judged by themselves: by the cached verdict, or by asking again.
    GoesOn,
    /// This is done with its first packet.
    GoesOnWith(Action),
}

impl Ending {
    /// How the wait of a connect ends with whose stand-in this is done, and under which reason that is
    /// counted. `lasting` says that the flow is cached with it.
    pub(crate) const fn of(action: Action, lasting: bool) -> (Self, Reason) {
        match action {
            Action::Block(_) => (Self::Refused, Reason::BlockedConnect),
            Action::Drop(_) => (Self::Refused, Reason::DroppedConnect),
            Action::Permit(_) | Action::Redirect(..) if lasting => {
                (Self::GoesOn, Reason::PermittedConnect)
            }
            Action::Permit(_) | Action::Redirect(..) => {
                (Self::GoesOnWith(action), Reason::PermittedConnect)
            }
        }
    }
}
