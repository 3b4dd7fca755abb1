//! Deciding allocates nothing.
//!
//! An integration test of its own, because a program has one allocator. Its allocator is unsafe code
//! beside the crate, and no part of what is shipped.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kext_rules::{Columns, Policy, Request, Rule};
use kext_types::{Address, Decision, Direction, FlowKey, IpVersion, Verdict, protocol};

/// The system's allocator, which counts.
struct Counting;

// Thread by thread, so that the test runner's own threads are left alone.
thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged. The counter is a cell of the
// thread, without destructor and without allocation, so that nothing here allocates in turn.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise about `layout` is the one that is needed.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, so from the system's, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
    // The provided `realloc` and `alloc_zeroed` go through the two.
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUESTS: usize = 1_000;

#[test]
fn deciding_allocates_nothing() {
    let rules = (0..1_000_u16).map(|port| {
        let mut rule = Rule::any(Decision {
            verdict: Verdict::Drop,
            permanent: false,
        });
        rule.remote_port = Some(vec![port..=port]);
        rule.remote = Some(vec!["10.0.0.0/8".parse().unwrap()]);
        rule
    });
    let policy = Policy::compile(rules.collect()).unwrap();
    let request = Request {
        flow: FlowKey {
            local: Address::v4([10, 0, 0, 1]),
            remote: Address::v4([10, 0, 0, 2]),
            local_port: 1,
            remote_port: 999,
            version: IpVersion::V4,
            protocol: protocol::UDP,
        },
        direction: Direction::Inbound,
        process_id: None,
    };
    let columns = Columns {
        version: &[4; REQUESTS],
        protocol: &[protocol::UDP; REQUESTS],
        direction: &[1; REQUESTS],
        local: &[request.flow.local.bytes(); REQUESTS],
        remote: &[request.flow.remote.bytes(); REQUESTS],
        local_port: &[1; REQUESTS],
        remote_port: &[999; REQUESTS],
        process: &[0; REQUESTS],
    };
    let (mut numbers, mut found) = (vec![0; REQUESTS], vec![0; REQUESTS]);

    let before = ASKED.get();
    assert!(before > 0, "the counting allocator is in use");
    let misses = policy.decide_columns(&columns, &mut numbers, &mut found);
    let rule = policy.decide(&request);
    assert_eq!(ASKED.get(), before);

    assert_eq!((misses, rule), (Ok(0), Some(999)));
    assert_eq!((numbers[0], found[REQUESTS - 1]), (-4, 999));
}
