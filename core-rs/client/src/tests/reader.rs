//! The thread that waits in place of others.

use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::{Arrival, Reader, Wish, Wished};

const WISH: Wish = Wish {
    most: 2,
    payload: PayloadMode::None,
    wait: Wait::Forever,
};

/// A reader, and what it tells.
fn reader() -> (Arc<Fake>, Arc<Session>, Reader, Receiver<()>) {
    let (fake, session) = open();
    let session = Arc::new(session);
    let (tell, told) = channel();
    let reader = Reader::new(Arc::clone(&session), move || {
        let _ = tell.send(());
    });
    (fake, session, reader, told)
}

/// Waits until the reader has told.
fn hear(told: &Receiver<()>) {
    told.recv_timeout(Duration::from_secs(10)).unwrap();
}

/// Waits until a read waits.
fn wait_for_read(fake: &Fake) {
    while fake.stage(|state| state.waiting) == 0 {
        thread::yield_now();
    }
}

fn ids(arrival: Option<Arrival>) -> Vec<u64> {
    match arrival.unwrap().received {
        Ok(Received::Batch(columns)) => columns.ids,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_wish_takes_one_batch_and_no_more() {
    let (fake, _session, reader, told) = reader();
    for id in 1..=5 {
        fake.hold(id, b"packet");
    }
    assert!(reader.take().is_none(), "nothing without a wish");
    assert_eq!(reader.wish(WISH).unwrap(), Wished::Soon);
    hear(&told);
    // A wish while something waits to be taken is no second one.
    assert_eq!(reader.wish(WISH).unwrap(), Wished::Soon);
    assert_eq!(ids(reader.take()), [1, 2]);
    assert!(reader.take().is_none());
    assert!(told.try_recv().is_err());
    assert_eq!(fake.stage(|state| state.queue.len()), 3);
    reader.wish(WISH).unwrap();
    hear(&told);
    assert_eq!(ids(reader.take()), [3, 4]);
}

#[test]
fn a_wait_is_known_and_what_comes_is_there_for_the_next_one() {
    let (fake, _session, reader, told) = reader();
    reader.wish(WISH).unwrap();
    wait_for_read(&fake);
    let at_once = Wish {
        wait: Wait::No,
        ..WISH
    };
    assert_eq!(reader.wish(at_once).unwrap(), Wished::Waiting);
    fake.hold(7, b"packet");
    hear(&told);
    assert_eq!(ids(reader.take()), [7]);
    reader.wish(at_once).unwrap();
    hear(&told);
    let arrival = reader.take().unwrap();
    assert!(matches!(arrival.received, Ok(Received::Timeout)));
}

#[test]
fn the_end_and_errors_arrive_too() {
    let (fake, session, reader, told) = reader();
    fake.stage(|state| state.at_end = true);
    reader.wish(WISH).unwrap();
    hear(&told);
    assert!(matches!(reader.take().unwrap().received, Ok(Received::End)));
    fake.stage(|state| state.at_end = false);
    reader.wish(WISH).unwrap();
    wait_for_read(&fake);
    session.close().unwrap();
    hear(&told);
    assert!(matches!(
        reader.take().unwrap().received,
        Err(Error::Closed)
    ));
}

#[test]
fn stopping_ends_a_wait_and_loses_nothing() {
    let (fake, session, reader, told) = reader();
    reader.wish(WISH).unwrap();
    wait_for_read(&fake);
    reader.stop();
    reader.stop();
    hear(&told);
    assert!(matches!(reader.wish(WISH), Err(Error::Closed)));
    fake.hold(1, b"packet");
    let received = session.receive(1, PayloadMode::None, Wait::No).unwrap();
    assert!(matches!(received, Received::Batch(_)));
    assert_eq!(Arc::strong_count(&session), 2, "the thread's is gone");
    drop(reader);
    assert_eq!(Arc::strong_count(&session), 1);
}

#[test]
fn a_reader_may_be_let_go_of_by_what_it_calls() {
    let (fake, session) = open();
    let session = Arc::new(session);
    fake.hold(1, b"packet");
    let (tell, told) = channel();
    let shared = Arc::new(std::sync::Mutex::new(None::<Reader>));
    let own = Arc::clone(&shared);
    let reader = Reader::new(Arc::clone(&session), move || {
        drop(own.lock().unwrap().take());
        let _ = tell.send(());
    });
    let mut slot = shared.lock().unwrap();
    reader.wish(WISH).unwrap();
    *slot = Some(reader);
    drop(slot);
    hear(&told);
    while Arc::strong_count(&session) > 1 {
        thread::yield_now();
    }
}
