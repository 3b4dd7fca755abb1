//! Verdicts, and what becomes of them.

/// What is to happen to a packet or a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Let it go.
    Accept = 2,
    /// Refuse it with an answer: TCP RST, else ICMP unreachable.
    Block = 3,
    /// Discard it in silence.
    Drop = 4,
    /// Send it to the configured DNS resolver instead.
    RedirectDns = 5,
    /// Send it to the configured tunnel entry instead.
    RedirectTunnel = 6,
}

impl Verdict {
    /// Every verdict, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Accept,
        Self::Block,
        Self::Drop,
        Self::RedirectDns,
        Self::RedirectTunnel,
    ];

    /// The verdict's number in the wire interfaces, 2 to 6.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The verdict with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            2 => Some(Self::Accept),
            3 => Some(Self::Block),
            4 => Some(Self::Drop),
            5 => Some(Self::RedirectDns),
            6 => Some(Self::RedirectTunnel),
            _ => None,
        }
    }
}

/// A verdict and how long it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decision {
    /// What is to happen.
    pub verdict: Verdict,
    /// Whether it is cached for the flow (`true`) or decides one packet (`false`).
    pub permanent: bool,
}

impl Decision {
    /// The number of the wire interfaces: the verdict's, negative if for one packet only.
    pub const fn number(self) -> i8 {
        let number = self.verdict.number().cast_signed();
        if self.permanent { number } else { -number }
    }

    /// The decision with this number, if there is one.
    pub const fn from_number(number: i8) -> Option<Self> {
        match Verdict::from_number(number.unsigned_abs()) {
            Some(verdict) => Some(Self {
                verdict,
                permanent: number > 0,
            }),
            None => None,
        }
    }
}

/// What became of a verdict for one id. The numbers are those of the extended interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum VerdictOutcome {
    /// It decided the packet.
    Applied = 0,
    /// No packet of this id is held, and none is remembered.
    UnknownId = 1,
    /// An earlier verdict has decided the packet.
    AlreadyDecided = 2,
    /// The packet was dropped to make room for newer ones.
    Evicted = 3,
    /// The packet was held for as long as the hold limit allows; policy decided it.
    Expired = 4,
    /// The reader went away before the verdict came; policy decided the packet.
    Abandoned = 5,
    /// The number is no verdict. Nothing was done; whether the id is held was not looked at.
    InvalidVerdict = 6,
}

impl VerdictOutcome {
    /// The number in the extended interface.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The outcome with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Applied),
            1 => Some(Self::UnknownId),
            2 => Some(Self::AlreadyDecided),
            3 => Some(Self::Evicted),
            4 => Some(Self::Expired),
            5 => Some(Self::Abandoned),
            6 => Some(Self::InvalidVerdict),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_i8_is_a_decision_of_that_number_or_none() {
        for number in i8::MIN..=i8::MAX {
            match Decision::from_number(number) {
                Some(decision) => assert_eq!(decision.number(), number),
                None => assert!(!(2..=6).contains(&number.unsigned_abs())),
            }
        }
    }

    #[test]
    fn outcome_numbers_come_back() {
        for number in 0..=u8::MAX {
            if let Some(outcome) = VerdictOutcome::from_number(number) {
                assert_eq!(outcome.number(), number);
            } else {
                assert!(number > 6);
            }
        }
    }
}
