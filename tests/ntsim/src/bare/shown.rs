//! A packet that is built once and shown to the callout of its layer many times.

use std::cell::Cell;

use kext_nt_sys::fwp::{FWP_ACTION_BLOCK, FWP_ACTION_PERMIT, FWP_VALUE0};
use kext_nt_sys::fwps::{FWPS_CALLOUT_CLASSIFY_FN2, FWPS_CLASSIFY_OUT0, FWPS_FILTER2};
use kext_nt_sys::ndis::NET_BUFFER_LIST;

use super::functions;
use crate::guest;
use crate::mdl;
use crate::wfp::callout;
use crate::wfp::classify::{self, Arguments};
use crate::wfp::engine;
use crate::wfp::lent::Lent;
use crate::wfp::ndis;
use crate::wfp::packet::{Direction, Packet};

/// What a callout has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The packet goes on.
    Permit,
    /// It does not.
    Block,
    /// Nothing was said of it.
    Continue,
}

/// A packet in memory, with all that a callout is given.
///
/// It shows what was injected as well, on the thread that has shown it last.
#[derive(Debug)]
pub struct Shown {
    way: Way,
    list: *mut NET_BUFFER_LIST,
    /// Where its source and its destination are told, which are of IPv4.
    ends: [*mut FWP_VALUE0; 2],
    /// Where its bytes are, in its pieces.
    pieces: Vec<(*mut u8, usize)>,
    /// Its memory.
    _lent: Lent,
}

/// How a callout is called.
#[derive(Clone, Copy, Debug)]
struct Way {
    arguments: &'static Arguments<'static>,
    routine: FWPS_CALLOUT_CLASSIFY_FN2,
    seen: *const FWPS_FILTER2,
    fresh: FWPS_CLASSIFY_OUT0,
}

thread_local! {
    static LAST: Cell<Option<Way>> = const { Cell::new(None) };
}

impl Shown {
    /// A packet of one buffer, of IPv4, at a layer that the driver looks at.
    ///
    /// # Panics
    ///
    /// If no callout is registered for the layer.
    pub fn new(packet: &Packet) -> Self {
        let call: &'static classify::Call = Box::leak(Box::new(classify::call_of(packet)));
        let lent = classify::lend(packet).remove(0);
        let active = engine::active().expect("filters are added");
        let filters: &'static _ = Box::leak(Box::new(active));
        let active = filters
            .get(&call.layer.id)
            .and_then(|filters| filters.iter().find(|active| active.filter.calls()))
            .expect("the driver looks at the layer");
        let callout = callout::by_key(&active.filter.callout).expect("it is registered");
        let arguments: &'static Arguments<'static> = Box::leak(Box::new(Arguments::new(call)));
        let buffer = ndis::buffers(lent.list)[0];
        let buffer = guest::read(buffer, "a net buffer");
        let skip = packet.headroom;
        let pieces = ndis::chain(buffer.MdlChain)
            .enumerate()
            .map(|(number, piece)| {
                let piece = guest::read(piece, "an MDL");
                let skip = if number == 0 { skip } else { 0 };
                let start = std::ptr::with_exposed_provenance_mut::<u8>(mdl::start(&piece) + skip);
                (start, piece.ByteCount as usize - skip)
            })
            .collect();
        let fields = &call.layer.fields;
        let ends = [fields.local_address, fields.remote_address]
            .map(|field| arguments.value(field.expect("it has addresses")));
        let ends = match packet.direction {
            Direction::Outbound => ends,
            Direction::Inbound => [ends[1], ends[0]],
        };
        Self {
            ends,
            way: Way {
                arguments,
                routine: callout.classify,
                seen: &raw const active.seen,
                fresh: Arguments::fresh(active),
            },
            list: lent.list,
            pieces,
            _lent: lent,
        }
    }

    /// Shows other bytes, as many as the packet has.
    ///
    /// # Panics
    ///
    /// If they are fewer.
    #[inline]
    pub fn show(&mut self, mut bytes: &[u8]) -> Answer {
        let addresses = bytes.get(12..20).map(<[u8]>::as_chunks);
        let (addresses, _) = addresses.expect("a header of IPv4");
        for (end, address) in self.ends.into_iter().zip(addresses) {
            // SAFETY: the value is there, and nobody uses it now.
            unsafe { (*end).Anonymous.uint32 = u32::from_be_bytes(*address) };
        }
        for (start, count) in &self.pieces {
            let (here, rest) = bytes.split_at(*count);
            // SAFETY: so many bytes are there, and nobody uses them now.
            unsafe { start.copy_from_nonoverlapping(here.as_ptr(), *count) };
            bytes = rest;
        }
        LAST.set(Some(self.way));
        self.way.call(self.list)
    }

    /// How many packets this thread has injected.
    pub fn injected() -> u64 {
        functions::injected()
    }
}

impl Way {
    #[inline]
    fn call(&self, list: *mut NET_BUFFER_LIST) -> Answer {
        let (fixed, metadata, out) = self.arguments.pointers();
        // SAFETY: all arguments stay for as long as the driver, and the routine is called with them as by
        // the filter engine.
        unsafe {
            out.write(self.fresh);
            (self.routine)(
                fixed,
                metadata,
                list.cast(),
                std::ptr::null(),
                self.seen,
                0,
                out,
            );
            match (*out).actionType {
                FWP_ACTION_PERMIT => Answer::Permit,
                FWP_ACTION_BLOCK => Answer::Block,
                _ => Answer::Continue,
            }
        }
    }
}

/// Shows a packet that the driver has injected, at the layer of the one that was shown last.
pub(super) fn show_again(list: *mut NET_BUFFER_LIST) {
    if let Some(way) = LAST.get() {
        way.call(list);
    }
}
