//! The event stream through its request.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use kext_types::FlowEnd;
use kext_wire::ControlCode;
use kext_wire::events::{EventsRequest, EventsResponse};
use kext_wire::v1::VerdictInfo;

fn events(extension: &TestExtension, keep: bool) -> Vec<FlowEnd> {
    let mut input = [0; EventsRequest::LEN];
    EventsRequest { max: 9, keep }.encode(&mut input).unwrap();
    let room = EventsResponse::len_for(9);
    let bytes = ioctl(extension, ControlCode::Events, &input, room).unwrap();
    let response = EventsResponse::decode(&bytes).unwrap();
    assert_eq!((response.lost(), response.waiting()), (0, 0));
    response.iter().map(|event| event.end).collect()
}

/// A flow is cached, and found idle.
fn idle(extension: &TestExtension) {
    let id = hold(extension, &udp(LOCAL, REMOTE, b"x")).id;
    let mut input = [0; VerdictInfo::LEN];
    VerdictInfo { id, number: 2 }.encode(&mut input).unwrap();
    ioctl(extension, ControlCode::SetVerdict, &input, 0).unwrap();
    let clock = &extension.host().clock;
    clock.fetch_add(601_000_000_000, Ordering::Relaxed);
    hold(extension, &udp(LOCAL, REMOTE, b"y"));
    extension.close();
    extension.open().unwrap();
}

#[test]
fn events_come_to_who_asked_for_them_until_the_device_is_closed() {
    let extension = open();
    idle(&extension);
    assert_eq!(events(&extension, true), []);
    let id = hold(&extension, &udp(LOCAL, REMOTE, b"x")).id;
    let mut input = [0; VerdictInfo::LEN];
    VerdictInfo { id, number: 2 }.encode(&mut input).unwrap();
    ioctl(&extension, ControlCode::SetVerdict, &input, 0).unwrap();
    let clock = &extension.host().clock;
    clock.fetch_add(601_000_000_000, Ordering::Relaxed);
    hold(&extension, &udp(LOCAL, REMOTE, b"y"));
    assert_eq!(events(&extension, false), [FlowEnd::Idle]);
    extension.close();
    extension.open().unwrap();
    events(&extension, true);
    idle(&extension);
    assert_eq!(events(&extension, true), [], "closed in between");
}

#[test]
fn a_buffer_without_room_for_one_event_takes_none() {
    let extension = open();
    let mut input = [0; EventsRequest::LEN];
    EventsRequest { max: 1, keep: true }
        .encode(&mut input)
        .unwrap();
    let room = EventsResponse::len_for(1) - 1;
    let refused = ioctl(&extension, ControlCode::Events, &input, room);
    assert_eq!(refused, Err(kext_wire::Status::BUFFER_TOO_SMALL));
}
