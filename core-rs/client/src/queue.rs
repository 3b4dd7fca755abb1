//! Verdicts that wait to be sent together.
//!
//! A call of the extension costs many times what a verdict does. So a verdict for a request that was
//! given is put here, and sent with others: when the queue is full, before the session does anything
//! that could show the difference, and after an interval by a thread of its own, which sleeps while
//! nothing is queued.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kext_types::{Decision, VerdictOutcome};
use kext_wire::MAX_BATCH;

use crate::Error;
use crate::calls::Caller;
use crate::known::{Known, Standing};
use crate::verdicts::{self, Numbers, Outcomes};

/// How many verdicts wait at most.
const CAPACITY: usize = MAX_BATCH as usize;

/// What became of a verdict that was to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferred {
    /// It waits to be sent.
    Queued,
    /// It does too, and the queue is full: it is time for [`Session::flush_quietly`].
    ///
    /// [`Session::flush_quietly`]: crate::Session::flush_quietly
    Full,
    /// It was not taken: this session was not given the id, or long ago, or does not defer verdicts.
    /// [`Session::set_verdict`] finds out.
    ///
    /// [`Session::set_verdict`]: crate::Session::set_verdict
    Refused,
}

/// The queue of a session.
pub(crate) struct Queue {
    /// The longest time that a verdict waits; none waits if it is zero.
    interval: Duration,
    state: Mutex<State>,
    /// Whether there are verdicts that wait or are on their way.
    busy: AtomicBool,
    /// Held while verdicts are on their way. Taken before `state`.
    sending: Mutex<Message>,
    /// Wakes the thread that sends late verdicts.
    wake: Condvar,
}

struct State {
    known: Known,
    waiting: Columns,
    /// Since when the first of them waits.
    since: Option<Instant>,
    /// The first verdict that came too late since the last flush.
    failed: Option<Error>,
    /// Why verdicts could not be sent, the first time since then.
    unsent: Option<Error>,
    closed: bool,
    /// Whether the thread sleeps until it is woken.
    asleep: bool,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Columns {
    ids: Vec<u64>,
    numbers: Vec<i8>,
}

#[derive(Default)]
struct Message {
    verdicts: Columns,
    outcomes: Outcomes,
}

impl Queue {
    pub(crate) fn new(interval: Duration, packets: u32) -> Self {
        Self {
            interval,
            state: Mutex::new(State {
                known: Known::new(packets),
                waiting: Columns::default(),
                since: None,
                failed: None,
                unsent: None,
                closed: false,
                asleep: false,
                thread: None,
            }),
            busy: AtomicBool::new(false),
            sending: Mutex::new(Message::default()),
            wake: Condvar::new(),
        }
    }

    /// Takes note of ids that were given.
    pub(crate) fn give(&self, ids: &[u64]) {
        if !self.interval.is_zero() {
            self.state().known.give(ids);
        }
    }

    /// Queues a verdict, if the id may still get one. The second part says whether there is no thread
    /// yet that would send it.
    pub(crate) fn defer(&self, id: u64, decision: Decision) -> Result<(Deferred, bool), Error> {
        if self.interval.is_zero() {
            return Ok((Deferred::Refused, false));
        }
        let mut state = self.state();
        if state.closed {
            return Err(Error::Closed);
        }
        match state.known.decide(id, decision.number()) {
            Standing::Undecided => {}
            Standing::Decided(first) => return Err(Error::AlreadyDecided { id, first }),
            Standing::Unknown => return Ok((Deferred::Refused, false)),
        }
        state.waiting.ids.push(id);
        state.waiting.numbers.push(decision.number());
        let mut wants_thread = false;
        if state.since.is_none() {
            state.since = Some(Instant::now());
            self.busy.store(true, Ordering::Release);
            wants_thread = state.thread.is_none();
            if state.asleep {
                self.wake.notify_one();
            }
        }
        let deferred = if state.waiting.ids.len() >= CAPACITY {
            Deferred::Full
        } else {
            Deferred::Queued
        };
        Ok((deferred, wants_thread))
    }

    /// Whether a verdict for this id waits or is on its way.
    pub(crate) fn holds(&self, id: u64) -> bool {
        self.busy.load(Ordering::Acquire)
            && matches!(self.state().known.standing(id), Standing::Decided(_))
    }

    /// Takes note of what became of verdicts that were not queued.
    pub(crate) fn note(&self, ids: &[u64], numbers: Numbers<'_>, outcomes: &Outcomes) {
        if self.interval.is_zero() {
            return;
        }
        let mut state = self.state();
        for (row, (&id, &code)) in ids.iter().zip(&outcomes.codes).enumerate() {
            let number = match numbers {
                Numbers::Same(number) => number,
                Numbers::Each(numbers) => numbers.get(row).copied().unwrap_or(0),
            };
            match VerdictOutcome::from_number(code) {
                Some(VerdictOutcome::Applied) => state.known.settle(id, number),
                Some(VerdictOutcome::InvalidVerdict) => {}
                _ => state.known.forget(id),
            }
        }
    }

    /// Sends what waits, and returns when everything that was queued before has arrived.
    pub(crate) fn send(&self, caller: &Caller) {
        if !self.busy.load(Ordering::Acquire) {
            return;
        }
        let mut message = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let Message { verdicts, outcomes } = &mut *message;
        verdicts.ids.clear();
        verdicts.numbers.clear();
        outcomes.clear();
        {
            let mut state = self.state();
            std::mem::swap(&mut state.waiting, verdicts);
            state.since = None;
        }
        let numbers = Numbers::Each(&verdicts.numbers);
        let sent = verdicts::set(caller, &verdicts.ids, numbers, outcomes);
        let mut state = self.state();
        for (row, (&id, &code)) in verdicts.ids.iter().zip(&outcomes.codes).enumerate() {
            if code == VerdictOutcome::Applied.number() {
                continue;
            }
            state.known.forget(id);
            if state.failed.is_none() {
                state.failed = outcomes.result(row, id).err();
            }
        }
        if let Err(error) = sent {
            // Those have no verdict: they may get one yet.
            let unsent = verdicts.ids.get(outcomes.codes.len()..);
            state.known.give(unsent.unwrap_or_default());
            state.unsent.get_or_insert(error);
        }
        if state.waiting.ids.is_empty() {
            self.busy.store(false, Ordering::Release);
        }
    }

    /// The first failure since the last call of this: why verdicts could not be sent, else what became
    /// of one that came too late.
    pub(crate) fn failure(&self) -> Option<Error> {
        let mut state = self.state();
        let failed = state.failed.take();
        state.unsent.take().or(failed)
    }

    /// Why verdicts could not be sent since then, if any could not.
    pub(crate) fn unsent(&self) -> Option<Error> {
        self.state().unsent.take()
    }

    /// Refuses verdicts from now on; those that wait are still to be sent.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_all();
    }

    /// Waits for the thread to end; after [`Queue::close`].
    pub(crate) fn join(&self) {
        let thread = self.state().thread.take();
        if let Some(thread) = thread {
            // If it panicked, there is nothing left that it could do.
            let _ = thread.join();
        }
    }

    /// Starts the thread that sends what has waited for the interval, unless there is one.
    pub(crate) fn start(&self, run: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        if state.thread.is_some() || state.closed {
            return;
        }
        let named = thread::Builder::new().name("kext-verdicts".to_owned());
        // Without a thread, verdicts still go with the next call.
        state.thread = named.spawn(run).ok();
    }

    /// What the thread does, until the queue is closed.
    pub(crate) fn run(&self, caller: &Arc<Caller>) {
        let mut state = self.state();
        // Whether nothing came for a whole interval. Only then it is worth waking this thread for each
        // first verdict: until then it looks by itself.
        let mut idle = false;
        while !state.closed {
            let now = Instant::now();
            let due = state.since.and_then(|since| due(since, self.interval));
            state = match due {
                Some(due) if due <= now => {
                    drop(state);
                    self.send(caller);
                    idle = false;
                    self.state()
                }
                Some(due) => {
                    idle = false;
                    self.wait(state, due - now)
                }
                None if idle => {
                    state.asleep = true;
                    let mut state = self
                        .wake
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                    state.asleep = false;
                    state
                }
                None => {
                    idle = true;
                    self.wait(state, self.interval)
                }
            };
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.wake.wait_timeout(state, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whatever a panic left, each field is true by itself.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When verdicts that have waited since then are to be sent; `None` where the interval is longer than
/// clocks go: then only calls send them.
fn due(since: Instant, interval: Duration) -> Option<Instant> {
    since.checked_add(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_longer_than_clocks_go_is_never_due() {
        let now = Instant::now();
        assert_eq!(due(now, Duration::MAX), None);
        assert!(due(now, Duration::from_millis(1)) > Some(now));
    }
}
