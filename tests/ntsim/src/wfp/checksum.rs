//! Checksums of a whole packet, computed here and not by the code that is tested.

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Bytes of the headers in front of the transport header, the protocol behind them, and whether the
/// packet is a fragment but the first. For IPv6 extension headers are walked.
pub(crate) fn headers(packet: &[u8]) -> Option<(usize, u8, bool)> {
    match packet.first()? >> 4 {
        4 => {
            let length = usize::from(packet[0] & 15) * 4;
            let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]);
            Some((length, *packet.get(9)?, fragment & 0x1fff != 0))
        }
        6 => {
            let (mut at, mut next, mut later) = (40, *packet.get(6)?, false);
            while matches!(next, 0 | 43 | 44 | 60) {
                let header = packet.get(at..at + 8)?;
                if next == 44 {
                    later |= u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0;
                    at += 8;
                } else {
                    at += 8 + usize::from(header[1]) * 8;
                }
                next = header[0];
            }
            Some((at, next, later))
        }
        _ => None,
    }
}

/// What is wrong with the checksums and lengths of a packet, from its IP header on.
pub(crate) fn wrong(packet: &[u8]) -> Option<String> {
    let (at, protocol, later) = headers(packet)?;
    let v4 = packet[0] >> 4 == 4;
    let fragment = if v4 {
        u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0
    } else {
        later || packet.get(6) == Some(&44)
    };
    let length = if v4 {
        usize::from(u16::from_be_bytes([packet[2], packet[3]]))
    } else {
        40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))
    };
    if length > packet.len() {
        return Some(format!(
            "the header says {length} bytes, there are {}",
            packet.len()
        ));
    }
    let packet = &packet[..length];
    if v4 && folded(sum(packet.get(..at)?)) != 0xffff {
        return Some("the checksum of the IPv4 header is wrong".into());
    }
    if fragment {
        return None;
    }
    let body = packet.get(at..)?;
    let place = match protocol {
        6 => 16,
        17 => 6,
        58 => 2,
        1 => {
            let right = folded(sum(body)) == 0xffff;
            return (!right).then(|| "the checksum of ICMP is wrong".into());
        }
        _ => return None,
    };
    let field = body.get(place..place + 2)?;
    if v4 && protocol == 17 && field == [0, 0] {
        return None;
    }
    let addresses = if v4 { &packet[12..20] } else { &packet[8..40] };
    let all = sum(addresses) + body.len() as u32 + u32::from(protocol) + sum(body);
    (folded(all) != 0xffff).then(|| format!("the checksum of protocol {protocol} is wrong"))
}
