//! Memory that is handed to the driver: pool blocks, and everything else that the kernel allocates.
//!
//! Each block stands between canaries. What is given back is filled with a pattern and kept for a
//! while, so that a write to it is found; with guard pages any access faults where it happens. Or blocks
//! are the process's own allocations as they are, for a checker that watches those.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use crate::check::violation;
use crate::symbols;

const PAGE: usize = 4096;
const FRONT: usize = 64;
const BACK: usize = 64;
const CANARY: u8 = 0xfd;
/// What memory holds that nobody has written to yet.
pub(crate) const FRESH: u8 = 0xa5;
/// What memory holds that was given back.
pub(crate) const DEAD: u8 = 0xdd;
/// As much as is kept of what was given back.
const KEPT_BYTES: usize = 16 << 20;
const KEPT_BLOCKS: usize = 1 << 15;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pool {
        tag: u32,
        paged: bool,
    },
    Mdl,
    WorkItem,
    Device,
    File,
    Irp,
    SystemBuffer,
    Thread,
    NetBufferListPool,
    NetBufferList,
    Clone,
    /// Of a packet that a callout is shown.
    Lent,
}

impl Kind {
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Pool { tag, .. } => format!("pool block with tag {}", tag_text(tag)),
            Self::Mdl => "MDL".into(),
            Self::WorkItem => "work item".into(),
            Self::Device => "device object".into(),
            Self::File => "file object".into(),
            Self::Irp => "request".into(),
            Self::SystemBuffer => "system buffer of a request".into(),
            Self::Thread => "thread object".into(),
            Self::NetBufferListPool => "net buffer list pool".into(),
            Self::NetBufferList => "net buffer list".into(),
            Self::Clone => "cloned net buffer list".into(),
            Self::Lent => "memory of a packet that was lent to a callout".into(),
        }
    }

    /// Whether the driver has to give it back.
    fn owned_by_driver(self) -> bool {
        matches!(
            self,
            Self::Pool { .. }
                | Self::Mdl
                | Self::WorkItem
                | Self::NetBufferListPool
                | Self::NetBufferList
                | Self::Clone
        )
    }
}

/// A tag as debuggers show it.
pub(crate) fn tag_text(tag: u32) -> String {
    let text: String = tag
        .to_le_bytes()
        .iter()
        .map(|byte| {
            if byte.is_ascii_graphic() {
                char::from(*byte)
            } else {
                '.'
            }
        })
        .collect();
    format!("`{text}`")
}

/// A block that is in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) address: usize,
    pub(crate) size: usize,
    pub(crate) kind: Kind,
    /// Where it was allocated.
    pub(crate) site: usize,
    watch: Watch,
}

/// A block that was given back.
#[derive(Clone, Copy, Debug)]
struct Dead {
    block: Block,
    freed: usize,
}

#[derive(Debug, Default)]
struct Heap {
    live: BTreeMap<usize, Block>,
    dead: BTreeMap<usize, Dead>,
    order: VecDeque<usize>,
    dead_bytes: usize,
}

static HEAP: Mutex<Heap> = Mutex::new(Heap {
    live: BTreeMap::new(),
    dead: BTreeMap::new(),
    order: VecDeque::new(),
    dead_bytes: 0,
});

/// What finds wrong uses of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Watch {
    /// Canaries around it, and a pattern in it once it was given back.
    Canaries,
    /// It stands before a page that faults, and faults when it was given back.
    Pages,
    /// A checker outside, which knows each allocation: so a block is one, and nothing else writes to it.
    Outside,
}

static WATCH: AtomicU8 = AtomicU8::new(Watch::Canaries as u8);

/// How blocks are watched that are allocated from now on.
pub(crate) fn set_watch(watch: Watch) {
    WATCH.store(watch as u8, Ordering::Relaxed);
}

fn watch() -> Watch {
    let chosen = WATCH.load(Ordering::Relaxed);
    [Watch::Pages, Watch::Outside]
        .into_iter()
        .find(|watch| *watch as u8 == chosen)
        .unwrap_or(Watch::Canaries)
}

impl Block {
    fn layout(&self) -> (Layout, usize) {
        let align = self.align();
        let (front, size) = match self.watch {
            Watch::Outside => (0, self.size.max(1)),
            Watch::Canaries | Watch::Pages => {
                let front = FRONT.next_multiple_of(align);
                (front, front + self.size + BACK)
            }
        };
        let layout = Layout::from_size_align(size, align);
        (layout.expect("a block has a size"), front)
    }

    fn align(&self) -> usize {
        if self.size >= PAGE { PAGE } else { 16 }
    }

    /// Bytes of a guarded mapping before the page that faults.
    fn pages(&self) -> usize {
        (FRONT.next_multiple_of(self.align()) + self.size).next_multiple_of(PAGE)
    }

    /// The guarded mapping: where it begins and how long it is, the last page faulting.
    fn mapping(&self) -> (usize, usize) {
        let pages = self.pages();
        let end = (self.address + self.size).next_multiple_of(PAGE);
        (end - pages, pages + PAGE)
    }

    /// The canaries: those in front, and those behind up to where others begin.
    fn canaries(&self) -> (&'static [u8], &'static [u8]) {
        let back = match self.watch {
            Watch::Pages => {
                (self.address + self.size).next_multiple_of(PAGE) - (self.address + self.size)
            }
            Watch::Canaries => BACK,
            Watch::Outside => return (&[], &[]),
        };
        let slice = |at: usize, length: usize| {
            // SAFETY: both ranges are in the allocation of this block, which is in use.
            unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(at), length) }
        };
        (
            slice(self.address - FRONT, FRONT),
            slice(self.address + self.size, back),
        )
    }

    fn contents(&self) -> &'static mut [u8] {
        // SAFETY: the range is the block; the driver does not use it while it is looked at.
        unsafe {
            std::slice::from_raw_parts_mut(
                std::ptr::with_exposed_provenance_mut(self.address),
                self.size,
            )
        }
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{} of {} bytes at {:#x}, allocated {}",
            self.kind.describe(),
            self.size,
            self.address,
            by(self.site)
        )
    }

    fn check_canaries(&self) {
        let (front, back) = self.canaries();
        if let Some(at) = front.iter().rposition(|byte| *byte != CANARY) {
            violation!(
                Pool,
                "{} was written to {} bytes before it",
                self.describe(),
                FRONT - at
            );
        }
        if let Some(at) = back.iter().position(|byte| *byte != CANARY) {
            violation!(
                Pool,
                "{} was written to {at} bytes behind its end",
                self.describe()
            );
        }
    }
}

/// `in FUNCTION FILE:LINE`, or that it is of the kernel's own.
pub(crate) fn by(site: usize) -> String {
    if site == 0 {
        return "by the kernel".into();
    }
    let place = symbols::places(&[site]).remove(0);
    format!("in {place}")
}

/// A block for the driver. Its bytes are [`FRESH`], unless a checker outside has to know that nobody has
/// written them.
pub(crate) fn allocate(kind: Kind, size: usize, site: usize) -> *mut u8 {
    let watch = watch();
    let mut block = Block {
        address: 0,
        size,
        kind,
        site,
        watch,
    };
    if watch == Watch::Pages {
        let pages = block.pages();
        // SAFETY: a fresh private mapping.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                pages + PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert!(base != libc::MAP_FAILED, "no memory for a guarded block");
        let base = base.expose_provenance();
        // SAFETY: the mapping is ours and that long.
        unsafe {
            let bytes: *mut u8 = std::ptr::with_exposed_provenance_mut(base);
            bytes.write_bytes(CANARY, pages);
            libc::mprotect(bytes.add(pages).cast(), PAGE, libc::PROT_NONE);
        }
        block.address = (base + pages - size) & !(block.align() - 1);
    } else {
        let (layout, front) = block.layout();
        // SAFETY: the layout has a size.
        let base = unsafe { alloc(layout) };
        assert!(!base.is_null(), "no memory for a block");
        if watch == Watch::Canaries {
            // SAFETY: the allocation is that long.
            unsafe { base.write_bytes(CANARY, layout.size()) };
        }
        block.address = base.expose_provenance() + front;
    }
    if watch != Watch::Outside {
        block.contents().fill(FRESH);
    }
    let mut heap = HEAP.lock();
    let stale: Vec<usize> = heap
        .dead
        .range(block.address.saturating_sub(FRONT)..block.address + size + BACK)
        .map(|(at, _)| *at)
        .collect();
    debug_assert!(stale.is_empty(), "what is kept is not allocated again");
    heap.live.insert(block.address, block);
    drop(heap);
    std::ptr::with_exposed_provenance_mut(block.address)
}

/// The block that begins at an address.
pub(crate) fn find(address: usize) -> Option<Block> {
    HEAP.lock().live.get(&address).copied()
}

/// The block that an address is in.
pub(crate) fn containing(address: usize) -> Option<Block> {
    let heap = HEAP.lock();
    let (_, block) = heap.live.range(..=address).next_back()?;
    (address < block.address + block.size.max(1)).then_some(*block)
}

/// What is known about an address, for a report; also where the lock may be taken.
pub(crate) fn explain(address: usize) -> Option<String> {
    let heap = HEAP.try_lock()?;
    let near = |block: &Block| {
        (block.address.saturating_sub(FRONT)..block.address + block.size + PAGE).contains(&address)
    };
    let live = heap
        .live
        .range(..=address + FRONT)
        .next_back()
        .map(|(_, block)| *block);
    let dead = heap
        .dead
        .range(..=address + FRONT)
        .next_back()
        .map(|(_, dead)| *dead);
    drop(heap);
    if let Some(dead) = dead.filter(|dead| near(&dead.block)) {
        return Some(format!(
            "in what was a {}, freed {}",
            dead.block.describe(),
            by(dead.freed)
        ));
    }
    live.filter(near).map(|block| {
        if address >= block.address + block.size {
            format!(
                "{} bytes behind {}",
                address - block.address - block.size,
                block.describe()
            )
        } else {
            format!("in {}", block.describe())
        }
    })
}

/// Ends the test if an address is in memory that was given back.
pub(crate) fn expect_alive(address: usize, what: &str) {
    let heap = HEAP.lock();
    let dead = heap
        .dead
        .range(..=address)
        .next_back()
        .map(|(_, dead)| *dead);
    drop(heap);
    if let Some(dead) = dead
        && address < dead.block.address + dead.block.size
    {
        violation!(
            UseAfterFree,
            "{what} is in what was a {}, freed {}",
            dead.block.describe(),
            by(dead.freed)
        );
    }
}

/// Takes a block back. `accept` says what is wrong with that, if anything.
pub(crate) fn free(
    address: usize,
    what: &str,
    site: usize,
    accept: impl FnOnce(&Block) -> Option<String>,
) {
    let mut heap = HEAP.lock();
    let Some(block) = heap.live.get(&address).copied() else {
        let dead = heap.dead.get(&address).copied();
        drop(heap);
        match dead {
            Some(dead) => violation!(
                Pool,
                "{what} of a {} that was freed already, {}",
                dead.block.describe(),
                by(dead.freed)
            ),
            None => match containing(address) {
                Some(block) => violation!(
                    Pool,
                    "{what} of {address:#x}, which is inside a {}",
                    block.describe()
                ),
                None => violation!(Pool, "{what} of {address:#x}, which was never allocated"),
            },
        }
    };
    heap.live.remove(&address);
    if block.watch == Watch::Outside {
        drop(heap);
        if let Some(wrong) = accept(&block) {
            violation!(Pool, "{what}: {wrong}: {}", block.describe());
        }
        return release(&block);
    }
    heap.dead.insert(address, Dead { block, freed: site });
    heap.order.push_back(address);
    heap.dead_bytes += block.size;
    let mut old = Vec::new();
    while heap.dead_bytes > KEPT_BYTES || heap.order.len() > KEPT_BLOCKS {
        let Some(oldest) = heap.order.pop_front() else {
            break;
        };
        if let Some(dead) = heap.dead.remove(&oldest) {
            heap.dead_bytes -= dead.block.size;
            old.push(dead);
        }
    }
    drop(heap);
    if let Some(wrong) = accept(&block) {
        violation!(Pool, "{what}: {wrong}: {}", block.describe());
    }
    block.check_canaries();
    if block.watch == Watch::Pages {
        let (base, length) = block.mapping();
        // SAFETY: the mapping of this block, which nobody may use any more.
        unsafe {
            libc::mprotect(
                std::ptr::with_exposed_provenance_mut(base),
                length,
                libc::PROT_NONE,
            );
        }
    } else {
        block.contents().fill(DEAD);
    }
    for dead in old {
        check_dead(&dead);
        release(&dead.block);
    }
}

fn check_dead(dead: &Dead) {
    if dead.block.watch == Watch::Pages {
        return;
    }
    let contents = dead.block.contents();
    if let Some(at) = contents.iter().position(|byte| *byte != DEAD) {
        violation!(
            UseAfterFree,
            "byte {at} of what was a {} was written to after it was freed {}",
            dead.block.describe(),
            by(dead.freed)
        );
    }
    dead.block.check_canaries();
}

fn release(block: &Block) {
    if block.watch == Watch::Pages {
        let (base, length) = block.mapping();
        // SAFETY: the mapping of this block, which is forgotten.
        unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(base), length) };
    } else {
        let (layout, front) = block.layout();
        // SAFETY: allocated with this layout, and forgotten.
        unsafe {
            dealloc(
                std::ptr::with_exposed_provenance_mut(block.address - front),
                layout,
            );
        };
    }
}

/// Looks at every canary, and at everything that was given back.
pub(crate) fn check_all() {
    let (live, dead): (Vec<Block>, Vec<Dead>) = {
        let heap = HEAP.lock();
        (
            heap.live.values().copied().collect(),
            heap.dead.values().copied().collect(),
        )
    };
    for block in &live {
        block.check_canaries();
    }
    for dead in &dead {
        check_dead(dead);
    }
}

/// What the driver should have given back.
pub(crate) fn leaks() -> Vec<Block> {
    let heap = HEAP.lock();
    heap.live
        .values()
        .filter(|block| block.kind.owned_by_driver())
        .copied()
        .collect()
}
