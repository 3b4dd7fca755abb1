//! Something that a test does in the middle of the driver: at its next call of a function, on the
//! driver's thread and at its level, before the function does anything.
//!
//! Races of several threads are shown so, always in the same order.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::observe::Imported;

type Condition = Box<dyn Fn() -> bool + Send>;
type Work = Box<dyn FnOnce() + Send>;

struct Moment {
    function: &'static str,
    when: Condition,
    work: Work,
}

static AWAITED: AtomicBool = AtomicBool::new(false);
static MOMENT: Mutex<Option<Moment>> = Mutex::new(None);

/// Does something, once, when the driver next calls this function while that is so. What was to be done
/// before and has not come is forgotten.
pub(crate) fn at(
    function: &'static str,
    when: impl Fn() -> bool + Send + 'static,
    work: impl FnOnce() + Send + 'static,
) {
    *MOMENT.lock() = Some(Moment {
        function,
        when: Box::new(when),
        work: Box::new(work),
    });
    AWAITED.store(true, Ordering::Release);
}

/// The driver calls this function.
pub(crate) fn reached(imported: &'static Imported) {
    if !AWAITED.load(Ordering::Acquire) {
        return;
    }
    let mut moment = MOMENT.lock();
    let now = moment.as_ref().is_some_and(|moment| {
        imported
            .name
            .split_once('!')
            .is_some_and(|(_, name)| name == moment.function)
            && (moment.when)()
    });
    if !now {
        return;
    }
    AWAITED.store(false, Ordering::Release);
    let Some(Moment { work, .. }) = moment.take() else {
        return;
    };
    // It may await the next moment, and the driver may call from inside.
    drop(moment);
    work();
}
