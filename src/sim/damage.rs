//! What a bad disk, or whoever else may write where we read, makes of bytes: decoders are held to it.

/// These bytes cut short at every length, and with every one of them changed by `mask`, which is not zero.
pub(crate) fn damaged(bytes: &[u8], mask: u8) -> impl Iterator<Item = Vec<u8>> {
    let cut = (0..bytes.len()).map(move |length| bytes[..length].to_vec());
    let changed = (0..bytes.len()).map(move |at| {
        let mut changed = bytes.to_vec();
        changed[at] ^= mask;
        changed
    });
    cut.chain(changed)
}
