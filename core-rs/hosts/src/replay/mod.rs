//! The replay host: captured packets in place of a network, their time stamps in place of a clock.
//!
//! [`ReplayHost`] is to user mode what the driver's device is: everything goes through
//! [`ReplayHost::ioctl`]. There is no thread of its own. Packets are presented while a read waits
//! for verdict requests, on the reader's thread, one by one until as many requests are there as the
//! read can take, or as can be gathered without changing what becomes of a packet; so the same
//! capture with the same verdicts gives the same decisions, however large the batches, and with
//! batches of one size the same run, byte for byte.
//!
//! In place of a capture it can present [`Synthetic`] packets.

mod backend;
mod buffer;
mod error;
mod feed;
mod gather;
mod local;
mod packets;
mod source;
mod synthetic;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use ipnet::IpNet;
use kext_extension::{Attempt, Dispatch, Extension};
use kext_types::{Capacities, Config, Timestamp};
use kext_wire::Status;
use parking_lot::Mutex;

pub use error::ReplayError;
pub use packets::{Packets, Presented};
pub use synthetic::Synthetic;

use backend::Backend;
use feed::{Fed, Feed, Run, Wanted};
use local::LocalSide;
use source::Source;

/// How a capture is replayed.
#[derive(Clone, Debug, Default)]
pub struct ReplayOptions {
    /// The addresses of the local side of a capture; inferred from it if empty.
    pub local: Vec<IpNet>,
    /// Present packets at the pace of their time stamps, not as fast as they are read.
    pub realtime: bool,
    /// Where to write the packets that leave, as pcapng.
    pub output: Option<PathBuf>,
    /// The extension's configuration to begin with.
    pub config: Config,
    /// The extension's capacities.
    pub capacities: Capacities,
}

/// How many malformed packets a [`ReplayReport`] tells in words.
pub const MALFORMED_TOLD: usize = 16;

/// How far a replay has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Records read from the capture.
    pub records: u64,
    /// IP packets presented to the extension.
    pub presented: u64,
    /// Records that hold no IP packet.
    pub not_ip: u64,
    /// Records too short to hold one.
    pub too_short: u64,
    /// Records and packets that are not what they should be: too short for a packet, or with headers
    /// that cannot be walked.
    pub malformed: u64,
    /// The first [`MALFORMED_TOLD`] of them: which record, where in the file, and what is wrong.
    pub first_malformed: Vec<String>,
    /// Which side is local, in words.
    pub local: String,
    /// Whether that was inferred.
    pub local_inferred: bool,
    /// Packets with both ends local or neither, of which the lower end was taken as local.
    pub guessed: u64,
    /// Bytes of the capture file read, or bytes of packets made.
    pub bytes_read: u64,
    /// The capture file's length in bytes, or that of all packets to be made; 0 if it has none.
    pub bytes_total: u64,
    /// The first packet's time.
    pub first_time: Option<Timestamp>,
    /// The last packet's time.
    pub last_time: Option<Timestamp>,
}

/// A capture that is replayed, with the extension around it.
///
/// Every method may be called from any thread, several at once.
pub struct ReplayHost {
    extension: Extension<Backend>,
    feed: Mutex<Feed>,
    /// Counts calls of [`ReplayHost::cancel`]: a request that sees it change is cancelled.
    cancels: AtomicU64,
    closed: AtomicBool,
}

impl ReplayHost {
    /// Opens a capture file and everything that is needed to replay it.
    ///
    /// # Errors
    /// The capture cannot be opened or read, the output is the capture or cannot be created, a
    /// capacity or a configuration value is out of range, or there is not enough memory.
    pub fn open(path: &Path, options: ReplayOptions) -> Result<Self, ReplayError> {
        if let Some(output) = &options.output
            && is_same_file(path, output)
        {
            return Err(ReplayError::OutputIsCapture(output.clone()));
        }
        // What is refused anyway must not empty an output file first.
        options.capacities.validate().map_err(ReplayError::Config)?;
        options.config.validate().map_err(ReplayError::Config)?;
        let local = LocalSide::of(path, &options.local)?;
        Self::start(Source::capture(path, local)?, &options)
    }

    /// The same over packets that nobody captured. The local side is theirs, not that of `options`.
    ///
    /// # Errors
    /// Those of [`ReplayHost::open`] that are not about a capture.
    pub fn synthetic(what: Synthetic, options: &ReplayOptions) -> Result<Self, ReplayError> {
        options.capacities.validate().map_err(ReplayError::Config)?;
        options.config.validate().map_err(ReplayError::Config)?;
        Self::start(Source::synthetic(what), options)
    }

    fn start(source: Source, options: &ReplayOptions) -> Result<Self, ReplayError> {
        let feed = Feed::new(source, options.realtime);
        let backend = Backend::new(options.output.as_deref(), options.realtime)?;
        let extension = Extension::try_new(backend, options.capacities, options.config)?;
        // Nobody else can have a device that was made just now.
        extension.open().map_err(ReplayError::Open)?;
        Ok(Self {
            extension,
            feed: Mutex::new(feed),
            cancels: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// Sends a device request and waits for its answer, as `DeviceIoControl` does: the number of
    /// bytes of `output` that are the answer, or the status that the request ended with. `output`
    /// serves as the request's buffer: what it holds behind the answer is unspecified.
    ///
    /// # Errors
    /// Any status of `docs/wire-format.md` that is no success. A success with another status than
    /// [`Status::SUCCESS`] is told by 0 bytes, as the caller of a driver sees it.
    pub fn ioctl(&self, code: u32, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        // METHOD_BUFFERED: one buffer takes the input and gives the answer.
        if let Some(shared) = output.get_mut(..input.len()) {
            shared.copy_from_slice(input);
            return self.request(code, output, input.len(), output.len());
        }
        let mut buffer = input.to_vec();
        let len = self.request(code, &mut buffer, input.len(), output.len())?;
        if let (Some(answer), Some(bytes)) = (output.get_mut(..len), buffer.get(..len)) {
            answer.copy_from_slice(bytes);
        }
        Ok(len)
    }

    fn request(
        &self,
        code: u32,
        buffer: &mut [u8],
        input_len: usize,
        output_len: usize,
    ) -> Result<usize, Status> {
        let cancels = self.cancels.load(Ordering::Acquire);
        let started = Instant::now();
        let mut attempt = Attempt::Normal;
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(Status::FILE_CLOSED);
            }
            let dispatched = self
                .extension
                .dispatch(code, buffer, input_len, output_len, attempt);
            let (wait, most) = match dispatched {
                Dispatch::Complete {
                    status,
                    information,
                } if status.is_success() => return Ok(information),
                Dispatch::Complete { status, .. } => return Err(status),
                Dispatch::Pend { wait, most } => (wait, most),
            };
            let wanted = Wanted {
                most,
                deadline: wait.and_then(|wait| started.checked_add(wait)),
            };
            attempt = match self.feed(wanted, cancels)? {
                Fed::Ready => Attempt::Normal,
                Fed::Deadline => Attempt::TimedOut,
                Fed::End => return Err(Status::END_OF_FILE),
            };
        }
    }

    /// Presents packets until requests wait, the deadline passes, or there are no more.
    fn feed(&self, wanted: Wanted, cancels: u64) -> Result<Fed, Status> {
        let stop = || {
            if self.cancels.load(Ordering::Acquire) != cancels {
                Some(Status::CANCELLED)
            } else if self.closed.load(Ordering::Acquire) {
                Some(Status::FILE_CLOSED)
            } else {
                None
            }
        };
        self.feed.lock_and_run(&self.extension, wanted, stop)
    }

    /// Ends every request that waits now with [`Status::CANCELLED`]; none of what it waits for is
    /// lost.
    pub fn cancel(&self) {
        self.cancels.fetch_add(1, Ordering::AcqRel);
        self.extension.host().wake();
    }

    /// Closes the handle: what is held is settled by policy, and the output file is completed.
    /// Closing again does nothing.
    ///
    /// # Errors
    /// The output file could not be written.
    pub fn close(&self) -> Result<(), ReplayError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.extension.host().wake();
        // Whoever presents packets stops at the next one.
        let feed = self.feed.lock();
        self.extension.close();
        // Bound: packets that other threads are letting go, which they do without waiting for anything.
        while !self.extension.is_closed() {
            self.extension.tick();
            std::thread::yield_now();
        }
        drop(feed);
        self.extension.host().finish()
    }

    /// Why the capture could not be read to its end, if it could not. Reads then end as at the end
    /// of the capture.
    pub fn failure(&self) -> Option<Arc<ReplayError>> {
        self.feed.lock().failure()
    }

    /// How far the replay has come.
    pub fn report(&self) -> ReplayReport {
        self.feed.lock().report()
    }
}

/// Whether both paths lead to one file that exists.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

impl Drop for ReplayHost {
    fn drop(&mut self) {
        // Nobody is left to tell of an output file that could not be written.
        let _ = self.close();
    }
}
