//! Entry, unload, the device, and requests that wait.

use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::SeqCst};

use kext_nt_sys::io::*;
use kext_nt_sys::ke::*;
use kext_nt_sys::se::*;
use kext_nt_sys::status::*;
use kext_nt_sys::types::*;

use crate::defects::{self, Defect};
use crate::names::{DEVICE, LINK, counted};
use crate::{ECHO, LET_GO, MISBEHAVE, WAIT};

static DEFECT: AtomicU32 = AtomicU32::new(0);
pub(crate) static DEVICE_OBJECT_: AtomicPtr<DEVICE_OBJECT> = AtomicPtr::new(ptr::null_mut());
/// The request that waits, and the lock around it.
static WAITING: AtomicPtr<IRP> = AtomicPtr::new(ptr::null_mut());
pub(crate) static LOCK: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn is(defect: Defect) -> bool {
    DEFECT.load(SeqCst) == defect as u32
}

pub(crate) fn has_callouts() -> bool {
    DEFECT.load(SeqCst) >= Defect::Bounces as u32
}

/// The number at the end of the registry path.
unsafe fn number(path: *mut UNICODE_STRING) -> u32 {
    let units = core::slice::from_raw_parts((*path).Buffer, usize::from((*path).Length / 2));
    let mut number = 0;
    for unit in units {
        number = match *unit {
            digit @ 0x30..=0x39 => number * 10 + u32::from(digit - 0x30),
            _ => 0,
        };
    }
    number
}

/// Called once.
///
/// # Safety
///
/// As the I/O manager calls it.
#[unsafe(no_mangle)]
pub unsafe extern "win64" fn DriverEntry(
    driver: *mut DRIVER_OBJECT,
    registry_path: *mut UNICODE_STRING,
) -> NTSTATUS {
    DEFECT.store(number(registry_path), SeqCst);
    let mut name = counted(&DEVICE);
    let mut device = ptr::null_mut();
    let status = IoCreateDevice(
        driver,
        64,
        &raw mut name,
        FILE_DEVICE_NETWORK,
        FILE_DEVICE_SECURE_OPEN,
        FALSE,
        &raw mut device,
    );
    if status != STATUS_SUCCESS {
        return status;
    }
    DEVICE_OBJECT_.store(device, SeqCst);
    let mut status = secure(device);
    let mut link = counted(&LINK);
    if status == STATUS_SUCCESS {
        status = IoCreateSymbolicLink(&raw mut link, &raw mut name);
    }
    if status == STATUS_SUCCESS {
        status = defects::at_entry();
        if status != STATUS_SUCCESS {
            IoDeleteSymbolicLink(&raw mut link);
        }
    }
    if status != STATUS_SUCCESS {
        if !is(Defect::DeviceLeftByFailedEntry) {
            IoDeleteDevice(device);
        }
        return status;
    }
    (*driver).MajorFunction[usize::from(IRP_MJ_CREATE)] = Some(create_close);
    (*driver).MajorFunction[usize::from(IRP_MJ_CLOSE)] = Some(create_close);
    (*driver).MajorFunction[usize::from(IRP_MJ_CLEANUP)] = Some(cleanup);
    (*driver).MajorFunction[usize::from(IRP_MJ_DEVICE_CONTROL)] = Some(control);
    if !is(Defect::NoUnload) {
        (*driver).DriverUnload = Some(unload);
    }
    STATUS_SUCCESS
}

/// For the system and administrators only.
unsafe fn secure(device: *mut DEVICE_OBJECT) -> NTSTATUS {
    let mut list = [0_u64; 8];
    let acl: *mut ACL = list.as_mut_ptr().cast();
    let mut descriptor: SECURITY_DESCRIPTOR = core::mem::zeroed();
    let mut status = RtlCreateAcl(acl, size_of_val(&list) as u32, ACL_REVISION);
    let mut system = SID_LOCAL_SYSTEM;
    let mut administrators = SID_ADMINISTRATORS;
    let system: PVOID = (&raw mut system).cast();
    let administrators: PVOID = (&raw mut administrators).cast();
    for who in [system, administrators] {
        if status == STATUS_SUCCESS {
            status = RtlAddAccessAllowedAce(acl, ACL_REVISION, GENERIC_ALL, who);
        }
    }
    if status == STATUS_SUCCESS {
        status = RtlCreateSecurityDescriptor(&raw mut descriptor, SECURITY_DESCRIPTOR_REVISION);
    }
    if status == STATUS_SUCCESS {
        status = RtlSetDaclSecurityDescriptor(&raw mut descriptor, TRUE, acl, FALSE);
    }
    let mut handle = ptr::null_mut();
    if status == STATUS_SUCCESS {
        status = ObOpenObjectByPointer(
            device.cast(),
            OBJ_KERNEL_HANDLE,
            ptr::null_mut(),
            WRITE_DAC,
            ptr::null_mut(),
            KernelMode,
            &raw mut handle,
        );
    }
    if status == STATUS_SUCCESS {
        status = ZwSetSecurityObject(handle, DACL_SECURITY_INFORMATION, &raw mut descriptor);
        if !is(Defect::HandleLeft) {
            kext_nt_sys::rtl::ZwClose(handle);
        }
    }
    status
}

unsafe extern "win64" fn unload(driver: *mut DRIVER_OBJECT) {
    defects::at_unload();
    if !is(Defect::LinkLeft) {
        let mut link = counted(&LINK);
        IoDeleteSymbolicLink(&raw mut link);
    }
    if !is(Defect::DeviceLeft) {
        IoDeleteDevice((*driver).DeviceObject);
    }
}

pub(crate) unsafe fn location(irp: *mut IRP) -> *mut IO_STACK_LOCATION {
    (*irp).Tail.Overlay.CurrentStackLocation
}

pub(crate) unsafe fn complete(irp: *mut IRP, status: NTSTATUS, bytes: usize) -> NTSTATUS {
    (*irp).IoStatus.Status = status;
    (*irp).IoStatus.Information = bytes;
    IofCompleteRequest(irp, IO_NO_INCREMENT);
    status
}

unsafe extern "win64" fn create_close(_: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    complete(irp, STATUS_SUCCESS, 0)
}

unsafe extern "win64" fn cleanup(_: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    if !is(Defect::CleanupForgets) {
        let waiting = take();
        if !waiting.is_null() {
            complete(waiting, STATUS_CANCELLED, 0);
        }
    }
    complete(irp, STATUS_SUCCESS, 0)
}

unsafe extern "win64" fn control(_: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    let parameters = (*location(irp)).Parameters.DeviceIoControl;
    match parameters.IoControlCode {
        ECHO => {
            let bytes = parameters
                .InputBufferLength
                .min(parameters.OutputBufferLength);
            complete(irp, STATUS_SUCCESS, bytes as usize)
        }
        WAIT => wait(irp),
        LET_GO => {
            let waiting = take();
            if waiting.is_null() {
                return complete(irp, STATUS_NOT_FOUND, 0);
            }
            complete(waiting, STATUS_SUCCESS, 0);
            complete(irp, STATUS_SUCCESS, 0)
        }
        MISBEHAVE => defects::on_request(irp),
        _ => complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0),
    }
}

unsafe fn exchange(irp: *mut IRP, routine: Option<DRIVER_CANCEL>) -> Option<DRIVER_CANCEL> {
    let slot = AtomicPtr::from_ptr((&raw mut (*irp).CancelRoutine).cast::<*mut ()>());
    let routine: *mut () = routine.map_or(ptr::null_mut(), |routine| routine as *mut ());
    let old = slot.swap(routine, SeqCst);
    transmute(old)
}

/// Pends a request, one at a time, so that it can be cancelled at any moment.
unsafe fn wait(irp: *mut IRP) -> NTSTATUS {
    let old = KeAcquireSpinLockRaiseToDpc(LOCK.as_ptr());
    if !WAITING.load(SeqCst).is_null() {
        KeReleaseSpinLock(LOCK.as_ptr(), old);
        return complete(irp, STATUS_DEVICE_BUSY, 0);
    }
    if !is(Defect::IrpPendedUnmarked) {
        (*location(irp)).Control |= SL_PENDING_RETURNED;
    }
    exchange(irp, Some(cancel));
    let cancelled = ptr::read_volatile(&raw const (*irp).Cancel) != 0;
    if cancelled && exchange(irp, None).is_some() {
        KeReleaseSpinLock(LOCK.as_ptr(), old);
        complete(irp, STATUS_CANCELLED, 0);
        return STATUS_PENDING;
    }
    // A cancel routine that runs already waits for the lock.
    WAITING.store(irp, SeqCst);
    KeReleaseSpinLock(LOCK.as_ptr(), old);
    if is(Defect::IrpMarkedButNotPended) {
        STATUS_SUCCESS
    } else {
        STATUS_PENDING
    }
}

/// The request that waits, unless a cancel routine has it.
unsafe fn take() -> *mut IRP {
    let old = KeAcquireSpinLockRaiseToDpc(LOCK.as_ptr());
    let mut irp = WAITING.swap(ptr::null_mut(), SeqCst);
    if !irp.is_null() && !is(Defect::CancelRoutineLeft) && exchange(irp, None).is_none() {
        WAITING.store(irp, SeqCst);
        irp = ptr::null_mut();
    }
    KeReleaseSpinLock(LOCK.as_ptr(), old);
    irp
}

unsafe extern "win64" fn cancel(_: *mut DEVICE_OBJECT, irp: *mut IRP) {
    if is(Defect::CancelKeepsLock) {
        return;
    }
    IoReleaseCancelSpinLock((*irp).CancelIrql);
    let old = KeAcquireSpinLockRaiseToDpc(LOCK.as_ptr());
    WAITING.store(ptr::null_mut(), SeqCst);
    KeReleaseSpinLock(LOCK.as_ptr(), old);
    if is(Defect::CancelForgets) {
        return;
    }
    complete(irp, STATUS_CANCELLED, 0);
}
