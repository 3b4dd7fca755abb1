//! A stand-in for the extension: answers every extended request from a list of packets.
//!
//! It holds whatever it is given and decides nothing itself, so tests can stage each outcome.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use kext_hosts::replay::ReplayReport;
use kext_types::{
    Address, Arrival, Capacities, Config, Direction, Event, FlowEnded, FlowInfo, FlowKey,
    FlowOrigin, Interface, IpVersion, PacketId, ProcessPath, Reason, RequestInfo, Timestamp,
    Traffic, Verdict, VerdictOutcome, protocol,
};
use kext_wire::config::ConfigMessage;
use kext_wire::counters::{Counter, CountersRequest, CountersResponse};
use kext_wire::events::{EventsRequest, EventsWriter};
use kext_wire::flows::{ListFlowsRequest, ListFlowsWriter};
use kext_wire::hello::{Features, HelloRequest, HelloResponse, HostKind};
use kext_wire::payload::{ReadPayloadRequest, ReadPayloadResponse, write_held};
use kext_wire::process_path::{ProcessPathRequest, write_path};
use kext_wire::receive::{ReceiveRequest, ReceiveWriter};
use kext_wire::verdicts::{Outcome, SetVerdictsRequest, SetVerdictsResponse};
use kext_wire::{ControlCode, Status};

use crate::{Error, Transport};

/// The stand-in. Clone the `Arc` that it lives in to stage things behind a session's back.
#[derive(Default)]
pub(crate) struct Fake {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) queue: VecDeque<RequestInfo>,
    pub(crate) held: HashMap<u64, Vec<u8>>,
    pub(crate) settled: HashMap<u64, Outcome>,
    pub(crate) flows: Vec<FlowInfo>,
    /// The paths of processes, as UTF-16.
    pub(crate) paths: HashMap<u64, Vec<u8>>,
    pub(crate) events: VecDeque<FlowEnded>,
    pub(crate) keeps_events: bool,
    /// How many `SET_VERDICTS` requests came.
    pub(crate) messages: u32,
    pub(crate) config: Config,
    pub(crate) seen: u64,
    pub(crate) ended: u64,
    pub(crate) at_end: bool,
    pub(crate) failure: Option<Error>,
    pub(crate) shut_down: bool,
    pub(crate) closed: u32,
    cancels: u64,
    /// Reads that wait now.
    pub(crate) waiting: u32,
    /// How long a cancelled read goes on; if not zero, it presents one more packet by then.
    pub(crate) linger: Duration,
    /// Answers this instead of anything else, if set.
    pub(crate) answer: Option<Result<Vec<u8>, Status>>,
}

/// A TCP flow of 192.0.2.1 with this local port.
pub(crate) fn flow(local_port: u16) -> FlowKey {
    FlowKey {
        local: Address::v4([192, 0, 2, 1]),
        remote: Address::v4([198, 51, 100, 1]),
        local_port,
        remote_port: 443,
        version: IpVersion::V4,
        protocol: protocol::TCP,
    }
}

/// A cached flow.
pub(crate) fn cached(local_port: u16) -> FlowInfo {
    FlowInfo {
        flow: flow(local_port),
        verdict: Verdict::Accept,
        origin: FlowOrigin::Verdict,
        process_id: None,
        outbound: Traffic::default(),
        inbound: Traffic::default(),
        payload_outbound: 3,
        payload_inbound: 4,
        first_seen: Timestamp::from_nanos(1),
        last_seen: Timestamp::from_nanos(2),
    }
}

impl Fake {
    /// Changes what is staged, and wakes who waits.
    pub(crate) fn stage<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        value
    }

    /// Holds a packet of these bytes and queues its request.
    pub(crate) fn hold(&self, id: u64, bytes: &[u8]) {
        let info = RequestInfo {
            id: PacketId::new(id).unwrap(),
            time: Timestamp::from_nanos(1_700_000_000_123_456_789),
            flow: flow(u16::try_from(id).unwrap()),
            arrival: Arrival {
                direction: Direction::Outbound,
                interface: Interface::default(),
                compartment: 0,
                process_id: None,
                passes: 0,
                path_mtu: None,
            },
            size: u32::try_from(bytes.len()).unwrap(),
            held_len: u32::try_from(bytes.len()).unwrap(),
        };
        self.stage(|state| {
            state.queue.push_back(info);
            state.held.insert(id, bytes.to_vec());
            state.seen += 1;
        });
    }

    fn receive(&self, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        let request = ReceiveRequest::decode(input)?;
        let until = request
            .wait_ms
            .map(|ms| Instant::now() + Duration::from_millis(ms.into()));
        let mut state = self.state.lock().unwrap();
        let cancels = state.cancels;
        while state.queue.is_empty() {
            if state.shut_down {
                return Err(Status::FILE_CLOSED);
            }
            if state.cancels != cancels {
                let linger = state.linger;
                drop(state);
                if !linger.is_zero() {
                    std::thread::sleep(linger);
                    self.stage(|state| {
                        state.seen += 1;
                        state.ended += 1;
                    });
                }
                return Err(Status::CANCELLED);
            }
            if state.at_end {
                return Err(Status::END_OF_FILE);
            }
            let left = until.map_or(Duration::from_mins(1), |until| {
                until.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                break;
            }
            state.waiting += 1;
            state = self.changed.wait_timeout(state, left).unwrap().0;
            state.waiting -= 1;
        }
        let mut writer = ReceiveWriter::new(output, request.max_requests, request.payload)?;
        while let Some(info) = state.queue.front().copied() {
            if !writer.room_for(info.held_len as usize) {
                break;
            }
            let held = &state.held[&info.id.get()];
            writer.push(&info, |slot| {
                slot.copy_from_slice(&held[..slot.len()]);
                slot.len()
            })?;
            state.queue.pop_front();
        }
        Ok(writer.finish(u32::try_from(state.queue.len()).unwrap()))
    }

    fn events(state: &mut State, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        let request = EventsRequest::decode(input)?;
        let mut writer = EventsWriter::new(output, request.max)?;
        while !writer.is_full()
            && let Some(event) = state.events.pop_front()
        {
            writer.push(&event);
        }
        state.keeps_events = request.keep;
        Ok(writer.finish(3, u32::try_from(state.events.len()).unwrap()))
    }

    fn set_verdicts(state: &mut State, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        state.messages += 1;
        let outcomes: Vec<Outcome> = SetVerdictsRequest::decode(input)?
            .iter()
            .map(|entry| {
                let Some(decision) = entry.decision() else {
                    return VerdictOutcome::InvalidVerdict.into();
                };
                if state.held.remove(&entry.id).is_none() {
                    return outcome(state, entry.id);
                }
                let first = Some(decision);
                let outcome = VerdictOutcome::AlreadyDecided;
                state.settled.insert(entry.id, Outcome { outcome, first });
                state.ended += 1;
                VerdictOutcome::Applied.into()
            })
            .collect();
        Ok(SetVerdictsResponse::encode(&outcomes, output)?)
    }

    fn list_flows(state: &State, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        let request = ListFlowsRequest::decode(input)?;
        let begin = usize::try_from(request.cursor).unwrap();
        let mut writer = ListFlowsWriter::new(output, request.max)?;
        let mut next = begin;
        while let Some(flow) = state.flows.get(next) {
            if !writer.push(flow) {
                break;
            }
            next += 1;
        }
        let cursor = if next == state.flows.len() { 0 } else { next };
        Ok(writer.finish(cursor as u64))
    }

    fn counters(state: &State, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        CountersRequest::decode(input)?;
        let counters = [
            Counter::of_event(Event::Held, state.held.len() as u64),
            Counter::of_event(Event::Seen, state.seen),
            Counter::of_reason(Reason::PermittedVerdict, state.ended),
        ];
        Ok(CountersResponse::encode(counters.into_iter(), output)?)
    }
}

fn outcome(state: &State, id: u64) -> Outcome {
    let unknown = VerdictOutcome::UnknownId.into();
    state.settled.get(&id).copied().unwrap_or(unknown)
}

impl Transport for std::sync::Arc<Fake> {
    fn ioctl(&self, code: u32, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        let code = ControlCode::from_u32(code).ok_or(Status::INVALID_DEVICE_REQUEST)?;
        if let Some(answer) = self.stage(|state| state.answer.take()) {
            let bytes = answer?;
            output[..bytes.len()].copy_from_slice(&bytes);
            return Ok(bytes.len());
        }
        if code == ControlCode::Receive {
            return self.receive(input, output);
        }
        self.stage(|state| match code {
            _ if state.closed > 0 => Err(Status::FILE_CLOSED),
            ControlCode::ShutdownRequest => {
                state.shut_down = true;
                state.ended += state.held.drain().count() as u64;
                state.queue.clear();
                Ok(0)
            }
            ControlCode::ClearCache => {
                state.flows.clear();
                Ok(0)
            }
            ControlCode::Hello => {
                let version = HelloRequest::decode(input)?.agree(Features::ALL)?;
                assert_eq!(version, 1);
                let capacities = Capacities {
                    packets: 1 << 14,
                    ..Capacities::default()
                };
                let host = HostKind::Replay;
                let hello = HelloResponse::new([0, 1, 0], Features::ALL, capacities, host);
                Ok(hello.encode(output)?)
            }
            ControlCode::SetVerdicts => Fake::set_verdicts(state, input, output),
            ControlCode::ReadPayload => {
                let request = ReadPayloadRequest::decode(input)?;
                let Some(bytes) = state.held.get(&request.id) else {
                    let outcome = outcome(state, request.id);
                    return Ok(ReadPayloadResponse::not_held(outcome).encode(output)?);
                };
                let size = u32::try_from(bytes.len()).unwrap();
                Ok(write_held(output, size, bytes.len(), |slot| {
                    slot.copy_from_slice(bytes);
                    slot.len()
                })?)
            }
            ControlCode::Counters => Fake::counters(state, input, output),
            ControlCode::GetConfig => {
                let message = ConfigMessage::GetResponse;
                Ok(kext_wire::config::encode(message, &state.config, output)?)
            }
            ControlCode::SetConfig => {
                state.config = kext_wire::config::decode(ConfigMessage::SetRequest, input)?;
                let message = ConfigMessage::SetResponse;
                Ok(kext_wire::config::encode(message, &state.config, output)?)
            }
            ControlCode::ListFlows => Fake::list_flows(state, input, output),
            ControlCode::Events => Fake::events(state, input, output),
            ControlCode::ProcessPath => {
                let request = ProcessPathRequest::decode(input)?;
                let path = state.paths.get(&request.process_id);
                let path = ProcessPath::of(path.ok_or(Status::OBJECT_NAME_NOT_FOUND)?);
                Ok(write_path(path, output)?)
            }
            _ => Err(Status::INVALID_DEVICE_REQUEST),
        })
    }

    fn cancel(&self) {
        self.stage(|state| state.cancels += 1);
    }

    fn close(&self) -> Result<(), Error> {
        self.stage(|state| state.closed += 1);
        Ok(())
    }

    fn failure(&self) -> Option<Error> {
        self.stage(|state| state.failure.clone())
    }

    fn report(&self) -> Option<ReplayReport> {
        None
    }
}
