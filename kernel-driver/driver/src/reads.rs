//! Device requests that find nothing, and wait.
//!
//! A read that is to wait is kept. When verdict requests are raised, a deferred call tries the reads
//! again, outside of the callout that raised them: its stack stays small, and requests that come
//! together leave together. A timer ends the reads whose wait is over.
//!
//! No waking is lost. Whoever wakes counts first and then looks whether a read waits; whoever keeps a
//! read does it first and then looks whether the count is still what it was before it asked.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use kext_extension::{Attempt, Dispatch};
use kext_nt::deferred::Deferred;
use kext_nt::irql;
use kext_nt::irql::Passive;
use kext_nt::pended::{FOR_EVER, Pended, Place, Waiting};
use kext_nt::request::{Answered, FileId, Request};
use kext_nt::timer::Timer;
use kext_nt::{Lock, Result, Status, deferred, time};
use kext_nt_sys::status::STATUS_INTERNAL_ERROR;

use crate::control::raw;
use crate::kext::{KEXT, Kext};

/// How many reads can wait at once.
const MOST_READS: usize = 256;
/// How many reads one deferred call answers; the rest is left to the next.
const ANSWERED_AT_ONCE: usize = 64;

/// Reads that wait.
pub(crate) struct Reads {
    pended: Pended,
    /// How many times somebody woke.
    wakes: AtomicU32,
    retry: Deferred<Kext>,
}

impl Reads {
    pub(crate) fn try_new() -> Result<Self> {
        Ok(Self {
            pended: Pended::try_new(MOST_READS)?,
            wakes: AtomicU32::new(0),
            retry: Deferred::try_new(&KEXT, |kext, _| kext.retry_reads())?,
        })
    }

    /// A new owner may read.
    pub(crate) fn open(&self, file: FileId) {
        self.pended.open(file);
    }

    /// Whether this file is the owner's.
    pub(crate) fn serves(&self, file: FileId) -> bool {
        self.pended.serves(file)
    }

    /// Cancels the reads of this file, and says whether it was the owner's until now.
    pub(crate) fn close(&self, file: FileId) -> bool {
        self.pended.close(file)
    }

    /// Cancels all reads, and says whether there was an owner until now.
    pub(crate) fn close_any(&self) -> bool {
        self.pended.close_any()
    }

    /// Waiting reads are to be tried again.
    pub(crate) fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        if !self.pended.is_empty() {
            self.retry.queue();
        }
    }

    fn wakes(&self) -> u32 {
        self.wakes.load(Ordering::SeqCst)
    }

    /// Waits until no read is being tried.
    #[expect(
        clippy::unused_self,
        reason = "deferred calls are waited for all at once"
    )]
    pub(crate) fn stop(&self, passive: &Passive) {
        deferred::flush(passive);
    }
}

/// Ends reads whose wait is over.
pub(crate) struct ReadTimer {
    timer: Timer<Kext>,
    /// For which time it is set; [`FOR_EVER`] if it is not.
    set_for: Lock<u64>,
}

impl ReadTimer {
    pub(crate) fn try_new() -> Result<Self> {
        Ok(Self {
            timer: Timer::try_new(&KEXT, Kext::end_due_reads)?,
            set_for: Lock::new(FOR_EVER),
        })
    }

    pub(crate) fn stop(&self, passive: &Passive) {
        self.timer.stop(passive);
    }

    /// Sees to it that it rings at this time, or before.
    fn ring_at(&self, deadline: u64) {
        let mut set_for = self.set_for.lock();
        if deadline < *set_for {
            *set_for = deadline;
            let units = deadline.saturating_sub(time::since_start()).max(1);
            self.timer.set(Duration::from_nanos(
                units.saturating_mul(time::NANOS_PER_UNIT),
            ));
        }
    }

    fn rang(&self) {
        *self.set_for.lock() = FOR_EVER;
    }
}

impl Kext {
    pub(crate) fn reads(&self) -> &'static Reads {
        &self.extension.host().reads
    }

    /// Answers a device request, or keeps it until it can be answered.
    pub(crate) fn answer(&self, mut request: Request) -> Answered {
        let reads = self.reads();
        let wakes = reads.wakes();
        let deadline = match self.dispatch(&mut request, Attempt::Normal) {
            Dispatch::Complete {
                status,
                information,
            } => return request.complete(raw(status), information),
            Dispatch::Pend { wait: None, .. } => FOR_EVER,
            Dispatch::Pend {
                wait: Some(Duration::ZERO),
                ..
            } => return self.end(request),
            Dispatch::Pend {
                wait: Some(wait), ..
            } => time::after(time::since_start(), wait),
        };
        let answered = reads.pended.put(Waiting { request, deadline }, Place::Last);
        if deadline != FOR_EVER {
            self.read_timer.ring_at(deadline);
        }
        if reads.wakes() != wakes {
            self.retry_reads();
        }
        answered
    }

    /// Answers a request whose wait is over.
    fn end(&self, mut request: Request) -> Answered {
        match self.dispatch(&mut request, Attempt::TimedOut) {
            Dispatch::Complete {
                status,
                information,
            } => request.complete(raw(status), information),
            Dispatch::Pend { .. } => request.fail(Status(STATUS_INTERNAL_ERROR)),
        }
    }

    /// Tries the reads that wait, the oldest first, until one finds nothing.
    fn retry_reads(&self) {
        let reads = self.reads();
        // Bound: ANSWERED_AT_ONCE.
        for _ in 0..ANSWERED_AT_ONCE {
            let wakes = reads.wakes();
            let Some(mut waiting) = reads.pended.take_first() else {
                return;
            };
            match self.dispatch(&mut waiting.request, Attempt::Normal) {
                Dispatch::Complete {
                    status,
                    information,
                } => {
                    let _ = waiting.request.complete(raw(status), information);
                }
                Dispatch::Pend { .. } => {
                    let _ = reads.pended.put(waiting, Place::First);
                    if reads.wakes() == wakes {
                        return;
                    }
                }
            }
        }
        reads.retry.queue();
    }

    fn end_due_reads(&self, _: &irql::Dispatch) {
        let reads = self.reads();
        self.read_timer.rang();
        let now = time::since_start();
        // Bound: MOST_READS, as none is put back.
        while let Some(waiting) = reads.pended.take_due(now) {
            let _ = self.end(waiting.request);
        }
        let next = reads.pended.first_deadline();
        if next != FOR_EVER {
            self.read_timer.ring_at(next);
        }
    }
}
