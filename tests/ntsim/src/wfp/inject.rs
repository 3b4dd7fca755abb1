//! Injection: packets that the driver sends on, seen again by callouts, completed elsewhere and late.

use std::collections::{BTreeMap, VecDeque};

use kext_nt_sys::fwp::{AF_INET, AF_INET6, AF_UNSPEC};
use kext_nt_sys::fwps::{
    FWPS_INJECT_COMPLETE0, FWPS_INJECTION_TYPE_FORWARD, FWPS_INJECTION_TYPE_NETWORK,
    FWPS_INJECTION_TYPE_STREAM, FWPS_INJECTION_TYPE_TRANSPORT,
};
use kext_nt_sys::ke::{DISPATCH_LEVEL, KIRQL, PASSIVE_LEVEL};
use kext_nt_sys::ndis::{
    NDIS_CHECKSUM_SEND_IP_HEADER, NDIS_CHECKSUM_SEND_TCP, NDIS_CHECKSUM_SEND_UDP, NDIS_STATUS,
    NDIS_STATUS_SUCCESS, NET_BUFFER_LIST, TcpIpChecksumNetBufferListInfo,
};
use kext_nt_sys::status::{
    NTSTATUS, STATUS_FWP_INJECT_HANDLE_CLOSING, STATUS_FWP_INJECT_HANDLE_STALE,
    STATUS_FWP_TCPIP_NOT_READY, STATUS_INVALID_BUFFER_SIZE, STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
};
use kext_nt_sys::types::{FALSE, HANDLE, TRUE};
use parking_lot::{Condvar, Mutex};

use super::checksum;
use super::classify::{self, Classified};
use super::lent::Mark;
use super::ndis;
use super::packet::{Direction, Packet};
use crate::check::violation;
use crate::cpu;
use crate::dispatcher;
use crate::exports::implements;
use crate::guest;
use crate::heap::{self, Kind};
use crate::mdl;

implements! {
    [status] fwps::FwpsInjectionHandleCreate0 = create_handle;
    fwps::FwpsInjectionHandleDestroy0 = destroy_handle;
    [status] fwps::FwpsInjectNetworkSendAsync0 = send;
    [status] fwps::FwpsInjectNetworkReceiveAsync0 = receive;
}

/// When injections are completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// On another thread, soon.
    #[default]
    Elsewhere,
    /// Before the call that injects returns.
    AtOnce,
    /// When the test says so, or the handle is destroyed.
    Held,
}

/// A packet that was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// Which way.
    pub direction: Direction,
    /// From the IP header on.
    pub bytes: Vec<u8>,
    /// Interface and sub-interface, of what is received.
    pub interface: (u32, u32),
    /// The compartment.
    pub compartment: u32,
    /// What the driver marked it with.
    pub context: usize,
    /// What is wrong with its checksums, if anything.
    pub wrong: Option<String>,
    /// What callouts made of it when they saw it again.
    pub classified: Classified,
}

#[derive(Clone, Copy, Debug)]
struct Handle {
    family: u16,
    kinds: u32,
    closing: bool,
    outstanding: usize,
}

#[derive(Debug)]
struct Job {
    handle: usize,
    context: usize,
    direction: Direction,
    interface: (u32, u32),
    compartment: u32,
    list: usize,
    packets: Vec<Vec<u8>>,
    offloaded: bool,
    complete: FWPS_INJECT_COMPLETE0,
    argument: usize,
}

#[derive(Debug, Default)]
struct State {
    handles: BTreeMap<usize, Handle>,
    next: usize,
    queue: VecDeque<Job>,
    /// Lists that are being injected.
    lists: Vec<usize>,
    completion: Completion,
    worker: bool,
    injected: Vec<Injected>,
    /// What the next completions say, and whether they are not injected at all.
    results: VecDeque<NDIS_STATUS>,
    not_ready: bool,
    /// How long a packet may be that is sent, if not [`MTU`].
    mtu: Option<u32>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static QUEUED: Condvar = Condvar::new();
const HANDLES: usize = 0x1_f000;

/// How long a packet may be that is sent, unless a test says otherwise: Ethernet's.
const MTU: u32 = 1500;

fn with<R>(work: impl FnOnce(&mut State) -> R) -> R {
    work(STATE.lock().get_or_insert_default())
}

/// Ends the test unless this is an injection handle.
pub(crate) fn expect_handle(handle: usize, what: &str) {
    if !with(|state| state.handles.contains_key(&handle)) {
        violation!(
            Injection,
            "{what} with {handle:#x}, which is no injection handle"
        );
    }
}

extern "win64" fn create_handle(family: u16, kinds: u32, result: *mut HANDLE) -> NTSTATUS {
    if ![AF_UNSPEC, AF_INET, AF_INET6].contains(&family) {
        return STATUS_INVALID_PARAMETER;
    }
    if kinds & FWPS_INJECTION_TYPE_NETWORK != 0 && family == AF_UNSPEC {
        // Injection at the network layers needs to know the family.
        return STATUS_INVALID_PARAMETER;
    }
    let kinds = if kinds == 0 {
        FWPS_INJECTION_TYPE_TRANSPORT | FWPS_INJECTION_TYPE_STREAM | FWPS_INJECTION_TYPE_FORWARD
    } else {
        kinds
    };
    let number = with(|state| {
        if state.not_ready {
            return None;
        }
        state.next += 8;
        let number = HANDLES + state.next;
        let handle = Handle {
            family,
            kinds,
            closing: false,
            outstanding: 0,
        };
        state.handles.insert(number, handle);
        Some(number)
    });
    let Some(number) = number else {
        return STATUS_FWP_TCPIP_NOT_READY;
    };
    guest::write(
        result,
        std::ptr::without_provenance_mut(number),
        "an injection handle",
    );
    STATUS_SUCCESS
}

extern "win64" fn destroy_handle(handle: HANDLE) -> NTSTATUS {
    let number = handle.addr();
    expect_handle(number, "FwpsInjectionHandleDestroy0");
    cpu::no_locks("FwpsInjectionHandleDestroy0");
    if COMPLETING.get() {
        violation!(
            Injection,
            "an injection handle is destroyed from a completion, for which that waits"
        );
    }
    let held = with(|state| {
        state
            .handles
            .get_mut(&number)
            .expect("looked at above")
            .closing = true;
        state.completion == Completion::Held
    });
    if held {
        release(usize::MAX);
    }
    dispatcher::wait_until("FwpsInjectionHandleDestroy0", || {
        with(|state| state.handles[&number].outstanding == 0)
    });
    with(|state| state.handles.remove(&number));
    STATUS_SUCCESS
}

thread_local! {
    static COMPLETING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// How deep injections nest that are completed at once.
    static DEPTH: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

extern "win64" fn send(
    handle: HANDLE,
    context: HANDLE,
    flags: u32,
    compartment: u32,
    list: *mut NET_BUFFER_LIST,
    complete: FWPS_INJECT_COMPLETE0,
    argument: HANDLE,
) -> NTSTATUS {
    inject(
        Direction::Outbound,
        handle,
        context,
        flags,
        (0, 0),
        compartment,
        list,
        complete,
        argument,
    )
}

extern "win64" fn receive(
    handle: HANDLE,
    context: HANDLE,
    flags: u32,
    compartment: u32,
    interface: u32,
    sub_interface: u32,
    list: *mut NET_BUFFER_LIST,
    complete: FWPS_INJECT_COMPLETE0,
    argument: HANDLE,
) -> NTSTATUS {
    let interface = (interface, sub_interface);
    inject(
        Direction::Inbound,
        handle,
        context,
        flags,
        interface,
        compartment,
        list,
        complete,
        argument,
    )
}

#[expect(
    clippy::too_many_arguments,
    reason = "those of both functions of Windows"
)]
fn inject(
    direction: Direction,
    handle: HANDLE,
    context: HANDLE,
    flags: u32,
    interface: (u32, u32),
    compartment: u32,
    list: *mut NET_BUFFER_LIST,
    complete: FWPS_INJECT_COMPLETE0,
    argument: HANDLE,
) -> NTSTATUS {
    let what = match direction {
        Direction::Outbound => "FwpsInjectNetworkSendAsync0",
        Direction::Inbound => "FwpsInjectNetworkReceiveAsync0",
    };
    expect_handle(handle.addr(), what);
    cpu::no_locks(what);
    if flags != 0 {
        violation!(Argument, "{what} with flags {flags:#x}");
    }
    let known = with(|state| state.handles[&handle.addr()]);
    if known.closing {
        return STATUS_FWP_INJECT_HANDLE_CLOSING;
    }
    if known.kinds & FWPS_INJECTION_TYPE_NETWORK == 0 {
        return STATUS_FWP_INJECT_HANDLE_STALE;
    }
    if with(|state| state.not_ready) {
        return STATUS_FWP_TCPIP_NOT_READY;
    }
    let packets = look_at(direction, list, known.family, what);
    let info = guest::read(ndis::info(list, TcpIpChecksumNetBufferListInfo), "a list") as u32;
    let left = NDIS_CHECKSUM_SEND_TCP | NDIS_CHECKSUM_SEND_UDP | NDIS_CHECKSUM_SEND_IP_HEADER;
    let job = Job {
        handle: handle.addr(),
        context: context.expose_provenance(),
        direction,
        interface,
        compartment,
        list: list.expose_provenance(),
        packets,
        offloaded: direction == Direction::Outbound && info & left != 0,
        complete,
        argument: argument.expose_provenance(),
    };
    let completion = with(|state| {
        if state.lists.contains(&job.list) {
            violation!(
                Injection,
                "a list is injected that is being injected already"
            );
        }
        state.lists.push(job.list);
        state
            .handles
            .get_mut(&job.handle)
            .expect("looked at above")
            .outstanding += 1;
        state.completion
    });
    match completion {
        Completion::AtOnce => run(job, DISPATCH_LEVEL),
        Completion::Held => with(|state| state.queue.push_back(job)),
        Completion::Elsewhere => {
            dispatcher::started();
            let start = with(|state| {
                state.queue.push_back(job);
                !std::mem::replace(&mut state.worker, true)
            });
            if start {
                std::thread::spawn(worker);
            }
            QUEUED.notify_one();
        }
    }
    STATUS_SUCCESS
}

/// The packets of a list, as they may be injected.
fn look_at(
    direction: Direction,
    list: *mut NET_BUFFER_LIST,
    family: u16,
    what: &str,
) -> Vec<Vec<u8>> {
    heap::expect_alive(list.addr(), "a list that is injected");
    match heap::find(list.addr()).map(|block| block.kind) {
        Some(Kind::NetBufferList | Kind::Clone) => {}
        Some(Kind::Lent) => violation!(Injection, "{what} of a packet that was lent, not copied"),
        _ => violation!(Injection, "{what} of what is no net buffer list"),
    }
    if !guest::borrow(list, "a list").Next.is_null() {
        violation!(Injection, "{what} of a chain of lists");
    }
    let buffers = ndis::buffers(list);
    if buffers.is_empty() {
        violation!(Injection, "{what} of a list without packets");
    }
    if direction == Direction::Inbound && buffers.len() > 1 {
        violation!(
            BugCheck,
            "bug check 0x1d3 (1): {what} of a list of several packets"
        );
    }
    buffers
        .into_iter()
        .map(|buffer| {
            let known = guest::read(buffer, "a net buffer");
            for mdl in ndis::chain(known.MdlChain) {
                let mdl = guest::read(mdl, "an MDL");
                mdl::expect_resident(
                    mdl::start(&mdl),
                    mdl.ByteCount as usize,
                    "a packet's memory",
                );
            }
            let bytes = ndis::data(&known);
            let version = match family {
                AF_INET => 4,
                _ => 6,
            };
            let least = if version == 4 { 20 } else { 40 };
            if bytes.len() < least || bytes[0] >> 4 != version {
                violation!(
                    Injection,
                    "{what}: {} bytes do not start with the IP header of version {version}",
                    bytes.len()
                );
            }
            let first = ndis::pieces(&known)
                .first()
                .map_or(0, |(address, _)| *address);
            if direction == Direction::Outbound && !first.is_multiple_of(8) {
                violation!(
                    Injection,
                    "{what}: the IP header is at {first:#x}, not at a multiple of 8"
                );
            }
            bytes
        })
        .collect()
}

fn worker() {
    loop {
        let mut state = STATE.lock();
        let job = loop {
            if let Some(job) = state.get_or_insert_default().queue.pop_front() {
                break job;
            }
            QUEUED.wait(&mut state);
        };
        drop(state);
        run(job, DISPATCH_LEVEL);
        dispatcher::finished();
    }
}

/// The stack takes a packet: callouts see it again, and its list is completed.
fn run(job: Job, level: KIRQL) {
    if DEPTH.get() > 16 {
        violation!(
            Injection,
            "a packet that was injected is injected again, over and over"
        );
    }
    DEPTH.set(DEPTH.get() + 1);
    let list: *mut NET_BUFFER_LIST = std::ptr::with_exposed_provenance_mut(job.list);
    heap::expect_alive(job.list, "a list that is being injected");
    let now: Vec<Vec<u8>> = ndis::buffers(list)
        .into_iter()
        .map(|buffer| ndis::data(&guest::read(buffer, "a net buffer")))
        .collect();
    if now != job.packets {
        violation!(Injection, "a packet is changed while it is being injected");
    }
    let mut too_long = false;
    for bytes in &job.packets {
        let mut packet = Packet::new(job.direction, bytes.clone());
        (packet.interface, packet.sub_interface) = job.interface;
        packet.compartment = Some(job.compartment);
        packet.mark = Some(Mark {
            handle: job.handle,
            context: job.context,
            earlier: false,
        });
        let classified = classify::packet(&packet);
        // What callouts let pass is not fragmented: who injects has to know what the path takes.
        if job.direction == Direction::Outbound && bytes.len() > mtu() as usize {
            too_long = true;
            continue;
        }
        let injected = Injected {
            direction: job.direction,
            wrong: if job.offloaded {
                None
            } else {
                checksum::wrong(bytes)
            },
            bytes: bytes.clone(),
            interface: job.interface,
            compartment: job.compartment,
            context: job.context,
            classified,
        };
        with(|state| state.injected.push(injected));
    }
    let result = with(|state| {
        state.lists.retain(|list| *list != job.list);
        state.results.pop_front()
    });
    let own = if too_long {
        STATUS_INVALID_BUFFER_SIZE
    } else {
        NDIS_STATUS_SUCCESS
    };
    guest::borrow(list, "a list").Status = result.unwrap_or(own);
    let outer = COMPLETING.replace(true);
    let at_dispatch = if level == DISPATCH_LEVEL { TRUE } else { FALSE };
    cpu::call("the completion of an injection", level, || {
        // SAFETY: the driver gave the routine and its argument for this list.
        unsafe {
            (job.complete)(
                std::ptr::with_exposed_provenance_mut(job.argument),
                list,
                at_dispatch,
            );
        }
    });
    COMPLETING.set(outer);
    with(|state| {
        if let Some(handle) = state.handles.get_mut(&job.handle) {
            handle.outstanding -= 1;
        }
    });
    DEPTH.set(DEPTH.get() - 1);
    dispatcher::notify();
}

/// Completes injections that are held; says how many there were.
pub(crate) fn release(most: usize) -> usize {
    let mut count = 0;
    while count < most {
        let Some(job) = with(|state| state.queue.pop_front()) else {
            break;
        };
        // On the test's own thread, below DISPATCH_LEVEL: that is allowed as well.
        run(job, PASSIVE_LEVEL);
        count += 1;
    }
    count
}

/// When injections are completed from now on.
pub(crate) fn set_completion(completion: Completion) {
    with(|state| state.completion = completion);
}

/// What the next completions say.
pub(crate) fn set_results(results: &[NDIS_STATUS]) {
    with(|state| state.results.extend(results));
}

/// Whether the stack is not ready, neither for injections nor to hold operations.
pub(crate) fn is_not_ready() -> bool {
    with(|state| state.not_ready)
}

/// Whether the stack is not ready for injections.
pub(crate) fn set_not_ready(not_ready: bool) {
    with(|state| state.not_ready = not_ready);
}

/// How long a packet may be that is sent.
pub(crate) fn set_mtu(mtu: u32) {
    with(|state| state.mtu = Some(mtu));
}

/// The same, for the metadata of packets that leave.
pub(crate) fn mtu() -> u32 {
    with(|state| state.mtu.unwrap_or(MTU))
}

/// Whether a list is being injected.
pub(crate) fn is_under_way(list: usize) -> bool {
    with(|state| state.lists.contains(&list))
}

/// How many injections are under way.
pub(crate) fn under_way() -> usize {
    with(|state| state.lists.len())
}

/// What was injected since the last call, in the order in which it was completed.
pub(crate) fn take() -> Vec<Injected> {
    with(|state| std::mem::take(&mut state.injected))
}

pub(crate) fn pending() -> Vec<String> {
    with(|state| {
        let mut pending = Vec::new();
        if !state.handles.is_empty() {
            pending.push(format!(
                "{} injection handles are there",
                state.handles.len()
            ));
        }
        if !state.lists.is_empty() {
            pending.push(format!("{} injections are under way", state.lists.len()));
        }
        pending
    })
}
