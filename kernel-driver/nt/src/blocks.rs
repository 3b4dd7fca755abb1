//! Memory for packets that leave: blocks of a few sizes, all allocated at the start.
//!
//! Each block has a memory descriptor list, so that a packet in it can be injected without allocating
//! memory for its bytes.

use alloc::alloc::{alloc, dealloc};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::cell::Cell;
use core::mem::{self, ManuallyDrop};
use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::{AtomicUsize, Ordering};

use kext_nt_sys::io::{self, MDL};
use kext_nt_sys::types::FALSE;

use crate::boxed::{Fixed, try_array};
use crate::spin_lock::Lock;
use crate::status::{Result, Status};

/// Blocks start at addresses that are good for any header, and share no cache line.
const ALIGNMENT: usize = 64;

/// How many blocks of which length.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The length of each in bytes.
    pub bytes: usize,
    /// How many there are.
    pub count: usize,
}

/// Blocks of some lengths, the shortest first.
///
/// A block keeps the memory of all of its length: if some are taken still when this goes, that memory
/// stays for ever.
pub struct Blocks(Vec<Fixed<Class>>);

/// All blocks of one length. Its records know it by its address.
struct Class {
    bytes: usize,
    free: Lock<Free>,
    in_use: AtomicUsize,
    records: Box<[Record]>,
    /// One block after the other. Freed after what describes it.
    _memory: Memory,
}

/// The free blocks: the last that came back is the first to go.
struct Free(Option<NonNull<Record>>);

// SAFETY: a record in the list is reached under its lock only.
unsafe impl Send for Free {}

/// What is known of a block.
struct Record {
    class: Cell<*const Class>,
    /// The free block after this one.
    next: Cell<Option<NonNull<Record>>>,
    start: NonNull<u8>,
    mdl: NonNull<MDL>,
}

/// One allocation.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a record belongs to whoever took its block, or to the list of free ones, under its lock.
unsafe impl Send for Blocks {}
// SAFETY: as above.
unsafe impl Sync for Blocks {}

/// A block that was taken. It holds a packet of some length from its start on.
pub struct Block {
    record: NonNull<Record>,
    len: usize,
}

// SAFETY: a block belongs to whoever took it, not to a thread.
unsafe impl Send for Block {}

impl Blocks {
    /// Allocates all blocks.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn try_new(sizes: &[Size]) -> Result<Self> {
        let mut classes = Vec::new();
        classes
            .try_reserve_exact(sizes.len())
            .map_err(|_| Status::NO_MEMORY)?;
        for size in sizes {
            classes.push(Class::try_new(*size)?);
        }
        Ok(Self(classes))
    }

    /// Takes a block for a packet of this length; `None` if none of those that are long enough is
    /// left. What stands in it can be anything.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn take(&self, len: usize) -> Option<Block> {
        // Bound: the number of lengths.
        let mut long_enough = self.0.iter().filter(|class| class.bytes >= len);
        let record = long_enough.find_map(|class| class.take())?;
        Some(Block { record, len })
    }

    /// How many blocks are taken.
    ///
    /// IRQL: any.
    pub fn in_use(&self) -> usize {
        // Bound: the number of lengths.
        self.0.iter().map(|class| class.in_use()).sum()
    }
}

impl Drop for Blocks {
    /// IRQL: up to `DISPATCH_LEVEL`.
    fn drop(&mut self) {
        for class in mem::take(&mut self.0) {
            if class.in_use() > 0 {
                mem::forget(class);
            }
        }
    }
}

impl Class {
    fn try_new(size: Size) -> Result<Fixed<Self>> {
        let stride = size.bytes.max(1).next_multiple_of(ALIGNMENT);
        let bytes = stride.checked_mul(size.count.max(1));
        let memory = Memory::try_new(bytes.ok_or(Status::NO_MEMORY)?)?;
        let records = try_array(size.count, |number| {
            Record::try_new(memory.at(number * stride), size.bytes)
        })?;
        let class = Fixed::try_new(Self {
            bytes: size.bytes,
            free: Lock::new(Free(None)),
            in_use: AtomicUsize::new(0),
            records,
            _memory: memory,
        })?;
        // The class and its records are where they will stay.
        let mut free = class.free.lock();
        for record in class.records.iter().rev() {
            record.class.set(class.as_ptr());
            record.next.set(free.0.replace(NonNull::from(record)));
        }
        drop(free);
        Ok(class)
    }

    fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Acquire)
    }

    fn take(&self) -> Option<NonNull<Record>> {
        let mut free = self.free.lock();
        let record = free.0?;
        // SAFETY: the records stay as long as the class; this one is in the list, under its lock.
        free.0 = unsafe { record.as_ref() }.next.take();
        drop(free);
        self.in_use.fetch_add(1, Ordering::Relaxed);
        Some(record)
    }

    /// Takes a block back that [`Class::take`] gave.
    fn put(&self, record: NonNull<Record>) {
        let mut free = self.free.lock();
        // SAFETY: the records stay as long as the class; this one is in nobody else's hands.
        unsafe { record.as_ref() }.next.set(free.0.replace(record));
        drop(free);
        // The last that is done here: who finds that none is in use may free the class.
        self.in_use.fetch_sub(1, Ordering::Release);
    }
}

impl Record {
    fn try_new(start: NonNull<u8>, bytes: usize) -> Result<Self> {
        // SAFETY: the memory is there; the list is tied to no request.
        let mdl = unsafe {
            io::IoAllocateMdl(
                start.as_ptr().cast(),
                bytes as u32,
                FALSE,
                FALSE,
                ptr::null_mut(),
            )
        };
        let mdl = NonNull::new(mdl).ok_or(Status::NO_MEMORY)?;
        // SAFETY: the list is new, and its memory is nonpaged, as all of ours.
        unsafe { io::MmBuildMdlForNonPagedPool(mdl.as_ptr()) };
        Ok(Self {
            class: Cell::new(ptr::null()),
            next: Cell::new(None),
            start,
            mdl,
        })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // SAFETY: `try_new` allocated it, and nobody uses the block any more.
        unsafe { io::IoFreeMdl(self.mdl.as_ptr()) };
    }
}

impl Memory {
    fn try_new(bytes: usize) -> Result<Self> {
        let layout = Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| Status::NO_MEMORY)?;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout) };
        let start = NonNull::new(start).ok_or(Status::NO_MEMORY)?;
        Ok(Self { start, layout })
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: callers ask for places within the allocation.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated so.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl Block {
    fn record(&self) -> &Record {
        // SAFETY: the record is this block's, and stays while it is taken.
        unsafe { self.record.as_ref() }
    }

    /// What describes its memory.
    pub(crate) fn mdl(&self) -> *mut MDL {
        self.record().mdl.as_ptr()
    }

    /// The same block as a word, which has to become a block again.
    pub(crate) fn into_word(self) -> *mut core::ffi::c_void {
        ManuallyDrop::new(self).record.as_ptr().cast()
    }

    /// # Safety
    ///
    /// The word is of [`Block::into_word`], and becomes a block again once.
    pub(crate) unsafe fn from_word(word: *mut core::ffi::c_void) -> Self {
        Self {
            // SAFETY: as the caller says.
            record: unsafe { NonNull::new_unchecked(word.cast()) },
            len: 0,
        }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the block is as long at least, and nobody else reaches it. What was never written
        // holds some bytes all the same: it is memory of the kernel's pool, or was of packets.
        unsafe { slice::from_raw_parts(self.record().start.as_ptr(), self.len) }
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`.
        unsafe { slice::from_raw_parts_mut(self.record().start.as_ptr(), self.len) }
    }
}

impl Drop for Block {
    /// IRQL: up to `DISPATCH_LEVEL`.
    fn drop(&mut self) {
        // SAFETY: the class stays while one of its blocks is taken.
        unsafe { &*self.record().class.get() }.put(self.record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in;
    use std::rc::Rc;

    fn blocks() -> Blocks {
        let size = |bytes, count| Size { bytes, count };
        Blocks::try_new(&[size(100, 2), size(1000, 1)]).unwrap()
    }

    #[test]
    fn the_shortest_that_is_long_enough_is_taken() {
        let blocks = blocks();
        let mut short = blocks.take(100).unwrap();
        let long = blocks.take(101).unwrap();
        short.as_mut().fill(7);
        assert_eq!((short.as_ref().len(), long.as_ref().len()), (100, 101));
        assert_eq!(short.as_ref().as_ptr().addr() % ALIGNMENT, 0);
        assert!(blocks.take(500).is_none());
        drop(long);
        let other = blocks.take(1).unwrap();
        let third = blocks.take(1).unwrap();
        assert!(blocks.take(1).is_none());
        assert_eq!(blocks.in_use(), 3);
        drop((short, other, third));
        assert_eq!(blocks.in_use(), 0);
        assert!(blocks.take(1001).is_none());
    }

    #[test]
    fn a_block_survives_as_a_word() {
        let blocks = blocks();
        let word = blocks.take(1000).unwrap().into_word();
        assert_eq!(blocks.in_use(), 1);
        // SAFETY: it is of a block, and used once.
        drop(unsafe { Block::from_word(word) });
        assert_eq!(blocks.in_use(), 0);
    }

    /// Who waits for the last block frees all of this at once.
    #[test]
    fn a_block_is_back_when_nothing_is_done_with_it_any_more() {
        let blocks = Rc::new(blocks());
        let block = blocks.take(100).unwrap();
        let in_use = Rc::new(Cell::new(0));
        let (seen, looked_at) = (Rc::clone(&in_use), Rc::clone(&blocks));
        stand_in::at_release(move || seen.set(looked_at.in_use()));
        drop(block);
        assert_eq!((in_use.get(), blocks.in_use()), (1, 0));
    }

    #[test]
    fn what_describes_the_memory_is_freed_unless_it_is_in_use() {
        let before = stand_in::mdls();
        drop(blocks());
        assert_eq!(stand_in::mdls(), before);
        let blocks = blocks();
        let kept = blocks.take(100).unwrap();
        drop(blocks);
        assert_eq!(stand_in::mdls(), before + 2);
        drop(kept);
    }
}
