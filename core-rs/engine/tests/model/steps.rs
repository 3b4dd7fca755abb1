//! The operations, and how often each comes.

use std::time::Duration;

use kext_packet::TcpFlags;
use kext_types::{Decision, Direction, FragmentPolicy, Policy, Verdict};
use proptest::prelude::*;
use proptest::sample::select;

use crate::fragments::{PIECES, Piece};

/// UDP flows, each from a port of its own.
const FLOWS: u16 = 6;

/// What is presented.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Udp(u16),
    Tcp(TcpFlags),
    /// Straight to where flows are redirected to, from the port of a UDP flow.
    ToTarget(u16),
    /// Of the answers to a redirected flow, one of those that there are.
    Answer(usize),
    /// An ICMP error about a packet of a UDP flow.
    Error(u16),
    /// An ICMP error about what was sent to a target.
    ErrorOfTarget(usize),
    Fragment(u16, Piece),
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    AskEachPacket(bool),
    NoReader(Policy),
    HoldLimitPolicy(Policy),
    Fragments(FragmentPolicy),
    HoldLimit(u32),
    Idle(u32),
    Closed(u32),
    /// The last byte of the address that DNS is redirected to.
    Target(u8),
    /// Out of range: nothing changes, whatever else is new.
    Refused,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Whether it goes out, and whether its process is known.
    Present(Shape, Direction, bool),
    Deliver,
    /// A verdict for the next request.
    Answer(Decision),
    /// A verdict for one of the ids known, counted back from the newest.
    Decide(usize, Decision),
    DecideUnknown(Decision),
    Update(Shape, Verdict),
    Lookup(Shape),
    Clear,
    Sleep(Duration),
    Tick,
    Settle,
    DropEarly,
    Reader(bool),
    Configure(Change),
    KeepEvents(bool),
    TakeEvents(usize),
}

pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    let flags = [
        TcpFlags::SYN,
        TcpFlags::ACK,
        TcpFlags::FIN.with(TcpFlags::ACK),
        TcpFlags::FIN.with(TcpFlags::ACK),
        TcpFlags::RST,
    ];
    let piece = (0..2_u16, 0..PIECES.len()).prop_map(|(id, piece)| Piece { id, piece });
    prop_oneof![
        12 => (0..FLOWS).prop_map(Shape::Udp),
        5 => select(flags.to_vec()).prop_map(Shape::Tcp),
        2 => (0..2_u16).prop_map(Shape::ToTarget),
        3 => (0..4_usize).prop_map(Shape::Answer),
        2 => (0..FLOWS).prop_map(Shape::Error),
        1 => (0..4_usize).prop_map(Shape::ErrorOfTarget),
        5 => (0..2_u16, piece).prop_map(|(flow, piece)| Shape::Fragment(flow, piece)),
    ]
}

pub(crate) fn changes() -> impl Strategy<Value = Change> {
    let policy = || select(vec![Policy::Permit, Policy::Block]);
    let fragments = vec![
        FragmentPolicy::Follow,
        FragmentPolicy::Follow,
        FragmentPolicy::Block,
        FragmentPolicy::Permit,
    ];
    prop_oneof![
        any::<bool>().prop_map(Change::AskEachPacket),
        policy().prop_map(Change::NoReader),
        policy().prop_map(Change::HoldLimitPolicy),
        select(fragments).prop_map(Change::Fragments),
        select(vec![100, 5_000, 30_000]).prop_map(Change::HoldLimit),
        select(vec![5_000, 20_000, 600_000]).prop_map(Change::Idle),
        select(vec![5_000, 60_000, 900_000]).prop_map(Change::Closed),
        (53..55_u8).prop_map(Change::Target),
        Just(Change::Refused),
    ]
}

pub(crate) fn steps() -> impl Strategy<Value = Step> {
    let direction = || select(vec![Direction::Outbound, Direction::Inbound]);
    let verdict = || select(Verdict::ALL.to_vec());
    let decision = || {
        let permanent = select(vec![true, true, true, false]);
        (verdict(), permanent).prop_map(|(verdict, permanent)| Decision { verdict, permanent })
    };
    prop_oneof![
        30 => (shapes(), direction(), any::<bool>()).prop_map(|(a, b, c)| Step::Present(a, b, c)),
        4 => Just(Step::Deliver),
        9 => decision().prop_map(Step::Answer),
        4 => (0..12_usize, decision()).prop_map(|(back, what)| Step::Decide(back, what)),
        1 => decision().prop_map(Step::DecideUnknown),
        3 => (shapes(), verdict()).prop_map(|(shape, what)| Step::Update(shape, what)),
        2 => shapes().prop_map(Step::Lookup),
        1 => Just(Step::Clear),
        4 => select(vec![1, 1, 999, 1_000, 1_000, 10_000, 60_001, 601_000])
            .prop_map(|ms| Step::Sleep(Duration::from_millis(ms))),
        3 => Just(Step::Tick),
        1 => Just(Step::Settle),
        1 => Just(Step::DropEarly),
        // A reader is there most of the time.
        1 => Just(Step::Reader(false)),
        8 => Just(Step::Reader(true)),
        3 => changes().prop_map(Step::Configure),
        // And so is somebody who wants events.
        1 => Just(Step::KeepEvents(false)),
        3 => Just(Step::KeepEvents(true)),
        2 => (0..4_usize).prop_map(Step::TakeEvents),
    ]
}
