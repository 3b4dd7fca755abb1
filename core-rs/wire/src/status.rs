//! The NT status values that end a device request.

use core::fmt;

/// An NT status value. Every host uses these numbers, so that a client sees the same answer from
/// all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct Status(pub u32);

/// Declares the constants and their names in one place.
macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)+) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self($value);)+

            /// Every status that the interface uses.
            pub const ALL: [Self; [$(stringify!($name)),+].len()] = [$(Self::$name),+];

            /// The name in the Windows headers; `None` for a value that the interface does not
            /// use.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(concat!("STATUS_", stringify!($name))),)+
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// Done.
    SUCCESS = 0x0000_0000;
    /// v1 `RECV_VERDICT_REQ`: the handle has been shut down.
    ABANDONED = 0x0000_0080;
    /// v1 `SET_VERDICT`: an earlier verdict or policy has settled this packet.
    ALREADY_COMPLETE = 0x0000_00FF;
    /// v1 `RECV_VERDICT_REQ`: nothing came within a second.
    TIMEOUT = 0x0000_0102;
    /// v1 `SET_VERDICT`, `UPDATE_VERDICT`: no such id or flow; nothing was touched.
    SOME_NOT_MAPPED = 0x0000_0107;
    /// Open: another owner has the device.
    DEVICE_BUSY = 0x8000_0011;
    /// The input is not as long as the request needs.
    INFO_LENGTH_MISMATCH = 0xC000_0004;
    /// A value in the input is out of range, unknown or reserved.
    INVALID_PARAMETER = 0xC000_000D;
    /// Unknown control code.
    INVALID_DEVICE_REQUEST = 0xC000_0010;
    /// Receive: the host has no more packets and no request waits.
    END_OF_FILE = 0xC000_0011;
    /// The output buffer has not enough room; nothing was lost.
    BUFFER_TOO_SMALL = 0xC000_0023;
    /// v1 `GET_PAYLOAD`: the id is not held. `PROCESS_PATH`: no path was told of the process.
    OBJECT_NAME_NOT_FOUND = 0xC000_0034;
    /// The extended message's version is not spoken here.
    REVISION_MISMATCH = 0xC000_0059;
    /// v1 `GET_PAYLOAD`: the length asked for is not the packet's, or it is more than 10,240 bytes.
    INSUFFICIENT_RESOURCES = 0xC000_009A;
    /// HELLO: a feature is wanted that is not offered.
    NOT_SUPPORTED = 0xC000_00BB;
    /// The waiting read was cancelled; no request was lost.
    CANCELLED = 0xC000_0120;
    /// The handle has been shut down.
    FILE_CLOSED = 0xC000_0128;
}

impl Status {
    /// Whether a caller sees a success: severity 0 or 1 (the top bit is clear), as `NT_SUCCESS`
    /// has it.
    pub const fn is_success(self) -> bool {
        self.0 >> 31 == 0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().unwrap_or("status");
        write!(f, "{name} (0x{:08X})", self.0)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn names_and_values_are_shown() {
        let shown = Status::FILE_CLOSED.to_string();
        assert_eq!(shown, "STATUS_FILE_CLOSED (0xC0000128)");
        assert_eq!(Status(0xC000_0001).to_string(), "status (0xC0000001)");
    }

    #[test]
    fn success_is_by_severity() {
        let successes = [
            Status::SUCCESS,
            Status::ABANDONED,
            Status::ALREADY_COMPLETE,
            Status::TIMEOUT,
            Status::SOME_NOT_MAPPED,
        ];
        for status in Status::ALL {
            assert_eq!(status.is_success(), successes.contains(&status), "{status}");
        }
    }
}
