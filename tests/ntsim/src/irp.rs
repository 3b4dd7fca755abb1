//! Requests: sent, pended, cancelled, and completed exactly once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use kext_nt_sys::io::{
    DEVICE_OBJECT, DRIVER_CANCEL, IO_STACK_LOCATION, IRP, IRP_MJ_DEVICE_CONTROL, METHOD_BUFFERED,
    SL_PENDING_RETURNED,
};
use kext_nt_sys::ke::{KIRQL, PASSIVE_LEVEL, UserMode};
use kext_nt_sys::status::{NTSTATUS, STATUS_INVALID_DEVICE_REQUEST, STATUS_PENDING};
use kext_nt_sys::types::TRUE;
use parking_lot::Mutex;

use crate::check::violation;
use crate::cpu;
use crate::dispatcher;
use crate::exports::implements;
use crate::guest;
use crate::heap::{self, Kind};
use crate::locks;
use crate::observe;

implements! {
    io::IofCompleteRequest = complete;
    io::IoGetRequestorProcessId = requestor;
}

/// The process that opens devices here.
static PROCESS: AtomicU32 = AtomicU32::new(4242);

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parameters<'a> {
    None,
    Control {
        code: u32,
        input: &'a [u8],
        output: usize,
    },
}

/// How a request ended.
#[derive(Clone, Debug)]
struct End {
    status: NTSTATUS,
    output: Vec<u8>,
    marked: bool,
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Request {
    irp: usize,
    buffer: usize,
    device: usize,
    file: usize,
    input: usize,
    output: usize,
    buffered: bool,
    end: Mutex<Option<End>>,
}

static REQUESTS: Mutex<Option<HashMap<usize, Arc<Request>>>> = Mutex::new(None);

fn with<R>(work: impl FnOnce(&mut HashMap<usize, Arc<Request>>) -> R) -> R {
    work(REQUESTS.lock().get_or_insert_default())
}

fn irp_at(address: usize) -> *mut IRP {
    std::ptr::with_exposed_provenance_mut(address)
}

fn location_of(irp: usize) -> *mut IO_STACK_LOCATION {
    std::ptr::with_exposed_provenance_mut(irp + size_of::<IRP>())
}

/// Sends a request to the driver of a device, and looks at how its routine returns.
pub(crate) fn send(
    device: usize,
    major: u8,
    file: usize,
    parameters: &Parameters<'_>,
) -> Arc<Request> {
    let request = build(device, major, file, parameters);
    let object: *mut DEVICE_OBJECT = std::ptr::with_exposed_provenance_mut(device);
    let driver = guest::read(object, "a device").DriverObject;
    let routine = guest::read(driver, "a driver object").MajorFunction[usize::from(major)];
    let Some(routine) = routine else {
        // The I/O manager's own routine.
        finish(&request, STATUS_INVALID_DEVICE_REQUEST, 0);
        return request;
    };
    let what = format!("the routine of major function {major:#04x}");
    let returned = cpu::call(&what, PASSIVE_LEVEL, || {
        // SAFETY: the driver gave the routine for requests of this kind.
        unsafe { routine(object, irp_at(request.irp)) }
    });
    let end = request.end.lock();
    let marked = match &*end {
        Some(end) => end.marked,
        None => control(request.irp) & SL_PENDING_RETURNED != 0,
    };
    match &*end {
        _ if returned == STATUS_PENDING && !marked => {
            violation!(
                Irp,
                "{what} returned STATUS_PENDING for a request not marked pending"
            );
        }
        _ if returned == STATUS_PENDING => {}
        _ if marked => {
            violation!(
                Irp,
                "{what} marked a request pending and returned {returned:#x}"
            );
        }
        None => violation!(
            Irp,
            "{what} returned {returned:#x} and did not complete the request"
        ),
        Some(end) if end.status != returned => {
            violation!(
                Irp,
                "{what} returned {returned:#x} and completed the request with {:#x}",
                end.status
            );
        }
        Some(_) => {}
    }
    drop(end);
    request
}

fn control(irp: usize) -> u8 {
    let location: *mut IO_STACK_LOCATION = location_of(irp);
    guest::read(location, "a stack location").Control
}

/// Where the parameters of a request are.
pub(crate) fn location(irp: *mut IRP) -> *mut IO_STACK_LOCATION {
    location_of(irp.expose_provenance())
}

/// A request without parameters.
pub(crate) fn blank(device: usize, major: u8, file: usize) -> *mut IRP {
    let size = size_of::<IRP>() + size_of::<IO_STACK_LOCATION>();
    let memory = heap::allocate(Kind::Irp, size, 0);
    // SAFETY: the block is that long.
    unsafe { memory.write_bytes(0, size) };
    let address = memory.expose_provenance();
    let irp = guest::borrow(irp_at(address), "a request");
    irp.Type = 6;
    irp.Size = size as u16;
    irp.RequestorMode = UserMode;
    irp.StackCount = 1;
    irp.CurrentLocation = 1;
    let location = guest::borrow(location_of(address), "a stack location");
    location.MajorFunction = major;
    location.DeviceObject = std::ptr::with_exposed_provenance_mut(device);
    location.FileObject = std::ptr::with_exposed_provenance_mut(file);
    irp.Tail.Overlay.CurrentStackLocation = location;
    irp.Tail.Overlay.OriginalFileObject = location.FileObject;
    irp.Tail.Overlay.Thread = std::ptr::without_provenance_mut(cpu::thread() as usize);
    irp_at(address)
}

fn build(device: usize, major: u8, file: usize, parameters: &Parameters<'_>) -> Arc<Request> {
    let irp = blank(device, major, file);
    let address = irp.expose_provenance();
    let irp = guest::borrow(irp, "a request");
    let location = guest::borrow(location_of(address), "a stack location");
    let mut request = Request {
        irp: address,
        buffer: 0,
        device,
        file,
        input: 0,
        output: 0,
        buffered: true,
        end: Mutex::new(None),
    };
    if let Parameters::Control {
        code,
        input,
        output,
    } = *parameters
    {
        let control = &raw mut location.Parameters.DeviceIoControl;
        let mut values = guest::read(control, "a stack location");
        values.OutputBufferLength = output as u32;
        values.InputBufferLength = input.len() as u32;
        values.IoControlCode = code;
        request.output = output;
        request.buffered = code & 3 == METHOD_BUFFERED;
        if request.buffered {
            let size = input.len().max(output);
            if size > 0 {
                let buffer = heap::allocate(Kind::SystemBuffer, size, 0);
                let bytes = guest::bytes_mut(buffer, size, "a buffer");
                let (start, rest) = bytes.split_at_mut(input.len());
                start.copy_from_slice(input);
                for (place, byte) in rest.iter_mut().enumerate() {
                    *byte = unwritten(input.len() + place);
                }
                request.input = input.len();
                request.buffer = buffer.expose_provenance();
                irp.AssociatedIrp.SystemBuffer = buffer.cast();
            }
        } else {
            // Nobody probes these; a driver that uses METHOD_NEITHER sees null.
            values.Type3InputBuffer = std::ptr::null_mut();
        }
        guest::write(control, values, "a stack location");
    }
    debug_assert!(major == IRP_MJ_DEVICE_CONTROL || request.buffer == 0);
    let request = Arc::new(request);
    with(|requests| requests.insert(address, Arc::clone(&request)));
    request
}

pub(crate) extern "win64" fn complete(irp: *mut IRP, _: i8) {
    let address = irp.expose_provenance();
    let Some(request) = with(|requests| requests.get(&address).cloned()) else {
        match heap::explain(address) {
            Some(what) => violation!(Irp, "IofCompleteRequest of {address:#x}, {what}"),
            None => violation!(
                Irp,
                "IofCompleteRequest of {address:#x}, which is no request"
            ),
        }
    };
    cpu::no_locks("IofCompleteRequest");
    let status = guest::read(irp, "a request").IoStatus;
    if status.Status == STATUS_PENDING {
        violation!(Irp, "a request is completed with STATUS_PENDING");
    }
    finish(&request, status.Status, status.Information);
}

fn finish(request: &Arc<Request>, status: NTSTATUS, information: usize) {
    let mut end = request.end.lock();
    if end.is_some() {
        violation!(Irp, "a request is completed twice");
    }
    let irp = guest::read(irp_at(request.irp), "a request");
    if irp.CancelRoutine.is_some() {
        violation!(
            Cancel,
            "a request is completed that still has a cancel routine"
        );
    }
    // Warnings copy what there is, errors nothing.
    let copies = request.buffered && status.cast_unsigned() >> 30 != 3;
    if copies && information > request.output {
        violation!(
            Irp,
            "a request is completed with {information} bytes; there is room for {}",
            request.output
        );
    }
    let output = if copies && request.buffer != 0 {
        guest::bytes(buffer_at(request.buffer), information, "a buffer").to_vec()
    } else {
        Vec::new()
    };
    if let Some(place) = never_written(&output, request.input) {
        violation!(
            Irp,
            "a request is completed with {information} bytes, of which those from {place} on were never \
             written: they are the kernel's"
        );
    }
    let marked = control(request.irp) & SL_PENDING_RETURNED != 0;
    with(|requests| requests.remove(&request.irp));
    let site = observe::site();
    if request.buffer != 0 {
        heap::free(request.buffer, "completion", site, |_| None);
    }
    heap::free(request.irp, "completion", site, |_| None);
    *end = Some(End {
        status,
        output,
        marked,
    });
    drop(end);
    dispatcher::notify();
}

/// What stands at a place of a buffer behind its input before anybody writes there: another byte at each,
/// so that what is written there is hardly ever the same.
fn unwritten(place: usize) -> u8 {
    (place as u64)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .to_be_bytes()[1]
}

/// Where bytes behind the input begin that are as they were: so many in a row that it is no chance.
fn never_written(output: &[u8], input: usize) -> Option<usize> {
    const IN_A_ROW: usize = 6;
    let mut same = 0;
    for (place, byte) in output.iter().enumerate().skip(input) {
        same = if *byte == unwritten(place) {
            same + 1
        } else {
            0
        };
        if same == IN_A_ROW {
            return Some(place + 1 - IN_A_ROW);
        }
    }
    None
}

fn buffer_at(address: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address)
}

/// Cancels a request, as the I/O manager does for its thread. Does nothing if it has ended.
pub(crate) fn cancel(request: &Arc<Request>) {
    let end = request.end.lock();
    if end.is_some() {
        return;
    }
    let mut old: KIRQL = 0;
    locks::acquire_cancel(&raw mut old);
    let irp = irp_at(request.irp);
    let fields = guest::borrow(irp, "a request");
    fields.Cancel = TRUE;
    fields.CancelIrql = old;
    let slot: *mut Option<DRIVER_CANCEL> = &raw mut fields.CancelRoutine;
    // SAFETY: the slot is an aligned pointer, which both sides only exchange.
    let slot: &AtomicPtr<()> = unsafe { AtomicPtr::from_ptr(slot.cast()) };
    let routine = slot.swap(std::ptr::null_mut(), Ordering::AcqRel);
    drop(end);
    if routine.is_null() {
        locks::release_cancel(old);
        return;
    }
    // SAFETY: the driver put a routine of this type into the slot.
    let routine: DRIVER_CANCEL = unsafe { std::mem::transmute(routine) };
    let held = cpu::held(|held| held.len());
    let device = request.device;
    cpu::call_from_here("a cancel routine", old, held - 1, || {
        // SAFETY: the driver gave the routine for this request.
        unsafe { routine(std::ptr::with_exposed_provenance_mut(device), irp) };
    });
}

/// Whether a request has ended.
pub(crate) fn ended(request: &Request) -> bool {
    request.end.lock().is_some()
}

/// Waits for a request's end: its status, and its output.
pub(crate) fn wait(request: &Request) -> (NTSTATUS, Vec<u8>) {
    dispatcher::until("the end of a request", || ended(request));
    let end = request.end.lock();
    let end = end.as_ref().expect("it has ended");
    (end.status, end.output.clone())
}

/// Ends the test unless every request of a file has been completed.
pub(crate) fn none_left(file: usize, after: &str) {
    dispatcher::settle();
    let left = with(|requests| {
        requests
            .values()
            .filter(|request| request.file == file)
            .count()
    });
    if left > 0 {
        violation!(
            Cancel,
            "{left} requests are pended after {after} of their file"
        );
    }
}

/// How many requests have not ended.
pub(crate) fn outstanding() -> usize {
    with(|requests| requests.len())
}

/// How many requests have a cancel routine: the driver keeps them.
pub(crate) fn kept() -> usize {
    with(|requests| {
        requests
            .values()
            .filter(|request| {
                let slot = &raw mut guest::borrow(irp_at(request.irp), "a request").CancelRoutine;
                // SAFETY: the slot is an aligned pointer, which both sides only exchange.
                let slot: &AtomicPtr<()> = unsafe { AtomicPtr::from_ptr(slot.cast()) };
                !slot.load(Ordering::Acquire).is_null()
            })
            .count()
    })
}

extern "win64" fn requestor(_: *mut IRP) -> u32 {
    PROCESS.load(Ordering::Relaxed)
}
