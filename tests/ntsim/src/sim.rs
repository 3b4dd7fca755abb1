//! What tests use: a driver that is loaded, handles to its device, and time.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kext_nt_sys::fwpm::{FWPM_SERVICE_RUNNING, FWPM_SERVICE_STOPPED};
use kext_nt_sys::io::{DRIVER_INITIALIZE, DRIVER_OBJECT, IRP_MJ_DEVICE_CONTROL};
use kext_nt_sys::ke::{DISPATCH_LEVEL, PASSIVE_LEVEL};
use kext_nt_sys::status::NTSTATUS;
use kext_nt_sys::types::{ACCESS_MASK, UNICODE_STRING};

use crate::check::violation;
use crate::cpu;
use crate::dispatcher;
use crate::faults;
use crate::heap::{self, Kind, Watch};
use crate::image::Image;
use crate::io;
use crate::irp::{self, Parameters, Request};
use crate::misc;
use crate::moment;
use crate::pool;
use crate::process;
use crate::security::Caller;
use crate::trap;
use crate::wfp::ale::{self, Endpoint, Held};
use crate::wfp::classify::{self, Classified};
use crate::wfp::inject::{self, Completion, Injected};
use crate::wfp::packet::Packet;
use crate::wfp::{self, callout, engine, flow, pend};
use crate::work;

/// A status of Windows with its number in the usual form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub NTSTATUS);

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#010x}", self.0.cast_unsigned())
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// Why a driver is not loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The file is no driver, or none for here.
    File(String),
    /// `DriverEntry` said so.
    Entry(Status),
}

/// How many drivers are loaded.
static LOADED: AtomicUsize = AtomicUsize::new(0);

/// A driver that is loaded.
#[derive(Debug)]
pub struct Sim {
    image: &'static Image,
    driver: usize,
}

impl Sim {
    /// Loads a driver and runs its `DriverEntry`.
    ///
    /// # Errors
    ///
    /// The file is not one, or `DriverEntry` failed; what it left behind is a violation.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        Self::load_as(path, "PortmasterKext")
    }

    /// As [`Self::load`], as the service of that name: `DriverEntry` sees it in its registry path.
    ///
    /// # Errors
    ///
    /// As for [`Self::load`].
    pub fn load_as(path: &Path, service: &str) -> Result<Self, LoadError> {
        trap::install();
        let image = Image::load(path).map_err(LoadError::File)?;
        LOADED.fetch_add(1, Ordering::SeqCst);
        let memory = heap::allocate(Kind::Device, size_of::<DRIVER_OBJECT>(), 0);
        // SAFETY: the block is that long.
        unsafe { memory.write_bytes(0, size_of::<DRIVER_OBJECT>()) };
        let driver: *mut DRIVER_OBJECT = memory.cast();
        let sim = Self {
            image,
            driver: driver.expose_provenance(),
        };
        {
            let object = crate::guest::borrow(driver, "a driver object");
            object.Type = 4;
            object.Size = size_of::<DRIVER_OBJECT>() as i16;
            object.DriverStart = std::ptr::with_exposed_provenance_mut(image.base);
            object.DriverSize = image.size as u32;
        }
        let path = format!(r"\Registry\Machine\System\CurrentControlSet\Services\{service}");
        let mut path: Vec<u16> = path.encode_utf16().collect();
        let mut path = UNICODE_STRING {
            Length: (path.len() * 2) as u16,
            MaximumLength: (path.len() * 2) as u16,
            Buffer: path.as_mut_ptr(),
        };
        let entry: *const () = std::ptr::with_exposed_provenance(image.entry);
        // SAFETY: the entry point of a driver has this signature.
        let entry: DRIVER_INITIALIZE = unsafe { std::mem::transmute(entry) };
        let status = cpu::call("DriverEntry", PASSIVE_LEVEL, || {
            // SAFETY: the object and the path are what a driver expects.
            unsafe { entry(driver, &raw mut path) }
        });
        if status < 0 {
            sim.expect_nothing_left("DriverEntry failed");
            image.discard();
            return Err(LoadError::Entry(Status(status)));
        }
        io::entry_done(sim.driver);
        Ok(sim)
    }

    fn code(&self) -> Range<usize> {
        self.image.base..self.image.base + self.image.size
    }

    fn pending(&self) -> Vec<String> {
        let mut pending = io::pending(self.driver);
        pending.extend(dispatcher::pending(&self.code()));
        // Whose these are is not recorded: asked when the last driver goes.
        if LOADED.load(Ordering::SeqCst) == 1 {
            pending.extend(work::pending());
            pending.extend(process::pending());
            pending.extend(wfp::pending());
        }
        pending
    }

    fn expect_nothing_left(&self, when: &str) {
        dispatcher::settle();
        let pending = self.pending();
        if !pending.is_empty() {
            violation!(Leak, "{when}, and {}", pending.join(", "));
        }
        let code = self.code();
        let mut leaks = heap::leaks();
        leaks.retain(|block| code.contains(&block.site));
        if !leaks.is_empty() {
            let shown: Vec<String> = leaks.iter().take(8).map(heap::Block::describe).collect();
            violation!(
                Leak,
                "{when}, and {} blocks were not given back: {}",
                leaks.len(),
                shown.join("; ")
            );
        }
        heap::check_all();
        LOADED.fetch_sub(1, Ordering::SeqCst);
    }

    /// Calls `DriverUnload`, and looks for what the driver has left behind.
    ///
    /// # Panics
    ///
    /// If a handle is open: Windows would not call `DriverUnload` then.
    pub fn unload(self) {
        assert_eq!(
            io::open_files(self.driver),
            0,
            "close all handles before you unload"
        );
        let driver: *mut DRIVER_OBJECT = std::ptr::with_exposed_provenance_mut(self.driver);
        let Some(routine) = crate::guest::read(driver, "a driver object").DriverUnload else {
            violation!(Device, "the driver has no DriverUnload");
        };
        cpu::call("DriverUnload", PASSIVE_LEVEL, || {
            // SAFETY: the driver gave the routine for its end.
            unsafe { routine(driver) };
        });
        self.expect_nothing_left("DriverUnload has returned");
        // A routine may be returning still from a request that was answered on another thread: nothing
        // holds the driver for it, but its last instructions are over before the memory is gone.
        dispatcher::all_left();
        self.image.discard();
    }

    /// Opens the device as an administrator, by the name that programs use.
    ///
    /// # Errors
    ///
    /// What the I/O manager or the driver says.
    pub fn open(&self) -> Result<Device, Status> {
        self.open_path(r"\??\PortmasterKext", Caller::Administrator)
    }

    /// Opens a name as somebody.
    ///
    /// # Errors
    ///
    /// What the I/O manager or the driver says.
    pub fn open_path(&self, path: &str, caller: Caller) -> Result<Device, Status> {
        let (file, device) = io::open(path, caller).map_err(Status)?;
        Ok(Device {
            file,
            object: device,
            closed: AtomicBool::new(false),
        })
    }

    /// Does something at `DISPATCH_LEVEL`, as a network card shows packets that have come together:
    /// what is deferred meanwhile waits until this returns, and timers until time passes after it.
    pub fn at_dispatch<R>(&self, work: impl FnOnce() -> R) -> R {
        let old = cpu::raise(DISPATCH_LEVEL);
        let result = work();
        cpu::lower(old);
        result
    }

    /// Lets time pass: timers fire, and what follows from them is done when this returns.
    pub fn advance(&self, time: Duration) {
        dispatcher::advance(time);
    }

    /// Waits until everything that was started is done.
    pub fn settle(&self) {
        dispatcher::settle();
    }

    /// The time since the machine was started.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(dispatcher::now() * 100)
    }

    /// Tells devices that the machine shuts down.
    pub fn shutdown(&self) {
        io::shutdown();
    }

    /// Looks at every canary and at all memory that was given back.
    pub fn check_memory(&self) {
        heap::check_all();
    }

    /// Pool blocks by tag: how many, and how many bytes.
    pub fn pool(&self) -> std::collections::BTreeMap<String, (usize, usize)> {
        pool::by_tag()
    }

    /// Blocks that the driver has of the kernel, and their bytes.
    pub fn memory(&self) -> (usize, usize) {
        let blocks = heap::leaks();
        (blocks.len(), blocks.iter().map(|block| block.size).sum())
    }

    /// Names of devices, and links with their targets.
    pub fn names(&self) -> (Vec<String>, Vec<(String, String)>) {
        io::names()
    }

    /// Who may do what with a device: identifier and mask. Nothing if there is no list.
    pub fn access_list(&self, device: &str) -> Option<Vec<(String, ACCESS_MASK)>> {
        io::dacl(device)
    }

    /// What the driver has said.
    pub fn messages(&self) -> Vec<String> {
        misc::messages()
    }

    /// There is a process with this image.
    pub fn add_process(&self, id: u64, path: &str) {
        process::add_process(id, path);
    }

    /// Shows a packet to the callouts of its layer.
    pub fn classify(&self, packet: &Packet) -> Classified {
        classify::packet(packet)
    }

    /// What was injected since the last call, when everything that was started is done.
    pub fn injected(&self) -> Vec<Injected> {
        dispatcher::settle();
        inject::take()
    }

    /// When injections are completed from now on.
    pub fn complete_injections(&self, when: Completion) {
        inject::set_completion(when);
    }

    /// Completes as many injections that are held, and says how many there were.
    pub fn release_injections(&self, most: usize) -> usize {
        inject::release(most)
    }

    /// How many injections are under way.
    pub fn injections(&self) -> usize {
        inject::under_way()
    }

    /// What the next completions of injections say, in their order; then they succeed again.
    pub fn injection_results(&self, results: &[Status]) {
        let results: Vec<NTSTATUS> = results.iter().map(|status| status.0).collect();
        inject::set_results(&results);
    }

    /// How long a packet may be that is sent; 1,500 bytes at first. The stack fragments what it sends
    /// itself, after callouts have seen it, and refuses what is longer from those who inject.
    pub fn set_mtu(&self, mtu: u32) {
        inject::set_mtu(mtu);
    }

    /// Whether the network stack is ready for injections and to hold operations; it is at first.
    pub fn stack_ready(&self, ready: bool) {
        inject::set_not_ready(!ready);
    }

    /// The base filtering engine stops, or starts.
    pub fn set_engine_running(&self, running: bool) {
        set_engine_running(running);
    }

    /// Others have these filters at every layer: the weight of the sublayer, whether the filter
    /// blocks, and whether that is hard.
    pub fn set_filters_of_others(&self, filters: &[(u16, bool, bool)]) {
        engine::set_foreign(filters);
    }

    /// How many providers, sublayers, callouts and filters the filter engine has.
    pub fn engine_objects(&self) -> (usize, usize, usize, usize) {
        engine::counts()
    }

    /// Keys of the callouts that are registered.
    pub fn callouts(&self) -> Vec<String> {
        callout::registered()
    }

    /// A socket connects or accepts.
    pub fn authorize(&self, endpoint: &Endpoint) -> Held {
        ale::authorize(endpoint)
    }

    /// Authorizations that were pended and have been decided since the last call.
    pub fn authorized(&self) -> Vec<(Endpoint, Held)> {
        dispatcher::settle();
        ale::take_ended()
    }

    /// How many authorizations and classifications are pended.
    pub fn pended(&self) -> usize {
        pend::held()
    }

    /// An endpoint is closed, and its flow ends.
    pub fn close_endpoint(&self, endpoint: &Endpoint) -> Classified {
        ale::close(endpoint)
    }

    /// A flow ends without a word of its endpoint.
    pub fn end_flow(&self, number: u64) {
        flow::end(number);
    }

    /// A piece of a stream: what came of it, and for how many bytes the callout has answered.
    pub fn stream(&self, endpoint: &Endpoint, bytes: &[u8], sends: bool) -> (Classified, usize) {
        ale::stream(endpoint, bytes, sends)
    }

    /// Datagrams in one list: from their IP header on if they have come in, else from their transport
    /// header.
    pub fn datagram(&self, endpoint: &Endpoint, packets: &[&[u8]], sends: bool) -> Classified {
        ale::datagram(endpoint, packets, sends)
    }

    /// Requests that have not ended.
    pub fn requests(&self) -> usize {
        irp::outstanding()
    }
}

/// Blocks end at a page that faults, and fault when they were given back: slower, and exact.
/// Before the driver is loaded.
pub fn guard_pages(on: bool) {
    heap::set_watch(if on { Watch::Pages } else { Watch::Canaries });
}

/// Blocks are allocations of the process as they are, and go back at once: for a checker around the
/// process, such as Valgrind, which then sees what the driver does with each. Before the driver is loaded.
pub fn plain_memory() {
    heap::set_watch(Watch::Outside);
}

/// Does something in the middle of the driver, once: when it next calls this function while that is so, on
/// its thread and at its level, before the function does anything.
pub fn at_call(
    function: &'static str,
    when: impl Fn() -> bool + Send + 'static,
    work: impl FnOnce() + Send + 'static,
) {
    moment::at(function, when, work);
}

/// As [`Sim::classify`], from inside of [`at_call`].
pub fn classify(packet: &Packet) -> Classified {
    classify::packet(packet)
}

/// As [`Sim::messages`], also when the driver is unloaded.
pub fn messages() -> Vec<String> {
    misc::messages()
}

/// How many threads in the driver wait.
pub fn waiting_threads() -> usize {
    dispatcher::waiting()
}

/// Requests that the driver keeps, with a cancel routine.
pub fn kept_requests() -> usize {
    irp::kept()
}

/// Sets the machine's clock, in time since 1970. Before the driver is loaded.
pub fn set_clock(time: Duration) {
    dispatcher::set_clock(time);
}

/// The base filtering engine stops, or starts: also before the driver is loaded.
pub fn set_engine_running(running: bool) {
    engine::set_state(if running {
        FWPM_SERVICE_RUNNING
    } else {
        FWPM_SERVICE_STOPPED
    });
}

/// A handle to a device.
#[derive(Debug)]
pub struct Device {
    file: usize,
    object: usize,
    closed: AtomicBool,
}

impl Device {
    /// The device and the file.
    pub(crate) fn addresses(&self) -> (usize, usize) {
        (self.object, self.file)
    }

    /// Sends a control request and waits for its end: the bytes that it wrote, and its status.
    ///
    /// # Errors
    ///
    /// A status of failure.
    pub fn ioctl(&self, code: u32, input: &[u8], output: usize) -> Result<Vec<u8>, Status> {
        self.start(code, input, output).wait()
    }

    /// Sends a control request that may stay pended.
    pub fn start(&self, code: u32, input: &[u8], output: usize) -> Pending {
        let parameters = Parameters::Control {
            code,
            input,
            output,
        };
        Pending {
            request: irp::send(self.object, IRP_MJ_DEVICE_CONTROL, self.file, &parameters),
        }
    }

    /// Closes the handle: the driver gets CLEANUP and CLOSE.
    pub fn close(self) {
        self.close_meanwhile();
    }

    /// The same while another thread is in a request of the handle.
    pub fn close_meanwhile(&self) {
        self.closed.store(true, Ordering::Release);
        faults::paused(|| io::close(self.file, self.object, true));
    }

    /// Closes the handle where no CLEANUP is sent: the driver only gets CLOSE.
    pub fn close_without_cleanup(self) {
        self.closed.store(true, Ordering::Release);
        faults::paused(|| io::close(self.file, self.object, false));
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !*self.closed.get_mut() && !std::thread::panicking() {
            io::close(self.file, self.object, true);
        }
    }
}

/// A control request that was sent.
#[derive(Clone, Debug)]
pub struct Pending {
    request: Arc<Request>,
}

impl Pending {
    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        irp::ended(&self.request)
    }

    /// Cancels it, as `CancelIoEx` does.
    pub fn cancel(&self) {
        irp::cancel(&self.request);
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// A status of failure.
    pub fn wait(&self) -> Result<Vec<u8>, Status> {
        match irp::wait(&self.request) {
            (status, output) if status >= 0 => Ok(output),
            (status, _) => Err(Status(status)),
        }
    }

    /// As [`Self::wait`], with the exact status also where it is no failure.
    pub fn wait_status(&self) -> (Status, Vec<u8>) {
        let (status, output) = irp::wait(&self.request);
        (Status(status), output)
    }
}
