//! A connection as the client's transport.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kext_hosts::replay::ReplayReport;
use kext_wire::Status;

use super::frame::{Answer, Call, FrameError};
use crate::transport::LOST;
use crate::{Error, Transport};

/// How long the server may take to say whether the device is open.
const GREETING: Duration = Duration::from_secs(30);

/// A device of another process.
pub(crate) struct SocketTransport {
    shared: Arc<Shared>,
    /// Locked while a frame is written, and before [`Shared::calls`].
    writer: Mutex<UnixStream>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    calls: Mutex<Calls>,
    /// Something was answered, or nothing will be any more.
    changed: Condvar,
}

#[derive(Default)]
struct Calls {
    last: u32,
    waiting: HashMap<u32, Waiting>,
    closed: bool,
    /// Why there are no more answers.
    lost: Option<String>,
}

/// A call that was made.
struct Waiting {
    /// How long its answer may be.
    room: usize,
    cancelled: bool,
    answer: Option<Answer>,
}

impl SocketTransport {
    /// Connects, and waits until the device is open.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let unreachable = |error: &dyn std::fmt::Display| Error::Unreachable {
            path: path.to_owned(),
            why: error.to_string(),
        };
        let stream = UnixStream::connect(path).map_err(|error| unreachable(&error))?;
        let writer = stream.try_clone().map_err(|error| unreachable(&error))?;
        let greeting = stream
            .set_read_timeout(Some(GREETING))
            .map_err(FrameError::Io)
            .and_then(|()| Answer::read(&mut &stream, |number| (number == 0).then_some(0)))
            .and_then(|answer| {
                stream.set_read_timeout(None).map_err(FrameError::Io)?;
                Ok(answer)
            })
            .map_err(|error| match error {
                FrameError::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    unreachable(&"who listens there does not speak this protocol, or is stuck")
                }
                error => unreachable(&error),
            })?;
        if !greeting.status.is_success() {
            return Err(Error::Status {
                call: "opening the device",
                status: greeting.status,
            });
        }
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            changed: Condvar::new(),
        });
        let answers = Arc::clone(&shared);
        let reader = thread::Builder::new()
            .name("kext-socket".to_owned())
            .spawn(move || answers.read(stream))
            .map_err(|error| Error::NoThread(error.to_string()))?;
        Ok(Self {
            shared,
            writer: Mutex::new(writer),
            reader: Mutex::new(Some(reader)),
        })
    }

    /// Makes a call; `closes` if it is the last. Its number, or how it ends at once.
    fn call(
        &self,
        room: usize,
        closes: bool,
        write: impl FnOnce(&mut UnixStream, u32) -> io::Result<()>,
    ) -> Result<u32, Status> {
        let mut writer = self.writer();
        let number = {
            let mut calls = self.shared.calls();
            if calls.closed {
                return Err(Status::FILE_CLOSED);
            }
            calls.closed = closes;
            if calls.lost.is_some() {
                return Err(LOST);
            }
            let number = calls.free_number();
            calls.waiting.insert(
                number,
                Waiting {
                    room,
                    cancelled: false,
                    answer: None,
                },
            );
            number
        };
        // Whoever reads the answers finds out what a failure means.
        if write(&mut writer, number).is_err() {
            let _ = writer.shutdown(Shutdown::Both);
        }
        Ok(number)
    }

    fn writer(&self) -> MutexGuard<'_, UnixStream> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection, and returns when nobody reads from it any more.
    fn disconnect(&self) {
        let _ = self.writer().shutdown(Shutdown::Both);
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = reader.take() {
            // It does not panic; and if it did, nothing would be left to do.
            let _ = reader.join();
        }
    }
}

impl Calls {
    /// A number that no call waits under, and not 0.
    fn free_number(&mut self) -> u32 {
        // Bound: calls that wait, and one.
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.waiting.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

impl Shared {
    /// Whatever a panic left, each field is true by itself.
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads answers until there are no more.
    fn read(&self, stream: UnixStream) {
        let mut from = BufReader::new(stream);
        let why = loop {
            let room = |number| {
                let calls = self.calls();
                let waiting = calls.waiting.get(&number)?;
                waiting.answer.is_none().then_some(waiting.room)
            };
            match Answer::read(&mut from, room) {
                Ok(answer) => {
                    if let Some(waiting) = self.calls().waiting.get_mut(&answer.number) {
                        waiting.answer = Some(answer);
                    }
                    self.changed.notify_all();
                }
                Err(error) => break error,
            }
        };
        // Else the other process would wait for what nobody sends.
        let _ = from.get_ref().shutdown(Shutdown::Both);
        self.calls().lost = Some(why.to_string());
        self.changed.notify_all();
    }

    /// Waits for the answer to a call.
    fn answer(&self, number: u32) -> Result<Answer, Status> {
        let mut calls = self.calls();
        loop {
            let lost = calls.lost.is_some();
            let answered = calls.waiting.get_mut(&number).map(|w| w.answer.take());
            if lost || !matches!(answered, Some(None)) {
                calls.waiting.remove(&number);
                return answered.flatten().ok_or(LOST);
            }
            calls = self
                .changed
                .wait(calls)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Transport for SocketTransport {
    fn ioctl(&self, code: u32, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        let room = output.len();
        let number = self.call(room, false, |to, number| {
            Call::write_ioctl(to, number, code, room, input)
        })?;
        let answer = self.shared.answer(number)?;
        if !answer.status.is_success() {
            return Err(answer.status);
        }
        // No answer is longer than its room.
        if let Some(output) = output.get_mut(..answer.output.len()) {
            output.copy_from_slice(&answer.output);
        }
        Ok(answer.output.len())
    }

    fn cancel(&self) {
        let mut writer = self.writer();
        let mut calls = self.shared.calls();
        // Each is told once, however often this is called.
        let waiting = calls.waiting.iter_mut();
        let told: Vec<u32> = waiting
            .filter_map(|(number, call)| {
                let told = std::mem::replace(&mut call.cancelled, true);
                (!told).then_some(*number)
            })
            .collect();
        drop(calls);
        for number in told {
            // Whoever reads the answers finds out what a failure means.
            let _ = Call::write_cancel(&mut *writer, number);
        }
    }

    fn close(&self) -> Result<(), Error> {
        let closed = self
            .call(0, true, Call::write_close)
            .and_then(|number| self.shared.answer(number));
        let lost = self.failure();
        self.disconnect();
        match closed {
            Err(Status::FILE_CLOSED) => Ok(()),
            Ok(Answer { status, .. }) if status.is_success() => Ok(()),
            Ok(Answer { status, .. }) | Err(status) => Err(lost.unwrap_or(Error::Status {
                call: "closing the device",
                status,
            })),
        }
    }

    fn failure(&self) -> Option<Error> {
        let calls = self.shared.calls();
        calls.lost.clone().map(|why| Error::Lost { why })
    }

    fn report(&self) -> Option<ReplayReport> {
        None
    }
}

impl Drop for SocketTransport {
    fn drop(&mut self) {
        self.disconnect();
    }
}
