//! RECEIVE: verdict requests, waited for.

use std::time::Duration;

use kext_types::MAX_PACKET_LEN;
use kext_wire::receive::{PayloadMode, ReceiveRequest, ReceiveResponse, ReceivedRequest};
use kext_wire::{ControlCode, MAX_BATCH, Status};

use crate::Error;
use crate::calls::Caller;

/// The longest answer asked for, in bytes: 4,096 requests with 936 bytes of payload each, or
/// sixty-three of the largest packets.
pub const MAX_MESSAGE: usize = 4 << 20;

/// How long to wait for the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most this long; whole milliseconds count, up to 49 days.
    AtMost(Duration),
    /// Until one comes or the session ends.
    Forever,
}

impl Wait {
    fn millis(self) -> Option<u32> {
        match self {
            Self::No => Some(0),
            // One less than the number that stands for "without limit".
            Self::AtMost(wait) => Some(
                u32::try_from(wait.as_millis()).map_or(u32::MAX - 1, |ms| ms.min(u32::MAX - 1)),
            ),
            Self::Forever => None,
        }
    }
}

/// A verdict request, with the payload that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is known of the packet.
    pub info: ReceivedRequest,
    /// Its first bytes, from the IP header on; empty if none were asked for.
    pub payload: Box<[u8]>,
}

/// Requests that came together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The requests in their order; at least one.
    pub requests: Vec<Request>,
    /// How many more were queued.
    pub queued: u32,
}

impl Batch {
    pub(crate) fn read(response: &ReceiveResponse<'_>) -> Self {
        let requests = response.iter().map(|(info, payload)| Request {
            info,
            payload: payload.into(),
        });
        Self {
            requests: requests.collect(),
            queued: response.queued(),
        }
    }
}

/// How a wait for requests ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received<T = Batch> {
    /// With requests; at least one.
    Batch(T),
    /// Without, when its time was over.
    Timeout,
    /// There will be no more: the capture has ended and all its requests have been given.
    End,
}

/// Waits for requests; `read` makes of the answer what the caller wants, if there are any.
pub(crate) fn receive<T>(
    caller: &Caller,
    most: u32,
    payload: PayloadMode,
    wait: Wait,
    read: impl FnOnce(&ReceiveResponse<'_>) -> T,
) -> Result<Received<T>, Error> {
    const CODE: ControlCode = ControlCode::Receive;
    let request = ReceiveRequest {
        max_requests: most.clamp(1, MAX_BATCH),
        payload,
        wait_ms: wait.millis(),
    };
    let mut input = [0; ReceiveRequest::LEN];
    request.encode(&mut input).map_err(|_| Error::Mismatch {
        call: CODE.name(),
        what: "nothing, because the message could not be written",
    })?;
    let each = ReceiveResponse::RECORD_LEN + payload.len_of(MAX_PACKET_LEN);
    let room = (request.max_requests as usize).saturating_mul(each);
    let room = ReceiveResponse::FIXED_LEN
        .saturating_add(room)
        .min(MAX_MESSAGE);
    let answer = caller.ask(CODE, &input, room, |bytes| {
        let response = ReceiveResponse::decode(bytes)?;
        if response.is_empty() {
            return Ok(Received::Timeout);
        }
        Ok(Received::Batch(read(&response)))
    });
    match answer {
        Err(Error::Status {
            status: Status::END_OF_FILE,
            ..
        }) => match caller.transport().failure() {
            Some(failure) => Err(failure),
            None => Ok(Received::End),
        },
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_taken_for_one_without_limit() {
        assert_eq!(Wait::No.millis(), Some(0));
        assert_eq!(Wait::AtMost(Duration::from_millis(100)).millis(), Some(100));
        for long in [Duration::MAX, Duration::from_millis(u32::MAX.into())] {
            assert_eq!(Wait::AtMost(long).millis(), Some(u32::MAX - 1));
        }
        assert_eq!(Wait::Forever.millis(), None);
    }
}
