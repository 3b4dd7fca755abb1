//! Requests that came together, in the memory that Python's views of them share.

use std::ops::Range;

use arrow_array::types::{UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_buffer::ScalarBuffer;
use kext_client::{KeyColumns, RequestColumns};
use kext_types::{Address, FlowKey, IpVersion};

use crate::arrow::{self, Column};
use crate::client::Client;

/// The ends of flows, row by row.
pub(crate) struct Keys {
    pub(crate) local_address: ScalarBuffer<u8>,
    pub(crate) remote_address: ScalarBuffer<u8>,
    pub(crate) local_port: ScalarBuffer<u16>,
    pub(crate) remote_port: ScalarBuffer<u16>,
    pub(crate) version: ScalarBuffer<u8>,
    pub(crate) protocol: ScalarBuffer<u8>,
}

impl From<KeyColumns> for Keys {
    fn from(columns: KeyColumns) -> Self {
        Self {
            local_address: columns.local_addresses.into_flattened().into(),
            remote_address: columns.remote_addresses.into_flattened().into(),
            local_port: columns.local_ports.into(),
            remote_port: columns.remote_ports.into(),
            version: columns.versions.into(),
            protocol: columns.protocols.into(),
        }
    }
}

impl Keys {
    pub(crate) fn rows(&self, Range { start: row, end }: Range<usize>) -> Self {
        let rows = end - row;
        Self {
            local_address: self.local_address.slice(row * 16, rows * 16),
            remote_address: self.remote_address.slice(row * 16, rows * 16),
            local_port: self.local_port.slice(row, rows),
            remote_port: self.remote_port.slice(row, rows),
            version: self.version.slice(row, rows),
            protocol: self.protocol.slice(row, rows),
        }
    }

    /// The columns of a table, addresses first.
    pub(crate) fn columns(&self) -> Vec<Column> {
        vec![
            ("local_address", arrow::addresses(&self.local_address)),
            ("remote_address", arrow::addresses(&self.remote_address)),
            ("local_port", arrow::numbers::<UInt16Type>(&self.local_port)),
            (
                "remote_port",
                arrow::numbers::<UInt16Type>(&self.remote_port),
            ),
            ("version", arrow::numbers::<UInt8Type>(&self.version)),
            ("protocol", arrow::numbers::<UInt8Type>(&self.protocol)),
        ]
    }

    /// One row.
    pub(crate) fn key(&self, row: usize) -> FlowKey {
        let version = match self.version.get(row) {
            Some(6) => IpVersion::V6,
            _ => IpVersion::V4,
        };
        FlowKey {
            local: address(&self.local_address, row),
            remote: address(&self.remote_address, row),
            local_port: at(&self.local_port, row),
            remote_port: at(&self.remote_port, row),
            version,
            protocol: at(&self.protocol, row),
        }
    }
}

/// A value; every row that is asked for is there.
pub(crate) fn at<T: arrow_buffer::ArrowNativeType>(values: &ScalarBuffer<T>, row: usize) -> T {
    values.get(row).copied().unwrap_or_default()
}

fn address(values: &ScalarBuffer<u8>, row: usize) -> Address {
    let bytes = values.get(row * 16..).and_then(<[u8]>::first_chunk);
    Address::v6(bytes.copied().unwrap_or_default())
}

/// Requests of one session.
pub(crate) struct Requests {
    pub(crate) session: Client,
    pub(crate) id: ScalarBuffer<u64>,
    pub(crate) time: ScalarBuffer<u64>,
    pub(crate) process_id: ScalarBuffer<u64>,
    pub(crate) keys: Keys,
    pub(crate) direction: ScalarBuffer<u8>,
    pub(crate) flags: ScalarBuffer<u8>,
    pub(crate) size: ScalarBuffer<u32>,
    pub(crate) interface: ScalarBuffer<u32>,
    pub(crate) sub_interface: ScalarBuffer<u32>,
    pub(crate) compartment: ScalarBuffer<u32>,
    pub(crate) payload: ScalarBuffer<u8>,
    pub(crate) payload_offsets: ScalarBuffer<u32>,
    /// Whether payload was asked for.
    pub(crate) with_payload: bool,
}

impl Requests {
    pub(crate) fn new(session: Client, columns: RequestColumns, with_payload: bool) -> Self {
        let mut offsets = columns.payload_offsets;
        if offsets.is_empty() {
            offsets.push(0);
        }
        Self {
            session,
            id: columns.ids.into(),
            time: columns.times.into(),
            process_id: columns.process_ids.into(),
            keys: columns.flows.into(),
            direction: columns.directions.into(),
            flags: columns.flags.into(),
            size: columns.sizes.into(),
            interface: columns.interfaces.into(),
            sub_interface: columns.sub_interfaces.into(),
            compartment: columns.compartments.into(),
            payload: columns.payload.into(),
            payload_offsets: offsets.into(),
            with_payload,
        }
    }

    /// Some of the requests, in the same memory. The payload is that of all of them.
    pub(crate) fn rows(&self, range: Range<usize>) -> Self {
        let row = range.start;
        let rows = range.end - row;
        Self {
            session: self.session.clone(),
            id: self.id.slice(row, rows),
            time: self.time.slice(row, rows),
            process_id: self.process_id.slice(row, rows),
            keys: self.keys.rows(range),
            direction: self.direction.slice(row, rows),
            flags: self.flags.slice(row, rows),
            size: self.size.slice(row, rows),
            interface: self.interface.slice(row, rows),
            sub_interface: self.sub_interface.slice(row, rows),
            compartment: self.compartment.slice(row, rows),
            payload: self.payload.clone(),
            payload_offsets: self.payload_offsets.slice(row, rows + 1),
            with_payload: self.with_payload,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.id.len()
    }

    /// The bytes of one packet that came along.
    pub(crate) fn payload_of(&self, row: usize) -> &[u8] {
        let start = at(&self.payload_offsets, row) as usize;
        let end = at(&self.payload_offsets, row + 1) as usize;
        self.payload.get(start..end).unwrap_or_default()
    }

    /// The columns of a table.
    pub(crate) fn columns(&self) -> Vec<Column> {
        let mut columns = vec![
            ("id", arrow::numbers::<UInt64Type>(&self.id)),
            ("time", arrow::times(&self.time)),
            ("process_id", arrow::numbers::<UInt64Type>(&self.process_id)),
        ];
        columns.extend(self.keys.columns());
        columns.extend([
            ("direction", arrow::numbers::<UInt8Type>(&self.direction)),
            ("flags", arrow::numbers::<UInt8Type>(&self.flags)),
            ("size", arrow::numbers::<UInt32Type>(&self.size)),
            ("interface", arrow::numbers::<UInt32Type>(&self.interface)),
            (
                "sub_interface",
                arrow::numbers::<UInt32Type>(&self.sub_interface),
            ),
            (
                "compartment",
                arrow::numbers::<UInt32Type>(&self.compartment),
            ),
            (
                "payload",
                arrow::bytes(&self.payload, &self.payload_offsets),
            ),
        ]);
        columns
    }
}
