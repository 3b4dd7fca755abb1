//! Answers to any packet, and any packet rewritten.

use kext_packet::{
    Headers, MAX_REPLY_LEN, ReplyForbidden, ReplyKind, Rewrite, checksum, reply, rewrite,
};
use kext_types::{Address, Direction, IpVersion};

/// The new ends and the identification come first; the packet is the rest.
struct Input<'a> {
    identification: u16,
    room: usize,
    ends: [([u8; 4], u16); 2],
    which: u8,
    packet: &'a [u8],
}

impl<'a> Input<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&[i0, i1, which, room], rest) = bytes.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk::<6>()?;
        let (destination, packet) = rest.split_first_chunk::<6>()?;
        Some(Self {
            identification: u16::from_be_bytes([i0, i1]),
            room: usize::from(room) * 8,
            ends: [source, destination]
                .map(|&[a0, a1, a2, a3, p0, p1]| ([a0, a1, a2, a3], u16::from_be_bytes([p0, p1]))),
            which,
            packet,
        })
    }

    fn change(&self, headers: &Headers) -> Rewrite {
        let has_ports = headers.source_port != 0 || headers.destination_port != 0;
        let [source, destination] = self.ends.map(|(bytes, port)| {
            let address = match headers.version {
                IpVersion::V4 => Address::v4(bytes),
                // Four bytes four times are as good as any sixteen.
                IpVersion::V6 => Address::v6(*bytes.repeat(4).first_chunk().unwrap()),
            };
            // Ports for protocols without them are refused; see that as well, now and then.
            let port = if has_ports || self.which & 4 != 0 {
                port
            } else {
                0
            };
            (address, port)
        });
        Rewrite {
            source: (self.which & 1 != 0).then_some(source),
            destination: (self.which & 2 != 0).then_some(destination),
        }
    }
}

/// Answers and rewrites the packet of this input.
pub(crate) fn answer(bytes: &[u8]) {
    let Some(input) = Input::read(bytes) else {
        return;
    };
    let Ok(headers) = Headers::parse(input.packet, input.packet.len()) else {
        return;
    };
    build(&input, &headers);
    change(&input, &headers);
    // Headers of another packet are wrong, but no reason to panic.
    let part = input.packet.get(..input.room).unwrap_or(input.packet);
    let mut copy = part.to_vec();
    let _ = rewrite::rewrite(&mut copy, &headers, &input.change(&headers));
    let _ = checksum::fill(&mut copy, &headers);
    let _ = reply::build(part, &headers, 0, &mut [0; MAX_REPLY_LEN]);
}

fn build(input: &Input<'_>, headers: &Headers) {
    let mut out = [0xA5; MAX_REPLY_LEN];
    let built = reply::build(input.packet, headers, input.identification, &mut out);
    let allowed = reply::may_answer(headers);
    assert_eq!(built.err(), allowed.err(), "a whole packet and room enough");
    let mut narrow = vec![0; input.room.min(MAX_REPLY_LEN)];
    let again = reply::build(input.packet, headers, input.identification, &mut narrow);
    let Ok(reply) = built else {
        return;
    };
    if narrow.len() >= reply.len {
        assert_eq!(again, Ok(reply));
        assert_eq!(narrow.get(..reply.len), out.get(..reply.len));
    } else {
        // A smaller buffer gives no answer, or one that quotes less.
        assert!(again == Err(ReplyForbidden::NoRoom) || again.is_ok_and(|r| r.len <= narrow.len()));
    }
    let (answer, untouched) = out.split_at(reply.len);
    assert!(untouched.iter().all(|byte| *byte == 0xA5));
    check_answer(headers, reply.kind, answer);
}

fn check_answer(asked: &Headers, kind: ReplyKind, answer: &[u8]) {
    let headers = Headers::parse(answer, answer.len()).unwrap();
    assert_eq!(headers.total_len as usize, answer.len());
    assert_eq!(
        (headers.source, headers.destination),
        (asked.destination, asked.source)
    );
    assert_eq!(checksum::is_right(answer, &headers), Some(true));
    let key = asked.flow_key(Direction::Outbound);
    match kind {
        ReplyKind::TcpReset => assert_eq!(headers.flow_key(Direction::Inbound), key),
        ReplyKind::Unreachable => {
            let quoted = headers
                .quoted(answer)
                .map(|q| q.flow_key(Direction::Outbound));
            // Extension headers may be longer than what an answer quotes of them.
            assert!(quoted == Some(key) || usize::from(asked.transport) > 40);
        }
    }
    // Answers are not answered, or two machines would never stop.
    assert!(reply::may_answer(&headers).is_err());
}

fn change(input: &Input<'_>, headers: &Headers) {
    let packet = input.packet;
    let change = input.change(headers);
    let mut new = packet.to_vec();
    if rewrite::rewrite(&mut new, headers, &change).is_err() {
        assert_eq!(new, packet, "a refusal changes nothing");
        return;
    }
    assert_eq!(new.len(), packet.len());
    let expected = expected(headers, &change);
    assert_eq!(Headers::parse(&new, new.len()), Ok(expected));
    if checksum::is_right(packet, headers) == Some(true) {
        assert_eq!(checksum::is_right(&new, &expected), Some(true));
    }
    if is_canonical(packet, headers) {
        assert!(
            is_canonical(&new, &expected),
            "not the checksum of a full computation"
        );
        let back = Rewrite {
            source: change.source.map(|_| (headers.source, headers.source_port)),
            destination: change
                .destination
                .map(|_| (headers.destination, headers.destination_port)),
        };
        rewrite::rewrite(&mut new, &expected, &back).unwrap();
        assert_eq!(new, packet, "there and back");
    }
}

/// What the headers say after a rewriting.
fn expected(headers: &Headers, change: &Rewrite) -> Headers {
    let mut expected = *headers;
    let is_later = headers.is_later_fragment();
    if let Some((address, port)) = change.source {
        expected.source = address;
        expected.source_port = if is_later { 0 } else { port };
    }
    if let Some((address, port)) = change.destination {
        expected.destination = address;
        expected.destination_port = if is_later { 0 } else { port };
    }
    expected
}

/// Whether the checksums are those that a full computation writes.
fn is_canonical(packet: &[u8], headers: &Headers) -> bool {
    let mut full = packet.to_vec();
    checksum::fill(&mut full, headers).is_some() && full == packet
}
