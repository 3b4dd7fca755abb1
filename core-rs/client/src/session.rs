//! A session: one owner's open device.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use kext_hosts::replay::{ReplayHost, ReplayOptions, ReplayReport};
use kext_types::{Capacities, Config, Decision};
use kext_wire::ControlCode;
use kext_wire::hello::HelloResponse;
use kext_wire::receive::{PayloadMode, ReceiveResponse};

use crate::calls::{Caller, EventPage, ProcessPath};
use crate::columns::RequestColumns;
use crate::fork::Process;
use crate::queue::{Deferred, Queue};
use crate::receive::{self, Batch, Received, Wait};
#[cfg(unix)]
use crate::socket::SocketTransport;
use crate::verdicts::{self, Numbers, Outcomes};
use crate::{BadDevice, Counters, Device, Error, FlowPage, Flows, Transport, calls};

/// How long a deferred verdict waits at most, where nothing else is said.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(1);

/// What a device is opened with. The first three are for replay and ignored elsewhere.
#[derive(Clone, Debug)]
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
    /// How long a verdict of [`Session::defer_verdict`] waits at most to be sent with others; none
    /// waits if it is zero.
    pub flush_interval: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            local: Vec::new(),
            realtime: false,
            output: None,
            config: Config::default(),
            capacities: Capacities::default(),
            flush_interval: FLUSH_INTERVAL,
        }
    }
}

/// An open device. Dropping it closes it.
///
/// Every method may be called from any thread, several at once. After [`Session::close`] every
/// call fails with [`Error::Closed`], [`Session::counters`] and [`Session::report`] excepted; in a
/// child of the process that opened the session with [`Error::Forked`].
///
/// Deferred verdicts are sent before any other request, so that none of their effects is missed.
pub struct Session {
    process: Process,
    caller: Arc<Caller>,
    queue: Arc<Queue>,
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
                let host = ReplayHost::open(&file, replay)?;
                return Self::over(Box::new(host), options.flush_interval);
            }
            Device::Synthetic(what) => {
                let host = ReplayHost::synthetic(what, &replay)?;
                return Self::over(Box::new(host), options.flush_interval);
            }
            #[cfg(unix)]
            Device::Socket(path) => {
                options.config.validate().map_err(Error::InvalidConfig)?;
                let socket = SocketTransport::open(&path)?;
                let session = Self::over(Box::new(socket), options.flush_interval)?;
                session.set_config(&options.config)?;
                return Ok(session);
            }
            #[cfg(not(unix))]
            Device::Socket(_) => "unix",
            Device::NfQueue(_) => "linux",
            Device::Driver => "windows",
        };
        let device = device.to_string();
        Err(BadDevice::Unsupported { device, needs }.into())
    }

    /// A session over an open transport: says hello.
    pub fn over(transport: Box<dyn Transport>, flush_interval: Duration) -> Result<Self, Error> {
        let caller = Caller::new(transport);
        let hello = calls::hello(&caller)?;
        Ok(Self {
            process: Process::this(),
            caller: Arc::new(caller),
            queue: Arc::new(Queue::new(flush_interval, hello.capacities.packets)),
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
    /// once. Fewer come where the payload asked for would pass [`crate::MAX_MESSAGE`] bytes, and where
    /// the extension has no more at hand.
    pub fn receive(&self, most: u32, payload: PayloadMode, wait: Wait) -> Result<Received, Error> {
        let batch = self.receive_as(most, payload, wait, Batch::read)?;
        if let Received::Batch(batch) = &batch {
            let ids: Vec<_> = batch.requests.iter().map(|r| r.info.id.get()).collect();
            self.queue.give(&ids);
        }
        Ok(batch)
    }

    /// The same as columns.
    pub fn receive_columns(
        &self,
        most: u32,
        payload: PayloadMode,
        wait: Wait,
    ) -> Result<Received<RequestColumns>, Error> {
        let columns = self.receive_as(most, payload, wait, RequestColumns::read)?;
        if let Received::Batch(columns) = &columns {
            self.queue.give(&columns.ids);
        }
        Ok(columns)
    }

    fn receive_as<T>(
        &self,
        most: u32,
        payload: PayloadMode,
        wait: Wait,
        read: impl FnOnce(&ReceiveResponse<'_>) -> T,
    ) -> Result<Received<T>, Error> {
        let _call = self.enter()?;
        match receive::receive(&self.caller, most, payload, wait, read) {
            Err(Error::Cancelled) if self.is_closed() => Err(Error::Closed),
            received => received,
        }
    }

    /// Decides one held packet. Anything else than success is an error.
    pub fn set_verdict(&self, id: u64, decision: Decision) -> Result<(), Error> {
        let numbers = Numbers::Same(decision.number());
        self.set_verdict_columns(&[id], numbers)?.result(0, id)
    }

    /// Decides many held packets, and tells what became of each, in their order. One that fails
    /// does not stop the others; the outer error is for the call as a whole.
    pub fn set_verdicts(
        &self,
        verdicts: &[(u64, Decision)],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let ids: Vec<_> = verdicts.iter().map(|(id, _)| *id).collect();
        let numbers: Vec<_> = verdicts.iter().map(|(_, d)| d.number()).collect();
        let outcomes = self.set_verdict_columns(&ids, Numbers::Each(&numbers))?;
        let results = ids.iter().enumerate();
        Ok(results.map(|(row, id)| outcomes.result(row, *id)).collect())
    }

    /// The same as columns, in as many messages as it takes. [`Error::Lengths`] if there is not one
    /// verdict for each id. Of more than 4,096, those of earlier messages have been applied where a
    /// later one fails; a second verdict for one of them says so.
    pub fn set_verdict_columns(
        &self,
        ids: &[u64],
        numbers: Numbers<'_>,
    ) -> Result<Outcomes, Error> {
        let _call = self.enter()?;
        let mut outcomes = Outcomes::default();
        let set = verdicts::set(&self.caller, ids, numbers, &mut outcomes);
        // Of several messages the first may have arrived.
        self.queue.note(ids, numbers, &outcomes);
        set.map(|()| outcomes)
    }

    /// Decides one held packet soon: the verdict is sent together with others, at the latest when the
    /// flush interval is over, when 4,096 wait, or before the next request of this session.
    ///
    /// A second verdict for an id is [`Error::AlreadyDecided`] at once, whether the first was sent or
    /// not, and a verdict for an id that this session was not given is sent and answered at once. One
    /// for a packet that is no longer held cannot be told here: [`Session::flush`] tells it.
    pub fn defer_verdict(&self, id: u64, decision: Decision) -> Result<(), Error> {
        match self.try_defer_verdict(id, decision)? {
            Deferred::Queued => Ok(()),
            Deferred::Full => {
                self.flush_quietly();
                Ok(())
            }
            Deferred::Refused => self.set_verdict(id, decision),
        }
    }

    /// The part of [`Session::defer_verdict`] that never waits for the extension.
    pub fn try_defer_verdict(&self, id: u64, decision: Decision) -> Result<Deferred, Error> {
        if self.process.is_another() {
            return Err(Error::Forked);
        }
        let (deferred, wants_thread) = self.queue.defer(id, decision)?;
        if wants_thread {
            let (queue, caller) = (Arc::clone(&self.queue), Arc::clone(&self.caller));
            self.queue.start(move || queue.run(&caller));
        }
        Ok(deferred)
    }

    /// Sends the deferred verdicts, and returns when all have arrived. Fails as
    /// [`Session::set_verdict`] does with what became of the first that was not applied since the last
    /// flush, sent by this call or another: its packet was no longer held, or was decided by another
    /// verdict for its flow. The others have been applied or counted all the same. Any other failure
    /// is that of sending: none of those verdicts has been applied, and their packets may get others.
    pub fn flush(&self) -> Result<(), Error> {
        // Entering sends them.
        let _call = self.enter()?;
        self.queue.failure().map_or(Ok(()), Err)
    }

    /// Sends the deferred verdicts, and leaves to [`Session::flush`] what became of them.
    pub fn flush_quietly(&self) {
        if !self.process.is_another() {
            self.queue.send(&self.caller);
        }
    }

    /// The bytes of a held packet from its IP header on; it stays held.
    pub fn get_payload(&self, id: u64) -> Result<Vec<u8>, Error> {
        let _call = self.begin()?;
        if self.queue.holds(id) {
            self.queue.send(&self.caller);
        }
        calls::read_payload(&self.caller, id)
    }

    /// Flows that have left the verdict cache, at most `most` (1 to 4,096), the one that ended first
    /// at the beginning. With `keep` such flows are remembered from now on, up to 1,024; without,
    /// those that wait are forgotten after this call.
    pub fn events(&self, most: u32, keep: bool) -> Result<EventPage, Error> {
        let _call = self.enter()?;
        calls::events(&self.caller, most, keep)
    }

    /// The path of the program that a process runs, as the host told it last with a flow of the process;
    /// `None` if it told none, or so many others since that it is not remembered.
    pub fn process_path(&self, process_id: u64) -> Result<Option<ProcessPath>, Error> {
        let _call = self.begin()?;
        calls::process_path(&self.caller, process_id)
    }

    /// The counters now; those of the end after [`Session::close`].
    pub fn counters(&self) -> Result<Counters, Error> {
        if self.process.is_another() {
            return Err(Error::Forked);
        }
        if let Some(end) = self.end.get() {
            return Ok(end.clone());
        }
        self.queue.send(&self.caller);
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
        if !self.process.is_another() {
            self.caller.transport().cancel();
        }
    }

    /// How far a replay has come; `None` for live devices, and in a child of the process. Works on a
    /// closed session too.
    pub fn report(&self) -> Option<ReplayReport> {
        if self.process.is_another() {
            return None;
        }
        self.caller.transport().report()
    }

    /// Whether this process is a child of the one that opened the session.
    pub fn is_forked(&self) -> bool {
        self.process.is_another()
    }

    /// Whether the session has been closed, or is being closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Ends the session: waits end, held packets are settled by the no-reader policy, the last
    /// counters are kept and the device is closed. Returns when every call of other threads has.
    /// Closing again does nothing, nor does closing in a child of the process: the session is the
    /// parent's. Fails also if deferred verdicts could not be sent and no flush has told it; the
    /// session is closed nevertheless.
    pub fn close(&self) -> Result<(), Error> {
        if self.process.is_another() {
            return Ok(());
        }
        // Nothing is left half done by a panic while this is held.
        let _closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.queue.close();
        self.queue.send(&self.caller);
        self.queue.join();
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
        let sent = match self.queue.unsent() {
            None | Some(Error::Closed) => Ok(()),
            Some(error) => Err(error),
        };
        sent.and(shutdown).and(counters).and(close)
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

    /// Begins a call that shows the effects of deferred verdicts: sends them.
    fn enter(&self) -> Result<Call<'_>, Error> {
        let call = self.begin()?;
        self.queue.send(&self.caller);
        Ok(call)
    }

    /// Begins a call, unless the session is closed or belongs to another process.
    fn begin(&self) -> Result<Call<'_>, Error> {
        if self.process.is_another() {
            return Err(Error::Forked);
        }
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
        if self.process.is_another() {
            // The parent has the device; its copy here must not be closed, nor written to, when it is
            // dropped. So it never is.
            std::mem::forget(Arc::clone(&self.caller));
            std::mem::forget(Arc::clone(&self.queue));
            return;
        }
        // Nobody is left to tell.
        let _ = self.close();
    }
}
