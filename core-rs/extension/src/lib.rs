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

mod classify;
mod dispatch;
mod extended;
mod host;
mod v1;

use kext_engine::{Engine, Releases, StartError};
use kext_sync::atomic::{AtomicU8, Ordering};
use kext_types::{Capacities, Config};
use kext_wire::Status;

pub use classify::Classification;
pub use dispatch::{Attempt, Dispatch};
pub use host::{Host, InjectError, Injection, InjectionKind};

/// How many due packets one [`Extension::tick`] settles.
pub const TICK_LIMIT: usize = 64;

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const SHUT_DOWN: u8 = 2;

/// The extension around one host.
pub struct Extension<H: Host> {
    host: H,
    engine: Engine<H::Lock>,
    /// The state of the one handle that user mode may have.
    handle: AtomicU8,
}

impl<H: Host> Extension<H> {
    /// An extension with all its memory; nobody reads yet.
    pub fn try_new(host: H, capacities: Capacities, config: Config) -> Result<Self, StartError> {
        let engine = Engine::try_new(capacities, config, host.random())?;
        Ok(Self {
            host,
            engine,
            handle: AtomicU8::new(CLOSED),
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

    /// User mode opens the device: from now on somebody reads.
    ///
    /// [`Status::DEVICE_BUSY`] if another owner has it.
    pub fn open(&self) -> Result<(), Status> {
        self.handle
            .compare_exchange(CLOSED, OPEN, Ordering::AcqRel, Ordering::Acquire)
            .map_err(|_| Status::DEVICE_BUSY)?;
        self.engine.set_reader(true);
        Ok(())
    }

    /// The last handle is closed: held packets are settled by policy, and nobody reads. The host
    /// ends its waiting reads itself. Closing twice does nothing.
    pub fn close(&self) {
        if self.handle.swap(CLOSED, Ordering::AcqRel) != CLOSED {
            self.abandon();
        }
    }

    /// The owner says that it will read no more, but keeps its handle.
    fn shut_down(&self) {
        let shut =
            self.handle
                .compare_exchange(OPEN, SHUT_DOWN, Ordering::AcqRel, Ordering::Acquire);
        if shut.is_ok() {
            self.abandon();
            // Waiting reads are to find that there is nothing to wait for.
            self.host.requests_ready();
        }
    }

    fn is_reading(&self) -> bool {
        self.handle.load(Ordering::Acquire) == OPEN
    }

    fn abandon(&self) {
        self.engine.set_reader(false);
        // Bound: the packets held, as no more are taken while nobody reads. The caller is a thread
        // that closes, and no lock is held from packet to packet.
        while let Some(releases) = self.engine.settle_abandoned() {
            self.let_go(releases);
        }
    }

    /// Does what time has brought about, at most [`TICK_LIMIT`] packets of it, and says whether more
    /// is due at once. To be called about every 100 ms.
    pub fn tick(&self) -> bool {
        let now = self.host.now();
        // Bound: TICK_LIMIT.
        for _ in 0..TICK_LIMIT {
            match self.engine.tick(now) {
                Some(releases) => self.let_go(releases),
                None => return false,
            }
        }
        true
    }

    /// Lets packets go as the engine says, in order, then wakes readers if that raised requests.
    fn let_go(&self, mut releases: Releases<'_, H::Lock>) {
        // Bound: the releases' own budget.
        while let Some(release) = releases.next(|len| self.host.allocate(len)) {
            self.end_held(release);
        }
        if self.engine.queued_requests() > 0 {
            self.host.requests_ready();
        }
    }
}
