//! A program that reads requests and gives verdicts.

use kext_types::{Decision, PacketId, Reason, Verdict};
use kext_wire::ControlCode;
use kext_wire::counters::{CountersRequest, CountersResponse};
use kext_wire::receive::{PayloadMode, ReceiveRequest, ReceiveResponse};
use kext_wire::v1::{PacketInfo, VerdictInfo};
use kext_wire::verdicts::{SetVerdictsRequest, SetVerdictsResponse, VerdictEntry};

use crate::machines::{BUFFER, Machine, Shape};

/// Requests in one message.
pub(crate) const BATCH: u32 = 256;

const fn accept(permanent: bool) -> Decision {
    Decision {
        verdict: Verdict::Accept,
        permanent,
    }
}

/// The program, with its buffers.
pub(crate) struct Session {
    ids: Vec<PacketId>,
    entries: Vec<VerdictEntry>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            ids: Vec::new(),
            entries: Vec::new(),
            input: vec![0; BUFFER],
            output: vec![0; BUFFER],
        }
    }

    /// Has flows cached, whatever they are.
    pub(crate) fn teach(&mut self, machine: &mut impl Machine, flows: u32) {
        for flow in 0..flows {
            machine.show(&Shape::Out.bytes(flow));
            if (flow + 1).is_multiple_of(BATCH) || flow + 1 == flows {
                while self.receive(machine, BATCH) > 0 {
                    self.give(machine, accept(true));
                }
            }
        }
    }

    /// Lets go what is held, and remembers nothing of it.
    pub(crate) fn forget(&mut self, machine: &mut dyn Machine) {
        while self.receive(machine, BATCH) > 0 {
            self.give(machine, accept(false));
        }
    }

    /// Takes requests without payload; says how many there were.
    pub(crate) fn receive(&mut self, machine: &mut dyn Machine, most: u32) -> usize {
        let request = ReceiveRequest {
            max_requests: most,
            payload: PayloadMode::None,
            wait_ms: Some(0),
        };
        let len = request.encode(&mut self.input).expect("there is room");
        let code = ControlCode::Receive.to_u32();
        let len = machine.send(code, &self.input[..len], &mut self.output[..1 << 15]);
        let response = ReceiveResponse::decode(&self.output[..len]).expect("an answer");
        self.ids.clear();
        self.ids
            .extend(response.iter().map(|(request, _)| request.id));
        self.ids.len()
    }

    /// Accepts what was received, each packet for itself.
    pub(crate) fn set_verdicts(&mut self, machine: &mut dyn Machine) {
        self.give(machine, accept(false));
    }

    fn give(&mut self, machine: &mut dyn Machine, decision: Decision) {
        self.entries.clear();
        self.entries
            .extend(self.ids.iter().map(|&id| VerdictEntry::new(id, decision)));
        let len = SetVerdictsRequest::encode(&self.entries, &mut self.input).expect("room");
        let code = ControlCode::SetVerdicts.to_u32();
        let room = SetVerdictsResponse::len_for(self.entries.len());
        let len = machine.send(code, &self.input[..len], &mut self.output[..room]);
        assert_eq!(len, room);
    }

    /// How many packets were permitted because their flow was cached.
    pub(crate) fn permitted_cached(&mut self, machine: &mut dyn Machine) -> u64 {
        let len = CountersRequest.encode(&mut self.input).expect("room");
        let code = ControlCode::Counters.to_u32();
        let room = CountersResponse::len_for(1_024);
        let len = machine.send(code, &self.input[..len], &mut self.output[..room]);
        let counters = CountersResponse::decode(&self.output[..len]).expect("an answer");
        counters
            .iter()
            .find(|counter| counter.reason() == Some(Reason::PermittedCache))
            .map_or(0, |counter| counter.value)
    }

    /// Takes requests in one message and accepts them in another.
    pub(crate) fn decide(&mut self, machine: &mut dyn Machine, most: u32) {
        assert_eq!(self.receive(machine, most), most as usize);
        self.set_verdicts(machine);
    }

    /// The same of one request by version 1 of the interface.
    pub(crate) fn decide_v1(&mut self, machine: &mut dyn Machine) {
        let output = &mut self.output[..PacketInfo::LEN];
        let len = machine.send(ControlCode::RecvVerdictReq.to_u32(), b"NA", output);
        let info = PacketInfo::decode(&output[..len]).expect("a request");
        let verdict = VerdictInfo {
            id: info.id,
            number: accept(false).number(),
        };
        let mut input = [0; VerdictInfo::LEN];
        verdict.encode(&mut input).expect("there is room");
        machine.send(ControlCode::SetVerdict.to_u32(), &input, &mut []);
    }
}
