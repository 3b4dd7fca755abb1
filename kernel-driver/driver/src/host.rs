//! The Windows kernel as the extension's host: clock, randomness, memory for packets, and their leaving.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use kext_extension::{ConnectId, Host, InjectError, Injection, MAX_CONNECTS};
use kext_nt::blocks::{Block, Blocks, Size};
use kext_nt::boxed::try_box;
use kext_nt::deferred;
use kext_nt::injection::{Injector, Interface, Target};
use kext_nt::irql::Passive;
use kext_nt::layer::Family;
use kext_nt::operations::Operations;
use kext_nt::spin_lock::RawSpinLock;
use kext_nt::status::Status;
use kext_nt::{Result, log, random, time};
use kext_nt_sys::status::STATUS_PENDING;
use kext_packet::{Fragmentation, Headers};
use kext_types::{Arrival, Direction, IpVersion, MAX_PACKET_LEN, Reason, Timestamp};
use kext_wire::hello::HostKind;

use crate::checksums;
use crate::kext::{is_loopback_here, nests_here};
use crate::leaving::{Later, Leaving};
use crate::reads::Reads;

/// Memory for packets that leave: as many short ones as can be held, and some of the longer ones.
const BLOCKS: [Size; 3] = [
    Size {
        bytes: 2_048,
        count: 1_024,
    },
    Size {
        bytes: 10_240,
        count: 128,
    },
    Size {
        bytes: MAX_PACKET_LEN,
        count: 32,
    },
];

/// What the extension needs of Windows. Parts of it stand in boxes, as the whole is on the stack while it is
/// made.
pub(crate) struct WfpHost {
    pub(crate) reads: Box<Reads>,
    pub(crate) injector: Injector,
    later: Box<Later>,
    /// Connects that are held, by the extension's places for them.
    pub(crate) connects: Operations,
    blocks: Blocks,
    /// Packets that were counted as gone, and could not be let go when they had a stack of their own.
    lost: AtomicU32,
    /// What the clock of the machine's start showed in nanoseconds since 1970: the time goes on from
    /// there, whoever sets the clock meanwhile.
    started: u64,
    random: AtomicU64,
}

impl WfpHost {
    #[inline(never)]
    pub(crate) fn try_new(passive: &Passive) -> Result<Self> {
        let started = time::since_1970().saturating_sub(time::since_start());
        Ok(Self {
            reads: try_box(Reads::try_new()?)?,
            injector: Injector::try_new()?,
            later: try_box(Later::try_new(BLOCKS.iter().map(|size| size.count).sum())?)?,
            connects: Operations::try_new(MAX_CONNECTS)?,
            blocks: Blocks::try_new(&BLOCKS)?,
            lost: AtomicU32::new(0),
            started: started.saturating_mul(time::NANOS_PER_UNIT),
            random: AtomicU64::new(random::random(passive)?),
        })
    }

    /// Waits for every packet that is on its way. No packet is presented any more, and none leaves.
    pub(crate) fn stop(&self, passive: &Passive) {
        const PAUSE: Duration = Duration::from_millis(1);
        const LONG: u32 = 1_000;
        self.reads.stop(passive);
        // Nothing is shown any more, so none of these comes again.
        // Bound: the packets that wait.
        while let Some(leaving) = self.later.pop() {
            self.inject_now(leaving);
        }
        // A deferred call that was queued again may have taken one: it needs the handles until it is over.
        deferred::flush(passive);
        self.injector.stop(passive);
        // The handles' end is said to wait for every completion. Should it not, this does.
        // Bound: none. Going on while completions are to come would stop the machine.
        for attempt in 1_u32.. {
            if self.blocks.in_use() == 0 {
                break;
            }
            if attempt.is_multiple_of(LONG) {
                log::error(c"packets are on their way still", Status(STATUS_PENDING));
            }
            time::sleep(passive, PAUSE);
        }
        if self.injector.refused() > 0 {
            log::info(
                c"packets were injected that the network stack refused, for instance as too large",
            );
        }
        if self.lost.load(Ordering::Relaxed) > 0 {
            log::info(c"permitted packets were lost, as they could not be let go");
        }
    }

    /// Memory for a packet of this length.
    pub(crate) fn take_block(&self, len: usize) -> Option<Block> {
        self.blocks.take(len)
    }

    /// Sends a packet on its way that was permitted, but whose list could not be left as it was. The
    /// error is the reason for which it ends instead.
    pub(crate) fn let_go(
        &self,
        copy: Option<Block>,
        arrival: &Arrival,
    ) -> core::result::Result<(), Reason> {
        let block = copy.ok_or(Reason::DroppedNoBuffer)?;
        let len = block.as_ref().len();
        self.leave(block, len, arrival)
            .map_err(|_| Reason::DroppedInjectFailed)
    }

    fn leave(
        &self,
        mut block: Block,
        len: usize,
        arrival: &Arrival,
    ) -> core::result::Result<(), InjectError> {
        let packet = block.as_mut().get_mut(..len).ok_or(InjectError)?;
        let headers = Headers::parse(packet, len).map_err(|_| InjectError)?;
        let target = match arrival.direction {
            Direction::Inbound if !stays_here(&headers) => {
                checksums::repair_ipv4_header(packet);
                Target::Receive(Interface {
                    index: arrival.interface.index,
                    sub_index: arrival.interface.sub_index,
                })
            }
            // The stack does not take packets of the machine to itself as received ones.
            Direction::Inbound | Direction::Outbound => Target::Send,
        };
        let family = match headers.version {
            IpVersion::V4 => Family::V4,
            IpVersion::V6 => Family::V6,
        };
        let leaving = Leaving {
            block,
            len,
            family,
            target,
            compartment: arrival.compartment,
            passes: usize::from(arrival.passes.saturating_add(1)),
        };
        match arrival.path_mtu.map(|mtu| usize::from(mtu.get())) {
            Some(mtu) if len > mtu && target == Target::Send => {
                self.leave_in_fragments(leaving, &headers, mtu)
            }
            _ => self.inject_or_keep(leaving),
        }
    }

    /// Sends a packet that is longer than its path takes: it was shown before the stack has fragmented
    /// it, and the stack refuses it from us. Without memory for all fragments none is sent.
    #[cold]
    #[inline(never)]
    fn leave_in_fragments(
        &self,
        whole: Leaving,
        headers: &Headers,
        mtu: usize,
    ) -> core::result::Result<(), InjectError> {
        let packet = whole.block.as_ref();
        let identification = self.random() as u32;
        let Ok(fragmentation) = Fragmentation::new(packet, headers, mtu, identification) else {
            // Its sender does not want it fragmented, or nobody may: the stack refuses it, and says so.
            return self.inject_or_keep(whole);
        };
        // They go by the queue of those that wait, which has room for them: a stack has not.
        let fragment = |number| {
            let mut block = self.blocks.take(fragmentation.len_of(number))?;
            fragmentation.write(number, block.as_mut())?;
            Some(whole.with_block(block))
        };
        self.later
            .push_all(fragmentation.count(), fragment)
            .map_err(|_| InjectError)
    }

    fn inject_or_keep(&self, leaving: Leaving) -> core::result::Result<(), InjectError> {
        let left = if nests_here() || !self.later.is_empty() {
            self.later.push(leaving)
        } else {
            leaving.inject(&self.injector)
        };
        left.map_err(|_| InjectError)
    }

    /// Injects some of the packets that wait for a stack of their own.
    pub(crate) fn inject_some(&self) {
        self.later.take_some(|leaving| self.inject_now(leaving));
    }

    /// Injects a packet that was counted as gone already.
    fn inject_now(&self, leaving: Leaving) {
        if leaving.inject(&self.injector).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether a packet stays within this machine, as far as can be told.
fn stays_here(headers: &Headers) -> bool {
    let [source, destination] =
        [headers.source, headers.destination].map(|address| address.to_ip(headers.version));
    source.is_loopback() || destination.is_loopback() || source == destination || is_loopback_here()
}

impl Host for WfpHost {
    type Lock = RawSpinLock;
    type Buffer = Block;

    const KIND: HostKind = HostKind::Wfp;

    #[inline]
    fn now(&self) -> Timestamp {
        let since_start = time::since_start().wrapping_mul(time::NANOS_PER_UNIT);
        Timestamp::from_nanos(self.started.wrapping_add(since_start))
    }

    /// Increment and finish of `SplitMix64`, from a start that nobody knows: the system's own
    /// generator is not to be had at `DISPATCH_LEVEL`.
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .random
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn allocate(&self, len: usize) -> Option<Block> {
        self.blocks.take(len)
    }

    fn inject(
        &self,
        buffer: Block,
        injection: &Injection,
    ) -> core::result::Result<(), InjectError> {
        self.leave(buffer, injection.len, &injection.arrival)
    }

    fn injections_refused(&self) -> u64 {
        u64::from(self.injector.refused()) + u64::from(self.lost.load(Ordering::Relaxed))
    }

    fn requests_ready(&self) {
        self.reads.wake();
    }

    fn end_hold(&self, connect: ConnectId) {
        self.connects.end(connect.place());
    }
}
