//! `Client`: the Rust client's session, as Python's objects hold it.

use std::ops::Deref;
use std::sync::Arc;

use kext_client::Session;
use pyo3::prelude::*;

/// A session that is closed without keeping other threads waiting, whoever of its holders goes last:
/// closing settles packets and completes files, and Python drops objects with the interpreter held.
#[derive(Clone)]
pub(crate) struct Client(Arc<Session>);

impl Client {
    pub(crate) fn new(session: Session) -> Self {
        Self(Arc::new(session))
    }

    /// The session, for a thread that does not hold the interpreter.
    pub(crate) fn shared(&self) -> Arc<Session> {
        Arc::clone(&self.0)
    }

    /// Whether both are one session.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Client {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // If two go at once, both may take the other for the last one. The session then closes itself,
        // with the interpreter held.
        if Arc::strong_count(&self.0) == 1 && !self.0.is_closed() {
            // Nobody is left to tell of a failure. Without an interpreter there is nothing to release.
            Python::try_attach(|py| py.detach(|| drop(self.0.close())));
        }
    }
}
