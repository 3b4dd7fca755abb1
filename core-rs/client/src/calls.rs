//! One function for each device request but RECEIVE: encode, call, decode.

use std::sync::{Mutex, PoisonError};

use kext_types::{Config, Decision, MAX_PACKET_LEN, VerdictOutcome};
use kext_wire::config::{CONFIG_LEN, ConfigMessage, GetConfigRequest};
use kext_wire::counters::{CountersRequest, CountersResponse};
use kext_wire::flows::{ListFlowsRequest, ListFlowsResponse};
use kext_wire::hello::{Features, HelloRequest, HelloResponse};
use kext_wire::payload::{ReadPayloadRequest, ReadPayloadResponse};
use kext_wire::verdicts::{Outcome, SetVerdictsRequest, SetVerdictsResponse, VerdictEntry};
use kext_wire::{BufferTooSmall, ControlCode, MAX_BATCH, Status, VERSION};

use crate::{Counters, Error, FlowPage, NotHeld, Transport};

/// A transport with buffers that are used again.
pub(crate) struct Caller {
    transport: Box<dyn Transport>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl Caller {
    /// Buffers kept; more calls than this at once make their own.
    const KEPT: usize = 8;
    /// A buffer longer than this is not kept.
    const KEPT_LEN: usize = 1 << 20;

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
        let mut buffer = self.kept().pop().unwrap_or_default();
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        let output = buffer.get_mut(..room).unwrap_or_default();
        let answer = self
            .call(code, input, output)
            .and_then(|length| read(output.get(..length).unwrap_or_default()));
        let mut kept = self.kept();
        if kept.len() < Self::KEPT && buffer.len() <= Self::KEPT_LEN {
            kept.push(buffer);
        }
        drop(kept);
        answer
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
const fn unsent(call: ControlCode) -> Error {
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

/// Sets at most [`MAX_BATCH`] verdicts, and hands what became of each to `each`, in order.
pub(crate) fn set_verdicts(
    caller: &Caller,
    verdicts: &[(u64, Decision)],
    mut each: impl FnMut(Result<(), Error>),
) -> Result<(), Error> {
    const CODE: ControlCode = ControlCode::SetVerdicts;
    let entries: Vec<_> = verdicts
        .iter()
        .map(|(id, decision)| VerdictEntry {
            id: *id,
            number: decision.number(),
        })
        .collect();
    let mut input = vec![0; SetVerdictsRequest::len_for(entries.len())];
    SetVerdictsRequest::encode(&entries, &mut input).map_err(|_| unsent(CODE))?;
    let room = SetVerdictsResponse::len_for(entries.len());
    caller.ask(CODE, &input, room, |bytes| {
        let response = SetVerdictsResponse::decode(bytes)?;
        if response.len() != verdicts.len() {
            return Err(Error::Mismatch {
                call: CODE.name(),
                what: "another number of outcomes than there were verdicts",
            });
        }
        for ((id, _), answer) in verdicts.iter().zip(response.iter()) {
            each(outcome(*id, CODE, answer));
        }
        Ok(())
    })
}

pub(crate) fn read_payload(caller: &Caller, id: u64) -> Result<Vec<u8>, Error> {
    const CODE: ControlCode = ControlCode::ReadPayload;
    let request = ReadPayloadRequest { id, max: None };
    let input = fixed::<{ ReadPayloadRequest::LEN }>(CODE, |out| request.encode(out))?;
    let room = ReadPayloadResponse::FIXED_LEN + MAX_PACKET_LEN;
    caller.ask(CODE, &input, room, |bytes| {
        let response = ReadPayloadResponse::decode(bytes)?;
        outcome(id, CODE, response.outcome)?;
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

/// The result of a verdict or a payload request for one id.
fn outcome(id: u64, call: ControlCode, answer: Outcome) -> Result<(), Error> {
    let not_held = |why| Err(Error::NotHeld { id, why });
    match answer.outcome {
        VerdictOutcome::Applied => Ok(()),
        VerdictOutcome::UnknownId => Err(Error::UnknownId { id }),
        VerdictOutcome::AlreadyDecided => Err(match answer.first {
            Some(first) => Error::AlreadyDecided { id, first },
            None => Error::Mismatch {
                call: call.name(),
                what: "\"already decided\" without the verdict that did",
            },
        }),
        VerdictOutcome::Evicted => not_held(NotHeld::Evicted),
        VerdictOutcome::Expired => not_held(NotHeld::Expired),
        VerdictOutcome::Abandoned => not_held(NotHeld::Abandoned),
        // Only numbers of verdicts are ever sent.
        VerdictOutcome::InvalidVerdict => Err(Error::Status {
            call: call.name(),
            status: Status::INVALID_PARAMETER,
        }),
    }
}
