//! The extended requests, as `docs/wire-format.md` has them.

use core::time::Duration;

use kext_engine::Lane;
use kext_types::{Event, Reason, Timestamp, VerdictOutcome};
use kext_wire::Status;
use kext_wire::config::{self, ConfigMessage, GetConfigRequest};
use kext_wire::counters::{Counter, CountersRequest, CountersResponse};
use kext_wire::events::{EventsRequest, EventsWriter};
use kext_wire::flows::{ListFlowsRequest, ListFlowsWriter};
use kext_wire::hello::{Features, HelloRequest, HelloResponse};
use kext_wire::payload::{ReadPayloadRequest, ReadPayloadResponse, write_held};
use kext_wire::process_path::{ProcessPathRequest, write_path};
use kext_wire::receive::{ReceiveRequest, ReceiveResponse, ReceiveWriter};
use kext_wire::verdicts::{InPlace, Outcome, VerdictEntry};

use crate::dispatch::{Answer, Buffer, Handled, malformed, outcome, too_small};
use crate::{Extension, Host};

/// This extension's own version.
const EXTENSION: [u8; 3] = [
    number(env!("CARGO_PKG_VERSION_MAJOR")),
    number(env!("CARGO_PKG_VERSION_MINOR")),
    number(env!("CARGO_PKG_VERSION_PATCH")),
];

/// A decimal number, at compile time.
const fn number(text: &str) -> u8 {
    let digits = text.as_bytes();
    let mut value = 0;
    let mut i = 0;
    // Bound: the length of a literal.
    while i < digits.len() {
        value = value * 10 + (digits[i] - b'0');
        i += 1;
    }
    value
}

impl<H: Host> Extension<H> {
    pub(crate) fn hello(&self, buffer: &mut Buffer<'_>) -> Handled {
        let request = HelloRequest::decode(buffer.input()).map_err(malformed)?;
        request.agree(Features::ALL)?;
        let capacities = *self.engine.capacities();
        HelloResponse::new(EXTENSION, Features::ALL, capacities, H::KIND)
            .encode(buffer.output())
            .map(Answer::Bytes)
            .map_err(too_small)
    }

    pub(crate) fn receive(&self, buffer: &mut Buffer<'_>, timed_out: bool) -> Handled {
        let request = ReceiveRequest::decode(buffer.input()).map_err(malformed)?;
        if buffer.output_len() < ReceiveResponse::MIN_OUTPUT {
            return Err(Status::BUFFER_TOO_SMALL);
        }
        if !self.is_reading() {
            return Err(Status::FILE_CLOSED);
        }
        let wait = request.wait_ms.map(|ms| Duration::from_millis(ms.into()));
        let engine = &self.engine;
        let mut writer = ReceiveWriter::new(buffer.output(), request.max_requests, request.payload)
            .map_err(too_small)?;
        let mut refused = false;
        // Bound: the most requests of one message.
        while !writer.is_full() {
            let more = engine.deliver_some(|held| {
                let mut copied = 0;
                let pushed = writer.push(held.info, |payload| {
                    copied = held.copy_to(payload);
                    copied
                });
                refused = pushed.is_err();
                pushed.ok().map(|()| copied)
            });
            if !more {
                break;
            }
        }
        if writer.count() == 0 {
            if refused {
                return Err(Status::BUFFER_TOO_SMALL);
            }
            if !timed_out {
                return Ok(Answer::Wait(wait, request.max_requests));
            }
        }
        Ok(Answer::Bytes(writer.finish(engine.queued_requests())))
    }

    pub(crate) fn set_verdicts(&self, buffer: &mut Buffer<'_>) -> Handled {
        let (bytes, input_len, output_len) = buffer.whole();
        let verdicts = InPlace::new(bytes, input_len, output_len)?;
        let lane = self.request_lane();
        let now = self.host.now();
        let answer = verdicts.answer(|entry| self.set_verdict(&lane, entry, now));
        // Once, for however many flows have something to ask again.
        self.wake_readers();
        self.end_holds();
        Ok(Answer::Bytes(answer))
    }

    fn set_verdict(&self, lane: &Lane<'_>, entry: VerdictEntry, now: Timestamp) -> Outcome {
        let Some(decision) = entry.decision() else {
            self.engine.counters().count(Event::VerdictInvalid);
            return VerdictOutcome::InvalidVerdict.into();
        };
        let Some(id) = entry.packet_id() else {
            self.engine.counters().count(Event::VerdictUnknownId);
            return VerdictOutcome::UnknownId.into();
        };
        match self.decide(lane, id, decision, now) {
            Ok(()) => VerdictOutcome::Applied.into(),
            Err(not_held) => outcome(not_held),
        }
    }

    pub(crate) fn read_payload(&self, buffer: &mut Buffer<'_>) -> Handled {
        let request = ReadPayloadRequest::decode(buffer.input()).map_err(malformed)?;
        let out = buffer.output();
        let not_held = match request.packet_id() {
            None => VerdictOutcome::UnknownId.into(),
            Some(id) => {
                let written = self.engine.look(id, |held| {
                    let len = request.len_of(held.info.held_len as usize);
                    write_held(out, held.info.size, len, |slot| held.copy_to(slot))
                });
                match written {
                    Ok(written) => return written.map(Answer::Bytes).map_err(too_small),
                    Err(not_held) => outcome(not_held),
                }
            }
        };
        ReadPayloadResponse::not_held(not_held)
            .encode(out)
            .map(Answer::Bytes)
            .map_err(too_small)
    }

    pub(crate) fn counters(&self, buffer: &mut Buffer<'_>) -> Handled {
        const REASONS: usize = Reason::ALL.len();
        const COUNTERS: usize = REASONS + Event::ALL.len();
        CountersRequest::decode(buffer.input()).map_err(malformed)?;
        let counters = self.engine.counters();
        // Bound: the number of counters.
        let entries = (0..COUNTERS).map(|i| {
            if let Some(&reason) = Reason::ALL.get(i) {
                return Counter::of_reason(reason, counters.reason(reason));
            }
            let event = Event::ALL.get(i - REASONS).copied().unwrap_or(Event::Seen);
            let of_host = match event {
                Event::InjectionsRefused => self.host.injections_refused(),
                _ => 0,
            };
            Counter::of_event(event, counters.event(event).saturating_add(of_host))
        });
        CountersResponse::encode(entries, buffer.output())
            .map(Answer::Bytes)
            .map_err(too_small)
    }

    pub(crate) fn get_config(&self, buffer: &mut Buffer<'_>) -> Handled {
        GetConfigRequest::decode(buffer.input()).map_err(malformed)?;
        self.write_config(ConfigMessage::GetResponse, buffer)
    }

    pub(crate) fn set_config(&self, buffer: &mut Buffer<'_>) -> Handled {
        let config =
            config::decode(ConfigMessage::SetRequest, buffer.input()).map_err(malformed)?;
        if buffer.output_len() < config::CONFIG_LEN {
            return Err(Status::BUFFER_TOO_SMALL);
        }
        self.engine
            .set_config(config)
            .map_err(|_| Status::INVALID_PARAMETER)?;
        self.write_config(ConfigMessage::SetResponse, buffer)
    }

    fn write_config(&self, message: ConfigMessage, buffer: &mut Buffer<'_>) -> Handled {
        config::encode(message, &self.engine.config(), buffer.output())
            .map(Answer::Bytes)
            .map_err(too_small)
    }

    pub(crate) fn list_flows(&self, buffer: &mut Buffer<'_>) -> Handled {
        let request = ListFlowsRequest::decode(buffer.input()).map_err(malformed)?;
        let mut writer = ListFlowsWriter::new(buffer.output(), request.max).map_err(too_small)?;
        let cursor = self
            .engine
            .list_flows(request.cursor, |flow| writer.push(flow));
        Ok(Answer::Bytes(writer.finish(cursor)))
    }

    pub(crate) fn events(&self, buffer: &mut Buffer<'_>) -> Handled {
        let request = EventsRequest::decode(buffer.input()).map_err(malformed)?;
        let mut writer = EventsWriter::new(buffer.output(), request.max).map_err(too_small)?;
        if request.keep {
            self.engine.keep_events(true);
        }
        // Bound: the most events of one message. Each is taken under a lock of its own.
        while !writer.is_full()
            && let Some(event) = self.engine.next_event()
        {
            writer.push(&event);
        }
        if !request.keep {
            self.engine.keep_events(false);
        }
        let (waiting, lost) = self.engine.waiting_and_lost_events();
        Ok(Answer::Bytes(writer.finish(lost, waiting)))
    }

    pub(crate) fn process_path(&self, buffer: &mut Buffer<'_>) -> Handled {
        let request = ProcessPathRequest::decode(buffer.input()).map_err(malformed)?;
        let out = buffer.output();
        request
            .process()
            .and_then(|process| {
                self.engine
                    .process_path(process, |path| write_path(path, out))
            })
            .ok_or(Status::OBJECT_NAME_NOT_FOUND)?
            .map(Answer::Bytes)
            .map_err(too_small)
    }
}
