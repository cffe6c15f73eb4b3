//! Zig-zag variable-length integers (Protocol Buffers encoding), as records use them.

use super::RecordError;

/// Reads a zig-zag varint of at most five bytes; returns it and the bytes used.
pub(super) fn read_varint(bytes: &[u8]) -> Result<(i32, usize), RecordError> {
    let (raw, used) = read_unsigned(bytes, 5)?;
    let raw = u32::try_from(raw).map_err(|_| malformed())?;
    Ok(((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed(), used))
}

/// Reads a zig-zag varlong of at most ten bytes; returns it and the bytes used.
pub(super) fn read_varlong(bytes: &[u8]) -> Result<(i64, usize), RecordError> {
    let (raw, used) = read_unsigned(bytes, 10)?;
    Ok(((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed(), used))
}

fn read_unsigned(bytes: &[u8], longest: usize) -> Result<(u64, usize), RecordError> {
    // Most numbers in a record are lengths and deltas of one byte.
    if let Some(&byte) = bytes.first()
        && byte < 0x80
    {
        return Ok((u64::from(byte), 1));
    }
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(longest).enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * u32::try_from(index).expect("at most ten bytes");
        if shift == 63 && bits > 1 {
            return Err(malformed());
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    if bytes.len() >= longest {
        return Err(malformed());
    }
    Err(RecordError::Truncated { needed: bytes.len() + 1, available: bytes.len() })
}

fn malformed() -> RecordError {
    RecordError::Malformed { what: "variable-length integer is too long", value: 0 }
}

/// Bytes that [`write_varint`] takes.
pub(super) const fn varint_bytes(value: i32) -> usize {
    varlong_bytes(value as i64)
}

/// Bytes that [`write_varlong`] takes.
pub(super) const fn varlong_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

const fn zigzag(value: i64) -> u64 {
    (value << 1).cast_unsigned() ^ (value >> 63).cast_unsigned()
}

/// Appends a zig-zag varint.
pub(super) fn write_varint(out: &mut Vec<u8>, value: i32) {
    write_varlong(out, i64::from(value));
}

/// Appends a zig-zag varlong.
pub(super) fn write_varlong(out: &mut Vec<u8>, value: i64) {
    let mut raw = zigzag(value);
    while raw >= 0x80 {
        out.push((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_as_written() {
        for value in [0, -1, 1, 63, -64, 64, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            write_varlong(&mut out, value);
            assert_eq!(varlong_bytes(value), out.len());
            assert_eq!(read_varlong(&out), Ok((value, out.len())));
            if let Ok(small) = i32::try_from(value) {
                assert_eq!(read_varint(&out), Ok((small, out.len())));
            }
        }
    }

    #[test]
    fn overlong_and_truncated_numbers_are_refused() {
        assert!(matches!(read_varint(&[0x80; 5]), Err(RecordError::Malformed { .. })));
        assert!(matches!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0x7f]), Err(RecordError::Malformed { .. })));
        assert!(matches!(read_varlong(&[0xff; 10]), Err(RecordError::Malformed { .. })));
        assert!(matches!(read_varlong(&[0x80, 0x80]), Err(RecordError::Truncated { .. })));
    }
}
