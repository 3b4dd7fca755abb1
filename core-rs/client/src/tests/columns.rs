//! Columns: the same requests and outcomes as one by one.

use kext_types::{FlowEnd, FlowEnded};

use super::*;
use crate::{FlowColumns, Numbers, RequestColumns};

fn receive(session: &Session, payload: PayloadMode) -> RequestColumns {
    match session.receive_columns(4_096, payload, Wait::No).unwrap() {
        Received::Batch(columns) => columns,
        other => panic!("{other:?}"),
    }
}

#[test]
fn columns_say_what_requests_do() {
    let (fake, session) = open();
    let (other_fake, other) = open();
    for id in 1..=50 {
        let payload = vec![id as u8; id as usize % 7];
        fake.hold(id, &payload);
        other_fake.hold(id, &payload);
    }
    let columns = receive(&session, PayloadMode::First(4));
    let Received::Batch(batch) = other
        .receive(4_096, PayloadMode::First(4), Wait::No)
        .unwrap()
    else {
        panic!("no batch");
    };
    assert_eq!(columns.len(), 50);
    for (row, request) in batch.requests.iter().enumerate() {
        let info = &request.info;
        assert_eq!(columns.ids[row], info.id.get());
        assert_eq!(columns.times[row], info.time.as_nanos());
        assert_eq!(columns.flows.local_addresses[row], info.flow.local.bytes());
        assert_eq!(columns.flows.local_ports[row], info.flow.local_port);
        assert_eq!(columns.flows.remote_ports[row], info.flow.remote_port);
        assert_eq!(columns.flows.versions[row], info.flow.version.number());
        assert_eq!(columns.flows.protocols[row], info.flow.protocol);
        assert_eq!(columns.directions[row], info.direction.number());
        assert_eq!(columns.sizes[row], info.size);
        assert_eq!(columns.payload_of(row).unwrap(), &*request.payload);
    }
    assert_eq!(columns.payload_of(50), None);
}

#[test]
fn four_thousand_requests_with_512_bytes_each_are_one_batch() {
    let (fake, session) = open();
    for id in 1..=4_096 {
        fake.hold(id, &[id as u8; 600]);
    }
    let columns = receive(&session, PayloadMode::First(512));
    assert_eq!((columns.len(), columns.payload.len()), (4_096, 4_096 * 512));
    assert_eq!(columns.payload_of(4_095).unwrap(), [0; 512]);
}

#[test]
fn outcomes_come_as_codes() {
    let (fake, session) = open();
    for id in 1..=5_000 {
        fake.hold(id, b"x");
    }
    let mut ids: Vec<_> = (1..=5_000).collect();
    let mut numbers = vec![ACCEPT.number(); 5_000];
    ids[10] = 99_999;
    numbers[4_500] = 1;
    let outcomes = session
        .set_verdict_columns(&ids, Numbers::Each(&numbers))
        .unwrap();
    assert_eq!(
        (outcomes.codes.len(), outcomes.firsts.len()),
        (5_000, 5_000)
    );
    for (row, code) in outcomes.codes.iter().enumerate() {
        let expected = match row {
            10 => VerdictOutcome::UnknownId,
            4_500 => VerdictOutcome::InvalidVerdict,
            _ => VerdictOutcome::Applied,
        };
        assert_eq!(*code, expected.number(), "{row}");
    }
    let error = outcomes.result(4_500, 4_501).unwrap_err();
    assert!(matches!(error, Error::InvalidVerdict { id: 4_501 }));
    let again = session
        .set_verdict_columns(&[1, 2], Numbers::Same(DROP_ONE.number()))
        .unwrap();
    assert_eq!(again.codes, [VerdictOutcome::AlreadyDecided.number(); 2]);
    assert_eq!(again.firsts, [ACCEPT.number(); 2]);
    assert!(
        session
            .set_verdict_columns(&[], Numbers::Same(2))
            .unwrap()
            .codes
            .is_empty()
    );
    let error = session
        .set_verdict_columns(&[1, 2], Numbers::Each(&[2]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 ids and 1 verdicts were given, and must be as many"
    );
}

#[test]
fn events_tell_what_waits_and_what_was_lost() {
    let (fake, session) = open();
    let ended = |port| FlowEnded {
        flow: cached(port),
        end: FlowEnd::Idle,
    };
    fake.stage(|state| state.events.extend((1..=5).map(ended)));
    let page = session.events(3, true).unwrap();
    assert_eq!((page.events.len(), page.waiting, page.lost), (3, 2, 3));
    assert_eq!(page.events[0], ended(1));
    assert!(fake.stage(|state| state.keeps_events));
    assert_eq!(session.events(4_096, false).unwrap().events.len(), 2);
    assert!(!fake.stage(|state| state.keeps_events));
}

#[test]
fn flows_are_columns_too() {
    let mut columns = FlowColumns::default();
    assert!(columns.is_empty());
    columns.extend(&[cached(1), cached(2)]);
    assert_eq!(columns.len(), 2);
    assert_eq!(columns.flows.local_ports, [1, 2]);
    assert_eq!(columns.first_seen, [1, 1]);
    assert_eq!(columns.payload_out, [3, 3]);
    assert_eq!(columns.payload_in, [4, 4]);
}
