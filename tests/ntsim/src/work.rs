//! Work items and system threads: what the driver has run elsewhere, at `PASSIVE_LEVEL`.

use std::collections::{HashMap, VecDeque};

use kext_nt_sys::io::{DEVICE_OBJECT, IO_WORKITEM_ROUTINE, WORK_QUEUE_TYPE};
use kext_nt_sys::ke::PASSIVE_LEVEL;
use kext_nt_sys::ps::KSTART_ROUTINE;
use kext_nt_sys::status::{NTSTATUS, STATUS_SUCCESS};
use kext_nt_sys::types::{ACCESS_MASK, HANDLE, IO_WORKITEM, OBJECT_ATTRIBUTES, PVOID};
use parking_lot::{Condvar, Mutex};

use crate::check::violation;
use crate::cpu;
use crate::dispatcher;
use crate::exports::implements;
use crate::guest;
use crate::heap::{self, Kind};
use crate::io;
use crate::observe;
use crate::process;

implements! {
    [null] io::IoAllocateWorkItem = allocate;
    io::IoQueueWorkItem = queue;
    io::IoFreeWorkItem = free;
    [status] ps::PsCreateSystemThread = create_thread;
    ps::PsTerminateSystemThread = terminate_thread;
}

const WORKERS: usize = 2;
const SIZE: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Item {
    address: usize,
    device: usize,
    routine: IO_WORKITEM_ROUTINE,
    context: usize,
}

#[derive(Debug, Default)]
struct Work {
    /// The device of each work item, and whether it is queued.
    items: HashMap<usize, (usize, bool)>,
    queue: VecDeque<Item>,
    workers: usize,
    threads: usize,
}

static WORK: Mutex<Option<Work>> = Mutex::new(None);
static QUEUED: Condvar = Condvar::new();

fn with<R>(work: impl FnOnce(&mut Work) -> R) -> R {
    work(WORK.lock().get_or_insert_default())
}

extern "win64" fn allocate(device: *mut DEVICE_OBJECT) -> *mut IO_WORKITEM {
    io::expect_device(device, "IoAllocateWorkItem");
    let item = heap::allocate(Kind::WorkItem, SIZE, observe::site());
    with(|work| {
        work.items
            .insert(item.addr(), (device.expose_provenance(), false))
    });
    item.cast()
}

extern "win64" fn queue(
    item: *mut IO_WORKITEM,
    routine: IO_WORKITEM_ROUTINE,
    _: WORK_QUEUE_TYPE,
    context: PVOID,
) {
    let address = item.expose_provenance();
    heap::expect_alive(address, "a work item");
    let start = with(|work| {
        let Some((device, queued)) = work.items.get_mut(&address) else {
            violation!(
                Object,
                "IoQueueWorkItem of {address:#x}, which is no work item"
            );
        };
        if std::mem::replace(queued, true) {
            violation!(Object, "a work item is queued that is queued already");
        }
        let device = *device;
        work.queue.push_back(Item {
            address,
            device,
            routine,
            context: context.expose_provenance(),
        });
        let start = work.workers < WORKERS;
        work.workers += usize::from(start);
        start
    });
    dispatcher::started();
    if start {
        std::thread::spawn(worker);
    }
    QUEUED.notify_one();
}

fn worker() {
    loop {
        let mut work = WORK.lock();
        let item = loop {
            if let Some(item) = work.get_or_insert_default().queue.pop_front() {
                break item;
            }
            QUEUED.wait(&mut work);
        };
        if let Some((_, queued)) = work.get_or_insert_default().items.get_mut(&item.address) {
            *queued = false;
        }
        drop(work);
        cpu::call("a work item", PASSIVE_LEVEL, || {
            // SAFETY: the driver gave the routine and its context for this.
            unsafe {
                (item.routine)(
                    std::ptr::with_exposed_provenance_mut(item.device),
                    std::ptr::with_exposed_provenance_mut(item.context),
                );
            }
        });
        dispatcher::finished();
    }
}

extern "win64" fn free(item: *mut IO_WORKITEM) {
    let address = item.expose_provenance();
    heap::free(address, "IoFreeWorkItem", observe::site(), |block| {
        (block.kind != Kind::WorkItem).then(|| "it is no work item".into())
    });
    if with(|work| work.items.remove(&address)).is_some_and(|(_, queued)| queued) {
        violation!(Object, "a work item is freed that is queued");
    }
}

extern "win64" fn create_thread(
    handle: *mut HANDLE,
    _: ACCESS_MASK,
    _: *mut OBJECT_ATTRIBUTES,
    _: HANDLE,
    _: PVOID,
    routine: KSTART_ROUTINE,
    context: PVOID,
) -> NTSTATUS {
    let object = heap::allocate(Kind::Thread, SIZE, observe::site()).expose_provenance();
    dispatcher::initialise_thread(object);
    guest::write(handle, process::handle_of(object), "the handle of a thread");
    let context = context.expose_provenance();
    with(|work| work.threads += 1);
    std::thread::spawn(move || {
        THREAD.set(object);
        cpu::call("the routine of a thread", PASSIVE_LEVEL, || {
            // SAFETY: the driver gave the routine and its context for this.
            unsafe { routine(std::ptr::with_exposed_provenance_mut(context)) };
        });
        ended(object);
    });
    STATUS_SUCCESS
}

thread_local! {
    static THREAD: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn ended(object: usize) {
    with(|work| work.threads -= 1);
    dispatcher::signal_thread(object);
}

extern "win64" fn terminate_thread(_: NTSTATUS) -> NTSTATUS {
    let object = THREAD.get();
    if object == 0 {
        violation!(
            Object,
            "PsTerminateSystemThread on a thread that the driver did not make"
        );
    }
    cpu::no_locks("PsTerminateSystemThread");
    dispatcher::thread_left();
    ended(object);
    // Frames of the driver are on this stack, and nothing may unwind across them.
    loop {
        std::thread::park();
    }
}

/// What still has to run.
pub(crate) fn pending() -> Vec<String> {
    with(|work| {
        let mut pending = Vec::new();
        if !work.queue.is_empty() {
            pending.push(format!("{} work items are queued", work.queue.len()));
        }
        if work.threads > 0 {
            pending.push(format!("{} threads of the driver run", work.threads));
        }
        pending
    })
}
