//! The simulated filtering platform, with a small driver that absorbs every packet and injects it
//! again: it works, and each check bites where there is a defect.

use std::path::PathBuf;
use std::process::ExitCode;

use kext_ntsim::harness::{self, Outcome, Test};
use kext_ntsim::{
    Check, Classified, Completion, Direction, Endpoint, Faults, Held, LoadError, Packet, Sim,
    Status, clear_faults, guard_pages, set_engine_running, set_faults,
};
use kext_ntsim_drivers::{Defect, MISBEHAVE};

fn driver() -> PathBuf {
    harness::built("NtsimBroken64.sys")
}

fn load(defect: Defect) -> Sim {
    Sim::load_as(&driver(), &format!("{}", defect as u32)).expect("the driver loads")
}

/// A UDP datagram over IPv4 with right checksums.
fn udp(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    packet.extend([0x30, 0x39, 0, 53]);
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let sum: u32 = packet[..20]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

const ABSORBED: Classified = Classified {
    permitted: false,
    absorbed: true,
    hard: true,
    called: 1,
};

/// Shows packets both ways to a driver with a defect, lets it do what it does later, unloads.
fn misbehave(defect: Defect) {
    let sim = load(defect);
    if matches!(
        defect,
        Defect::ChangesInjected | Defect::FreesInjected | Defect::DestroysInCompletion
    ) {
        sim.complete_injections(Completion::Held);
    }
    if defect == Defect::InjectsForEver {
        sim.complete_injections(Completion::AtOnce);
    }
    if defect == Defect::AbsorbsWithoutRight {
        sim.set_filters_of_others(&[(200, false, true)]);
    }
    sim.classify(&Packet::outbound(udp(b"one")));
    sim.classify(&Packet::inbound(udp(b"one")).and(udp(b"two")));
    sim.authorize(&endpoint());
    let device = sim.open().unwrap();
    let _ = device.ioctl(MISBEHAVE, b"", 0);
    device.close();
    if defect == Defect::UnsubscribesInCallback {
        sim.set_engine_running(false);
    }
    sim.release_injections(usize::MAX);
    sim.settle();
    sim.unload();
}

fn endpoint() -> Endpoint {
    Endpoint {
        protocol: 6,
        local: vec![10, 0, 0, 1],
        remote: vec![10, 0, 0, 2],
        local_port: 1234,
        remote_port: 443,
        process: 99,
        path: r"\device\harddiskvolume1\program.exe".into(),
        flow: 5,
        handle: 6,
        accepts: false,
        flags: 0,
        reason: 0,
    }
}

fn packets_are_absorbed_and_injected() {
    let sim = load(Defect::Bounces);
    for completion in [Completion::Elsewhere, Completion::AtOnce, Completion::Held] {
        sim.complete_injections(completion);
        for direction in [Direction::Outbound, Direction::Inbound] {
            let packet = Packet::new(direction, udp(b"some payload")).interface(3, 4);
            assert_eq!(sim.classify(&packet), ABSORBED);
            if completion == Completion::Held {
                assert_eq!(sim.injections(), 1);
                assert_eq!(sim.release_injections(8), 1);
            }
            let injected = sim.injected();
            assert_eq!(injected.len(), 1);
            assert_eq!(injected[0].bytes, udp(b"some payload"));
            assert_eq!(injected[0].direction, direction);
            assert_eq!(injected[0].wrong, None);
            assert_eq!(injected[0].context, 77);
            // It sees its own packet again, and permits it.
            assert!(injected[0].classified.permitted);
            assert_eq!(injected[0].classified.called, 1);
        }
    }
    sim.unload();
}

/// Headers split over several MDLs, memory before the packet, IP options, several net buffers.
fn packets_come_in_all_shapes() {
    guard_pages(true);
    let sim = load(Defect::Bounces);
    let mut with_options = udp(b"x");
    with_options.splice(20..20, [1, 1, 1, 0]);
    with_options[0] = 0x46;
    for split in [&[][..], &[1], &[10, 15, 1], &[20, 8], &[28]] {
        for headroom in [0, 3, 64] {
            for bytes in [udp(b"payload"), with_options.clone()] {
                for direction in [Direction::Outbound, Direction::Inbound] {
                    let packet = Packet::new(direction, bytes.clone())
                        .split(split)
                        .headroom(headroom);
                    assert_eq!(sim.classify(&packet), ABSORBED);
                    assert_eq!(sim.injected()[0].bytes, bytes);
                }
            }
        }
    }
    let several = Packet::outbound(udp(b"1")).and(udp(b"22")).and(udp(b"333"));
    sim.classify(&several);
    let lengths: Vec<usize> = sim
        .injected()
        .iter()
        .map(|packet| packet.bytes.len())
        .collect();
    assert_eq!(lengths, [29, 30, 31]);
    sim.unload();
}

fn filters_and_sublayers_are_asked_in_order() {
    let permitted = |sim: &Sim, flags| {
        let result = sim.classify(&Packet::outbound(udp(b"x")).flags(flags));
        (result.permitted, result.hard, result.called)
    };
    let sim = load(Defect::Bounces);
    // The filter leaves fragments out.
    assert_eq!(permitted(&sim, 0x20), (true, false, 0));
    sim.set_filters_of_others(&[(50, false, true)]);
    // Somebody lighter permits: our block is hard, and stays.
    assert_eq!(permitted(&sim, 0), (false, true, 1));
    sim.set_filters_of_others(&[(50, false, true), (200, true, true)]);
    // Somebody heavier has blocked for good: we are asked without the right.
    assert_eq!(permitted(&sim, 0), (false, true, 1));
    sim.injected();
    sim.unload();
}

fn objects_go_with_their_session() {
    let sim = load(Defect::Bounces);
    assert_eq!(sim.engine_objects(), (1, 1, 3, 3));
    assert_eq!(sim.callouts().len(), 3);
    sim.set_engine_running(false);
    assert_eq!(sim.engine_objects(), (0, 0, 0, 0));
    assert_eq!(sim.classify(&Packet::outbound(udp(b"x"))).called, 0);
    sim.unload();
}

fn without_the_engine_it_cannot_open_a_session() {
    set_engine_running(false);
    match Sim::load_as(&driver(), &format!("{}", Defect::Bounces as u32)) {
        Err(LoadError::Entry(Status(status))) => assert!(status < 0),
        other => panic!("{other:?}"),
    }
}

fn a_connect_is_pended_and_authorized_again() {
    let sim = load(Defect::Pends);
    assert_eq!(sim.authorize(&endpoint()), Held::Pended);
    assert_eq!(sim.pended(), 1);
    let device = sim.open().unwrap();
    device.ioctl(MISBEHAVE, b"", 0).unwrap();
    device.close();
    let ended = sim.authorized();
    assert_eq!(ended.len(), 1);
    match ended[0].1 {
        Held::Decided(classified) => assert!(classified.permitted),
        Held::Pended => panic!("pended again"),
    }
    sim.unload();
}

/// Each call that can fail does so once, while packets are bounced: nothing is left behind.
fn each_call_fails_once() {
    set_faults(Faults::Count);
    let run = || {
        let sim = Sim::load_as(&driver(), &format!("{}", Defect::Bounces as u32)).ok()?;
        sim.classify(&Packet::outbound(udp(b"x")));
        sim.classify(&Packet::inbound(udp(b"x")).split(&[5]));
        sim.settle();
        sim.unload();
        Some(())
    };
    run().unwrap();
    let (calls, sites) = clear_faults();
    assert!(sites > 20, "{calls} calls from {sites} places");
    for number in 0..calls {
        set_faults(Faults::Nth(number));
        run();
        clear_faults();
    }
    for number in 0..sites {
        set_faults(Faults::Site(number));
        run();
        clear_faults();
    }
}

/// Four threads show packets while injections are completed elsewhere.
fn threads_do_not_disturb_each_other() {
    let sim = load(Defect::Bounces);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let sim = &sim;
            scope.spawn(move || {
                for round in 0..500_usize {
                    let bytes = udp(&vec![thread; round % 60]);
                    let direction = [Direction::Outbound, Direction::Inbound][round % 2];
                    assert_eq!(sim.classify(&Packet::new(direction, bytes)), ABSORBED);
                }
            });
        }
    });
    let injected = sim.injected();
    assert_eq!(injected.len(), 2000);
    assert!(injected.iter().all(|packet| packet.classified.permitted));
    sim.unload();
}

fn reads_lent_later() {
    guard_pages(true);
    misbehave(Defect::ReadsLentLater);
}

macro_rules! tests {
    (
        passes { $($passes:ident;)+ }
        misbehaves { $($defect:ident as $check:ident $text:literal $(by $with:expr)?;)+ }
    ) => {
        static TESTS: &[Test] = &[
            $(Test { name: stringify!($passes), outcome: Outcome::Passes, run: $passes },)+
            $(Test {
                name: concat!("bites_", stringify!($defect)),
                outcome: Outcome::Violates(Check::$check, $text),
                run: || tests!(@run $defect $($with)?),
            },)+
        ];
    };
    (@run $defect:ident) => { misbehave(Defect::$defect) };
    (@run $defect:ident $with:expr) => { $with };
}

tests! {
    passes {
    packets_are_absorbed_and_injected;
    packets_come_in_all_shapes;
    filters_and_sublayers_are_asked_in_order;
    objects_go_with_their_session;
    without_the_engine_it_cannot_open_a_session;
    a_connect_is_pended_and_authorized_again;
    each_call_fails_once;
    threads_do_not_disturb_each_other;
    }
    misbehaves {
    StartNotMovedBack as Lent "moved and not moved back";
    ChangesLent as Lent "the bytes of a packet that was lent were changed";
    WritesLentLater as UseAfterFree "memory of a packet that was lent to a callout";
    ReadsLentLater as UseAfterFree "memory of a packet that was lent to a callout" by reads_lent_later();
    AbsorbsAndPermits as Callout "absorbs and does not block";
    AnswersNothing as Callout "which a filter of action 0x5003 does not allow";
    WritesOutContext as Callout "wrote outContext, filterId or reserved";
    AbsorbsWithoutRight as Callout "absorbs without the right to decide";
    ClassifyAtOtherLevel as Irql "classifyFn was called at DISPATCH_LEVEL and returned at PASSIVE_LEVEL";
    InjectsLent as Injection "of a packet that was lent, not copied";
    InjectsTransport as Injection "do not start with the IP header of version 4";
    InjectsSeveral as BugCheck "bug check 0x1d3";
    InjectsUnderLock as SpinLock "FwpsInjectNetworkSendAsync0 while the spin lock";
    ChangesInjected as Injection "a packet is changed while it is being injected";
    FreesInjected as Injection "a net buffer list is freed that is being injected";
    ListLeft as Leak "net buffer list";
    ListPoolFreedEarly as NetBuffer "a pool is freed of which" by pool_freed_early();
    DestroysInCompletion as Injection "destroyed from a completion";
    ReferenceLeft as Leak "packets of others are referenced";
    InjectsForEver as Injection "injected again, over and over";
    CalloutLeft as Leak "is registered";
    InjectionHandleLeft as Leak "2 injection handles are there";
    SessionLeft as Leak "1 sessions of the filter engine are open";
    SubscriptionLeft as Leak "1 subscriptions to the state";
    UnsubscribesInCallback as Engine "from its own callback";
    PendLeft as Leak "1 operations are pended";
    PendCompletedTwice as Pended "which is not pended";
    FlowContextLeft as Leak "1 flow contexts are there";
    }
}

fn pool_freed_early() {
    let sim = load(Defect::ListPoolFreedEarly);
    sim.complete_injections(Completion::Held);
    sim.classify(&Packet::outbound(udp(b"one")));
    sim.unload();
}

fn main() -> ExitCode {
    harness::main(TESTS, &[driver()])
}
