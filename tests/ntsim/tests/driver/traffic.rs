//! Packets for the tests, with right checksums.

/// `[source, destination]` and ports of a packet that leaves; it comes with them swapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) v6: bool,
    pub(crate) protocol: u8,
    pub(crate) local: (u8, u16),
    pub(crate) remote: (u8, u16),
}

impl Ends {
    pub(crate) const fn tcp(port: u16) -> Self {
        Self {
            v6: false,
            protocol: 6,
            local: (1, port),
            remote: (2, 443),
        }
    }

    pub(crate) const fn udp(port: u16) -> Self {
        Self {
            protocol: 17,
            ..Self::tcp(port)
        }
    }

    pub(crate) const fn over_v6(self) -> Self {
        Self { v6: true, ..self }
    }

    pub(crate) fn address(&self, last: u8) -> Vec<u8> {
        if self.v6 {
            let mut address = vec![0; 16];
            address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
            address[15] = last;
            address
        } else {
            vec![192, 0, 2, last]
        }
    }

    /// A packet of ours: SYN or a datagram, with this payload.
    pub(crate) fn leaving(&self, payload: &[u8]) -> Vec<u8> {
        packet(self, self.local, self.remote, payload)
    }

    /// A packet of theirs.
    pub(crate) fn coming(&self, payload: &[u8]) -> Vec<u8> {
        packet(self, self.remote, self.local, payload)
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

fn checksum(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn packet(ends: &Ends, from: (u8, u16), to: (u8, u16), payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(from.1.to_be_bytes());
    body.extend(to.1.to_be_bytes());
    let place = if ends.protocol == 6 {
        body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
        16
    } else {
        body.extend((8 + payload.len() as u16).to_be_bytes());
        body.extend([0, 0]);
        6
    };
    body.extend(payload);
    let (source, destination) = (ends.address(from.0), ends.address(to.0));
    let pseudo = sum(&source) + sum(&destination) + u32::from(ends.protocol) + body.len() as u32;
    let whole = checksum(pseudo + sum(&body));
    body[place..place + 2].copy_from_slice(&whole);
    let length = body.len() as u16;
    let mut packet = if ends.v6 {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(length.to_be_bytes());
        header.extend([ends.protocol, 64]);
        header
    } else {
        let mut header = vec![0x45, 0];
        header.extend((20 + length).to_be_bytes());
        header.extend([0, 7, 0, 0, 64, ends.protocol, 0, 0]);
        header
    };
    packet.extend(&source);
    packet.extend(&destination);
    if !ends.v6 {
        let header = checksum(sum(&packet));
        packet[10..12].copy_from_slice(&header);
    }
    packet.extend(body);
    packet
}

/// The packet as it is where checksums were left to the adapter: that of the pseudo header only.
pub(crate) fn partial(packet: &[u8], ends: &Ends) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let at = if ends.v6 { 40 } else { 20 };
    let place = at + if ends.protocol == 6 { 16 } else { 6 };
    let addresses = if ends.v6 { 8..40 } else { 12..20 };
    let pseudo = sum(&packet[addresses]) + u32::from(ends.protocol) + (packet.len() - at) as u32;
    let [high, low] = checksum(pseudo);
    packet[place..place + 2].copy_from_slice(&[!high, !low]);
    if !ends.v6 {
        packet[10..12].fill(0);
    }
    packet
}
