//! What lives from loading to unloading, and the order of both.
//!
//! Three places, each emptied before the next: [`KEXT`] has what calls us, [`EXTENSION`] what it calls,
//! and [`DEVICE`] what keeps the driver loaded meanwhile.

use core::time::Duration;

use kext_extension::{Extension, Lane};
use kext_nt::boxed::try_box;
use kext_nt::device::{ControlDevice, DriverObject};
use kext_nt::global::Global;
use kext_nt::irql::{Dispatch, Passive};
use kext_nt::per_processor::PerProcessor;
use kext_nt::timer::Timer;
use kext_nt::{Result, Status, log, wide};
use kext_nt_sys::io::DRIVER_UNLOAD;
use kext_nt_sys::status::{
    STATUS_DEVICE_BUSY, STATUS_INSUFFICIENT_RESOURCES, STATUS_INTERNAL_ERROR,
    STATUS_OBJECT_NAME_COLLISION,
};
use kext_types::{Capacities, Config};

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

/// The driver's state, as callbacks get it.
pub(crate) struct Kext {
    pub(crate) extension: &'static Extension<WfpHost>,
    /// Ends reads whose wait is over.
    pub(crate) read_timer: ReadTimer,
    lanes: PerProcessor<ProcessorLane>,
    tick: Timer<Kext>,
}

/// Where packets of one processor are counted.
struct ProcessorLane(Lane<'static>);

// SAFETY: a lane can go from thread to thread, as its documentation says; the type cannot say so,
// because what counts in a lane borrows it. It is not used by two at once: `PerProcessor` sees to that.
unsafe impl Send for ProcessorLane {}

impl Kext {
    fn try_new(extension: &'static Extension<WfpHost>) -> Result<Self> {
        Ok(Self {
            extension,
            read_timer: ReadTimer::try_new()?,
            lanes: PerProcessor::try_new(|number| ProcessorLane(extension.lane(number)))?,
            tick: Timer::try_new(&KEXT, Self::tick)?,
        })
    }

    /// Where packets of this processor are counted.
    #[expect(dead_code, reason = "packets come with the next step")]
    pub(crate) fn lane<'a>(&'a self, dispatch: &'a Dispatch) -> Option<&'a Lane<'static>> {
        self.lanes.get(dispatch).map(|lane| &lane.0)
    }

    fn tick(&self, _: &Dispatch) {
        let more = self.extension.tick();
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
    let loaded = load_parts(passive, driver, unload);
    if let Err(status) = loaded {
        log::error(why_not_loaded(status), status);
        // SAFETY: the device is the last to be found, so no request has come.
        unsafe { self::unload(passive) };
    }
    loaded
}

#[inline(never)]
fn load_parts(passive: &Passive, driver: &mut DriverObject, unload: DRIVER_UNLOAD) -> Result<()> {
    let name = wide!(r"\Device\PortmasterKext");
    let mut device = try_box(ControlDevice::create(passive, driver, name)?)?;
    let extension = start_extension(passive)?;
    let kext = start_kext(extension)?;
    kext.tick.set(TICK);
    driver.serve::<Kext>(passive, unload);
    device.publish(name, wide!(r"\??\PortmasterKext"), passive)?;
    DEVICE.set(device).map_err(|_| TAKEN)?;
    Ok(())
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
fn start_kext(extension: &'static Extension<WfpHost>) -> Result<&'static Kext> {
    let kext = Kext::try_new(extension)?;
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
/// No request of a program is under way, and none can come.
pub(crate) unsafe fn unload(passive: &Passive) {
    if let Some(kext) = KEXT.get() {
        kext.extension.close();
        kext.tick.stop(passive);
        kext.read_timer.stop(passive);
    }
    if let Some(extension) = EXTENSION.get() {
        extension.host().reads.stop(passive);
    }
    // SAFETY: timers and deferred calls are over, and nothing else has a reference.
    drop(unsafe { KEXT.take() });
    // SAFETY: only what was in KEXT had a reference.
    drop(unsafe { EXTENSION.take() });
    // SAFETY: only callers of `load` had a reference.
    drop(unsafe { DEVICE.take() });
}
