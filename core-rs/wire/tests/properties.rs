//! Properties over many values: round trips, and bytes at random.

#[path = "../../../tests/fuzz/src/decode.rs"]
mod decode;

use kext_types::{
    Address, Arrival, Config, Decision, Direction, FlowKey, FragmentPolicy, Interface, IpVersion,
    PacketId, Policy, ProcessId, RedirectTarget, RequestInfo, Special, Timestamp, Verdict,
    VerdictOutcome,
};
use kext_wire::config::{self, ConfigMessage};
use kext_wire::receive::{PayloadMode, ReceiveResponse, ReceiveWriter, ReceivedRequest};
use kext_wire::verdicts::{
    InPlace, Outcome, SetVerdictsRequest, SetVerdictsResponse, VerdictEntry,
};
use kext_wire::{ControlCode, Status, v1};
use proptest::collection::vec;
use proptest::prelude::*;

prop_compose! {
    fn flow()(
        v6: bool, a: [u8; 16], b: [u8; 16], local_port: u16, remote_port: u16, protocol: u8,
    ) -> FlowKey {
        let address = |bytes: [u8; 16]| {
            let [a, b, c, d, ..] = bytes;
            if v6 { Address::v6(bytes) } else { Address::v4([a, b, c, d]) }
        };
        FlowKey {
            local: address(a),
            remote: address(b),
            local_port,
            remote_port,
            version: if v6 { IpVersion::V6 } else { IpVersion::V4 },
            protocol,
        }
    }
}

prop_compose! {
    fn request()(
        flow in flow(), id in any::<u64>().prop_map(|id| id | 1), time: u64, process: u64,
        inbound: bool, index: u32, sub_index: u32, compartment: u32,
        held_len in 0_u32..200, cut in 0_u32..3,
    ) -> RequestInfo {
        RequestInfo {
            id: PacketId::new(id).unwrap(),
            time: Timestamp::from_nanos(time),
            flow,
            arrival: Arrival {
                direction: if inbound { Direction::Inbound } else { Direction::Outbound },
                interface: Interface { index, sub_index },
                compartment,
                process_id: ProcessId::new(process),
                passes: 0,
                path_mtu: None,
            },
            size: held_len + cut,
            held_len,
        }
    }
}

fn payload_mode() -> impl Strategy<Value = PayloadMode> {
    prop_oneof![
        Just(PayloadMode::None),
        (1_u32..100).prop_map(PayloadMode::First),
        Just(PayloadMode::Whole),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Permit), Just(Policy::Block)]
}

fn special() -> impl Strategy<Value = Special> {
    prop_oneof![Just(Special::Permit), Just(Special::Ask)]
}

prop_compose! {
    fn target()(v4: [u8; 4], v6: [u8; 16], port in 1_u16..) -> RedirectTarget {
        RedirectTarget { v4: Address::v4(v4), v6: Address::v6(v6), port }
    }
}

prop_compose! {
    fn configuration()(
        policies in [policy(), policy(), policy()],
        fragments in (0_u8..3).prop_map(|n| FragmentPolicy::from_number(n).unwrap()),
        specials in [special(), special(), special(), special()],
        [ask_each_packet, hold_connects]: [bool; 2],
        loop_limit in 1_u8..,
        hold_limit_ms in 100_u32..=600_000,
        flow_idle_ms in 1_000_u32..=86_400_000,
        flow_closed_ms in 1_000_u32..=86_400_000,
        replies_per_second in 0_u32..=1_000_000,
        redirect_dns in target(),
        redirect_tunnel in target(),
    ) -> Config {
        Config {
            no_reader: policies[0],
            unparsable: policies[1],
            hold_limit: policies[2],
            fragments,
            infrastructure: specials[0],
            broadcast: specials[1],
            multicast: specials[2],
            fast_track: specials[3],
            ask_each_packet,
            hold_connects,
            loop_limit,
            hold_limit_ms,
            flow_idle_ms,
            flow_closed_ms,
            replies_per_second,
            redirect_dns,
            redirect_tunnel,
        }
    }
}

/// The bytes that stand for the packet of a request: none of them is the filling of the buffers.
fn packet(request: &RequestInfo) -> Vec<u8> {
    (0..request.held_len).map(|i| (i % 100) as u8).collect()
}

proptest! {
    #[test]
    fn v1_structures_come_back(request in request(), verdict in 0_usize..5) {
        let mut out = [0; 72];
        let info = v1::PacketInfo::from_request(&request);
        info.encode(&mut out).unwrap();
        prop_assert_eq!(v1::PacketInfo::decode(&out), Ok(info));

        let update = v1::VerdictUpdate { flow: request.flow, verdict: Verdict::ALL[verdict] };
        let len = update.encode(&mut out).unwrap();
        prop_assert_eq!(v1::VerdictUpdate::decode(&out[..len]), Ok(update));
    }

    #[test]
    fn configurations_come_back(config in configuration()) {
        let mut out = [0; config::CONFIG_LEN];
        config::encode(ConfigMessage::SetRequest, &config, &mut out).unwrap();
        prop_assert_eq!(config::decode(ConfigMessage::SetRequest, &out), Ok(config));
    }

    /// Whatever fits is received whole, what does not fit was refused, and no byte that the buffer
    /// held before is in the message.
    #[test]
    fn received_is_what_was_pushed(
        requests in vec(request(), 0..12),
        mode in payload_mode(),
        max in 1_u32..12,
        room in 120_usize..2_000,
        short in 0_usize..3,
        queued: u32,
    ) {
        let mut buffer = vec![0xA5; room];
        let mut writer = ReceiveWriter::new(&mut buffer, max, mode).unwrap();
        let mut pushed = Vec::new();
        for request in &requests {
            let packet = packet(request);
            let fits = writer.room_for(packet.len());
            let mut filled = Vec::new();
            let result = writer.push(request, |slot| {
                let len = slot.len().saturating_sub(short);
                slot[..len].copy_from_slice(&packet[..len]);
                filled = packet[..len].to_vec();
                len
            });
            prop_assert_eq!(result.is_ok(), fits);
            if result.is_ok() {
                prop_assert_eq!(filled.len(), mode.len_of(packet.len()).saturating_sub(short));
                pushed.push((ReceivedRequest::from(request), filled));
            }
        }
        prop_assert_eq!(writer.count(), pushed.len());
        let len = writer.finish(queued);
        let payload: usize = pushed.iter().map(|(_, bytes)| bytes.len()).sum();
        prop_assert_eq!(len, 32 + 88 * pushed.len() + payload);
        let response = ReceiveResponse::decode(&buffer[..len]).unwrap();
        prop_assert_eq!(response.queued(), queued);
        let received: Vec<_> = response.iter().map(|(r, bytes)| (r, bytes.to_vec())).collect();
        prop_assert_eq!(received, pushed);
    }

    /// A request that was refused for want of room fits a buffer of the length told.
    #[test]
    fn the_length_needed_is_exact(request in request(), room in 120_usize..320) {
        let mut buffer = vec![0; room];
        let mut writer = ReceiveWriter::new(&mut buffer, 1, PayloadMode::Whole).unwrap();
        let fill = |slot: &mut [u8]| slot.len();
        if let Err(error) = writer.push(&request, fill) {
            prop_assert!(error.needed > room);
            let mut buffer = vec![0; error.needed];
            let mut writer = ReceiveWriter::new(&mut buffer, 1, PayloadMode::Whole).unwrap();
            prop_assert_eq!(writer.push(&request, fill), Ok(()));
            prop_assert_eq!(writer.finish(0), error.needed);
            let mut buffer = vec![0; error.needed - 1];
            let mut writer = ReceiveWriter::new(&mut buffer, 1, PayloadMode::Whole).unwrap();
            prop_assert!(writer.push(&request, fill).is_err());
        }
    }

    /// Answering in place tells of each entry what was said of it, in any number of entries.
    #[test]
    fn verdicts_answered_in_place(
        entries in vec((any::<u64>(), -8_i8..8), 1..60),
        answered in 0_usize..60,
    ) {
        let entries = entries.into_iter().map(|(id, number)| VerdictEntry { id, number });
        let entries: Vec<_> = entries.collect();
        let mut buffer = vec![0xA5; SetVerdictsRequest::len_for(entries.len()) + 3];
        let len = SetVerdictsRequest::encode(&entries, &mut buffer).unwrap();
        let said = |entry: VerdictEntry| Outcome {
            outcome: VerdictOutcome::from_number((entry.id % 7) as u8).unwrap(),
            first: if entry.id % 7 == 2 { entry.decision() } else { None },
        };
        let mut answer = InPlace::new(&mut buffer, len, len).unwrap();
        prop_assert_eq!(answer.count(), entries.len());
        let answered = answered.min(entries.len());
        for (index, expected) in entries.iter().enumerate().take(answered) {
            let entry = answer.entry(index).unwrap();
            prop_assert_eq!(entry, *expected);
            // Out of order is refused and changes nothing.
            prop_assert!(!answer.set_outcome(index + 1, said(entry)));
            prop_assert!(answer.set_outcome(index, said(entry)));
            prop_assert_eq!(answer.entry(index), None);
        }
        let len = answer.finish();
        let response = SetVerdictsResponse::decode(&buffer[..len]).unwrap();
        prop_assert_eq!(response.len(), entries.len());
        for (index, outcome) in response.iter().enumerate() {
            let unseen = VerdictOutcome::UnknownId.into();
            let expected = if index < answered { said(entries[index]) } else { unseen };
            prop_assert_eq!(outcome, expected);
        }
    }

    #[test]
    fn verdicts_without_room_for_the_answer_are_untouched(
        count in 1_usize..40,
        output in 0_usize..300,
    ) {
        let id = PacketId::new(7).unwrap();
        let decision = Decision { verdict: Verdict::Accept, permanent: true };
        let mut buffer = vec![0; SetVerdictsRequest::len_for(count)];
        let entries = vec![VerdictEntry::new(id, decision); count];
        let len = SetVerdictsRequest::encode(&entries, &mut buffer).unwrap();
        let before = buffer.clone();
        let result = InPlace::new(&mut buffer, len, output).map(|answer| answer.count());
        let fits = output >= SetVerdictsResponse::len_for(count);
        prop_assert_eq!(result, if fits { Ok(count) } else { Err(Status::BUFFER_TOO_SMALL) });
        prop_assert_eq!(buffer, before);
    }

    #[test]
    fn bytes_at_random_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        decode::decode_everything(&bytes);
    }

    /// Random bytes behind a header that is right, so that they get past it.
    #[test]
    fn random_messages_never_panic(
        kind in 0_usize..16,
        body in vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..200),
    ) {
        let mut bytes = b"PMKX\x01\0".to_vec();
        bytes.extend(ControlCode::ALL[kind].function().to_le_bytes());
        bytes.extend(u32::try_from(16 + body.len()).unwrap().to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        decode::decode_everything(&bytes);
    }
}
