//! The session over a stand-in for the extension.

mod columns;
mod deferred;
mod reader;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kext_types::{Config, Decision, MAX_PACKET_LEN, Verdict, VerdictOutcome};
use kext_wire::Status;

use crate::fake::{Fake, cached};
use crate::{Error, FLUSH_INTERVAL, NotHeld, PayloadMode, Received, Session, Wait};

const ACCEPT: Decision = Decision {
    verdict: Verdict::Accept,
    permanent: true,
};
const DROP_ONE: Decision = Decision {
    verdict: Verdict::Drop,
    permanent: false,
};

fn open() -> (Arc<Fake>, Session) {
    let fake = Arc::new(Fake::default());
    let session = Session::over(Box::new(Arc::clone(&fake)), FLUSH_INTERVAL).unwrap();
    (fake, session)
}

fn ids(received: Received) -> Vec<u64> {
    match received {
        Received::Batch(batch) => batch.requests.iter().map(|r| r.info.id.get()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_request_is_given_once_and_in_order() {
    let (fake, session) = open();
    for id in 1..=5 {
        fake.hold(id, b"packet");
    }
    let receive = |most| session.receive(most, PayloadMode::None, Wait::No).unwrap();
    assert_eq!(ids(receive(2)), [1, 2]);
    assert_eq!(ids(receive(4_096)), [3, 4, 5]);
    assert_eq!(receive(1), Received::Timeout);
    fake.stage(|state| state.at_end = true);
    assert_eq!(receive(1), Received::End);
}

#[test]
fn payload_comes_as_asked() {
    let (fake, session) = open();
    fake.hold(1, b"0123456789");
    fake.hold(2, &vec![7; MAX_PACKET_LEN]);
    fake.hold(3, b"");
    let payload = |mode| match session.receive(1, mode, Wait::No).unwrap() {
        Received::Batch(batch) => batch.requests[0].payload.to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(payload(PayloadMode::First(4)), b"0123");
    assert_eq!(payload(PayloadMode::Whole), vec![7; MAX_PACKET_LEN]);
    assert_eq!(payload(PayloadMode::Whole), b"");
    assert_eq!(session.get_payload(1).unwrap(), b"0123456789");
    assert_eq!(session.get_payload(2).unwrap().len(), MAX_PACKET_LEN);
    assert!(matches!(
        session.get_payload(9),
        Err(Error::UnknownId { id: 9 })
    ));
}

#[test]
fn every_outcome_is_an_error_of_its_own() {
    let (fake, session) = open();
    fake.hold(1, b"x");
    session.set_verdict(1, DROP_ONE).unwrap();
    let again = session.set_verdict(1, ACCEPT).unwrap_err();
    assert!(
        matches!(again, Error::AlreadyDecided { id: 1, first } if first == DROP_ONE),
        "{again}"
    );
    assert_eq!(
        again.to_string(),
        "packet 1 has been decided before: drop, for this packet alone; one packet gets one verdict"
    );
    for (outcome, expected) in [
        (VerdictOutcome::Evicted, NotHeld::Evicted),
        (VerdictOutcome::Expired, NotHeld::Expired),
        (VerdictOutcome::Abandoned, NotHeld::Abandoned),
    ] {
        fake.stage(|state| state.settled.insert(2, outcome.into()));
        let error = session.set_verdict(2, ACCEPT).unwrap_err();
        assert!(
            matches!(error, Error::NotHeld { id: 2, why } if why == expected),
            "{error}"
        );
    }
    for id in [0, 77, u64::MAX] {
        let error = session.set_verdict(id, ACCEPT).unwrap_err();
        assert!(matches!(error, Error::UnknownId { id: wrong } if wrong == id));
    }
}

#[test]
fn one_bad_verdict_does_not_stop_the_others() {
    let (fake, session) = open();
    // More than one message.
    let last = 5_000;
    for id in 1..=last {
        fake.hold(id, b"x");
    }
    let mut verdicts: Vec<_> = (1..=last).map(|id| (id, ACCEPT)).collect();
    verdicts[10].0 = 99_999;
    let outcomes = session.set_verdicts(&verdicts).unwrap();
    assert_eq!(outcomes.len(), verdicts.len());
    for (index, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_ok(), index != 10, "{index}");
    }
    assert!(session.set_verdicts(&[]).unwrap().is_empty());
}

#[test]
fn a_wait_ends_with_its_time() {
    let (_fake, session) = open();
    let begun = Instant::now();
    let wait = Wait::AtMost(Duration::from_millis(50));
    let received = session.receive(1, PayloadMode::None, wait).unwrap();
    assert_eq!(received, Received::Timeout);
    assert!(begun.elapsed() >= Duration::from_millis(50));
}

#[test]
fn cancel_and_close_end_a_wait() {
    for close in [false, true] {
        let (fake, session) = open();
        thread::scope(|scope| {
            let waiting =
                scope.spawn(|| session.receive(1, PayloadMode::None, Wait::Forever).err());
            // Whether or not the wait has begun by then, it must end; cancelling needs it begun.
            while !waiting.is_finished() {
                if close {
                    session.close().unwrap();
                } else {
                    session.cancel();
                }
                thread::sleep(Duration::from_millis(1));
            }
            let error = waiting.join().unwrap().unwrap();
            match error {
                Error::Closed => assert!(close),
                Error::Cancelled => assert!(!close),
                other => panic!("{other}"),
            }
        });
        fake.stage(|state| assert_eq!(state.closed, u32::from(close)));
    }
}

#[test]
fn a_closed_session_keeps_its_last_counters_only() {
    let (fake, session) = open();
    fake.hold(1, b"x");
    fake.hold(2, b"x");
    session.set_verdict(1, ACCEPT).unwrap();
    let before = session.counters().unwrap();
    assert_eq!(
        (before.seen(), before.held(), before.permitted()),
        (2, 1, 1)
    );
    assert!(before.balanced());

    session.close().unwrap();
    session.close().unwrap();
    assert!(session.is_closed());
    let after = session.counters().unwrap();
    assert_eq!((after.seen(), after.held(), after.permitted()), (2, 0, 2));
    assert!(after.balanced());

    let closed = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Closed)));
    closed(session.set_verdict(1, ACCEPT));
    closed(session.set_verdicts(&[(1, ACCEPT)]).map(drop));
    closed(session.get_payload(1).map(drop));
    closed(session.process_path(1).map(drop));
    closed(session.config().map(drop));
    closed(session.set_config(&Config::default()).map(drop));
    closed(session.clear_cache());
    closed(session.flows().next().unwrap().map(drop));
    closed(
        session
            .receive(1, PayloadMode::None, Wait::Forever)
            .map(drop),
    );
    drop(session);
    fake.stage(|state| assert_eq!(state.closed, 1));
}

#[test]
fn the_last_counters_are_taken_when_every_call_has_ended() {
    let (fake, session) = open();
    fake.stage(|state| state.linger = Duration::from_millis(50));
    thread::scope(|scope| {
        let reader = scope.spawn(|| session.receive(1, PayloadMode::None, Wait::Forever).err());
        while fake.stage(|state| state.waiting) == 0 {
            thread::yield_now();
        }
        session.close().unwrap();
        let error = reader.join().unwrap();
        assert!(matches!(error, Some(Error::Closed)), "{error:?}");
    });
    // The packet that the reader still moved on its way out is counted.
    assert_eq!(session.counters().unwrap().seen(), 1);
}

#[test]
fn dropping_a_session_closes_it() {
    let (fake, session) = open();
    drop(session);
    fake.stage(|state| assert!(state.shut_down && state.closed == 1));
}

#[test]
fn a_path_of_a_process_is_told_or_unknown() {
    let (fake, session) = open();
    let long = [b'x', 0].repeat(300);
    fake.stage(|state| state.paths.extend([(4, b"S\0y\0".to_vec()), (8, long)]));
    let path = session.process_path(4).unwrap().unwrap();
    let units: Vec<u16> = "Sy".encode_utf16().collect();
    assert_eq!((path.utf16, path.is_cut), (units, false));
    let cut = session.process_path(8).unwrap().unwrap();
    assert_eq!((cut.utf16.len(), cut.is_cut), (260, true));
    for unknown in [0, 5, u64::MAX] {
        assert_eq!(session.process_path(unknown).unwrap(), None);
    }
}

#[test]
fn the_configuration_goes_there_and_back() {
    let (fake, session) = open();
    assert_eq!(
        session.set_config(&Config::ask_all()).unwrap(),
        Config::ask_all()
    );
    assert_eq!(session.config().unwrap(), Config::ask_all());
    let wrong = Config {
        loop_limit: 0,
        ..Config::default()
    };
    let error = session.set_config(&wrong).unwrap_err();
    assert_eq!(
        error.to_string(),
        "loop_limit is 0, and must be from 1 to 255"
    );
    fake.stage(|state| assert_eq!(state.config, Config::ask_all()));
}

#[test]
fn flows_are_listed_over_several_pages() {
    let (fake, session) = open();
    fake.stage(|state| state.flows = (0..3_000).map(cached).collect());
    let flows: Result<Vec<_>, _> = session.flows().collect();
    let ports: Vec<_> = flows
        .unwrap()
        .iter()
        .map(|flow| flow.flow.local_port)
        .collect();
    assert_eq!(ports, (0..3_000).collect::<Vec<_>>());
    session.clear_cache().unwrap();
    assert!(session.flows().next().is_none());
}

#[test]
fn a_capture_that_fails_ends_with_its_error() {
    let (fake, session) = open();
    fake.stage(|state| {
        state.at_end = true;
        state.failure = Some(Error::Cancelled);
    });
    let end = session.receive(1, PayloadMode::None, Wait::Forever);
    assert!(matches!(end, Err(Error::Cancelled)));
}

#[test]
fn answers_that_make_no_sense_are_told() {
    let (fake, session) = open();
    fake.hold(1, b"x");
    let with = |answer: &[u8]| fake.stage(|state| state.answer = Some(Ok(answer.to_vec())));
    with(b"nonsense");
    assert!(matches!(session.config(), Err(Error::Answer(_))));
    with(b"");
    assert!(matches!(
        session.set_verdict(1, ACCEPT),
        Err(Error::Answer(_))
    ));

    fake.stage(|state| state.answer = Some(Err(Status::INVALID_PARAMETER)));
    let error = session.clear_cache().unwrap_err();
    assert_eq!(
        error.to_string(),
        "CLEAR_CACHE was refused: STATUS_INVALID_PARAMETER (0xC000000D)"
    );
}

#[test]
fn an_extension_of_another_version_is_refused_at_hello() {
    for status in [Status::REVISION_MISMATCH, Status::INVALID_DEVICE_REQUEST] {
        let fake = Arc::new(Fake::default());
        fake.stage(|state| state.answer = Some(Err(status)));
        let error = Session::over(Box::new(fake), FLUSH_INTERVAL).err();
        assert!(matches!(error, Some(Error::NoCommonVersion)));
    }
}

#[test]
fn a_child_of_the_process_refuses_and_leaves_the_device_alone() {
    // In a process of its own: the count is one for all sessions of a process.
    let name = "tests::a_child_of_the_process_refuses_and_leaves_the_device_alone";
    if std::env::var_os("KEXT_AFTER_FORK").is_none() {
        let me = std::env::current_exe().unwrap();
        let mut run = std::process::Command::new(me);
        let status = run
            .args([name, "--exact"])
            .env("KEXT_AFTER_FORK", "1")
            .output();
        assert!(status.unwrap().status.success());
        return;
    }
    let (fake, session) = open();
    fake.hold(1, b"x");
    receive_one(&session);
    session.defer_verdict(1, ACCEPT).unwrap();
    crate::after_fork_in_child();
    let forked = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Forked)));
    forked(session.defer_verdict(1, ACCEPT));
    forked(session.set_verdict(1, ACCEPT));
    forked(session.flush());
    forked(session.counters().map(drop));
    forked(session.get_payload(1).map(drop));
    forked(session.receive(1, PayloadMode::None, Wait::No).map(drop));
    assert!(session.report().is_none() && session.is_forked());
    session.flush_quietly();
    session.close().unwrap();
    drop(session);
    fake.stage(|state| assert!(state.closed == 0 && !state.shut_down));
    // A session of the child's own works.
    let (_, session) = open();
    session.counters().unwrap();
}

fn receive_one(session: &Session) {
    let received = session.receive(1, PayloadMode::None, Wait::No).unwrap();
    assert!(matches!(received, Received::Batch(_)));
}
