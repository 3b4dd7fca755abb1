//! Frames: calls of a client to the process that has the device, and its answers.
//!
//! All numbers are little-endian. A call is 24 bytes (magic, kind, number, control code, room, length)
//! and the input; an answer 16 bytes (magic, number, status, length) and the output. Calls have numbers
//! of the client's choice, from 1 on; answers come in any order. The server speaks first: its answer
//! to the call 0 says whether the device could be opened.

use std::io::{self, Read, Write};

use kext_wire::Status;

use crate::MAX_MESSAGE;

/// The longest input or output, in bytes.
pub const MAX_LEN: usize = MAX_MESSAGE;

const CALL: [u8; 4] = *b"PMKC";
const ANSWER: [u8; 4] = *b"PMKA";

const IOCTL: u32 = 0;
const CANCEL: u32 = 1;
const CLOSE: u32 = 2;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end has closed the connection.
    #[error("the other process has closed it")]
    Closed,
    /// It cannot be read from.
    #[error("{0}")]
    Io(io::Error),
    /// What came is no frame.
    #[error("what came is no frame of this protocol: it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// A call of no known kind.
    #[error("a call of the kind {0} came, which nobody knows")]
    Kind(u32),
    /// An answer to no call that waits for one.
    #[error("an answer to call {0} came, which waits for none")]
    Number(u32),
    /// A frame with more bytes than fit.
    #[error("a frame of {len} bytes came, and {most} is the most here")]
    TooLong {
        /// How many it has.
        len: usize,
        /// How many fit.
        most: usize,
    },
}

/// The end of the stream, or an error of it. Who closes without reading all resets the connection.
fn cut(error: io::Error) -> FrameError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => FrameError::Closed,
        _ => FrameError::Io(error),
    }
}

fn header<const N: usize>(from: &mut impl Read, magic: [u8; 4]) -> Result<[u8; N], FrameError> {
    let mut header = [0; N];
    from.read_exact(&mut header).map_err(cut)?;
    match header.first_chunk() {
        Some(first) if *first != magic => Err(FrameError::Magic(*first)),
        _ => Ok(header),
    }
}

/// The numbers of a header, those behind its magic first.
fn numbers<const N: usize>(header: &[u8]) -> [u32; N] {
    let mut numbers = [0; N];
    let words = header.chunks_exact(4).skip(1);
    for (number, word) in numbers.iter_mut().zip(words) {
        *number = word.try_into().map_or(0, u32::from_le_bytes);
    }
    numbers
}

fn body(from: &mut impl Read, len: u32, most: usize) -> Result<Vec<u8>, FrameError> {
    let len = len as usize;
    if len > most {
        return Err(FrameError::TooLong { len, most });
    }
    let mut body = vec![0; len];
    from.read_exact(&mut body).map_err(cut)?;
    Ok(body)
}

fn write(to: &mut impl Write, magic: [u8; 4], numbers: &[u32], body: &[u8]) -> io::Result<()> {
    let mut header = magic.to_vec();
    for number in numbers {
        header.extend(number.to_le_bytes());
    }
    header.extend((body.len() as u32).to_le_bytes());
    // Short frames, which are nearly all, go at once.
    if body.len() <= 4_096 {
        header.extend(body);
        return to.write_all(&header);
    }
    to.write_all(&header)?;
    to.write_all(body)
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A device request. It is answered when it has ended.
    Ioctl {
        /// The number of the call.
        number: u32,
        /// The control code.
        code: u32,
        /// How long its output may be.
        room: usize,
        /// Its input.
        input: Vec<u8>,
    },
    /// The request of this number is to end, if it has not. Not answered itself.
    Cancel {
        /// The number of the request.
        number: u32,
    },
    /// The device is closed. Answered when it is.
    Close {
        /// The number of the call.
        number: u32,
    },
}

impl Call {
    /// The next call, where this is the server.
    pub fn read(from: &mut impl Read) -> Result<Self, FrameError> {
        let header: [u8; 24] = header(from, CALL)?;
        let [kind, number, code, room, len] = numbers(&header);
        let input = body(from, len, MAX_LEN)?;
        match kind {
            IOCTL if room as usize > MAX_LEN => Err(FrameError::TooLong {
                len: room as usize,
                most: MAX_LEN,
            }),
            IOCTL => Ok(Self::Ioctl {
                number,
                code,
                room: room as usize,
                input,
            }),
            CANCEL => Ok(Self::Cancel { number }),
            CLOSE => Ok(Self::Close { number }),
            other => Err(FrameError::Kind(other)),
        }
    }

    /// Sends a device request, with as much room as there is up to [`MAX_LEN`].
    pub(super) fn write_ioctl(
        to: &mut impl Write,
        number: u32,
        code: u32,
        room: usize,
        input: &[u8],
    ) -> io::Result<()> {
        let room = room.min(MAX_LEN) as u32;
        write(to, CALL, &[IOCTL, number, code, room], input)
    }

    pub(super) fn write_cancel(to: &mut impl Write, number: u32) -> io::Result<()> {
        write(to, CALL, &[CANCEL, number, 0, 0], &[])
    }

    pub(super) fn write_close(to: &mut impl Write, number: u32) -> io::Result<()> {
        write(to, CALL, &[CLOSE, number, 0, 0], &[])
    }
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The number of the call; 0 for the opening.
    pub number: u32,
    /// How it ended.
    pub status: Status,
    /// Its output.
    pub output: Vec<u8>,
}

impl Answer {
    /// The next answer, where this is the client. `room` knows how long the answer to a call may be,
    /// if one waits.
    pub(super) fn read(
        from: &mut impl Read,
        room: impl FnOnce(u32) -> Option<usize>,
    ) -> Result<Self, FrameError> {
        let header: [u8; 16] = header(from, ANSWER)?;
        let [number, status, len] = numbers(&header);
        let most = room(number).ok_or(FrameError::Number(number))?;
        Ok(Self {
            number,
            status: Status(status),
            output: body(from, len, most.min(MAX_LEN))?,
        })
    }

    /// Sends it.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        write(to, ANSWER, &[self.number, self.status.0], &self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        Call::write_ioctl(&mut bytes, 1, 0x12_d000, 72, b"input").unwrap();
        Call::write_ioctl(&mut bytes, 2, u32::MAX, usize::MAX, &[7; 10_000]).unwrap();
        Call::write_cancel(&mut bytes, 2).unwrap();
        Call::write_close(&mut bytes, u32::MAX).unwrap();
        let mut from = bytes.as_slice();
        let first = Call::Ioctl {
            number: 1,
            code: 0x12_d000,
            room: 72,
            input: b"input".to_vec(),
        };
        let second = Call::Ioctl {
            number: 2,
            code: u32::MAX,
            room: MAX_LEN,
            input: vec![7; 10_000],
        };
        assert_eq!(Call::read(&mut from).unwrap(), first);
        assert_eq!(Call::read(&mut from).unwrap(), second);
        assert_eq!(Call::read(&mut from).unwrap(), Call::Cancel { number: 2 });
        let close = Call::Close { number: u32::MAX };
        assert_eq!(Call::read(&mut from).unwrap(), close);
        assert!(matches!(Call::read(&mut from), Err(FrameError::Closed)));

        let answer = Answer {
            number: 3,
            status: Status::CANCELLED,
            output: b"output".to_vec(),
        };
        let mut bytes = Vec::new();
        answer.write(&mut bytes).unwrap();
        let room = |number| (number == 3).then_some(6);
        assert_eq!(Answer::read(&mut bytes.as_slice(), room).unwrap(), answer);
    }

    #[test]
    fn what_is_no_frame_is_told() {
        let mut long = Vec::new();
        write(&mut long, CALL, &[IOCTL, 1, 0, 0], b"").unwrap();
        long[20..24].copy_from_slice(&(MAX_LEN as u32 + 1).to_le_bytes());
        let mut wide = Vec::new();
        write(&mut wide, CALL, &[IOCTL, 1, 0, u32::MAX], b"").unwrap();
        let mut unknown = Vec::new();
        write(&mut unknown, CALL, &[3, 1, 0, 0], b"").unwrap();
        for (bytes, says) in [
            (b"HTTP/1.1 400 Bad Request".as_slice(), "no frame"),
            (&long, "4194305 bytes came, and 4194304 is the most"),
            (&wide, "4294967295 bytes"),
            (&unknown, "kind 3"),
            (&long[..10], "closed"),
        ] {
            let error = Call::read(&mut &*bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn an_answer_is_to_a_call_and_no_longer_than_its_room() {
        let mut bytes = Vec::new();
        write(&mut bytes, ANSWER, &[5, 0], b"four").unwrap();
        let read = |room: Option<usize>| Answer::read(&mut bytes.as_slice(), |_| room);
        assert!(matches!(read(None), Err(FrameError::Number(5))));
        assert!(matches!(
            read(Some(3)),
            Err(FrameError::TooLong { len: 4, most: 3 })
        ));
        assert_eq!(read(Some(4)).unwrap().output, b"four");
    }
}
