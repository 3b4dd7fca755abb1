//! Requests that were taken from the extension and are still to be given.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::request::VerdictRequest;
use crate::requests::Requests;

/// Batches in the order in which they came. What is given out of it is given once.
#[derive(Default)]
pub(crate) struct Taken(Mutex<VecDeque<Batch>>);

/// A batch of which the rows from `next` on are still to be given; at least one.
struct Batch {
    requests: Arc<Requests>,
    next: usize,
}

impl Taken {
    /// Adds a batch; nothing if it has no requests.
    pub(crate) fn push(&self, requests: Arc<Requests>) {
        if requests.len() > 0 {
            self.batches().push_back(Batch { requests, next: 0 });
        }
    }

    /// The next request.
    pub(crate) fn next(&self) -> Option<VerdictRequest> {
        let mut all = self.batches();
        let batch = all.front_mut()?;
        let request = VerdictRequest::new(&batch.requests, batch.next);
        batch.next += 1;
        if batch.next >= batch.requests.len() {
            all.pop_front();
        }
        Some(request)
    }

    /// The next requests that came together, at most so many.
    pub(crate) fn next_batch(&self, most: u32) -> Option<Arc<Requests>> {
        let mut all = self.batches();
        let batch = all.front_mut()?;
        let first = batch.next;
        let end = batch.requests.len().min(first + most as usize);
        batch.next = end;
        let requests = if first == 0 && end == batch.requests.len() {
            Arc::clone(&batch.requests)
        } else {
            Arc::new(batch.requests.rows(first..end))
        };
        if end == batch.requests.len() {
            all.pop_front();
        }
        Some(requests)
    }

    /// Forgets all of them: the session that they are of has been closed.
    pub(crate) fn clear(&self) {
        self.batches().clear();
    }

    fn batches(&self) -> MutexGuard<'_, VecDeque<Batch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
