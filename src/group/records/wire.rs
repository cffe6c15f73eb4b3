//! The primitive types of the Kafka protocol, as the values of `__consumer_offsets` use them.
//!
//! Versions before the first flexible one write lengths as fixed integers, later ones as unsigned varints plus one
//! (KIP-482). One reader and one writer do both, told which by `flexible`.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::group::FormatError;

/// Reads a value front to back; every length is checked against the bytes that are left.
pub(super) struct Reader {
    pub(super) rest: Bytes,
    pub(super) flexible: bool,
}

impl Reader {
    pub(super) const fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, flexible: false }
    }

    fn need(&self, needed: usize) -> Result<(), FormatError> {
        if self.rest.len() < needed {
            return Err(FormatError::Truncated { needed, available: self.rest.len() });
        }
        Ok(())
    }

    pub(super) fn int16(&mut self) -> Result<i16, FormatError> {
        self.need(2)?;
        Ok(self.rest.get_i16())
    }

    pub(super) fn int32(&mut self) -> Result<i32, FormatError> {
        self.need(4)?;
        Ok(self.rest.get_i32())
    }

    pub(super) fn int64(&mut self) -> Result<i64, FormatError> {
        self.need(8)?;
        Ok(self.rest.get_i64())
    }

    pub(super) fn take(&mut self, length: usize) -> Result<Bytes, FormatError> {
        self.need(length)?;
        Ok(self.rest.split_to(length))
    }

    /// An unsigned varint of at most 32 bits.
    pub(super) fn varint(&mut self) -> Result<u32, FormatError> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            self.need(1)?;
            let byte = self.rest.get_u8();
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let too_large = FormatError::Malformed { what: "variable-length integer is too large" };
                return u32::try_from(value).map_err(|_| too_large);
            }
        }
        Err(FormatError::Malformed { what: "variable-length integer is too long" })
    }

    /// The length of a string, byte array or array; `None` is null.
    fn length(
        &mut self,
        fixed: impl FnOnce(&mut Self) -> Result<i32, FormatError>,
    ) -> Result<Option<usize>, FormatError> {
        let length = if self.flexible { i64::from(self.varint()?) - 1 } else { i64::from(fixed(self)?) };
        if length == -1 {
            return Ok(None);
        }
        usize::try_from(length).map(Some).map_err(|_| FormatError::Malformed { what: "length is negative" })
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<Arc<str>>, FormatError> {
        let Some(length) = self.length(|reader| reader.int16().map(i32::from))? else { return Ok(None) };
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| FormatError::Malformed { what: "string is not UTF-8" })?;
        Ok(Some(Arc::from(text)))
    }

    pub(super) fn string(&mut self) -> Result<Arc<str>, FormatError> {
        self.nullable_string()?.ok_or(FormatError::Malformed { what: "string is null" })
    }

    pub(super) fn byte_array(&mut self) -> Result<Bytes, FormatError> {
        let length = self.length(Self::int32)?.ok_or(FormatError::Malformed { what: "bytes are null" })?;
        self.take(length)
    }

    /// Number of elements of an array, each of which takes at least `element_bytes`: bounds a lying count.
    pub(super) fn array(&mut self, element_bytes: usize) -> Result<usize, FormatError> {
        let count = self.length(Self::int32)?.ok_or(FormatError::Malformed { what: "array is null" })?;
        self.need(count.saturating_mul(element_bytes))?;
        Ok(count)
    }

    /// Hands every tagged field to `field`, which ignores what it does not know; none before the flexible versions.
    pub(super) fn tagged_fields(
        &mut self,
        mut field: impl FnMut(u32, Bytes) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let length = self.varint()? as usize;
            field(tag, self.take(length)?)?;
        }
        Ok(())
    }

    /// Fails when bytes are left over.
    pub(super) fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FormatError::Malformed { what: "bytes left over" }) }
    }
}

/// Writes a value front to back.
pub(super) struct Writer {
    pub(super) out: BytesMut,
    flexible: bool,
}

impl Writer {
    pub(super) fn new(version: i16, flexible: bool) -> Self {
        let mut out = BytesMut::new();
        out.put_i16(version);
        Self { out, flexible }
    }

    pub(super) fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    /// A string, which is shorter than 32 KiB: it came in a request whose strings are.
    pub(super) fn string(&mut self, text: &str) {
        let length = i16::try_from(text.len()).expect("a string of the protocol is shorter than 32 KiB");
        if self.flexible {
            self.varint(u32::from(length.cast_unsigned()) + 1);
        } else {
            self.out.put_i16(length);
        }
        self.out.put_slice(text.as_bytes());
    }

    pub(super) fn nullable_string(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.string(text),
            None if self.flexible => self.varint(0),
            None => self.out.put_i16(-1),
        }
    }

    pub(super) fn byte_array(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.out.put_slice(bytes);
    }

    /// Number of elements of an array, or length of a byte array.
    pub(super) fn count(&mut self, count: usize) {
        let count = i32::try_from(count).expect("what came in a request is smaller than 2 GiB");
        if self.flexible {
            self.varint(count.cast_unsigned() + 1);
        } else {
            self.out.put_i32(count);
        }
    }

    pub(super) fn finish(self) -> Bytes {
        self.out.freeze()
    }
}
