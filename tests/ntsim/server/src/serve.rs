//! One client: its calls become requests of the driver's device, which end in any order.
//!
//! One thread sends what the client calls for; another shows packets while a read waits. A read that
//! waits when there are no more packets is cancelled, and told the end of the file, as a replay does.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use kext_client::socket::{Answer, Call, FrameError};
use kext_ntsim::{Device, Pending, Sim};
use kext_wire::receive::ReceiveRequest;
use kext_wire::{ControlCode, Status};

use crate::Failure;
use crate::traffic::{Burst, Traffic};

/// How often the machine's clock is set by the real one, where packets come at their own pace.
const STEP: Duration = Duration::from_millis(1);

/// Serves the device until the client has closed it or has gone.
pub(crate) fn serve(sim: &Sim, client: UnixStream, traffic: Traffic) -> Result<(), Failure> {
    let line = client.try_clone()?;
    let served = Served {
        out: Mutex::new(client.try_clone()?),
        state: Mutex::default(),
        changed: Condvar::new(),
        showing: Mutex::new(()),
    };
    thread::scope(|scope| {
        let packets = scope.spawn(|| {
            // Else a client would wait for packets that nobody shows.
            let _hang_up = HangUp(line);
            served.show_packets(sim, traffic)
        });
        let called = served.take_calls(sim, client);
        served.state().ended = true;
        served.changed.notify_all();
        let packets = packets.join().map_err(|_| "showing packets panicked")?;
        called.and(packets)
    })
}

/// Ends the connection when it is dropped, so that whoever reads the calls finds the end.
struct HangUp(UnixStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

struct Served {
    /// Where answers go. A client that has gone is noticed by who reads its calls.
    out: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while packets are shown.
    showing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Calls that have not been answered, the oldest first.
    waiting: Vec<Waiting>,
    ended: bool,
}

/// A request that the driver has pended.
struct Waiting {
    number: u32,
    /// How many verdict requests it can take.
    most: u32,
    pending: Pending,
}

impl Served {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn showing(&self) -> MutexGuard<'_, ()> {
        self.showing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, number: u32, status: Status, output: Vec<u8>) {
        let answer = Answer {
            number,
            status,
            output,
        };
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = answer.write(&mut *out);
    }

    fn answer_ended(&self) {
        let ended: Vec<Waiting> = self
            .state()
            .waiting
            .extract_if(.., |waiting| waiting.pending.ended())
            .collect();
        for waiting in ended {
            let (status, output) = end(&waiting.pending);
            self.answer(waiting.number, status, output);
        }
    }

    /// Until the device is closed, by the client or for it.
    fn take_calls(&self, sim: &Sim, mut client: UnixStream) -> Result<(), Failure> {
        let device = match sim.open() {
            Ok(device) => device,
            Err(status) => {
                self.answer(0, wire(status), Vec::new());
                return Ok(());
            }
        };
        self.answer(0, Status::SUCCESS, Vec::new());
        let last = loop {
            match Call::read(&mut client) {
                Ok(Call::Ioctl {
                    number,
                    code,
                    room,
                    input,
                }) => {
                    // Counters balance when nothing is on its way.
                    let quiet = (code == ControlCode::Counters.to_u32()).then(|| self.showing());
                    if quiet.is_some() {
                        sim.settle();
                    }
                    self.start(&device, number, code, room, &input);
                }
                Ok(Call::Cancel { number }) => self.cancel(number),
                Ok(Call::Close { number }) => break Ok(Some(number)),
                Err(FrameError::Closed) => break Ok(None),
                Err(error) => break Err(error),
            }
        };
        device.close();
        self.answer_ended();
        if let Some(number) = last? {
            self.answer(number, Status::SUCCESS, Vec::new());
        }
        Ok(())
    }

    fn start(&self, device: &Device, number: u32, code: u32, room: usize, input: &[u8]) {
        let most = if code == ControlCode::Receive.to_u32() {
            ReceiveRequest::decode(input).map_or(1, |request| request.max_requests)
        } else {
            1
        };
        let pending = device.start(code, input, room);
        self.state().waiting.push(Waiting {
            number,
            most,
            pending,
        });
        // Others may have ended with it: a verdict raises requests.
        self.answer_ended();
        self.changed.notify_all();
    }

    fn cancel(&self, number: u32) {
        let pending = {
            let state = self.state();
            let waiting = state.waiting.iter().find(|one| one.number == number);
            waiting.map(|waiting| waiting.pending.clone())
        };
        if let Some(pending) = pending {
            pending.cancel();
        }
        self.answer_ended();
    }

    /// Until the client has gone.
    fn show_packets(&self, sim: &Sim, mut traffic: Traffic) -> Result<(), Failure> {
        let realtime = traffic.is_realtime();
        loop {
            let Some(most) = self.next_read(realtime) else {
                return Ok(());
            };
            let burst = {
                let _showing = self.showing();
                traffic.follow_clock(sim);
                let burst = match most {
                    Some(most) => traffic.burst(sim, most)?,
                    None => Burst::Early,
                };
                check_injected(sim)?;
                burst
            };
            self.answer_ended();
            match burst {
                Burst::Shown => {}
                Burst::Early => thread::sleep(STEP),
                Burst::End => self.end_reads(),
            }
        }
    }

    /// Waits for a read: how many requests it takes. Without waiting for one if `realtime`. None once
    /// the client has gone.
    #[expect(clippy::option_option, reason = "the client is gone, or no read waits")]
    fn next_read(&self, realtime: bool) -> Option<Option<u32>> {
        let mut state = self.state();
        loop {
            if state.ended {
                return None;
            }
            let most = state.waiting.first().map(|waiting| waiting.most);
            if most.is_some() || realtime {
                return Some(most);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The reads that wait still are told that there is nothing to wait for.
    fn end_reads(&self) {
        let waiting = std::mem::take(&mut self.state().waiting);
        for waiting in waiting {
            waiting.pending.cancel();
            let (status, output) = end(&waiting.pending);
            let status = match status {
                Status::CANCELLED => Status::END_OF_FILE,
                other => other,
            };
            self.answer(waiting.number, status, output);
        }
    }
}

/// What the driver has injected is shown again, and has to pass there.
fn check_injected(sim: &Sim) -> Result<(), Failure> {
    match sim.injected().iter().find(|one| !one.classified.permitted) {
        Some(stopped) => Err(format!("an injected packet did not pass: {stopped:?}").into()),
        None => Ok(()),
    }
}

fn end(pending: &Pending) -> (Status, Vec<u8>) {
    let (status, output) = pending.wait_status();
    (wire(status), output)
}

fn wire(status: kext_ntsim::Status) -> Status {
    Status(status.0.cast_unsigned())
}
