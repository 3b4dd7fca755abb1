//! The Windows kernel as the extension's host.

use core::sync::atomic::{AtomicU64, Ordering};

use kext_extension::{Host, InjectError, Injection};
use kext_nt::irql::Passive;
use kext_nt::spin_lock::RawSpinLock;
use kext_nt::{Result, random, time};
use kext_types::Timestamp;
use kext_wire::hello::HostKind;

use crate::reads::Reads;

/// What the extension needs of Windows.
pub(crate) struct WfpHost {
    pub(crate) reads: Reads,
    /// What the clock of the machine's start showed in nanoseconds since 1970: the time goes on from
    /// there, whoever sets the clock meanwhile.
    started: u64,
    random: AtomicU64,
}

/// No packet leaves yet.
pub(crate) enum NoBuffer {}

impl AsRef<[u8]> for NoBuffer {
    fn as_ref(&self) -> &[u8] {
        match *self {}
    }
}

impl AsMut<[u8]> for NoBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        match *self {}
    }
}

impl WfpHost {
    #[inline(never)]
    pub(crate) fn try_new(passive: &Passive) -> Result<Self> {
        let started = time::since_1970().saturating_sub(time::since_start());
        Ok(Self {
            reads: Reads::try_new()?,
            started: started.saturating_mul(time::NANOS_PER_UNIT),
            random: AtomicU64::new(random::random(passive)?),
        })
    }
}

impl Host for WfpHost {
    type Lock = RawSpinLock;
    type Buffer = NoBuffer;

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

    fn allocate(&self, _len: usize) -> Option<NoBuffer> {
        None
    }

    fn inject(
        &self,
        buffer: NoBuffer,
        _injection: &Injection,
    ) -> core::result::Result<(), InjectError> {
        match buffer {}
    }

    fn requests_ready(&self) {
        self.reads.wake();
    }
}
