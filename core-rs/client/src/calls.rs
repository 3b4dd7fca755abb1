//! One function for each device request but RECEIVE and `SET_VERDICTS`: encode, call, decode.

use std::sync::{Mutex, PoisonError};

use kext_types::{Config, FlowEnded, MAX_PACKET_LEN};
use kext_wire::config::{CONFIG_LEN, ConfigMessage, GetConfigRequest};
use kext_wire::counters::{CountersRequest, CountersResponse};
use kext_wire::events::{EventsRequest, EventsResponse};
use kext_wire::flows::{ListFlowsRequest, ListFlowsResponse};
use kext_wire::hello::{Features, HelloRequest, HelloResponse};
use kext_wire::payload::{ReadPayloadRequest, ReadPayloadResponse};
use kext_wire::process_path::{ProcessPathRequest, ProcessPathResponse};
use kext_wire::{BufferTooSmall, ControlCode, MAX_BATCH, Status, VERSION};

use crate::receive::MAX_MESSAGE;
use crate::transport::LOST;
use crate::verdicts::result;
use crate::{Counters, Error, FlowPage, Transport};

/// A transport with buffers that are used again.
pub(crate) struct Caller {
    transport: Box<dyn Transport>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl Caller {
    /// Buffers kept; more calls than this at once make their own.
    const KEPT: usize = 4;
    /// A buffer longer than this is not kept.
    const KEPT_LEN: usize = MAX_MESSAGE;

    pub(crate) fn new(transport: Box<dyn Transport>) -> Self {
        Self {
            transport,
            buffers: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// A device request; its status as an error, if it is none of the successes.
    pub(crate) fn call(
        &self,
        code: ControlCode,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Error> {
        let room = output.len();
        match self.transport.ioctl(code.to_u32(), input, output) {
            Ok(length) if length <= room => Ok(length),
            Ok(_) => Err(Error::Mismatch {
                call: code.name(),
                what: "more bytes than there was room for",
            }),
            Err(Status::FILE_CLOSED) => Err(Error::Closed),
            Err(Status::CANCELLED) => Err(Error::Cancelled),
            Err(LOST) if let Some(failure) = self.transport.failure() => Err(failure),
            Err(status) => Err(Error::Status {
                call: code.name(),
                status,
            }),
        }
    }

    /// A device request whose answer is at most `room` bytes long, and `read`.
    pub(crate) fn ask<T>(
        &self,
        code: ControlCode,
        input: &[u8],
        room: usize,
        read: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut buffer = self.take_buffer(room);
        let output = buffer.get_mut(..room).unwrap_or_default();
        let answer = self
            .call(code, input, output)
            .and_then(|length| read(output.get(..length).unwrap_or_default()));
        self.keep_buffer(buffer);
        answer
    }

    /// A buffer of at least `len` bytes, whatever they are.
    pub(crate) fn take_buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.kept().pop().unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        buffer
    }

    /// Keeps a buffer for the next call.
    pub(crate) fn keep_buffer(&self, buffer: Vec<u8>) {
        let mut kept = self.kept();
        if kept.len() < Self::KEPT && buffer.len() <= Self::KEPT_LEN {
            kept.push(buffer);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        // Whatever a panic left, they are only buffers.
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message of a fixed length, written.
fn fixed<const N: usize>(
    call: ControlCode,
    write: impl FnOnce(&mut [u8]) -> Result<usize, BufferTooSmall>,
) -> Result<[u8; N], Error> {
    let mut message = [0; N];
    match write(&mut message) {
        Ok(length) if length == N => Ok(message),
        _ => Err(unsent(call)),
    }
}

/// A message that could not be written into a buffer of its own length: a defect of this crate,
/// told instead of panicked.
pub(crate) const fn unsent(call: ControlCode) -> Error {
    Error::Mismatch {
        call: call.name(),
        what: "nothing, because the message could not be written",
    }
}

pub(crate) fn hello(caller: &Caller) -> Result<HelloResponse, Error> {
    const CODE: ControlCode = ControlCode::Hello;
    let request = HelloRequest {
        lowest: VERSION,
        highest: VERSION,
        wanted: Features::ALL,
    };
    let input = fixed::<{ HelloRequest::LEN }>(CODE, |out| request.encode(out))?;
    let answer = caller.ask(CODE, &input, HelloResponse::LEN, |bytes| {
        Ok(HelloResponse::decode(bytes)?)
    });
    match answer {
        Ok(hello) if hello.version == VERSION => Ok(hello),
        // An extension of another version, or one from before there were versions.
        Ok(_)
        | Err(Error::Status {
            status: Status::REVISION_MISMATCH | Status::INVALID_DEVICE_REQUEST,
            ..
        }) => Err(Error::NoCommonVersion),
        Err(error) => Err(error),
    }
}

pub(crate) fn read_payload(caller: &Caller, id: u64) -> Result<Vec<u8>, Error> {
    const CODE: ControlCode = ControlCode::ReadPayload;
    let request = ReadPayloadRequest { id, max: None };
    let input = fixed::<{ ReadPayloadRequest::LEN }>(CODE, |out| request.encode(out))?;
    let room = ReadPayloadResponse::FIXED_LEN + MAX_PACKET_LEN;
    caller.ask(CODE, &input, room, |bytes| {
        let response = ReadPayloadResponse::decode(bytes)?;
        result(id, CODE, response.outcome)?;
        Ok(response.bytes.to_vec())
    })
}

pub(crate) fn counters(caller: &Caller) -> Result<Counters, Error> {
    const CODE: ControlCode = ControlCode::Counters;
    /// Many times what is counted today, for extensions that count more.
    const ROOM: usize = CountersResponse::len_for(1_024);
    let input = fixed::<{ CountersRequest::LEN }>(CODE, |out| CountersRequest.encode(out))?;
    caller.ask(CODE, &input, ROOM, |bytes| {
        Ok(CountersResponse::decode(bytes)?.iter().collect())
    })
}

pub(crate) fn config(caller: &Caller) -> Result<Config, Error> {
    const CODE: ControlCode = ControlCode::GetConfig;
    let input = fixed::<{ GetConfigRequest::LEN }>(CODE, |out| GetConfigRequest.encode(out))?;
    caller.ask(CODE, &input, CONFIG_LEN, |bytes| {
        let message = ConfigMessage::GetResponse;
        Ok(kext_wire::config::decode(message, bytes)?)
    })
}

pub(crate) fn set_config(caller: &Caller, config: &Config) -> Result<Config, Error> {
    const CODE: ControlCode = ControlCode::SetConfig;
    let input = fixed::<CONFIG_LEN>(CODE, |out| {
        kext_wire::config::encode(ConfigMessage::SetRequest, config, out)
    })?;
    caller.ask(CODE, &input, CONFIG_LEN, |bytes| {
        let message = ConfigMessage::SetResponse;
        Ok(kext_wire::config::decode(message, bytes)?)
    })
}

pub(crate) fn list_flows(caller: &Caller, cursor: u64, most: u32) -> Result<FlowPage, Error> {
    const CODE: ControlCode = ControlCode::ListFlows;
    let max = most.clamp(1, MAX_BATCH);
    let request = ListFlowsRequest { cursor, max };
    let input = fixed::<{ ListFlowsRequest::LEN }>(CODE, |out| request.encode(out))?;
    let room = ListFlowsResponse::len_for(max as usize);
    caller.ask(CODE, &input, room, |bytes| {
        let response = ListFlowsResponse::decode(bytes)?;
        Ok(FlowPage {
            flows: response.iter().collect(),
            next: Some(response.cursor()).filter(|cursor| *cursor != 0),
        })
    })
}

/// The path of a process's program, as its host names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPath {
    /// UTF-16, which need not be well-formed.
    pub utf16: Vec<u16>,
    /// Whether the path is longer, and this is how it begins.
    pub is_cut: bool,
}

pub(crate) fn process_path(caller: &Caller, id: u64) -> Result<Option<ProcessPath>, Error> {
    const CODE: ControlCode = ControlCode::ProcessPath;
    let request = ProcessPathRequest { process_id: id };
    let input = fixed::<{ ProcessPathRequest::LEN }>(CODE, |out| request.encode(out))?;
    let answer = caller.ask(CODE, &input, ProcessPathResponse::MAX_LEN, |bytes| {
        let path = ProcessPathResponse::decode(bytes)?.path;
        let (units, _) = path.utf16.as_chunks();
        Ok(ProcessPath {
            utf16: units.iter().map(|unit| u16::from_le_bytes(*unit)).collect(),
            is_cut: path.is_cut,
        })
    });
    match answer {
        Err(Error::Status {
            status: Status::OBJECT_NAME_NOT_FOUND,
            ..
        }) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Flows that have left the verdict cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// The flows as they were last, the one that ended first at the beginning; may be none.
    pub events: Vec<FlowEnded>,
    /// How many found no room since the extension started.
    pub lost: u64,
    /// How many wait still.
    pub waiting: u32,
}

pub(crate) fn events(caller: &Caller, most: u32, keep: bool) -> Result<EventPage, Error> {
    const CODE: ControlCode = ControlCode::Events;
    let max = most.clamp(1, MAX_BATCH);
    let request = EventsRequest { max, keep };
    let input = fixed::<{ EventsRequest::LEN }>(CODE, |out| request.encode(out))?;
    let room = EventsResponse::len_for(max as usize);
    caller.ask(CODE, &input, room, |bytes| {
        let response = EventsResponse::decode(bytes)?;
        Ok(EventPage {
            events: response.iter().collect(),
            lost: response.lost(),
            waiting: response.waiting(),
        })
    })
}
