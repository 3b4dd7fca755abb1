//! Doubly linked lists through an array, by index: every operation takes constant time.

/// No index.
pub(crate) const NIL: u32 = u32::MAX;

/// A member's neighbours in one list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    prev: u32,
    next: u32,
}

impl Link {
    pub(crate) const NONE: Self = Self {
        prev: NIL,
        next: NIL,
    };
}

/// An array whose members can be linked into several lists at once, told apart by `list`.
pub(crate) trait Links {
    fn link(&mut self, list: usize, index: u32) -> Option<&mut Link>;
}

/// The ends of one list. `LIST` chooses which of a member's links it uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List<const LIST: usize> {
    head: u32,
    tail: u32,
    len: u32,
}

impl<const LIST: usize> List<LIST> {
    pub(crate) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
        len: 0,
    };

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn front(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    /// The member after this one.
    pub(crate) fn after(links: &mut impl Links, index: u32) -> Option<u32> {
        let next = links.link(LIST, index)?.next;
        (next != NIL).then_some(next)
    }

    /// Puts a member that is not in this list at its end.
    pub(crate) fn push_back(&mut self, links: &mut impl Links, index: u32) {
        let prev = self.tail;
        let Some(link) = links.link(LIST, index) else {
            return;
        };
        *link = Link { prev, next: NIL };
        match links.link(LIST, prev) {
            Some(link) => link.next = index,
            None => self.head = index,
        }
        self.tail = index;
        self.len += 1;
    }

    /// Puts a member that is not in this list at its beginning.
    pub(crate) fn push_front(&mut self, links: &mut impl Links, index: u32) {
        let next = self.head;
        let Some(link) = links.link(LIST, index) else {
            return;
        };
        *link = Link { prev: NIL, next };
        match links.link(LIST, next) {
            Some(link) => link.prev = index,
            None => self.tail = index,
        }
        self.head = index;
        self.len += 1;
    }

    /// Takes out a member that is in this list.
    pub(crate) fn remove(&mut self, links: &mut impl Links, index: u32) {
        let Some(link) = links.link(LIST, index) else {
            return;
        };
        let Link { prev, next } = core::mem::replace(link, Link::NONE);
        match links.link(LIST, prev) {
            Some(link) => link.next = next,
            None => self.head = next,
        }
        match links.link(LIST, next) {
            Some(link) => link.prev = prev,
            None => self.tail = prev,
        }
        self.len = self.len.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::VecDeque;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    struct Members([[Link; 2]; 8]);

    impl Links for Members {
        fn link(&mut self, list: usize, index: u32) -> Option<&mut Link> {
            self.0.get_mut(index as usize)?.get_mut(list)
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_queue(operations in prop::collection::vec((0..8u32, any::<bool>()), 0..100)) {
            let mut members = Members([[Link::NONE; 2]; 8]);
            let mut list = List::<1>::EMPTY;
            let mut model = VecDeque::new();
            for (index, front) in operations {
                if let Some(at) = model.iter().position(|&m| m == index) {
                    model.remove(at);
                    list.remove(&mut members, index);
                } else if front {
                    model.push_front(index);
                    list.push_front(&mut members, index);
                } else {
                    model.push_back(index);
                    list.push_back(&mut members, index);
                }
                let walked: Vec<u32> =
                    core::iter::successors(list.front(), |&i| List::<1>::after(&mut members, i))
                        .collect();
                prop_assert_eq!(&walked, &Vec::from(model.clone()));
                prop_assert_eq!(list.len() as usize, model.len());
                prop_assert_eq!(list.is_empty(), model.is_empty());
            }
        }
    }
}
