//! `ExAllocatePool2` and `ExFreePoolWithTag`.

use std::collections::BTreeMap;

use kext_nt_sys::ex::{
    POOL_FLAG_NON_PAGED, POOL_FLAG_NON_PAGED_EXECUTE, POOL_FLAG_PAGED, POOL_FLAG_RAISE_ON_FAILURE,
    POOL_FLAG_UNINITIALIZED, POOL_FLAGS,
};
use kext_nt_sys::ke::APC_LEVEL;
use kext_nt_sys::types::PVOID;

use crate::check::violation;
use crate::cpu;
use crate::dispatcher;
use crate::exports::implements;
use crate::heap::{self, Kind, tag_text};
use crate::locks;
use crate::observe;

implements! {
    [null] ex::ExAllocatePool2 = allocate;
    ex::ExFreePoolWithTag = free;
}

extern "win64" fn allocate(flags: POOL_FLAGS, size: usize, tag: u32) -> PVOID {
    if tag == 0 || size == 0 {
        violation!(
            Pool,
            "an allocation of {size} bytes with tag {}",
            tag_text(tag)
        );
    }
    if flags & POOL_FLAG_NON_PAGED_EXECUTE != 0 {
        violation!(Pool, "memory that can be executed, tag {}", tag_text(tag));
    }
    if flags & POOL_FLAG_RAISE_ON_FAILURE != 0 {
        violation!(
            Pool,
            "an allocation that raises an exception, tag {}",
            tag_text(tag)
        );
    }
    let paged = flags & POOL_FLAG_PAGED != 0;
    if paged == (flags & POOL_FLAG_NON_PAGED != 0) {
        violation!(Pool, "flags {flags:#x} do not say which pool");
    }
    if paged && cpu::irql() > APC_LEVEL {
        violation!(
            Irql,
            "paged memory is allocated at {}",
            cpu::irql_name(cpu::irql())
        );
    }
    let memory = heap::allocate(Kind::Pool { tag, paged }, size, observe::site());
    if flags & POOL_FLAG_UNINITIALIZED == 0 {
        // SAFETY: the block was just allocated with this size.
        unsafe { memory.write_bytes(0, size) };
    }
    memory.cast()
}

extern "win64" fn free(memory: PVOID, tag: u32) {
    let address = memory.expose_provenance();
    heap::free(address, "ExFreePoolWithTag", observe::site(), |block| {
        let Kind::Pool { tag: own, paged } = block.kind else {
            return Some("it is not from the pool".into());
        };
        if tag != 0 && tag != own {
            return Some(format!("the tag {} is not its own", tag_text(tag)));
        }
        if paged && cpu::irql() > APC_LEVEL {
            return Some("paged memory is freed at DISPATCH_LEVEL".into());
        }
        dispatcher::in_use(block.address, block.size)
            .or_else(|| locks::in_use(block.address, block.size))
            .map(|what| format!("{what} is in it"))
    });
}

/// Live pool blocks by tag: how many, and how many bytes.
pub(crate) fn by_tag() -> BTreeMap<String, (usize, usize)> {
    let mut tags = BTreeMap::new();
    for block in heap::leaks() {
        if let Kind::Pool { tag, .. } = block.kind {
            let entry: &mut (usize, usize) = tags.entry(tag_text(tag)).or_default();
            entry.0 += 1;
            entry.1 += block.size;
        }
    }
    tags
}
