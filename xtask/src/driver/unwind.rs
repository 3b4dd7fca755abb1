//! How much stack each function of an image takes, read from its unwind tables.
//!
//! On x64 every function that moves the stack pointer has an entry in `.pdata`, because the kernel
//! could not walk the stack without it. So this sees all of them, in the file that ships, whatever
//! compiler made it. The form is that of "x64 exception handling" in Microsoft's documentation.

/// A function, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Where it begins, from the start of the image.
    pub(super) begin: u32,
    /// Bytes: what is pushed and allocated, and the return address.
    pub(super) bytes: u64,
}

const ENTRY: usize = 12;
const RETURN_ADDRESS: u64 = 8;

const CHAINED: u8 = 4;
/// A chain is as deep as a function has parts; more is a table gone wrong.
const MAX_CHAIN: u32 = 32;

/// The frames of all functions in a table. `at` gives the bytes of the image from an address on.
pub(super) fn frames<'data>(
    table: &[u8],
    at: impl Fn(u32) -> Option<&'data [u8]>,
) -> Result<Vec<Frame>, String> {
    table
        .chunks_exact(ENTRY)
        .filter(|entry| entry.iter().any(|byte| *byte != 0))
        .map(|entry| {
            let begin = word(entry, 0).unwrap_or(0);
            allocated(entry, &at, 0)
                .map(|bytes| Frame {
                    begin,
                    bytes: bytes + RETURN_ADDRESS,
                })
                .map_err(|why| format!("unwind data of the function at {begin:#x}: {why}"))
        })
        .collect()
}

/// What the prologue of one entry pushes and allocates, and the entries that it continues.
fn allocated<'data>(
    entry: &[u8],
    at: &impl Fn(u32) -> Option<&'data [u8]>,
    depth: u32,
) -> Result<u64, String> {
    if depth > MAX_CHAIN {
        return Err("chained in a circle".into());
    }
    let address = word(entry, 8).ok_or("cut short")?;
    // An odd address is that of another entry instead.
    if address & 1 == 1 {
        let other = at(address - 1).ok_or("points outside the image")?;
        return allocated(other, at, depth + 1);
    }
    let info = at(address).ok_or("points outside the image")?;
    let &[head, _, count, _, ref rest @ ..] = info else {
        return Err("cut short".into());
    };
    let slots: Vec<u16> = rest
        .chunks_exact(2)
        .take(usize::from(count))
        .map(|slot| u16::from_le_bytes([slot[0], slot[1]]))
        .collect();
    if slots.len() != usize::from(count) {
        return Err("cut short".into());
    }
    let mut bytes = codes(&slots)?;
    if (head >> 3) & CHAINED != 0 {
        let end = usize::from(count).next_multiple_of(2) * 2;
        let primary = rest.get(end..).ok_or("cut short")?;
        bytes += allocated(primary, at, depth + 1)?;
    }
    Ok(bytes)
}

/// The sum of what the codes of a prologue take.
fn codes(mut slots: &[u16]) -> Result<u64, String> {
    let mut bytes = 0;
    while let Some(&code) = slots.first() {
        let operation = (code >> 8) & 0xf;
        let info = code >> 12;
        let operand = |index: usize| slots.get(index).map(|slot| u64::from(*slot));
        let (used, taken) = match (operation, info) {
            (0, _) => (1, Some(8)),                         // push a register
            (1, 0) => (2, operand(1).map(|size| size * 8)), // allocate
            (1, 1) => (
                3,
                operand(1)
                    .zip(operand(2))
                    .map(|(low, high)| low | high << 16),
            ),
            (2, _) => (1, Some(u64::from(info) * 8 + 8)), // allocate a little
            (3 | 6, _) => (1, Some(0)),                   // frame pointer, epilogue
            (4 | 8, _) => (2, Some(0)),                   // save a register
            (5 | 9, _) => (3, Some(0)),                   // save it far away
            (10, _) => (1, Some(if info == 0 { 40 } else { 48 })), // interrupt
            _ => return Err(format!("unknown code {code:#06x}")),
        };
        bytes += taken.ok_or("cut short")?;
        slots = slots.get(used..).ok_or("cut short")?;
    }
    Ok(bytes)
}

/// A little-endian number.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSH: u16 = 0x0000;
    const FRAME_POINTER: u16 = 0x0300;

    fn allocate_little(bytes: u16) -> u16 {
        0x0200 | ((bytes - 8) / 8) << 12
    }

    fn info(flags: u8, codes: &[u16]) -> Vec<u8> {
        let mut bytes = vec![1 | flags << 3, 0, codes.len() as u8, 0];
        bytes.extend(codes.iter().flat_map(|code| code.to_le_bytes()));
        if codes.len() % 2 == 1 {
            bytes.extend([0; 2]);
        }
        bytes
    }

    fn entry(begin: u32, unwind: u32) -> Vec<u8> {
        [begin, begin + 16, unwind]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// The frames of a table, whose unwind data lie at address 0x100.
    fn read(table: &[u8], data: &[u8]) -> Result<Vec<u64>, String> {
        let frames = frames(table, |address| {
            data.get(usize::try_from(address).ok()?.checked_sub(0x100)?..)
        })?;
        Ok(frames.iter().map(|frame| frame.bytes).collect())
    }

    #[test]
    fn pushes_and_allocations_are_added() {
        let codes = [allocate_little(0x28), FRAME_POINTER, PUSH, PUSH];
        assert_eq!(
            read(&entry(0, 0x100), &info(0, &codes)),
            Ok(vec![0x28 + 16 + 8])
        );
    }

    #[test]
    fn both_forms_of_a_large_allocation_are_understood() {
        let scaled = info(0, &[0x0100, 0x1000 / 8]);
        assert_eq!(read(&entry(0, 0x100), &scaled), Ok(vec![0x1008]));
        let whole = info(0, &[0x1100, 0x0008, 0x0002]);
        assert_eq!(read(&entry(0, 0x100), &whole), Ok(vec![0x0002_0010]));
    }

    #[test]
    fn saved_registers_take_nothing_of_their_own() {
        let codes = [0x6800, 0x0001, 0x6900, 0x0000, 0x0001, 0x3400, 0x0004, PUSH];
        assert_eq!(read(&entry(0, 0x100), &info(0, &codes)), Ok(vec![16]));
    }

    #[test]
    fn a_part_of_a_function_stands_on_the_frame_of_the_whole() {
        let mut data = info(0, &[allocate_little(0x40)]);
        let part = 0x100 + data.len() as u32;
        data.extend(info(CHAINED, &[allocate_little(0x20), PUSH, PUSH]));
        data.extend(entry(0, 0x100));
        assert_eq!(
            read(&entry(0x50, part), &data),
            Ok(vec![0x40 + 0x20 + 16 + 8])
        );
    }

    #[test]
    fn bad_tables_are_errors() {
        let table = entry(0, 0x100);
        assert!(read(&table, &[]).is_err());
        assert!(read(&table, &[1, 0, 9, 0]).is_err());
        assert!(read(&table, &info(0, &[0x0700])).is_err());
        assert!(read(&table, &info(0, &[0x0100])).is_err());
        let mut circle = info(CHAINED, &[]);
        circle.extend(&table);
        assert_eq!(
            read(&table, &circle),
            Err("unwind data of the function at 0x0: chained in a circle".into())
        );
    }
}
