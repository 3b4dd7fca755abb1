//! Processes, handles and references.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use kext_nt_sys::ke::KPROCESSOR_MODE;
use kext_nt_sys::status::{
    NTSTATUS, STATUS_INVALID_HANDLE, STATUS_INVALID_PARAMETER, STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
};
use kext_nt_sys::types::{
    ACCESS_MASK, EPROCESS, HANDLE, OBJECT_ATTRIBUTES, OBJECT_HANDLE_INFORMATION, OBJECT_TYPE,
    PVOID, UNICODE_STRING,
};
use parking_lot::Mutex;

use crate::check::violation;
use crate::cpu;
use crate::exports::implements;
use crate::guest;
use crate::heap::{self, Kind};
use crate::observe;

implements! {
    ps::PsGetCurrentProcessId = current_process;
    ps::PsGetCurrentThreadId = current_thread;
    [status] ps::PsLookupProcessByProcessId = look_up;
    [status] ps::SeLocateProcessImageName = image_name;
    [status] ps::ObReferenceObjectByHandle = reference_by_handle;
    ps::ObfReferenceObject = reference;
    ps::ObfDereferenceObject = dereference;
    rtl::ZwClose = close;
    [status] rtl::ZwOpenKey = open_key;
    [status] rtl::ZwQueryValueKey = query_value;
    rtl::MmGetSystemRoutineAddress = routine_address;
}

#[derive(Debug, Default)]
struct Objects {
    handles: HashMap<usize, usize>,
    next: usize,
    /// References that the driver took, by object.
    references: HashMap<usize, usize>,
    /// Object and image of each process.
    processes: HashMap<u64, (usize, String)>,
}

static OBJECTS: Mutex<Option<Objects>> = Mutex::new(None);
/// The process whose thread calls, as far as the driver can tell.
static CURRENT: AtomicUsize = AtomicUsize::new(4);

fn with<R>(work: impl FnOnce(&mut Objects) -> R) -> R {
    work(OBJECTS.lock().get_or_insert_default())
}

/// A handle of the kernel for an object.
pub(crate) fn handle_of(object: usize) -> HANDLE {
    with(|objects| {
        objects.next += 4;
        let handle = 0xffff_ffff_8000_0000 + objects.next;
        objects.handles.insert(handle, object);
        std::ptr::without_provenance_mut(handle)
    })
}

/// The object of a handle.
pub(crate) fn object_of(handle: HANDLE) -> Option<usize> {
    with(|objects| objects.handles.get(&handle.addr()).copied())
}

/// There is a process with this image.
pub(crate) fn add_process(id: u64, path: &str) {
    with(|objects| {
        let object = 0xffff_8000_0000_0000 + (id as usize) * 0x1000;
        objects.processes.insert(id, (object, path.to_owned()));
    });
}

/// What the driver has not given back.
pub(crate) fn pending() -> Vec<String> {
    with(|objects| {
        let mut pending = Vec::new();
        if !objects.handles.is_empty() {
            pending.push(format!("{} handles are open", objects.handles.len()));
        }
        let references: usize = objects.references.values().sum();
        if references > 0 {
            pending.push(format!("{references} references to objects are held"));
        }
        pending
    })
}

extern "win64" fn current_process() -> HANDLE {
    std::ptr::without_provenance_mut(CURRENT.load(Ordering::Relaxed))
}

extern "win64" fn current_thread() -> HANDLE {
    std::ptr::without_provenance_mut(cpu::thread() as usize * 4)
}

extern "win64" fn look_up(id: HANDLE, process: *mut *mut EPROCESS) -> NTSTATUS {
    let found = with(|objects| {
        let object = objects.processes.get(&(id.addr() as u64))?.0;
        *objects.references.entry(object).or_default() += 1;
        Some(object)
    });
    match found {
        Some(object) => {
            guest::write(
                process,
                std::ptr::without_provenance_mut(object),
                "a process",
            );
            STATUS_SUCCESS
        }
        None => STATUS_INVALID_PARAMETER,
    }
}

extern "win64" fn image_name(process: *mut EPROCESS, name: *mut *mut UNICODE_STRING) -> NTSTATUS {
    let path = with(|objects| {
        objects
            .processes
            .values()
            .find(|(object, _)| *object == process.addr())
            .map(|(_, path)| path.clone())
    });
    let Some(path) = path else {
        violation!(Object, "SeLocateProcessImageName of what is no process");
    };
    let units: Vec<u16> = path.encode_utf16().collect();
    let header = size_of::<UNICODE_STRING>();
    let bytes = units.len() * 2;
    let kind = Kind::Pool {
        tag: u32::from_le_bytes(*b"SeIn"),
        paged: true,
    };
    let memory = heap::allocate(kind, header + bytes.max(2), observe::site());
    // SAFETY: the block has room for both.
    let text: *mut u16 = unsafe { memory.add(header) }.cast();
    // SAFETY: as above.
    unsafe { text.copy_from_nonoverlapping(units.as_ptr(), units.len()) };
    let string = UNICODE_STRING {
        Length: bytes as u16,
        MaximumLength: bytes as u16,
        Buffer: text,
    };
    guest::write(memory.cast(), string, "an image name");
    guest::write(name, memory.cast(), "an image name");
    STATUS_SUCCESS
}

extern "win64" fn reference_by_handle(
    handle: HANDLE,
    _: ACCESS_MASK,
    _: *mut OBJECT_TYPE,
    _: KPROCESSOR_MODE,
    object: *mut PVOID,
    _: *mut OBJECT_HANDLE_INFORMATION,
) -> NTSTATUS {
    let Some(found) = object_of(handle) else {
        return STATUS_INVALID_HANDLE;
    };
    with(|objects| *objects.references.entry(found).or_default() += 1);
    guest::write(
        object,
        std::ptr::with_exposed_provenance_mut(found),
        "an object",
    );
    STATUS_SUCCESS
}

extern "win64" fn reference(object: PVOID) -> isize {
    with(|objects| {
        let count = objects.references.entry(object.addr()).or_default();
        *count += 1;
        count.cast_signed()
    })
}

extern "win64" fn dereference(object: PVOID) -> isize {
    with(|objects| match objects.references.get_mut(&object.addr()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            count.cast_signed()
        }
        _ => violation!(
            Object,
            "an object is dereferenced more often than referenced"
        ),
    })
}

extern "win64" fn close(handle: HANDLE) -> NTSTATUS {
    if with(|objects| objects.handles.remove(&handle.addr())).is_none() {
        violation!(Object, "ZwClose of {handle:p}, which is no handle");
    }
    STATUS_SUCCESS
}

/// There is no registry: nothing is configured.
extern "win64" fn open_key(
    _: *mut HANDLE,
    _: ACCESS_MASK,
    attributes: *mut OBJECT_ATTRIBUTES,
) -> NTSTATUS {
    let attributes = guest::read(attributes, "object attributes");
    guest::string(attributes.ObjectName, "the name of a key");
    STATUS_OBJECT_NAME_NOT_FOUND
}

extern "win64" fn query_value(
    handle: HANDLE,
    _: *mut UNICODE_STRING,
    _: i32,
    _: PVOID,
    _: u32,
    _: *mut u32,
) -> NTSTATUS {
    if object_of(handle).is_none() {
        violation!(Object, "ZwQueryValueKey of {handle:p}, which is no handle");
    }
    STATUS_OBJECT_NAME_NOT_FOUND
}

extern "win64" fn routine_address(name: *mut UNICODE_STRING) -> PVOID {
    guest::string(name, "the name of a routine");
    std::ptr::null_mut()
}
