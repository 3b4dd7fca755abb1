//! Deferred verdicts: when they are sent, and what is told of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Deferred;

/// A session that was given these ids, with a time that no test waits for.
fn given(ids: std::ops::RangeInclusive<u64>) -> (Arc<Fake>, Session) {
    let fake = Arc::new(Fake::default());
    let interval = Duration::from_hours(1);
    let session = Session::over(Box::new(Arc::clone(&fake)), interval).unwrap();
    receive_all(&fake, &session, ids);
    (fake, session)
}

fn receive_all(fake: &Fake, session: &Session, ids: std::ops::RangeInclusive<u64>) {
    for id in ids {
        fake.hold(id, b"packet");
    }
    while matches!(
        session.receive_columns(4_096, PayloadMode::None, Wait::No),
        Ok(Received::Batch(_))
    ) {}
}

fn sent(fake: &Fake) -> (u32, u64) {
    fake.stage(|state| (state.messages, state.ended))
}

#[test]
fn verdicts_wait_and_go_together() {
    let (fake, session) = given(1..=100);
    for id in 1..=100 {
        session.defer_verdict(id, ACCEPT).unwrap();
    }
    assert_eq!(sent(&fake), (0, 0));
    session.flush().unwrap();
    assert_eq!(sent(&fake), (1, 100));
    session.flush().unwrap();
    assert_eq!(sent(&fake), (1, 100));
}

#[test]
fn every_other_call_sends_what_waits() {
    type Call = fn(&Session);
    let calls: [Call; 9] = [
        |session| drop(session.counters().unwrap()),
        |session| drop(session.receive(1, PayloadMode::None, Wait::No)),
        |session| assert!(session.config().is_ok()),
        |session| assert!(session.set_config(&Config::default()).is_ok()),
        |session| drop(session.list_flows(0, 1).unwrap()),
        |session| session.clear_cache().unwrap(),
        |session| drop(session.events(1, true).unwrap()),
        |session| drop(session.set_verdicts(&[(9_999, ACCEPT)]).unwrap()),
        |session| session.close().unwrap(),
    ];
    for (index, call) in calls.into_iter().enumerate() {
        let (fake, session) = given(1..=2);
        session.defer_verdict(1, ACCEPT).unwrap();
        call(&session);
        let decided = fake.stage(|state| state.settled.contains_key(&1));
        assert!(decided, "call {index}");
    }
}

#[test]
fn a_payload_is_read_without_sending_unless_it_is_the_decided_packets() {
    let (fake, session) = given(1..=2);
    session.defer_verdict(1, DROP_ONE).unwrap();
    assert_eq!(session.get_payload(2).unwrap(), b"packet");
    assert_eq!(sent(&fake), (0, 0));
    let error = session.get_payload(1).unwrap_err();
    assert!(matches!(error, Error::AlreadyDecided { id: 1, first } if first == DROP_ONE));
    assert_eq!(sent(&fake), (1, 1));
}

#[test]
fn a_full_queue_is_sent() {
    let (fake, session) = given(1..=5_000);
    for id in 1..=4_095 {
        assert_eq!(
            session.try_defer_verdict(id, ACCEPT).unwrap(),
            Deferred::Queued
        );
    }
    assert_eq!(
        session.try_defer_verdict(4_096, ACCEPT).unwrap(),
        Deferred::Full
    );
    session.flush_quietly();
    for id in 4_097..=5_000 {
        session.defer_verdict(id, ACCEPT).unwrap();
    }
    assert_eq!(sent(&fake), (1, 4_096));
}

#[test]
fn the_interval_sends_a_verdict_that_nothing_else_does() {
    let (fake, session) = open();
    receive_all(&fake, &session, 1..=3);
    for id in 1..=3 {
        session.defer_verdict(id, ACCEPT).unwrap();
        // No call of the session: only its own thread can do it.
        while sent(&fake).1 < id {
            thread::yield_now();
        }
        // Also after it has fallen asleep for want of work.
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn without_an_interval_each_is_sent_at_once() {
    let fake = Arc::new(Fake::default());
    let session = Session::over(Box::new(Arc::clone(&fake)), Duration::ZERO).unwrap();
    receive_all(&fake, &session, 1..=2);
    session.defer_verdict(1, ACCEPT).unwrap();
    assert_eq!(sent(&fake), (1, 1));
    fake.stage(|state| state.held.clear());
    fake.stage(|state| state.settled.insert(2, VerdictOutcome::Evicted.into()));
    let error = session.defer_verdict(2, ACCEPT).unwrap_err();
    assert!(matches!(error, Error::NotHeld { id: 2, .. }));
}

#[test]
fn a_second_verdict_names_the_first_before_and_after_it_is_sent() {
    let (fake, session) = given(1..=3);
    session.defer_verdict(1, DROP_ONE).unwrap();
    session.set_verdict(2, DROP_ONE).unwrap();
    session.defer_verdict(3, DROP_ONE).unwrap();
    for id in 1..=3 {
        let error = session.defer_verdict(id, ACCEPT).unwrap_err();
        assert!(
            matches!(error, Error::AlreadyDecided { id: named, first } if named == id && first == DROP_ONE),
            "{error}"
        );
        session.flush().unwrap();
    }
    assert_eq!(sent(&fake).1, 3);
}

#[test]
fn an_id_that_was_never_given_is_told_at_once() {
    let (fake, session) = given(1..=1);
    session.defer_verdict(1, ACCEPT).unwrap();
    for id in [0, 77, u64::MAX] {
        let error = session.defer_verdict(id, ACCEPT).unwrap_err();
        assert!(matches!(error, Error::UnknownId { id: named } if named == id));
    }
    assert_eq!(sent(&fake).1, 1, "what waited went first");
    session.flush().unwrap();
}

#[test]
fn what_came_too_late_is_told_by_flush_once_and_then_by_the_extension() {
    let (fake, session) = given(1..=4);
    fake.stage(|state| {
        for (id, outcome) in [(2, VerdictOutcome::Evicted), (3, VerdictOutcome::Expired)] {
            state.held.remove(&id);
            state.settled.insert(id, outcome.into());
        }
    });
    for id in 1..=4 {
        session.defer_verdict(id, ACCEPT).unwrap();
    }
    // Sent by another call, and still told.
    session.counters().unwrap();
    let error = session.flush().unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotHeld {
                id: 2,
                why: NotHeld::Evicted
            }
        ),
        "{error}"
    );
    session.flush().unwrap();
    assert_eq!(sent(&fake).1, 2);
    let error = session.defer_verdict(3, ACCEPT).unwrap_err();
    assert!(matches!(
        error,
        Error::NotHeld {
            id: 3,
            why: NotHeld::Expired
        }
    ));
}

#[test]
fn closing_sends_what_waits_and_refuses_more() {
    let (fake, session) = given(1..=2);
    session.defer_verdict(1, DROP_ONE).unwrap();
    session.close().unwrap();
    let first = fake.stage(|state| state.settled.get(&1).and_then(|outcome| outcome.first));
    assert_eq!(first, Some(DROP_ONE));
    let error = session.defer_verdict(2, ACCEPT).unwrap_err();
    assert!(matches!(error, Error::Closed));
    session.flush_quietly();
    assert!(matches!(session.flush(), Err(Error::Closed)));
}

#[test]
fn verdicts_of_many_threads_arrive_once_each() {
    const EACH: u64 = 2_000;
    let (fake, session) = open();
    receive_all(&fake, &session, 1..=EACH);
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for id in 1..=EACH {
                    if session.defer_verdict(id, ACCEPT).is_err() {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                session.flush().unwrap();
            }
        });
    });
    session.flush().unwrap();
    assert_eq!(sent(&fake).1, EACH);
    assert_eq!(refused.into_inner() as u64, 3 * EACH);
}

#[test]
fn closing_races_with_verdicts_and_loses_none_that_was_taken() {
    for round in 0..50 {
        let (fake, session) = open();
        receive_all(&fake, &session, 1..=500);
        let taken = thread::scope(|scope| {
            let decider = scope.spawn(|| {
                let decide = |id: &u64| session.defer_verdict(*id, DROP_ONE).is_ok();
                (1..=500).take_while(decide).count()
            });
            for _ in 0..round * 100 {
                std::hint::spin_loop();
            }
            session.close().unwrap();
            decider.join().unwrap()
        });
        let applied = fake.stage(|state| state.settled.len());
        assert_eq!(applied, taken);
    }
}

#[test]
fn verdicts_that_could_not_be_sent_are_not_remembered_as_decided() {
    let (fake, session) = given(1..=2);
    session.defer_verdict(1, DROP_ONE).unwrap();
    fake.stage(|state| state.answer = Some(Err(Status(0xC000_009A))));
    session.flush_quietly();
    let told = session.flush();
    assert!(matches!(told, Err(Error::Status { .. })), "{told:?}");
    assert!(
        fake.stage(|state| state.held.contains_key(&1)),
        "still held"
    );
    // The extension knows of no verdict, so a new one must be taken.
    session.defer_verdict(1, DROP_ONE).unwrap();
    session.flush().unwrap();
    assert!(!fake.stage(|state| state.held.contains_key(&1)));
}

#[test]
fn closing_tells_that_verdicts_could_not_be_sent() {
    let (fake, session) = given(1..=1);
    session.defer_verdict(1, DROP_ONE).unwrap();
    fake.stage(|state| state.answer = Some(Err(Status(0xC000_009A))));
    session.flush_quietly();
    let told = session.close();
    assert!(matches!(told, Err(Error::Status { .. })), "{told:?}");
    assert!(session.is_closed());
}
