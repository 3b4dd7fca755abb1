//! Reading and writing big-endian words where bounds may fail.

/// The 16-bit word at `offset`.
pub(crate) fn word(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|word| u16::from_be_bytes(*word))
}

/// Writes `new` at `offset`; `None`, and nothing written, if it does not fit.
pub(crate) fn put(bytes: &mut [u8], offset: usize, new: &[u8]) -> Option<()> {
    let (place, _) = bytes.get_mut(offset..)?.split_at_mut_checked(new.len())?;
    place.copy_from_slice(new);
    Some(())
}
