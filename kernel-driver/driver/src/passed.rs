//! Why the first packets of a list were let pass, until all of it is known to go on.
//!
//! Each was counted under its reason. If the list is taken apart, and one of them is lost then, that has to
//! be counted instead. Packets of one list mostly belong together, and so few runs of equal reasons tell it
//! of any number of them.

use kext_types::Reason;

/// Runs that are remembered; where another would begin, the list is taken apart.
const RUNS: usize = 8;

/// So many packets after each other that passed for the same reason; `None` if they were not presented.
#[derive(Clone, Copy)]
struct Run {
    reason: Option<Reason>,
    packets: u32,
}

/// The packets that passed so far, in order.
pub(crate) struct Passed {
    runs: [Run; RUNS],
}

impl Passed {
    pub(crate) const fn new() -> Self {
        let none = Run {
            reason: None,
            packets: 0,
        };
        Self { runs: [none; RUNS] }
    }

    /// One more has passed. `false` if there is no room to remember it.
    pub(crate) fn push(&mut self, reason: Option<Reason>) -> bool {
        // The last one, or the first that is empty.
        let used = self.runs.iter().take_while(|run| run.packets > 0).count();
        let last = used.checked_sub(1).and_then(|last| self.runs.get_mut(last));
        if let Some(run) = last
            && run.reason == reason
            && let Some(packets) = run.packets.checked_add(1)
        {
            run.packets = packets;
            return true;
        }
        match self.runs.get_mut(used) {
            Some(run) => {
                *run = Run { reason, packets: 1 };
                true
            }
            None => false,
        }
    }

    /// The reasons, packet by packet.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = Option<Reason>> {
        self.runs
            .iter()
            .flat_map(|run| (0..run.packets).map(|_| run.reason))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn reasons_come_back_in_order() {
        let mut passed = Passed::new();
        let told = [
            Some(Reason::PermittedCache),
            Some(Reason::PermittedCache),
            None,
            Some(Reason::PermittedNoReader),
            Some(Reason::PermittedCache),
        ];
        assert!(told.into_iter().all(|reason| passed.push(reason)));
        assert_eq!(passed.reasons().collect::<Vec<_>>(), told);
    }

    #[test]
    fn only_a_run_too_many_finds_no_room() {
        let mut passed = Passed::new();
        for run in 0..RUNS {
            let reason = (run % 2 == 0).then_some(Reason::PermittedCache);
            assert!((0..1_000).all(|_| passed.push(reason)));
        }
        assert!(passed.push(None));
        assert!(!passed.push(Some(Reason::PermittedCache)));
        assert_eq!(passed.reasons().count(), RUNS * 1_000 + 1);
    }
}
