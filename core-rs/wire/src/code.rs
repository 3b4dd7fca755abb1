//! The control codes of the device.

/// The device type in every control code.
pub const DEVICE_TYPE: u32 = 40_000;

/// The control code of a function: `METHOD_BUFFERED`, read and write access.
pub const fn ctl_code(function: u16) -> u32 {
    DEVICE_TYPE << 16 | 3 << 14 | ((function as u32) & 0x0FFF) << 2
}

/// Declares the requests with their function numbers and names.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $function:literal, $name:literal;)+) => {
        /// What a device request asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ControlCode { $($(#[$doc])* $variant = $function,)+ }

        impl ControlCode {
            /// All of them, in the order of their functions.
            pub const ALL: [Self; [$($function),+].len()] = [$(Self::$variant),+];

            /// The request with this control code, if there is one.
            pub const fn from_u32(code: u32) -> Option<Self> {
                let function = ((code >> 2) & 0x0FFF) as u16;
                // The other bits are the same in all of them.
                if ctl_code(function) != code {
                    return None;
                }
                match function {
                    $($function => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name in the document.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

codes! {
    /// v1: the version of the interface.
    Version = 0x800, "VERSION";
    /// v1: end waiting reads and settle what is held.
    ShutdownRequest = 0x801, "SHUTDOWN_REQUEST";
    /// v1: wait for one verdict request.
    RecvVerdictReq = 0x802, "RECV_VERDICT_REQ";
    /// v1: decide one held packet or its flow.
    SetVerdict = 0x803, "SET_VERDICT";
    /// v1: the bytes of a held packet.
    GetPayload = 0x804, "GET_PAYLOAD";
    /// v1: empty the verdict cache.
    ClearCache = 0x805, "CLEAR_CACHE";
    /// v1: replace a cached verdict.
    UpdateVerdict = 0x806, "UPDATE_VERDICT";
    /// v1: traffic of flows since the last call.
    GetConnectionsStats = 0x807, "GET_CONNECTIONS_STATS";
    /// Version, features and capacities.
    Hello = 0x810, "HELLO";
    /// Wait for verdict requests, many in one call.
    Receive = 0x811, "RECEIVE";
    /// Decide many held packets, with an outcome for each.
    SetVerdicts = 0x812, "SET_VERDICTS";
    /// The bytes of a held packet of any size.
    ReadPayload = 0x813, "READ_PAYLOAD";
    /// What was counted.
    Counters = 0x814, "COUNTERS";
    /// The configuration in force.
    GetConfig = 0x815, "GET_CONFIG";
    /// Change the configuration.
    SetConfig = 0x816, "SET_CONFIG";
    /// The flows in the verdict cache.
    ListFlows = 0x817, "LIST_FLOWS";
    /// The flows that have left the verdict cache.
    Events = 0x818, "EVENTS";
    /// Which program a process runs.
    ProcessPath = 0x819, "PROCESS_PATH";
}

impl ControlCode {
    /// The function number, also the `kind` of extended messages.
    pub const fn function(self) -> u16 {
        self as u16
    }

    /// The whole control code.
    pub const fn to_u32(self) -> u32 {
        ctl_code(self.function())
    }

    /// Whether its messages carry the extended header.
    pub const fn is_extended(self) -> bool {
        self.function() >= 0x810
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_document() {
        assert_eq!(ControlCode::Version.to_u32(), 0x9C40_E000);
        assert_eq!(ControlCode::GetConnectionsStats.to_u32(), 0x9C40_E01C);
        assert_eq!(ControlCode::Hello.to_u32(), 0x9C40_E040);
        assert_eq!(ControlCode::ListFlows.to_u32(), 0x9C40_E05C);
        assert_eq!(ControlCode::ALL.len(), 18);
    }

    #[test]
    fn only_the_documented_codes_are_known() {
        for code in ControlCode::ALL {
            assert_eq!(ControlCode::from_u32(code.to_u32()), Some(code));
            // Another method (low bits) or access is another code.
            for wrong in [1, 2, 3, 1 << 14, 2 << 14] {
                assert_eq!(ControlCode::from_u32(code.to_u32() ^ wrong), None);
            }
        }
        for function in 0..0x1000 {
            let known = (0x800..=0x807).contains(&function) || (0x810..=0x819).contains(&function);
            assert_eq!(
                ControlCode::from_u32(ctl_code(function)).is_some(),
                known,
                "0x{function:x}"
            );
        }
    }
}
