//! The driver's frames on a stack, from the unwind table of its image.

use crate::image::{self, Image};

const MOST: usize = 24;
const CHAINED: u8 = 4;

/// Return addresses, the innermost first, as far as they are in images.
pub(crate) fn frames(from: usize, stack: usize) -> Vec<usize> {
    let mut frames = Vec::new();
    let (mut address, mut stack) = (from, stack);
    while frames.len() < MOST {
        let Some(image) = image::containing(address) else {
            break;
        };
        frames.push(address);
        let Some(size) = frame_size(image, address - image.base) else {
            break;
        };
        address = read_word(stack + size);
        stack += size + 8;
    }
    frames
}

/// What the function around an address has taken of the stack; nothing where that is not fixed.
fn frame_size(image: &Image, rva: usize) -> Option<usize> {
    let (table, length) = image.unwind;
    let entry = |index: usize| {
        let at = image.base + table + index * 12;
        [
            read_u32(at) as usize,
            read_u32(at + 4) as usize,
            read_u32(at + 8) as usize,
        ]
    };
    let (mut low, mut high) = (0, length / 12);
    while low < high {
        let middle = usize::midpoint(low, high);
        let [begin, end, info] = entry(middle);
        if rva < begin {
            high = middle;
        } else if rva >= end {
            low = middle + 1;
        } else {
            return codes(image, info, 0);
        }
    }
    // A leaf takes nothing.
    Some(0)
}

fn codes(image: &Image, info: usize, depth: u32) -> Option<usize> {
    if depth > 8 || info + 4 > image.size {
        return None;
    }
    let at = image.base + info;
    let byte = |offset: usize| (read_u32((at + offset) & !3) >> (8 * ((at + offset) % 4))) as u8;
    let slot =
        |index: usize| usize::from(byte(4 + index * 2)) | usize::from(byte(5 + index * 2)) << 8;
    let count = usize::from(byte(2));
    let mut size = 0;
    let mut index = 0;
    while index < count {
        let code = slot(index);
        let operand = code >> 12;
        let (used, taken) = match (code >> 8) & 0xf {
            0 => (1, 8),
            1 if operand == 0 => (2, slot(index + 1) * 8),
            1 => (3, slot(index + 1) | slot(index + 2) << 16),
            2 => (1, operand * 8 + 8),
            3 | 6 => (1, 0),
            4 | 8 => (2, 0),
            5 | 9 => (3, 0),
            _ => return None,
        };
        size += taken;
        index += used;
    }
    if (byte(0) >> 3) & CHAINED != 0 {
        let next = 4 + count.next_multiple_of(2) * 2;
        let primary = read_u32(at + next + 8) as usize;
        size += codes(image, primary, depth + 1)?;
    }
    Some(size)
}

fn read_u32(address: usize) -> u32 {
    // SAFETY: callers stay inside an image, whose tables are readable.
    unsafe { std::ptr::with_exposed_provenance::<u32>(address).read_unaligned() }
}

fn read_word(address: usize) -> usize {
    // SAFETY: the address is on the stack of this thread, above a frame that is there.
    unsafe { std::ptr::with_exposed_provenance::<usize>(address).read_unaligned() }
}
