//! Connects: a host that can hold one asks here what to tell it, and is told when the hold is over.

use kext_engine::{Authorized, ConnectId, MAX_CONNECTS};
use kext_packet::{MAX_STAND_IN_LEN, stand_in};
use kext_types::{Arrival, FlowKey};

use crate::{Extension, Host};

/// How many holds one [`Extension::tick`] ends. Each is a connection that goes on at once, inside.
const TICK_CONNECTS: usize = 16;

/// A TCP connect of a process of this machine, before its first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Its two ends.
    pub flow: FlowKey,
    /// The host's name for the socket.
    pub endpoint: u64,
    /// What will be known of its first packet. It goes out.
    pub arrival: Arrival,
}

/// What the host is to tell a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Nothing.
    PassOn,
    /// It is refused.
    Refuse,
    /// Nothing yet: it is held until [`Host::end_hold`].
    Hold,
}

impl<H: Host> Extension<H> {
    /// Decides what to tell a connect that was not held before. If it is to wait, `hold` is called to hold
    /// it, with no lock held, and says whether that was done.
    pub fn authorize(
        &self,
        connect: &Connect,
        hold: impl FnOnce(ConnectId) -> bool,
    ) -> Authorization {
        let Connect {
            flow,
            endpoint,
            arrival,
        } = connect;
        let authorized = self
            .engine
            .authorize(flow, *endpoint, false, self.host.now());
        let id = match authorized {
            Authorized::PassOn => return Authorization::PassOn,
            Authorized::Refuse => return Authorization::Refuse,
            Authorized::Hold(id) => id,
        };
        let mut buffer = [0; MAX_STAND_IN_LEN];
        let len = stand_in(flow, &mut buffer);
        let Some(packet) = len.and_then(|len| buffer.get(..len)).filter(|_| hold(id)) else {
            self.engine.let_connect_pass(id);
            return Authorization::PassOn;
        };
        let now = self.host.now();
        self.engine.hold_connect(id, flow, packet, arrival, now);
        self.wake_readers();
        Authorization::Hold
    }

    /// Decides what to tell a connect that is authorized again: after its hold, what was decided, and
    /// nothing at any other time.
    pub fn authorize_again(&self, flow: &FlowKey, endpoint: u64) -> Authorization {
        let now = self.host.now();
        match self.engine.authorize(flow, endpoint, true, now) {
            Authorized::Refuse => Authorization::Refuse,
            Authorized::PassOn | Authorized::Hold(_) => Authorization::PassOn,
        }
    }

    /// Says that a socket is closed: see [`kext_engine::Engine::close_connect`].
    pub fn end_connect(&self, flow: &FlowKey, endpoint: u64) {
        self.engine.close_connect(flow, endpoint);
    }

    /// Ends the holds of connects that were decided. Not while the host presents something: what was held
    /// goes on inside of this, and is authorized again.
    pub(crate) fn end_holds(&self) {
        self.end_some_holds(MAX_CONNECTS);
    }

    /// The same, as many as may be at once. Says whether those were all.
    pub(crate) fn end_due_holds(&self) -> bool {
        self.end_some_holds(TICK_CONNECTS)
    }

    #[inline(never)]
    fn end_some_holds(&self, most: usize) -> bool {
        // Bound: `most`.
        for _ in 0..most {
            let Some(id) = self.engine.next_decided_connect(self.host.now()) else {
                return true;
            };
            self.host.end_hold(id);
        }
        false
    }
}
