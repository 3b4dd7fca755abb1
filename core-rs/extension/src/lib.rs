//! The extension: what a host's packets and user mode's requests come to.
//!
//! Portable glue around the engine, generic over a [`Host`]: the WFP driver, the replay of captures
//! and live Linux queues all run this very code. [`Extension::classify`] takes packets,
//! [`Extension::dispatch`] takes device requests, [`Extension::tick`] takes the time.
//!
//! Nothing here waits. A read that finds no request is handed back to the host as
//! [`Dispatch::Pend`], to be tried again when [`Host::requests_ready`] says so.

#![no_std]
#![forbid(unsafe_code)]

mod authorize;
mod classify;
mod dispatch;
mod extended;
mod host;
mod v1;

use kext_engine::{Engine, Releases, StartError};
use kext_sync::Lock;
use kext_sync::atomic::{AtomicU8, Ordering};
use kext_types::{Capacities, Config, Direction, FlowKey, ProcessId};
use kext_wire::Status;

pub use authorize::{Authorization, Connect};
pub use classify::Classification;
pub use dispatch::{Attempt, Dispatch};
pub use host::{Host, InjectError, Injection, InjectionKind};
pub use kext_engine::{ConnectId, Lane, MAX_CONNECTS, PacketBytes};

/// How many due packets one [`Extension::tick`] settles.
pub const TICK_LIMIT: usize = 64;

/// How many of them may be of one flow in a row.
const TICK_EACH: u32 = 16;

/// Nobody has the handle.
const CLOSED: u8 = 0;
/// Its owner reads.
const OPEN: u8 = 1;
/// Its owner has said that it reads no more.
const SHUT_DOWN: u8 = 2;
/// It was closed, and what its owner left behind is being settled.
const CLOSING: u8 = 3;

/// The extension around one host.
pub struct Extension<H: Host> {
    host: H,
    engine: Engine<H::Lock>,
    /// The state of the one handle that user mode may have. Changed under `transition` only.
    handle: AtomicU8,
    /// Makes one step of a change of state and of telling the engine whether anybody reads: else a
    /// new owner could be told of by the end of the one before. Taken before every engine lock.
    transition: Lock<H::Lock, ()>,
}

impl<H: Host> Extension<H> {
    /// An extension with all its memory; nobody reads yet.
    pub fn try_new(host: H, capacities: Capacities, config: Config) -> Result<Self, StartError> {
        let engine = Engine::try_new(capacities, config, host.random())?;
        Ok(Self {
            host,
            engine,
            handle: AtomicU8::new(CLOSED),
            transition: Lock::new(()),
        })
    }

    /// The host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The engine, for hosts that show its counters.
    pub fn engine(&self) -> &Engine<H::Lock> {
        &self.engine
    }

    /// A place to count for one of the threads or processors that present packets, to be kept: see
    /// [`Engine::lane`].
    pub fn lane(&self, number: usize) -> Lane<'_> {
        self.engine.lane(number)
    }

    /// Says which process a flow belongs to: see [`Engine::set_owner`].
    pub fn set_owner(&self, flow: &FlowKey, process_id: ProcessId) {
        self.engine.set_owner(flow, process_id, self.host.now());
    }

    /// Says that a program has sent or received so many bytes of a flow's payload: see
    /// [`Engine::add_payload`].
    pub fn add_payload(&self, flow: &FlowKey, direction: Direction, bytes: u64) {
        self.engine
            .add_payload(flow, direction, bytes, self.host.now());
    }

    /// Says that a program has received payload from this machine itself: see
    /// [`Engine::add_returned_payload`].
    pub fn add_returned_payload(&self, flow: &FlowKey, bytes: u64) {
        self.engine.add_returned_payload(flow, bytes);
    }

    /// Says which program a process runs: see [`Engine::set_process_path`].
    pub fn set_process_path(&self, process_id: ProcessId, utf16: &[u8]) {
        self.engine
            .set_process_path(process_id, utf16, self.host.now());
    }

    /// Says that a flow's connection has ended: see [`Engine::end_flow`].
    pub fn end_flow(&self, flow: &FlowKey) {
        self.engine.end_flow(flow);
    }

    /// User mode opens the device: from now on somebody reads.
    ///
    /// [`Status::DEVICE_BUSY`] if another owner has it, or has left packets that are being settled.
    pub fn open(&self) -> Result<(), Status> {
        if self.change(&[CLOSED], OPEN) {
            Ok(())
        } else {
            Err(Status::DEVICE_BUSY)
        }
    }

    /// The last handle is closed: held packets are settled by policy, and nobody reads. The host
    /// ends its waiting reads itself. Closing twice does nothing.
    pub fn close(&self) {
        if self.change(&[OPEN, SHUT_DOWN], CLOSING) {
            self.settle_abandoned();
            self.end_holds();
            self.engine.drop_early();
            self.engine.keep_events(false);
            self.end_closing();
        }
    }

    /// Nobody has the handle, and what its last owner left behind is settled. Right after a close this
    /// is not so while another thread lets a packet go; the tick settles the rest of its flow then.
    pub fn is_closed(&self) -> bool {
        self.handle.load(Ordering::Acquire) == CLOSED
    }

    /// The handle is closed once nothing is held that its owner left behind.
    fn end_closing(&self) {
        if self.handle.load(Ordering::Acquire) == CLOSING && !self.engine.holds_abandoned() {
            self.change(&[CLOSING], CLOSED);
        }
    }

    /// Whether somebody reads: a read that is dispatched now is not answered at once for lack of a
    /// reading owner.
    pub fn is_reading(&self) -> bool {
        self.handle.load(Ordering::Acquire) == OPEN
    }

    /// The owner says that it will read no more, but keeps its handle.
    fn shut_down(&self) {
        if self.change(&[OPEN], SHUT_DOWN) {
            // Waiting reads are to find that there is nothing to wait for.
            self.host.requests_ready();
            self.settle_abandoned();
            self.end_holds();
        }
    }

    /// Takes the handle from one of these states to another; says whether it was in one of them.
    fn change(&self, from: &[u8], to: u8) -> bool {
        let _transition = self.transition.lock();
        let possible = from.contains(&self.handle.load(Ordering::Relaxed));
        if possible {
            self.handle.store(to, Ordering::Release);
            self.engine.set_reader(to == OPEN);
        }
        possible
    }

    fn settle_abandoned(&self) {
        // Bound: twice as many packets as can be held, as those of a held flow join it meanwhile; the
        // tick settles what remains. The caller is a thread that closes, and no lock is held from
        // packet to packet.
        for _ in 0..self.engine.capacities().packets.saturating_mul(2) {
            let Some(releases) = self.engine.settle_abandoned() else {
                return;
            };
            self.let_go(releases);
        }
    }

    /// Does what time has brought about, at most [`TICK_LIMIT`] packets of it, and says whether more
    /// is due at once. To be called about every 100 ms.
    pub fn tick(&self) -> bool {
        let now = self.host.now();
        let mut left = TICK_LIMIT as u32;
        let mut idle = true;
        // Bound: TICK_LIMIT, as each turn counts for one packet at least.
        while left > 0 {
            let Some(releases) = self.engine.tick(now) else {
                break;
            };
            idle = false;
            let gone = self.end_all(releases.at_most(left.min(TICK_EACH)));
            left = left.saturating_sub(gone.max(1));
        }
        if !idle {
            self.wake_readers();
        }
        self.end_closing();
        let all_ended = self.end_due_holds();
        left == 0 || !all_ended
    }

    /// Lets packets go as the engine says, in order, then wakes readers if that raised requests.
    fn let_go(&self, releases: Releases<'_, H::Lock>) {
        self.end_all(releases);
        self.wake_readers();
    }

    /// Says how many there were.
    fn end_all(&self, mut releases: Releases<'_, H::Lock>) -> u32 {
        let mut count = 0;
        // Bound: the releases' own budget.
        while let Some(release) = releases.next(|len| self.host.allocate(len)) {
            self.end_held(release);
            count += 1;
        }
        count
    }

    fn wake_readers(&self) {
        if self.engine.queued_requests() > 0 {
            self.host.requests_ready();
        }
    }
}
