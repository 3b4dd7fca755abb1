//! A session: one owner's open device.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use kext_hosts::replay::{ReplayHost, ReplayOptions, ReplayReport};
use kext_types::{Capacities, Config, Decision};
use kext_wire::ControlCode;
use kext_wire::hello::HelloResponse;
use kext_wire::receive::PayloadMode;

use crate::calls::Caller;
use crate::receive::{self, Received, Wait};
use crate::{BadDevice, Counters, Device, Error, FlowPage, Flows, Transport, calls};

/// What a device is opened with. The first three are for replay and ignored elsewhere.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The networks on this side of the capture; none: inferred.
    pub local: Vec<IpNet>,
    /// Whether to wait between packets as the time stamps say.
    pub realtime: bool,
    /// A pcapng file for the packets that leave.
    pub output: Option<PathBuf>,
    /// The configuration to begin with.
    pub config: Config,
    /// How much the extension can hold, where this process runs it.
    pub capacities: Capacities,
}

/// An open device. Dropping it closes it.
///
/// Every method may be called from any thread, several at once. After [`Session::close`] every
/// call fails with [`Error::Closed`], [`Session::counters`] and [`Session::report`] excepted.
pub struct Session {
    caller: Caller,
    hello: HelloResponse,
    closed: AtomicBool,
    /// Calls that are under way; closing waits for them.
    under_way: AtomicUsize,
    /// Held while closing, so that a second close returns when the first is done.
    closing: Mutex<()>,
    end: OnceLock<Counters>,
}

impl Session {
    /// Opens a device by its name; [`crate::FORMS`] lists the forms.
    pub fn open(device: &str, options: OpenOptions) -> Result<Self, Error> {
        Self::open_device(device.parse()?, options)
    }

    /// Opens a device. Unlike [`Session::open`] this takes a file name that is not UTF-8.
    pub fn open_device(device: Device, options: OpenOptions) -> Result<Self, Error> {
        let replay = ReplayOptions {
            local: options.local,
            realtime: options.realtime,
            output: options.output,
            config: options.config,
            capacities: options.capacities,
        };
        let needs = match device {
            Device::Replay(file) => {
                return Self::over(Box::new(ReplayHost::open(&file, replay)?));
            }
            Device::Synthetic(what) => {
                return Self::over(Box::new(ReplayHost::synthetic(what, &replay)?));
            }
            Device::NfQueue(_) => "linux",
            Device::Driver => "windows",
        };
        let device = device.to_string();
        Err(BadDevice::Unsupported { device, needs }.into())
    }

    /// A session over an open transport: says hello.
    pub fn over(transport: Box<dyn Transport>) -> Result<Self, Error> {
        let caller = Caller::new(transport);
        let hello = calls::hello(&caller)?;
        Ok(Self {
            caller,
            hello,
            closed: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            closing: Mutex::new(()),
            end: OnceLock::new(),
        })
    }

    /// What the extension is and can hold.
    pub const fn hello(&self) -> &HelloResponse {
        &self.hello
    }

    /// Waits for verdict requests and takes at most `most` of them, 1 to 4,096; each is given
    /// once. Fewer come where the payload asked for would pass [`crate::MAX_MESSAGE`] bytes.
    pub fn receive(&self, most: u32, payload: PayloadMode, wait: Wait) -> Result<Received, Error> {
        let _call = self.enter()?;
        match receive::receive(&self.caller, most, payload, wait) {
            Err(Error::Cancelled) if self.is_closed() => Err(Error::Closed),
            received => received,
        }
    }

    /// Decides one held packet. Anything else than success is an error.
    pub fn set_verdict(&self, id: u64, decision: Decision) -> Result<(), Error> {
        let _call = self.enter()?;
        let mut outcome = Err(Error::UnknownId { id });
        calls::set_verdicts(&self.caller, &[(id, decision)], |answer| outcome = answer)?;
        outcome
    }

    /// Decides many held packets, and tells what became of each, in their order. One that fails
    /// does not stop the others; the outer error is for the call as a whole.
    pub fn set_verdicts(
        &self,
        verdicts: &[(u64, Decision)],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let _call = self.enter()?;
        let mut outcomes = Vec::with_capacity(verdicts.len());
        // As many calls as the slice needs.
        for part in verdicts.chunks(kext_wire::MAX_BATCH as usize) {
            calls::set_verdicts(&self.caller, part, |outcome| outcomes.push(outcome))?;
        }
        Ok(outcomes)
    }

    /// The bytes of a held packet from its IP header on; it stays held.
    pub fn get_payload(&self, id: u64) -> Result<Vec<u8>, Error> {
        let _call = self.enter()?;
        calls::read_payload(&self.caller, id)
    }

    /// The counters now; those of the end after [`Session::close`].
    pub fn counters(&self) -> Result<Counters, Error> {
        if let Some(end) = self.end.get() {
            return Ok(end.clone());
        }
        match calls::counters(&self.caller) {
            // Closed by another thread between the two looks: its counters are there by now.
            Err(Error::Closed) => self.end.get().cloned().ok_or(Error::Closed),
            counters => counters,
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Result<Config, Error> {
        let _call = self.enter()?;
        calls::config(&self.caller)
    }

    /// Puts a configuration in force, and tells the one that is.
    pub fn set_config(&self, config: &Config) -> Result<Config, Error> {
        let _call = self.enter()?;
        config.validate().map_err(Error::InvalidConfig)?;
        calls::set_config(&self.caller, config)
    }

    /// A part of the verdict cache, at most `most` flows (1 to 4,096). Begins with cursor 0 and
    /// goes on with [`FlowPage::next`].
    pub fn list_flows(&self, cursor: u64, most: u32) -> Result<FlowPage, Error> {
        let _call = self.enter()?;
        calls::list_flows(&self.caller, cursor, most)
    }

    /// Every flow of the verdict cache.
    pub fn flows(&self) -> Flows<'_> {
        Flows::new(self)
    }

    /// Empties the verdict cache; held packets stay held.
    pub fn clear_cache(&self) -> Result<(), Error> {
        let _call = self.enter()?;
        self.caller.call(ControlCode::ClearCache, &[], &mut [])?;
        Ok(())
    }

    /// Ends every wait of now with [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.caller.transport().cancel();
    }

    /// How far a replay has come; `None` for live devices. Works on a closed session too.
    pub fn report(&self) -> Option<ReplayReport> {
        self.caller.transport().report()
    }

    /// Whether the session has been closed, or is being closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Ends the session: waits end, held packets are settled by the no-reader policy, the last
    /// counters are kept and the device is closed. Returns when every call of other threads has.
    /// Closing again does nothing. The session is closed also if this fails.
    pub fn close(&self) -> Result<(), Error> {
        // Nothing is left half done by a panic while this is held.
        let _closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.wait_for_calls();
        let shutdown = match self.caller.call(ControlCode::ShutdownRequest, &[], &mut []) {
            Ok(_) | Err(Error::Closed) => Ok(()),
            Err(error) => Err(error),
        };
        let counters = calls::counters(&self.caller).map(|counters| {
            // Only this call, once, sets it.
            let _ = self.end.set(counters);
        });
        let close = self.caller.transport().close();
        shutdown.and(counters).and(close)
    }

    /// Ends every call under way. One that went on would move packets after the last counters were
    /// taken, or while they are.
    fn wait_for_calls(&self) {
        // Bound: new calls are refused by now, and each round ends all that wait. A call that had
        // not begun to wait in one round does not hear of it, so it is told again.
        while self.under_way.load(Ordering::SeqCst) > 0 {
            self.caller.transport().cancel();
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Begins a call, unless the session is closed.
    fn enter(&self) -> Result<Call<'_>, Error> {
        // In this order, and closing the other way round: either this call sees that the session
        // is closed, or closing sees this call.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let call = Call(&self.under_way);
        if self.is_closed() {
            return Err(Error::Closed);
        }
        Ok(call)
    }
}

/// A call that is under way, until this is dropped.
struct Call<'a>(&'a AtomicUsize);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.close();
    }
}
