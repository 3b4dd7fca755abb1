//! The v1 requests, as `docs/wire-format.md` has them.

use core::time::Duration;

use kext_engine::Delivery;
use kext_types::{Event, VerdictOutcome};
use kext_wire::v1::{
    Connection, MAX_IGNORED_INPUT, MAX_PAYLOAD_LEN, PacketInfo, PayloadRequest, RECEIVE_WAIT_MS,
    StatsRequest, VerdictInfo, VerdictUpdate, VersionAnswer,
};
use kext_wire::{DecodeErrorKind, Status};

use crate::dispatch::{Answer, Buffer, Handled, malformed, too_small};
use crate::{Extension, Host};

/// How long a v1 read waits.
const READ_WAIT: Duration = Duration::from_millis(RECEIVE_WAIT_MS as u64);

impl<H: Host> Extension<H> {
    pub(crate) fn v1_version(buffer: &mut Buffer<'_>) -> Handled {
        buffer.no_input()?;
        VersionAnswer::CURRENT
            .encode(buffer.output())
            .map(Answer::Bytes)
            .map_err(too_small)
    }

    pub(crate) fn v1_shutdown(&self, buffer: &Buffer<'_>) -> Handled {
        buffer.no_input()?;
        self.shut_down();
        Ok(Answer::Bytes(0))
    }

    pub(crate) fn v1_receive(&self, buffer: &mut Buffer<'_>, timed_out: bool) -> Handled {
        if buffer.input().len() > MAX_IGNORED_INPUT {
            return Err(Status::INFO_LENGTH_MISMATCH);
        }
        if buffer.output_len() < PacketInfo::LEN {
            return Err(Status::BUFFER_TOO_SMALL);
        }
        if !self.is_reading() {
            return Ok(Answer::Status(Status::ABANDONED));
        }
        let delivered = self.engine.deliver(|held| {
            PacketInfo::from_request(held.info)
                .encode(buffer.output())
                .ok()
        });
        match delivered {
            Delivery::Delivered(bytes) => Ok(Answer::Bytes(bytes)),
            Delivery::Refused => Err(Status::BUFFER_TOO_SMALL),
            Delivery::Empty if timed_out => Ok(Answer::Status(Status::TIMEOUT)),
            Delivery::Empty => Ok(Answer::Wait(Some(READ_WAIT), 1)),
        }
    }

    pub(crate) fn v1_set_verdict(&self, buffer: &Buffer<'_>) -> Handled {
        let info = VerdictInfo::decode(buffer.input()).map_err(|error| {
            if matches!(error.kind, DecodeErrorKind::Unknown(_)) {
                self.engine.counters().count(Event::VerdictInvalid);
            }
            malformed(error)
        })?;
        let Some(decision) = info.decision() else {
            // Id 0 or verdict 0.
            return Ok(Answer::Bytes(0));
        };
        let decided = match self.engine.resolve_v1(info.id) {
            Ok(id) => self.decide(&self.request_lane(), id, decision, self.host.now()),
            Err(not_held) => Err(self.engine.refuse(not_held)),
        };
        self.wake_readers();
        self.end_holds();
        Ok(match decided {
            Ok(()) => Answer::Bytes(0),
            Err(not_held) if not_held.outcome == VerdictOutcome::UnknownId => {
                Answer::Status(Status::SOME_NOT_MAPPED)
            }
            Err(_) => Answer::Status(Status::ALREADY_COMPLETE),
        })
    }

    pub(crate) fn v1_payload(&self, buffer: &mut Buffer<'_>) -> Handled {
        let request = PayloadRequest::decode(buffer.input()).map_err(malformed)?;
        let not_found = |_| Status::OBJECT_NAME_NOT_FOUND;
        let id = self.engine.resolve_v1(request.id).map_err(not_found)?;
        let copied = self.engine.look(id, |held| {
            if request.len != held.info.held_len || request.len > MAX_PAYLOAD_LEN {
                return Err(Status::INSUFFICIENT_RESOURCES);
            }
            let out = buffer
                .output()
                .get_mut(..request.len as usize)
                .ok_or(Status::INVALID_PARAMETER)?;
            Ok(Answer::Bytes(held.copy_to(out)))
        });
        copied.map_err(not_found)?
    }

    pub(crate) fn v1_clear_cache(&self, buffer: &Buffer<'_>) -> Handled {
        buffer.no_input()?;
        self.engine.clear_cache();
        Ok(Answer::Bytes(0))
    }

    pub(crate) fn v1_update_verdict(&self, buffer: &Buffer<'_>) -> Handled {
        let update = VerdictUpdate::decode(buffer.input()).map_err(malformed)?;
        let now = self.host.now();
        if self
            .engine
            .update_verdict(&update.flow, update.verdict, now)
        {
            Ok(Answer::Bytes(0))
        } else {
            Ok(Answer::Status(Status::SOME_NOT_MAPPED))
        }
    }

    pub(crate) fn v1_stats(&self, buffer: &mut Buffer<'_>) -> Handled {
        let request = StatsRequest::decode(buffer.input()).map_err(malformed)?;
        let room = request.entries(buffer.output_len()).map_err(too_small)?;
        let out = buffer.output();
        let mut count = 0;
        self.engine.report_traffic(|flow, [transmitted, received]| {
            if count >= room {
                return false;
            }
            let connection = Connection {
                flow: *flow,
                received,
                transmitted,
            };
            let written = connection.encode_at(out, count).is_ok();
            count += usize::from(written);
            written
        });
        Ok(Answer::Bytes(count * Connection::LEN))
    }
}
