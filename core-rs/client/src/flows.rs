//! The verdict cache, listed.

use std::vec;

use kext_types::FlowInfo;

use crate::{Error, Session};

/// A part of the verdict cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowPage {
    /// The flows; may be none before the end.
    pub flows: Vec<FlowInfo>,
    /// The cursor of the next part; `None` at the end.
    pub next: Option<u64>,
}

/// Every flow of the verdict cache, a page at a time. Ends after the first error.
pub struct Flows<'a> {
    session: &'a Session,
    page: vec::IntoIter<FlowInfo>,
    next: Option<u64>,
}

impl<'a> Flows<'a> {
    /// Flows asked for in one call.
    const PAGE: u32 = 1_024;

    pub(crate) fn new(session: &'a Session) -> Self {
        Self {
            session,
            page: Vec::new().into_iter(),
            next: Some(0),
        }
    }
}

impl Iterator for Flows<'_> {
    type Item = Result<FlowInfo, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(flow) = self.page.next() {
                return Some(Ok(flow));
            }
            // Taken, so that an error ends the listing.
            match self.session.list_flows(self.next.take()?, Self::PAGE) {
                Ok(page) => {
                    self.page = page.flows.into_iter();
                    self.next = page.next;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
