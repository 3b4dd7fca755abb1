//! Device strings: how a device is named.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use kext_hosts::replay::Synthetic;

/// The forms that a device string can have, for messages.
pub const FORMS: &str = r"replay:FILE, synthetic:COUNT, nfqueue:N, \\.\PortmasterKext, socket:PATH";

const DRIVER: &str = r"\\.\PortmasterKext";

/// A device by its name; not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// `replay:FILE`: the packets of a capture.
    Replay(PathBuf),
    /// `synthetic:COUNT` or `synthetic:COUNT,payload=BYTES`: packets of as many new flows.
    Synthetic(Synthetic),
    /// `nfqueue:N`: live packets of a netfilter queue, on Linux.
    NfQueue(u16),
    /// `\\.\PortmasterKext`: the driver, on Windows.
    Driver,
    /// `socket:PATH`: the device of another process, which serves it there; for tests.
    Socket(PathBuf),
}

/// A device string that cannot be opened, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDevice {
    /// It has none of the forms.
    #[error("{device:?} is no device: it must have one of the forms {FORMS}")]
    Form {
        /// The string.
        device: String,
    },
    /// `replay:` without a file.
    #[error("{device:?} names no file: write replay:FILE, with the path of a pcap or pcapng file")]
    NoFile {
        /// The string.
        device: String,
    },
    /// `synthetic:` without a number of packets, or with something else behind it.
    #[error(
        "{device:?} does not say what packets to make: write synthetic:COUNT, with COUNT from 1 to \
         {}, or synthetic:COUNT,payload=BYTES, with BYTES from 0 to {}",
        u32::MAX,
        Synthetic::MAX_PAYLOAD
    )]
    NoCount {
        /// The string.
        device: String,
    },
    /// `nfqueue:` without a queue number.
    #[error("{device:?} names no queue: write nfqueue:N, with N from 0 to 65535")]
    NoQueue {
        /// The string.
        device: String,
    },
    /// `socket:` without a path.
    #[error(
        "{device:?} names no socket: write socket:PATH, with the path of a Unix socket on which a \
         process serves its device"
    )]
    NoSocket {
        /// The string.
        device: String,
    },
    /// It is right, and this build does not serve it on this platform.
    #[error("{device} cannot be opened: {}", missing(needs))]
    Unsupported {
        /// The string.
        device: String,
        /// The platform that it needs, as in [`std::env::consts::OS`].
        needs: &'static str,
    },
}

/// Why a device of this platform is not served.
fn missing(needs: &str) -> String {
    let here = std::env::consts::OS;
    if needs == here {
        "this build does not include it yet; replay:FILE is served".to_owned()
    } else {
        format!("it needs {needs}, and this is {here}; replay:FILE is served everywhere")
    }
}

/// The device string; not exact for a file name that is not UTF-8.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replay(file) => write!(f, "replay:{}", file.display()),
            Self::Synthetic(Synthetic { count, payload }) => {
                write!(f, "synthetic:{count}")?;
                if *payload != Synthetic::DEFAULT_PAYLOAD {
                    write!(f, ",payload={payload}")?;
                }
                Ok(())
            }
            Self::NfQueue(queue) => write!(f, "nfqueue:{queue}"),
            Self::Driver => f.write_str(DRIVER),
            Self::Socket(path) => write!(f, "socket:{}", path.display()),
        }
    }
}

impl FromStr for Device {
    type Err = BadDevice;

    fn from_str(device: &str) -> Result<Self, BadDevice> {
        let owned = || device.to_owned();
        if let Some(file) = device.strip_prefix("replay:") {
            if file.is_empty() {
                return Err(BadDevice::NoFile { device: owned() });
            }
            return Ok(Self::Replay(file.into()));
        }
        if let Some(what) = device.strip_prefix("synthetic:") {
            let synthetic =
                synthetic(what).ok_or_else(|| BadDevice::NoCount { device: owned() })?;
            return Ok(Self::Synthetic(synthetic));
        }
        if let Some(queue) = device.strip_prefix("nfqueue:") {
            return match number(queue) {
                Some(number) => Ok(Self::NfQueue(number)),
                None => Err(BadDevice::NoQueue { device: owned() }),
            };
        }
        if let Some(path) = device.strip_prefix("socket:") {
            if path.is_empty() {
                return Err(BadDevice::NoSocket { device: owned() });
            }
            return Ok(Self::Socket(path.into()));
        }
        if device.eq_ignore_ascii_case(DRIVER) {
            return Ok(Self::Driver);
        }
        Err(BadDevice::Form { device: owned() })
    }
}

/// What stands behind `synthetic:`.
fn synthetic(what: &str) -> Option<Synthetic> {
    let (count, payload) = match what.split_once(',') {
        Some((count, option)) => (count, number(option.strip_prefix("payload=")?)?),
        None => (what, Synthetic::DEFAULT_PAYLOAD),
    };
    Some(Synthetic {
        count: number(count).filter(|count| *count > 0)?,
        payload: Some(payload).filter(|payload| *payload <= Synthetic::MAX_PAYLOAD)?,
    })
}

/// A number in plain digits.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read() {
        assert_eq!(
            "replay:a:b.pcap".parse(),
            Ok(Device::Replay("a:b.pcap".into()))
        );
        assert_eq!("nfqueue:7".parse(), Ok(Device::NfQueue(7)));
        assert_eq!(r"\\.\portmasterkext".parse(), Ok(Device::Driver));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "replay:a:b.pcap",
            "synthetic:4294967295",
            "synthetic:1,payload=65507",
            "nfqueue:65535",
            DRIVER,
            "socket:a:b.socket",
        ] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_forms() {
        for wrong in ["", "replay", "web.pcapng", "REPLAY:x"] {
            let error = wrong.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(FORMS), "{error}");
        }
        let error = "replay:".parse::<Device>().unwrap_err();
        assert!(matches!(error, BadDevice::NoFile { .. }));
        let error = "socket:".parse::<Device>().unwrap_err();
        assert!(matches!(error, BadDevice::NoSocket { .. }));
        for wrong in ["", "-1", "+1", "65536", "x"] {
            let error = format!("nfqueue:{wrong}").parse::<Device>().unwrap_err();
            assert!(matches!(error, BadDevice::NoQueue { .. }), "{error}");
        }
        for wrong in [
            "",
            "0",
            "-1",
            "+1",
            "4294967296",
            "x",
            "1,",
            "1,payload=",
            "1,payload=65508",
            "1,size=5",
        ] {
            let error = format!("synthetic:{wrong}").parse::<Device>().unwrap_err();
            assert!(matches!(error, BadDevice::NoCount { .. }), "{error}");
        }
    }

    #[test]
    fn an_absent_platform_is_named() {
        let text = missing("plan9");
        assert!(text.contains("plan9") && text.contains(std::env::consts::OS));
    }
}
