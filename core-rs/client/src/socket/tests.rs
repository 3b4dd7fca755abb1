//! The client's half of the protocol, against servers of a few lines.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kext_types::Config;
use kext_wire::Status;

use super::{Answer, Call, FrameError, SocketTransport};
use crate::transport::LOST;
use crate::{BadDevice, Device, Error, OpenOptions, Session, Transport};

/// A socket in a folder of its own, which goes with it.
struct Served {
    path: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Served {
    /// Does this with the first connection.
    fn by(server: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "kext-{}-{}.socket",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || server(listener.accept().unwrap().0));
        Self {
            path,
            server: Some(server),
        }
    }

    /// As [`Self::by`], with the device open.
    fn open(speak: impl FnOnce(UnixStream) + Send + 'static) -> (Self, SocketTransport) {
        let served = Self::by(|mut stream| {
            greet(&mut stream, Status::SUCCESS);
            speak(stream);
        });
        let transport = SocketTransport::open(&served.path).unwrap();
        (served, transport)
    }

    fn error(&self) -> String {
        SocketTransport::open(&self.path)
            .err()
            .expect("it cannot be opened")
            .to_string()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
    }
}

fn greet(stream: &mut UnixStream, status: Status) {
    answer(stream, 0, status, b"");
}

fn answer(stream: &mut UnixStream, number: u32, status: Status, output: &[u8]) {
    let answer = Answer {
        number,
        status,
        output: output.to_vec(),
    };
    answer.write(stream).unwrap();
}

fn number(call: &Call) -> u32 {
    match call {
        Call::Ioctl { number, .. } | Call::Cancel { number } | Call::Close { number } => *number,
    }
}

/// Until the client has gone: the codes are 1 to be answered at once, 2 when cancelled.
fn serve(mut stream: UnixStream) {
    loop {
        match Call::read(&mut stream) {
            Ok(Call::Ioctl { code: 2, .. }) => {}
            Ok(Call::Ioctl { number, input, .. }) => {
                answer(&mut stream, number, Status::SUCCESS, &input);
            }
            Ok(Call::Cancel { number }) => answer(&mut stream, number, Status::CANCELLED, b""),
            Ok(Call::Close { number }) => answer(&mut stream, number, Status::SUCCESS, b""),
            Err(FrameError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_call_is_answered() {
    let (_served, transport) = Served::open(serve);
    let mut output = [0; 8];
    assert_eq!(transport.ioctl(1, b"input", &mut output), Ok(5));
    assert_eq!(&output[..5], b"input");
    assert!(transport.report().is_none());
    transport.close().unwrap();
    assert_eq!(transport.ioctl(1, b"", &mut []), Err(Status::FILE_CLOSED));
    transport.close().unwrap();
}

#[test]
fn calls_do_not_wait_for_each_other_and_are_cancelled() {
    let (_served, transport) = Served::open(serve);
    let transport = Arc::new(transport);
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let transport = Arc::clone(&transport);
            thread::spawn(move || transport.ioctl(2, b"", &mut [0; 100]))
        })
        .collect();
    for round in 0..1_000_u32 {
        let mut output = [0; 4];
        let input = round.to_le_bytes();
        assert_eq!(transport.ioctl(1, &input, &mut output), Ok(4));
        assert_eq!(output, input);
    }
    // As a session does: a call that had not begun does not hear of it.
    while waiting.iter().any(|thread| !thread.is_finished()) {
        transport.cancel();
        thread::sleep(Duration::from_micros(100));
    }
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), Err(Status::CANCELLED));
    }
    transport.close().unwrap();
}

#[test]
fn a_server_that_goes_ends_every_call_and_says_so() {
    let (_served, transport) = Served::open(|mut stream| {
        for _ in 0..3 {
            Call::read(&mut stream).unwrap();
        }
    });
    thread::scope(|scope| {
        let calls = [2, 2, 2].map(|code| {
            let transport = &transport;
            scope.spawn(move || transport.ioctl(code, b"", &mut [0; 100]))
        });
        for call in calls {
            assert_eq!(call.join().unwrap(), Err(LOST));
        }
    });
    assert_eq!(transport.ioctl(1, b"", &mut []), Err(LOST));
    for error in [transport.failure(), transport.close().err()] {
        let error = error.unwrap().to_string();
        assert!(error.contains("the other process has closed it"), "{error}");
    }
    transport.close().unwrap();
}

#[test]
fn what_is_no_answer_ends_the_connection() {
    for (wrong, says) in [
        (b"SSH-2.0-OpenSSH_9.2p1".to_vec(), "no frame"),
        (
            [b"PMKA".as_slice(), &[9, 0, 0, 0], &[0; 8]].concat(),
            "answer to call 9",
        ),
        (
            [b"PMKA".as_slice(), &[1, 0, 0, 0], &[0; 4], &[5, 0, 0, 0]].concat(),
            "a frame of 5 bytes came, and 4 is the most",
        ),
    ] {
        let (_served, transport) = Served::open(move |mut stream| {
            assert_eq!(number(&Call::read(&mut stream).unwrap()), 1);
            std::io::Write::write_all(&mut stream, &wrong).unwrap();
            // The client ends it.
            assert!(Call::read(&mut stream).is_err());
        });
        assert_eq!(transport.ioctl(1, b"", &mut [0; 4]), Err(LOST));
        let error = transport.failure().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn who_cannot_be_reached_is_named() {
    let missing = SocketTransport::open("/nowhere/x.socket".as_ref());
    let error = missing.err().unwrap().to_string();
    assert!(
        error.contains("socket:/nowhere/x.socket") && error.contains("start the process"),
        "{error}"
    );
    let closes = Served::by(drop).error();
    assert!(closes.contains("has closed it"), "{closes}");
    let busy = Served::by(|mut stream| greet(&mut stream, Status::DEVICE_BUSY)).error();
    assert!(busy.contains("opening the device was refused"), "{busy}");
    assert!(busy.contains("STATUS_DEVICE_BUSY"), "{busy}");
}

#[test]
fn a_session_that_cannot_begin_leaves_nothing() {
    // It closes the connection after the first request, which is HELLO.
    let served = Served::by(|mut stream| {
        greet(&mut stream, Status::SUCCESS);
        let hello = Call::read(&mut stream).unwrap();
        answer(
            &mut stream,
            number(&hello),
            Status::INVALID_DEVICE_REQUEST,
            b"",
        );
        assert!(matches!(Call::read(&mut stream), Err(FrameError::Closed)));
    });
    let device = Device::Socket(served.path.clone());
    let error = Session::open_device(device, OpenOptions::default()).err();
    assert!(matches!(error, Some(Error::NoCommonVersion)), "{error:?}");

    let wrong = OpenOptions {
        config: Config {
            loop_limit: 0,
            ..Config::default()
        },
        ..OpenOptions::default()
    };
    // Before anything is connected to.
    let error = Session::open("socket:/nowhere", wrong).err();
    assert!(matches!(error, Some(Error::InvalidConfig(_))), "{error:?}");
    assert!(matches!(
        Session::open("socket:", OpenOptions::default()).err(),
        Some(Error::Device(BadDevice::NoSocket { .. }))
    ));
}
