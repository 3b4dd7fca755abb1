//! Calls that fail because the test wants them to.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;

use crate::observe::{self, Imported};
use crate::symbols;

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// None; the calls that could fail are counted.
    Count,
    /// The first from the n-th distinct place in the driver, counted from 0. A place is the call
    /// and the functions of the driver around it.
    Site(usize),
    /// The n-th of all, counted from 0.
    Nth(usize),
    /// About one in so many, chosen by a generator with this seed.
    Often {
        /// One in so many calls fails.
        one_in: u32,
        /// Where the generator starts.
        seed: u64,
    },
}

#[derive(Debug, Default)]
struct State {
    chosen: Option<Faults>,
    calls: usize,
    sites: HashSet<Vec<usize>>,
    /// In the order of their first call: the function and where it was called.
    order: Vec<(&'static str, usize)>,
    failed: Vec<(&'static str, usize)>,
    random: u64,
}

static ON: AtomicBool = AtomicBool::new(false);
static PAUSED: AtomicU8 = AtomicU8::new(0);
static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Chooses which calls fail from now on.
pub fn set(faults: Faults) {
    let random = match faults {
        Faults::Often { seed, .. } => seed | 1,
        _ => 0,
    };
    *STATE.lock() = Some(State {
        chosen: Some(faults),
        random,
        ..State::default()
    });
    ON.store(true, Ordering::Release);
}

/// No call fails from now on. Returns how many could have failed, and from how many places.
pub fn clear() -> (usize, usize) {
    ON.store(false, Ordering::Release);
    let state = STATE.lock();
    state
        .as_ref()
        .map_or((0, 0), |state| (state.calls, state.order.len()))
}

/// The calls that were made to fail, in words.
pub fn failed() -> Vec<String> {
    let failed = STATE
        .lock()
        .as_ref()
        .map(|state| state.failed.clone())
        .unwrap_or_default();
    let addresses: Vec<usize> = failed.iter().map(|(_, from)| *from).collect();
    failed
        .iter()
        .zip(symbols::places(&addresses))
        .map(|((name, _), place)| format!("{name} from {place}"))
        .collect()
}

/// Runs something without failures, also on other threads.
pub(crate) fn paused<R>(work: impl FnOnce() -> R) -> R {
    PAUSED.fetch_add(1, Ordering::SeqCst);
    let result = work();
    PAUSED.fetch_sub(1, Ordering::SeqCst);
    result
}

/// Where to go instead of to the function, if this call is to fail.
pub(crate) fn choose(imported: &'static Imported) -> Option<usize> {
    if !ON.load(Ordering::Acquire) {
        return None;
    }
    let failure = imported.failure?;
    if PAUSED.load(Ordering::Relaxed) > 0 {
        return None;
    }
    let mut state = STATE.lock();
    let state = state.as_mut()?;
    let call = state.calls;
    state.calls += 1;
    let site = observe::whole_site();
    let new = state.sites.insert(site);
    if new {
        state.order.push((imported.name, observe::site()));
    }
    let fails = match state.chosen? {
        Faults::Count => false,
        Faults::Site(number) => new && state.order.len() == number + 1,
        Faults::Nth(number) => call == number,
        Faults::Often { one_in, .. } => {
            // xorshift64
            state.random ^= state.random << 13;
            state.random ^= state.random >> 7;
            state.random ^= state.random << 17;
            state.random % u64::from(one_in.max(1)) == 0
        }
    };
    if !fails {
        return None;
    }
    state.failed.push((imported.name, observe::site()));
    Some(failure)
}
