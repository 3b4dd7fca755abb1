//! What is measured: the driver in the simulation, and the extension alone.

use kext_bench::scene::{ARRIVAL, NOW, Packet, Spread};
use kext_bench::spin::Spin;
use kext_extension::{
    Attempt, Classification, Dispatch, Extension, Host, InjectError, Injection, Lane,
};
use kext_ntsim::bare::{Answer, Control, Shown, become_processor, become_thread};
use kext_ntsim::{self as ntsim, Device, Sim, harness};
use kext_ntsim_drivers::Defect;
use kext_types::{Capacities, Config, Timestamp};
use kext_wire::hello::HostKind;

/// Room for a request or its answer.
pub(crate) const BUFFER: usize = 1 << 17;

/// How a packet lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// It leaves, in one piece.
    Out,
    /// It leaves, with headers and payload in a piece each, as Windows often has them.
    InTwo,
    /// It has come in: shown from behind its IP header on.
    In,
}

impl Shape {
    pub(crate) const ALL: [Self; 3] = [Self::Out, Self::InTwo, Self::In];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Out => "outbound",
            Self::InTwo => "outbound in two pieces",
            Self::In => "inbound",
        }
    }

    /// The packet of a flow, 64 bytes long.
    pub(crate) fn bytes(self, flow: u32) -> Packet {
        let mut packet = Spread::Both.packet(flow);
        if self == Self::In {
            let (from, to) = (12..16, 16..20);
            let ends = [packet[from.clone()].to_vec(), packet[to.clone()].to_vec()];
            packet[from].copy_from_slice(&ends[1]);
            packet[to].copy_from_slice(&ends[0]);
            packet[20..24].rotate_left(2);
        }
        packet
    }

    /// One of them as it is shown.
    pub(crate) fn packet(self) -> ntsim::Packet {
        let bytes = self.bytes(0);
        match self {
            Self::Out => ntsim::Packet::outbound(bytes),
            Self::InTwo => ntsim::Packet::outbound(bytes).split(&[40]),
            Self::In => ntsim::Packet::inbound(bytes),
        }
    }
}

/// Whoever decides about packets and answers device requests.
pub(crate) trait Machine {
    /// Shows a packet; says whether it goes on.
    fn show(&mut self, packet: &Packet) -> bool;

    /// Sends a device request, and puts its answer to where there is room; gives its length.
    fn send(&mut self, code: u32, input: &[u8], output: &mut [u8]) -> usize;
}

/// The driver.
pub(crate) struct Driver {
    sim: Sim,
    device: Option<Device>,
    shown: Shown,
    control: Option<Control>,
}

impl Driver {
    /// The file that ships, with a reader.
    pub(crate) fn shipped() -> Self {
        let sim = Sim::load(&harness::built("PortmasterKext64.sys")).expect("cargo xtask bench");
        let device = sim.open().expect("the device is there");
        let control = Control::new(&device, BUFFER);
        become_processor(0);
        Self {
            shown: Shown::new(&Shape::Out.packet()),
            sim,
            device: Some(device),
            control: Some(control),
        }
    }

    /// The one that makes the same calls and does nothing else.
    pub(crate) fn only_calls() -> Self {
        let service = format!("{}", Defect::OnlyCalls as u32);
        let sim = Sim::load_as(&harness::built("NtsimBroken64.sys"), &service)
            .expect("cargo xtask bench");
        become_processor(0);
        Self {
            shown: Shown::new(&Shape::Out.packet()),
            sim,
            device: None,
            control: None,
        }
    }

    pub(crate) fn unload(self) {
        become_thread();
        if let Some(device) = self.device {
            device.close();
        }
        self.sim.unload();
    }
}

impl Machine for Driver {
    #[inline]
    fn show(&mut self, packet: &Packet) -> bool {
        self.shown.show(packet) != Answer::Block
    }

    #[inline]
    fn send(&mut self, code: u32, input: &[u8], output: &mut [u8]) -> usize {
        let control = self.control.as_mut().expect("the driver that ships");
        let answer = control
            .send(code, input, output.len())
            .expect("it succeeds");
        output[..answer.len()].copy_from_slice(answer);
        answer.len()
    }
}

/// The extension without a driver around it.
pub(crate) struct Alone {
    extension: &'static Extension<Nothing>,
    lane: Lane<'static>,
    buffer: Vec<u8>,
}

/// As long as a packet here is.
const PACKET: usize = size_of::<Packet>();

/// A host whose parts cost as little as they can.
struct Nothing;

struct Buffer {
    bytes: [u8; PACKET],
    len: usize,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Host for Nothing {
    type Lock = Spin;
    type Buffer = Buffer;

    const KIND: HostKind = HostKind::Replay;

    fn now(&self) -> Timestamp {
        NOW
    }

    fn random(&self) -> u64 {
        42
    }

    fn allocate(&self, len: usize) -> Option<Buffer> {
        (len <= PACKET).then_some(Buffer {
            bytes: [0; PACKET],
            len,
        })
    }

    fn inject(&self, buffer: Buffer, _: &Injection) -> Result<(), InjectError> {
        std::hint::black_box(buffer.as_ref());
        Ok(())
    }

    fn requests_ready(&self) {}
}

impl Alone {
    pub(crate) fn new(flows: u32) -> Self {
        let capacities = Capacities {
            flows,
            ..Capacities::default()
        };
        let extension =
            Extension::try_new(Nothing, capacities, Config::default()).expect("there is memory");
        extension.open().expect("nobody has it open");
        // It stays until the end: so that a lane of it can be kept beside it.
        let extension: &'static _ = Box::leak(Box::new(extension));
        Self {
            lane: extension.lane(0),
            extension,
            buffer: vec![0; BUFFER],
        }
    }
}

impl Machine for Alone {
    #[inline]
    fn show(&mut self, packet: &Packet) -> bool {
        let classification =
            self.extension
                .classify(&self.lane, &packet[..], packet.len(), &ARRIVAL);
        matches!(classification, Classification::Permit(_))
    }

    #[inline]
    fn send(&mut self, code: u32, input: &[u8], output: &mut [u8]) -> usize {
        let buffer = &mut self.buffer[..input.len().max(output.len())];
        buffer[..input.len()].copy_from_slice(input);
        let mut dispatch = |attempt| {
            self.extension
                .dispatch(code, buffer, input.len(), output.len(), attempt)
        };
        let dispatched = match dispatch(Attempt::Normal) {
            Dispatch::Pend { .. } => dispatch(Attempt::TimedOut),
            ended @ Dispatch::Complete { .. } => ended,
        };
        match dispatched {
            Dispatch::Complete {
                status,
                information,
            } if status.is_success() => {
                output[..information].copy_from_slice(&buffer[..information]);
                information
            }
            other => panic!("{other:?}"),
        }
    }
}
