//! Device requests: one row a code, and what becomes of a read that finds nothing.

use core::time::Duration;

use kext_engine::{Lane, NotHeld};
use kext_types::{Decision, PacketId, Timestamp, VerdictOutcome};
use kext_wire::verdicts::Outcome;
use kext_wire::{BufferTooSmall, ControlCode, DecodeError, Status};

use crate::{Extension, Host};

/// The lane of who answers device requests: the last, which hosts with fewer processors leave free.
const REQUEST_LANE: usize = usize::MAX;

/// How a device request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// It is answered.
    Complete {
        /// The status.
        status: Status,
        /// How many bytes of the buffer are the answer.
        information: usize,
    },
    /// No verdict request waits. Keep it, buffer untouched, and dispatch it again when
    /// [`Host::requests_ready`] is called or the wait is over. A call that comes between this
    /// answer and the keeping counts: else it would be lost.
    Pend {
        /// The longest wait; `None` waits without limit, zero is over at once.
        wait: Option<Duration>,
        /// How many requests it can take: a host that knows more packets to be near may gather as
        /// many before it dispatches again.
        most: u32,
    },
}

/// Why a device request is dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It has just come, or requests may be ready for it.
    Normal,
    /// Its wait is over: it is to be answered in any case.
    TimedOut,
}

/// What a request's handler says: how many bytes it answered, or why it did nothing.
pub(crate) enum Answer {
    /// Bytes in the output.
    Bytes(usize),
    /// A success that is not plain, and no bytes.
    Status(Status),
    /// Nothing to read yet: the longest wait, and how many requests can be taken.
    Wait(Option<Duration>, u32),
}

pub(crate) type Handled = Result<Answer, Status>;

/// The one buffer of a `METHOD_BUFFERED` request: input and output share it.
pub(crate) struct Buffer<'a> {
    bytes: &'a mut [u8],
    input_len: usize,
    output_len: usize,
}

impl Buffer<'_> {
    pub(crate) fn input(&self) -> &[u8] {
        self.bytes.get(..self.input_len).unwrap_or_default()
    }

    /// The output; what was read of the input before is written over.
    pub(crate) fn output(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.output_len).unwrap_or_default()
    }

    pub(crate) const fn output_len(&self) -> usize {
        self.output_len
    }

    /// The whole buffer with the lengths of its two uses.
    pub(crate) fn whole(&mut self) -> (&mut [u8], usize, usize) {
        (self.bytes, self.input_len, self.output_len)
    }

    /// Refuses any input.
    pub(crate) fn no_input(&self) -> Result<(), Status> {
        if self.input_len == 0 {
            Ok(())
        } else {
            Err(Status::INFO_LENGTH_MISMATCH)
        }
    }
}

impl<H: Host> Extension<H> {
    /// Answers a device request.
    ///
    /// `buffer` holds the input in its first `input_len` bytes, and is to hold the answer in at most
    /// `output_len` bytes; it must be as long as both. A request that is answered with an error has
    /// touched nothing.
    pub fn dispatch(
        &self,
        code: u32,
        buffer: &mut [u8],
        input_len: usize,
        output_len: usize,
        attempt: Attempt,
    ) -> Dispatch {
        if buffer.len() < input_len.max(output_len) {
            return complete(Err(Status::INVALID_PARAMETER));
        }
        let Some(code) = ControlCode::from_u32(code) else {
            return complete(Err(Status::INVALID_DEVICE_REQUEST));
        };
        let mut buffer = Buffer {
            bytes: buffer,
            input_len,
            output_len,
        };
        let timed_out = attempt == Attempt::TimedOut;
        complete(match code {
            ControlCode::Version => Self::v1_version(&mut buffer),
            ControlCode::ShutdownRequest => self.v1_shutdown(&buffer),
            ControlCode::RecvVerdictReq => self.v1_receive(&mut buffer, timed_out),
            ControlCode::SetVerdict => self.v1_set_verdict(&buffer),
            ControlCode::GetPayload => self.v1_payload(&mut buffer),
            ControlCode::ClearCache => self.v1_clear_cache(&buffer),
            ControlCode::UpdateVerdict => self.v1_update_verdict(&buffer),
            ControlCode::GetConnectionsStats => self.v1_stats(&mut buffer),
            ControlCode::Hello => self.hello(&mut buffer),
            ControlCode::Receive => self.receive(&mut buffer, timed_out),
            ControlCode::SetVerdicts => self.set_verdicts(&mut buffer),
            ControlCode::ReadPayload => self.read_payload(&mut buffer),
            ControlCode::Counters => self.counters(&mut buffer),
            ControlCode::GetConfig => self.get_config(&mut buffer),
            ControlCode::SetConfig => self.set_config(&mut buffer),
            ControlCode::ListFlows => self.list_flows(&mut buffer),
            ControlCode::Events => self.events(&mut buffer),
            ControlCode::ProcessPath => self.process_path(&mut buffer),
        })
    }

    /// Gives a held packet a verdict, and lets go what that sets free. The caller [wakes readers] and
    /// [ends holds] afterwards: what then goes on inside needs the stack that this has used.
    ///
    /// [wakes readers]: Self::wake_readers
    /// [ends holds]: Self::end_holds
    pub(crate) fn decide(
        &self,
        lane: &Lane<'_>,
        id: PacketId,
        decision: Decision,
        now: Timestamp,
    ) -> Result<(), NotHeld> {
        let allocate = |len| self.host.allocate(len);
        let (first, releases) = self.engine.decide_on(lane, id, decision, now, allocate)?;
        if let Some(first) = first {
            self.end_held(first);
        }
        self.end_all(releases);
        Ok(())
    }

    /// A lane for as long as one device request is answered.
    pub(crate) fn request_lane(&self) -> Lane<'_> {
        self.engine.lane(REQUEST_LANE)
    }
}

fn complete(handled: Handled) -> Dispatch {
    let (status, information) = match handled {
        Ok(Answer::Bytes(bytes)) => (Status::SUCCESS, bytes),
        Ok(Answer::Status(status)) | Err(status) => (status, 0),
        Ok(Answer::Wait(wait, most)) => return Dispatch::Pend { wait, most },
    };
    Dispatch::Complete {
        status,
        information,
    }
}

/// The status of a message that cannot be read.
pub(crate) fn malformed(error: DecodeError) -> Status {
    error.status()
}

/// The status of an answer that does not fit.
pub(crate) fn too_small(error: BufferTooSmall) -> Status {
    error.status()
}

/// What became of a packet, as the extended interface says it.
pub(crate) fn outcome(not_held: NotHeld) -> Outcome {
    Outcome {
        outcome: not_held.outcome,
        first: match not_held.outcome {
            VerdictOutcome::AlreadyDecided => Decision::from_number(not_held.first),
            _ => None,
        },
    }
}
