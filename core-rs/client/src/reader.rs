//! A thread that waits for requests in place of somebody who cannot, such as an event loop.
//!
//! It is started by the first wish and takes one batch for each: what nobody wished for stays queued
//! in the extension. Who wished may go away; what came is there for the next one.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kext_wire::receive::PayloadMode;

use crate::columns::RequestColumns;
use crate::receive::{Received, Wait};
use crate::{Error, Session};

/// A batch that is wished for: what [`Session::receive_columns`] is asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The most requests.
    pub most: u32,
    /// What payload they bring.
    pub payload: PayloadMode,
    /// How long to wait for the first one.
    pub wait: Wait,
}

/// What came of a wish.
#[derive(Debug)]
pub struct Arrival {
    /// The payload that was asked for.
    pub payload: PayloadMode,
    /// How the wait ended.
    pub received: Result<Received<RequestColumns>, Error>,
}

/// What became of a wish that was made known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wished {
    /// It is being seen to, or something has arrived already: the reader tells, or has told.
    Soon,
    /// An earlier wish is being seen to, which waits for as long as was wished. Nothing has arrived
    /// yet; the reader tells when it does.
    Waiting,
}

/// Waits for the requests of a session, in a thread of its own. Dropping it ends the thread.
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    session: Arc<Session>,
    /// Says that something has arrived.
    tell: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    /// Wakes the thread.
    wake: Condvar,
}

#[derive(Default)]
struct State {
    step: Step,
    stopped: bool,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
enum Step {
    /// Nobody wishes for anything.
    #[default]
    Idle,
    Wished(Wish),
    Receiving(Wait),
    /// Boxed, so that steps stay small.
    Arrived(Box<Arrival>),
}

impl Reader {
    /// A reader without a thread yet. `tell` is called in the thread, once for each arrival, when
    /// [`Reader::take`] has it, and when the reader is stopped before a wish was seen to.
    pub fn new(session: Arc<Session>, tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                session,
                tell: Box::new(tell),
                state: Mutex::default(),
                wake: Condvar::new(),
            }),
        }
    }

    /// Asks for one batch. Does nothing while another is asked for, or waits to be taken.
    ///
    /// # Errors
    /// [`Error::Forked`]; [`Error::Closed`] once the reader is stopped, and [`Error::NoThread`] if
    /// none can be started.
    pub fn wish(&self, wish: Wish) -> Result<Wished, Error> {
        if self.shared.session.is_forked() {
            return Err(Error::Forked);
        }
        let mut state = self.shared.state();
        if state.stopped {
            return Err(Error::Closed);
        }
        match state.step {
            Step::Idle => {}
            Step::Wished(Wish { wait, .. }) | Step::Receiving(wait) if wait != Wait::No => {
                return Ok(Wished::Waiting);
            }
            Step::Wished(_) | Step::Receiving(_) | Step::Arrived(_) => return Ok(Wished::Soon),
        }
        if state.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let named = thread::Builder::new().name("kext-reader".to_owned());
            let thread = named.spawn(move || shared.run());
            state.thread = Some(thread.map_err(|error| Error::NoThread(error.to_string()))?);
        }
        state.step = Step::Wished(wish);
        self.shared.wake.notify_one();
        Ok(Wished::Soon)
    }

    /// What has arrived, once.
    pub fn take(&self) -> Option<Arrival> {
        if self.shared.session.is_forked() {
            return None;
        }
        let mut state = self.shared.state();
        match mem::take(&mut state.step) {
            Step::Arrived(arrival) => Some(*arrival),
            other => {
                state.step = other;
                None
            }
        }
    }

    /// Ends the thread, and returns when it has ended. A wait of it is cancelled, and those of others
    /// with it. What has arrived and was not taken is held by the extension as before. Stopping again
    /// does nothing, nor does stopping in a child of the process.
    pub fn stop(&self) {
        if self.shared.session.is_forked() {
            return;
        }
        let Some(thread) = self.begin_to_stop() else {
            return;
        };
        if thread.thread().id() == thread::current().id() {
            // What it calls let go of this. It ends by itself.
            return;
        }
        // Bound: it wishes for no more, and each round ends its wait. A wait that had not begun in
        // one round does not hear of it, so it is told again.
        while !thread.is_finished() {
            if matches!(self.shared.state().step, Step::Receiving(_)) {
                self.shared.session.cancel();
            }
            thread::sleep(Duration::from_micros(100));
        }
        // If it panicked, there is nothing left that it could do.
        let _ = thread.join();
    }

    /// The same without waiting for the thread, where the process ends and threads are not what they
    /// were. A wait goes on until the session is closed.
    pub fn let_go(&self) {
        if !self.shared.session.is_forked() {
            drop(self.begin_to_stop());
        }
    }

    fn begin_to_stop(&self) -> Option<JoinHandle<()>> {
        let thread = {
            let mut state = self.shared.state();
            state.stopped = true;
            state.thread.take()
        };
        self.shared.wake.notify_all();
        thread
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.shared.session.is_forked() {
            // The thread is the parent's, and its lock may be held for ever here.
            mem::forget(Arc::clone(&self.shared));
        } else {
            self.stop();
        }
    }
}

impl Shared {
    /// What the thread does, until the reader is stopped.
    fn run(&self) {
        while let Some(wish) = self.next_wish() {
            let Wish {
                most,
                payload,
                wait,
            } = wish;
            let received = self.session.receive_columns(most, payload, wait);
            let arrival = Arrival { payload, received };
            self.state().step = Step::Arrived(Box::new(arrival));
            (self.tell)();
        }
    }

    /// Waits for a wish; none once the reader is stopped.
    fn next_wish(&self) -> Option<Wish> {
        let mut state = self.state();
        loop {
            if state.stopped {
                let unseen = matches!(state.step, Step::Wished(_));
                drop(state);
                if unseen {
                    (self.tell)();
                }
                return None;
            }
            if let Step::Wished(wish) = state.step {
                state.step = Step::Receiving(wish.wait);
                return Some(wish);
            }
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whatever a panic left, each field is true by itself.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
