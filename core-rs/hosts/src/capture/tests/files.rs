//! Builders for capture files in either byte order.

/// A file in the making.
#[derive(Clone)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    pub(super) big_endian: bool,
}

pub(super) const MICROS: u32 = 0xa1b2_c3d4;
pub(super) const NANOS: u32 = 0xa1b2_3c4d;

impl File {
    /// A classic pcap file without records.
    pub(super) fn pcap(big_endian: bool, magic: u32, link_type: u32) -> Self {
        let bytes = Vec::new();
        Self { bytes, big_endian }
            .u32(magic)
            .u16(2)
            .u16(4)
            .u32(0)
            .u32(0)
            .u32(65_535)
            .u32(link_type)
    }

    /// A classic pcap record.
    pub(super) fn record(self, seconds: u32, fraction: u32, data: &[u8], original: u32) -> Self {
        self.u32(seconds)
            .u32(fraction)
            .u32(data.len() as u32)
            .u32(original)
            .raw(data)
    }

    /// A pcapng file with one section.
    pub(super) fn pcapng(big_endian: bool) -> Self {
        let bytes = Vec::new();
        Self { bytes, big_endian }.section(big_endian)
    }

    /// One more section.
    pub(super) fn section(mut self, big_endian: bool) -> Self {
        self.big_endian = big_endian;
        let body = self.body().u32(0x1a2b_3c4d).u16(1).u16(0).u32(!0).u32(!0);
        self.block(0x0a0d_0d0a, &body.bytes)
    }

    /// An interface with these options, each a code and a value.
    pub(super) fn interface(self, link: u16, snap_len: u32, options: &[(u16, &[u8])]) -> Self {
        let body = self.body().u16(link).u16(0).u32(snap_len).options(options);
        self.block(1, &body.bytes)
    }

    /// An enhanced packet block.
    pub(super) fn packet(self, interface: u32, ticks: u64, data: &[u8], original: u32) -> Self {
        let body = self
            .body()
            .u32(interface)
            .u32((ticks >> 32) as u32)
            .u32(ticks as u32)
            .u32(data.len() as u32)
            .u32(original)
            .raw(data)
            .pad()
            .options(&[(1, b"a comment"), (2, &[1, 0, 0, 0])]);
        self.block(6, &body.bytes)
    }

    /// A block with this body, padded.
    pub(super) fn block(self, kind: u32, body: &[u8]) -> Self {
        let length = 12 + body.len().next_multiple_of(4) as u32;
        self.u32(kind).u32(length).raw(body).pad().u32(length)
    }

    /// Nothing yet, in the same byte order.
    pub(super) fn body(&self) -> Self {
        Self {
            bytes: Vec::new(),
            big_endian: self.big_endian,
        }
    }

    pub(super) fn options(mut self, options: &[(u16, &[u8])]) -> Self {
        for (code, value) in options {
            self = self.u16(*code).u16(value.len() as u16).raw(value).pad();
        }
        if options.is_empty() {
            self
        } else {
            self.u32(0)
        }
    }

    pub(super) fn u16(self, value: u16) -> Self {
        let bytes = if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        };
        self.raw(&bytes)
    }

    pub(super) fn u32(self, value: u32) -> Self {
        let bytes = if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        };
        self.raw(&bytes)
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(super) fn pad(mut self) -> Self {
        let len = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(len, 0);
        self
    }

    /// The file without its last bytes.
    pub(super) fn cut(&self, bytes: usize) -> &[u8] {
        &self.bytes[..self.bytes.len() - bytes]
    }
}
