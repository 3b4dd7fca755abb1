//! The replay host, in this process, as a transport.

use kext_hosts::replay::{ReplayHost, ReplayReport};
use kext_wire::Status;

use crate::{Error, Transport};

impl Transport for ReplayHost {
    fn ioctl(&self, code: u32, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        Self::ioctl(self, code, input, output)
    }

    fn cancel(&self) {
        Self::cancel(self);
    }

    fn close(&self) -> Result<(), Error> {
        Ok(Self::close(self)?)
    }

    fn failure(&self) -> Option<Error> {
        Self::failure(self).map(Error::from)
    }

    fn report(&self) -> Option<ReplayReport> {
        Some(Self::report(self))
    }
}
