//! What lives from loading to unloading, and the order of both.
//!
//! Three places, each emptied before the next: [`KEXT`] has what calls us, [`EXTENSION`] what it calls,
//! and [`DEVICE`] what keeps the driver loaded meanwhile.

use alloc::boxed::Box;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;

use kext_extension::{Extension, Lane};
use kext_nt::boxed::try_box;
use kext_nt::device::{ControlDevice, DriverObject};
use kext_nt::global::Global;
use kext_nt::irql::{Dispatch, Passive, at_dispatch};
use kext_nt::per_processor::PerProcessor;
use kext_nt::rundown::Rundown;
use kext_nt::timer::Timer;
use kext_nt::wide::Text;
use kext_nt::{Result, Status, log, wide};
use kext_nt_sys::io::DRIVER_UNLOAD;
use kext_nt_sys::status::{
    STATUS_DEVICE_BUSY, STATUS_INSUFFICIENT_RESOURCES, STATUS_INTERNAL_ERROR,
    STATUS_OBJECT_NAME_COLLISION,
};
use kext_types::{Capacities, Config};

use crate::filtering::Filtering;
use crate::host::WfpHost;
use crate::reads::ReadTimer;

/// What the kernel calls.
pub(crate) static KEXT: Global<Kext> = Global::new();
/// What that calls.
static EXTENSION: Global<Extension<WfpHost>> = Global::new();
/// What keeps the driver loaded.
static DEVICE: Global<ControlDevice> = Global::new();

/// How often the extension is told the time.
const TICK: Duration = Duration::from_millis(100);
/// How soon again if it had more to do than it does at once.
const TICK_AGAIN: Duration = Duration::from_millis(1);

/// Every how many ticks the filter engine is asked again that had refused our filters.
const TICKS_TO_RETRY: u32 = 10;

/// The driver's state, as callbacks get it.
pub(crate) struct Kext {
    pub(crate) extension: &'static Extension<WfpHost>,
    pub(crate) filtering: Filtering,
    /// Ends reads whose wait is over.
    pub(crate) read_timer: ReadTimer,
    /// Device requests that are being dispatched.
    pub(crate) requests: Rundown,
    processors: PerProcessor<Here>,
    tick: Timer<Kext>,
    ticks: AtomicU32,
    /// It is being unloaded: packets pass.
    stopping: AtomicBool,
}

/// What each processor has for itself.
pub(crate) struct Here {
    /// Where packets are counted.
    pub(crate) lane: Lane<'static>,
    /// Packets of this machine to itself are being presented.
    loopback: Cell<bool>,
    /// How many presentations nest.
    depth: Cell<u8>,
}

impl Here {
    /// Runs something while packets are presented: of this machine to itself, or others. On one
    /// processor presentations nest: a packet that is injected may be shown before that returns.
    pub(crate) fn while_presenting<T>(&self, loopback: bool, run: impl FnOnce() -> T) -> T {
        let before = self.loopback.replace(loopback);
        let depth = self.depth.replace(self.depth.get().saturating_add(1));
        let result = run();
        self.depth.set(depth);
        self.loopback.set(before);
        result
    }
}

/// Whether a packet of this machine to itself is being presented on this processor.
pub(crate) fn is_loopback_here() -> bool {
    is_here(|here| here.loopback.get())
}

/// Whether a presentation on this processor is inside of another one.
pub(crate) fn nests_here() -> bool {
    is_here(|here| here.depth.get() > 1)
}

fn is_here(is_so: impl FnOnce(&Here) -> bool) -> bool {
    KEXT.get()
        .is_some_and(|kext| at_dispatch(|dispatch| kext.here(dispatch).is_some_and(is_so)))
}

impl Kext {
    fn try_new(
        extension: &'static Extension<WfpHost>,
        device: &ControlDevice,
        passive: &Passive,
    ) -> Result<Self> {
        Ok(Self {
            extension,
            filtering: Filtering::try_new(device, passive)?,
            read_timer: ReadTimer::try_new()?,
            requests: Rundown::try_new()?,
            processors: PerProcessor::try_new(|number| Here {
                lane: extension.lane(number),
                loopback: Cell::new(false),
                depth: Cell::new(0),
            })?,
            tick: Timer::try_new(&KEXT, Self::tick)?,
            ticks: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
        })
    }

    /// The driver's state while it is loaded and is not being unloaded.
    #[inline]
    pub(crate) fn working() -> Option<&'static Self> {
        KEXT.get()
            .filter(|kext| !kext.stopping.load(Ordering::Relaxed))
    }

    /// What this processor has for itself.
    #[inline]
    pub(crate) fn here<'a>(&'a self, dispatch: &'a Dispatch) -> Option<&'a Here> {
        self.processors.get(dispatch)
    }

    pub(crate) fn host(&self) -> &WfpHost {
        self.extension.host()
    }

    /// Lets go what the last owner left behind, and a tick had begun with.
    fn settle_all(&self) {
        // Bound: the packets that can be held, as each tick that has more to do lets go one at least.
        for _ in 0..self.extension.engine().capacities().packets {
            if !self.extension.tick() {
                break;
            }
        }
    }

    fn tick(&self, _: &Dispatch) {
        let more = self.extension.tick();
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        if ticks.is_multiple_of(TICKS_TO_RETRY) {
            self.filtering.retry();
        }
        self.tick.set(if more { TICK_AGAIN } else { TICK });
    }
}

/// The entry point was called twice.
const TAKEN: Status = Status(STATUS_INTERNAL_ERROR);

/// Makes everything, and lets programs find the device last.
pub(crate) fn load(
    passive: &Passive,
    driver: &mut DriverObject,
    unload: DRIVER_UNLOAD,
) -> Result<()> {
    let loaded = create_device(passive, driver).and_then(|mut device| {
        let loaded = load_parts(passive, driver, unload, &mut device);
        if loaded.is_err() {
            // Before the device, which callouts and work items name.
            // SAFETY: the device is the last to be found, so no request has come.
            unsafe { self::unload(passive) };
            return loaded;
        }
        DEVICE.set(device).map(drop).map_err(|_| TAKEN)
    });
    if let Err(status) = loaded {
        log::error(why_not_loaded(status), status);
    }
    loaded
}

#[inline(never)]
fn create_device(passive: &Passive, driver: &DriverObject) -> Result<Box<ControlDevice>> {
    try_box(ControlDevice::create(passive, driver, device_name())?)
}

fn device_name() -> Text {
    wide!(r"\Device\PortmasterKext")
}

#[inline(never)]
fn load_parts(
    passive: &Passive,
    driver: &mut DriverObject,
    unload: DRIVER_UNLOAD,
    device: &mut ControlDevice,
) -> Result<()> {
    let extension = start_extension(passive)?;
    let kext = start_kext(extension, device, passive)?;
    kext.tick.set(TICK);
    kext.filtering
        .begin(&kext.host().injector, device, passive)?;
    driver.serve::<Kext>(passive, unload);
    device.publish(device_name(), wide!(r"\??\PortmasterKext"), passive)
}

// None of these steps is inlined: each has what it makes on the stack, for itself.

#[inline(never)]
fn start_extension(passive: &Passive) -> Result<&'static Extension<WfpHost>> {
    let host = WfpHost::try_new(passive)?;
    let extension = Extension::try_new(host, Capacities::default(), Config::default())
        .map_err(|_| Status(STATUS_INSUFFICIENT_RESOURCES))?;
    EXTENSION.set(try_box(extension)?).map_err(|_| TAKEN)
}

#[inline(never)]
fn start_kext(
    extension: &'static Extension<WfpHost>,
    device: &ControlDevice,
    passive: &Passive,
) -> Result<&'static Kext> {
    let kext = Kext::try_new(extension, device, passive)?;
    KEXT.set(try_box(kext)?).map_err(|_| TAKEN)
}

/// In words, for whoever wonders.
fn why_not_loaded(status: Status) -> &'static core::ffi::CStr {
    match status.0 {
        STATUS_OBJECT_NAME_COLLISION | STATUS_DEVICE_BUSY => {
            c"not loaded: the device is there already; another copy of this driver is running"
        }
        STATUS_INSUFFICIENT_RESOURCES => c"not loaded: there is not enough memory",
        _ => c"not loaded",
    }
}

/// Ends everything that was begun, in the reverse order.
///
/// # Safety
///
/// Every request of a program is answered, and none can come.
pub(crate) unsafe fn unload(passive: &Passive) {
    if let Some(kext) = KEXT.get() {
        kext.stopping.store(true, Ordering::Relaxed);
        // Who dispatched the last ones may not have returned.
        kext.requests.wait(passive);
        kext.extension.close();
        // No packet is presented after this,
        kext.filtering.stop(passive);
        // and what was being held meanwhile ends;
        kext.host().connects.end_all();
        // none leaves after this,
        kext.tick.stop(passive);
        kext.read_timer.stop(passive);
        kext.settle_all();
    }
    if let Some(extension) = EXTENSION.get() {
        // and none is on its way after this.
        extension.host().stop(passive);
    }
    // SAFETY: callouts, timers, deferred calls and work items are over; nothing else has a reference.
    drop(unsafe { KEXT.take() });
    // SAFETY: only what was in KEXT had a reference.
    drop(unsafe { EXTENSION.take() });
    // SAFETY: nobody has a reference.
    drop(unsafe { DEVICE.take() });
}
