//! Flows that wait for their verdict, or whose held packets are being let go.

use kext_types::{Decision, Direction, Timestamp};

use crate::action::Fate;
use crate::flow_stats::FlowStats;
use crate::list::List;
use crate::slots::FLOW;
use crate::table::Handle;

/// A flow that waits for its verdict, or whose held packets are being let go.
pub(crate) struct Pending {
    pub(crate) packets: List<FLOW>,
    /// Requests raised and not decided.
    pub(crate) asked: u32,
    /// Releases under way outside the lock, or left to the tick; while there are any, nobody else
    /// lets packets go by policy or asks, and the flow stays in the table. A decided flow always has
    /// one.
    pub(crate) releasing: u32,
    /// Set by a permanent verdict.
    pub(crate) decided: Option<Decided>,
    /// The next flow that was left to the tick.
    pub(crate) next_stalled: Option<Handle>,
    /// The hash of the flow.
    pub(crate) hash: u64,
    pub(crate) stats: FlowStats,
}

/// A permanent verdict for a flow whose packets are being let go.
#[derive(Clone, Copy)]
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    /// When it was given.
    pub(crate) time: Timestamp,
    /// What it means for the flow's packets.
    pub(crate) fate: Fate,
    /// The verdict cache's epoch when it was given: a verdict from before a clearing is not cached.
    pub(crate) epoch: u32,
}

impl Pending {
    /// A flow whose first packet, not held yet, goes this way.
    pub(crate) const fn new(hash: u64, now: Timestamp, opened: Direction) -> Self {
        Self {
            packets: List::EMPTY,
            asked: 0,
            releasing: 0,
            decided: None,
            next_stalled: None,
            hash,
            stats: FlowStats::new(now, opened),
        }
    }
}
