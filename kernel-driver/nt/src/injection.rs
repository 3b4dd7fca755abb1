//! Injection: packets of ours that go on their way, and how to know them when they come by again.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use kext_nt_sys::fwps::{
    FWPS_INJECTION_TYPE_NETWORK, FWPS_PACKET_INJECTED_BY_SELF,
    FWPS_PACKET_PREVIOUSLY_INJECTED_BY_SELF, FwpsAllocateNetBufferAndNetBufferList0,
    FwpsFreeNetBufferList0, FwpsInjectNetworkReceiveAsync0, FwpsInjectNetworkSendAsync0,
    FwpsInjectionHandleCreate0, FwpsInjectionHandleDestroy0, FwpsQueryPacketInjectionState0,
};
use kext_nt_sys::ndis::{
    NDIS_OBJECT_HEADER, NDIS_OBJECT_TYPE_DEFAULT, NDIS_PROTOCOL_ID_DEFAULT,
    NDIS_SIZEOF_NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1, NET_BUFFER_LIST,
    NET_BUFFER_LIST_POOL_PARAMETERS, NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1,
    NdisAllocateNetBufferListPool, NdisFreeNetBufferListPool,
};
use kext_nt_sys::status::STATUS_DEVICE_NOT_READY;
use kext_nt_sys::types::{BOOLEAN, HANDLE, PVOID, TRUE};

use crate::blocks::Block;
use crate::irql::Passive;
use crate::layer::Family;
use crate::net_buffer::Packets;
use crate::pool::TAG;
use crate::status::{Result, Status};

/// Which way a packet is injected, and so which of our handles knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As if it came from the network.
    Receive,
    /// As if it was sent here.
    Send,
}

/// Where a packet is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its sub-interface's index.
    pub sub_index: u32,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// It is received on this interface.
    Receive(Interface),
    /// It is sent.
    Send,
}

/// Injections that were begun and did not succeed: the stack says so in their completion.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// Injects packets.
pub struct Injector {
    /// By family, then by [`Way`]; null until they could be made.
    handles: [[AtomicPtr<core::ffi::c_void>; 2]; 2],
    /// The pool of net buffer lists.
    pool: HANDLE,
}

// SAFETY: the pool is used through functions that any thread may call.
unsafe impl Send for Injector {}
// SAFETY: as above.
unsafe impl Sync for Injector {}

impl Injector {
    /// Nothing can be injected before [`Injector::make_ready`].
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn try_new() -> Result<Self> {
        let parameters = NET_BUFFER_LIST_POOL_PARAMETERS {
            Header: NDIS_OBJECT_HEADER {
                Type: NDIS_OBJECT_TYPE_DEFAULT,
                Revision: NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1,
                Size: NDIS_SIZEOF_NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1,
            },
            ProtocolId: NDIS_PROTOCOL_ID_DEFAULT,
            fAllocateNetBuffer: TRUE,
            ContextSize: 0,
            PoolTag: TAG,
            DataSize: 0,
        };
        // SAFETY: the parameters are whole, and are read only.
        let pool = unsafe { NdisAllocateNetBufferListPool(ptr::null_mut(), &raw const parameters) };
        if pool.is_null() {
            return Err(Status::NO_MEMORY);
        }
        Ok(Self {
            handles: [const { [const { AtomicPtr::new(ptr::null_mut()) }; 2] }; 2],
            pool,
        })
    }

    /// Makes the handles that are not there yet. Early in the start of a machine that fails: then it is
    /// to be called again.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn make_ready(&self, _: &Passive) -> Result<()> {
        for family in Family::ALL {
            for way in [Way::Receive, Way::Send] {
                let place = self.place(family, way);
                if !place.load(Ordering::Relaxed).is_null() {
                    continue;
                }
                let mut handle = ptr::null_mut();
                // SAFETY: at PASSIVE_LEVEL, as the token says.
                let status = unsafe {
                    FwpsInjectionHandleCreate0(
                        family.number(),
                        FWPS_INJECTION_TYPE_NETWORK,
                        &raw mut handle,
                    )
                };
                Status::check(status)?;
                place.store(handle, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Ends injection: waits for every packet that is on its way.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn stop(&self, _: &Passive) {
        for handle in self.handles.as_flattened() {
            let handle = handle.swap(ptr::null_mut(), Ordering::AcqRel);
            if !handle.is_null() {
                // SAFETY: at PASSIVE_LEVEL, as the token says; nobody finds the handle any more.
                let _ = unsafe { FwpsInjectionHandleDestroy0(handle) };
            }
        }
    }

    /// How many packets the stack has taken and not let go, for instance as they are larger than the
    /// network takes.
    pub fn refused(&self) -> u32 {
        REFUSED.load(Ordering::Relaxed)
    }

    fn place(&self, family: Family, way: Way) -> &AtomicPtr<core::ffi::c_void> {
        let [v4, v6] = &self.handles;
        let [receive, send] = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        match way {
            Way::Receive => receive,
            Way::Send => send,
        }
    }

    /// The mark that these packets were injected with, if we have injected them this way.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn mark_of(&self, packets: Packets<'_>, family: Family, way: Way) -> Option<usize> {
        let handle = self.place(family, way).load(Ordering::Acquire);
        if handle.is_null() {
            return None;
        }
        let mut context = ptr::null_mut();
        // SAFETY: the handle is one of ours, and the list is lent to us.
        let state =
            unsafe { FwpsQueryPacketInjectionState0(handle, packets.as_ptr(), &raw mut context) };
        match state {
            FWPS_PACKET_INJECTED_BY_SELF | FWPS_PACKET_PREVIOUSLY_INJECTED_BY_SELF => {
                Some(context.addr())
            }
            _ => None,
        }
    }

    /// Sends the first `len` bytes of a block on their way: an IP packet from its header on, with
    /// addresses of this family. When they come by they have this mark.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`, without a lock.
    pub fn inject(
        &self,
        block: Block,
        len: usize,
        family: Family,
        target: Target,
        compartment: u32,
        mark: usize,
    ) -> Result<()> {
        let way = match target {
            Target::Receive(_) => Way::Receive,
            Target::Send => Way::Send,
        };
        let handle = self.place(family, way).load(Ordering::Acquire);
        if handle.is_null() || len > block.as_ref().len() {
            return Err(Status(STATUS_DEVICE_NOT_READY));
        }
        let mut list: *mut NET_BUFFER_LIST = ptr::null_mut();
        // SAFETY: the pool is one for lists with a buffer; the block's memory is described whole.
        let status = unsafe {
            FwpsAllocateNetBufferAndNetBufferList0(
                self.pool,
                0,
                0,
                block.mdl(),
                0,
                len,
                &raw mut list,
            )
        };
        Status::check(status)?;
        let mark = ptr::without_provenance_mut(mark);
        // From here on it is the completion's, which may come before the call returns.
        let block = block.into_word();
        let status = match target {
            // SAFETY: the list holds one packet from its IP header on, and stays with its memory until
            // the completion.
            Target::Receive(interface) => unsafe {
                FwpsInjectNetworkReceiveAsync0(
                    handle,
                    mark,
                    0,
                    compartment,
                    interface.index,
                    interface.sub_index,
                    list,
                    completed,
                    block,
                )
            },
            // SAFETY: as above.
            Target::Send => unsafe {
                FwpsInjectNetworkSendAsync0(handle, mark, 0, compartment, list, completed, block)
            },
        };
        let injected = Status::check(status);
        if injected.is_err() {
            // SAFETY: the completion is not called if the call fails.
            unsafe { give_back(block, list) };
        }
        injected
    }
}

impl Drop for Injector {
    /// IRQL: `PASSIVE_LEVEL`.
    fn drop(&mut self) {
        // SAFETY: handles are dropped where they are made, at PASSIVE_LEVEL.
        self.stop(&unsafe { Passive::assume() });
        // SAFETY: every list was freed by its completion, for which `stop` has waited.
        unsafe { NdisFreeNetBufferListPool(self.pool) };
    }
}

/// The end of an injection.
///
/// # Safety
///
/// Called once for each list that [`Injector::inject`] made, with its block.
unsafe extern "win64" fn completed(block: PVOID, list: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: the list is ours.
    let status = unsafe { (*list).Status };
    if Status::check(status).is_err() {
        REFUSED.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: as the caller says.
    unsafe { give_back(block, list) };
}

/// All that was taken for an injection goes back.
///
/// # Safety
///
/// Called once for each list that [`Injector::inject`] made, with its block.
unsafe fn give_back(block: PVOID, list: *mut NET_BUFFER_LIST) {
    // SAFETY: the list is ours, and nobody uses it any more.
    unsafe { FwpsFreeNetBufferList0(list) };
    // SAFETY: the word is of the list's block, and this is called once.
    drop(unsafe { Block::from_word(block) });
}
