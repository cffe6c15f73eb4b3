//! Reads the primitive types of the Kafka protocol from bytes that may say anything.

use kafka_protocol::protocol::StrBytes;

use super::ProtocolError;

/// Bytes not yet read. Every read names its field, for the error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, bytes: usize, field: &'static str) -> Result<&'a [u8], ProtocolError> {
        let available = self.rest.len();
        let (taken, rest) =
            self.rest.split_at_checked(bytes).ok_or(ProtocolError::Truncated { field, needed: bytes, available })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ProtocolError> {
        let available = self.rest.len();
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(ProtocolError::Truncated { field, needed: N, available })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn int8(&mut self, field: &'static str) -> Result<i8, ProtocolError> {
        self.array(field).map(i8::from_be_bytes)
    }

    pub(super) fn int16(&mut self, field: &'static str) -> Result<i16, ProtocolError> {
        self.array(field).map(i16::from_be_bytes)
    }

    pub(super) fn int32(&mut self, field: &'static str) -> Result<i32, ProtocolError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn int64(&mut self, field: &'static str) -> Result<i64, ProtocolError> {
        self.array(field).map(i64::from_be_bytes)
    }

    pub(super) fn uuid(&mut self, field: &'static str) -> Result<uuid::Uuid, ProtocolError> {
        self.array(field).map(uuid::Uuid::from_bytes)
    }

    /// An unsigned varint of at most five bytes and 32 bits.
    pub(super) fn varint(&mut self, field: &'static str) -> Result<u32, ProtocolError> {
        let mut value = 0_u64;
        for index in 0..5 {
            let [byte] = self.array(field)?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| ProtocolError::Malformed { field, value: value as i64 });
            }
        }
        Err(ProtocolError::Malformed { field, value: value as i64 })
    }

    /// A length or count that a varint carries plus one; `None` is null.
    pub(super) fn compact_length(&mut self, field: &'static str) -> Result<Option<usize>, ProtocolError> {
        Ok(self.varint(field)?.checked_sub(1).map(|length| length as usize))
    }

    /// The count of a compact array that is not null.
    pub(super) fn compact_count(&mut self, field: &'static str) -> Result<usize, ProtocolError> {
        self.compact_length(field)?.ok_or(ProtocolError::Malformed { field, value: -1 })
    }

    /// Compact text that may be null.
    pub(super) fn nullable_text(&mut self, field: &'static str) -> Result<Option<StrBytes>, ProtocolError> {
        let Some(length) = self.compact_length(field)? else { return Ok(None) };
        let bytes = self.take(length, field)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|error| ProtocolError::Malformed { field, value: error.valid_up_to() as i64 })?;
        Ok(Some(StrBytes::from_string(text.to_owned())))
    }

    /// Compact text that is not null.
    pub(super) fn text(&mut self, field: &'static str) -> Result<StrBytes, ProtocolError> {
        self.nullable_text(field)?.ok_or(ProtocolError::Malformed { field, value: -1 })
    }

    /// Passes over tagged fields, none of which the caller knows.
    pub(super) fn skip_tagged_fields(&mut self) -> Result<(), ProtocolError> {
        const FIELD: &str = "tagged_fields";
        for _ in 0..self.varint(FIELD)? {
            self.varint(FIELD)?;
            let size = self.varint(FIELD)? as usize;
            self.take(size, FIELD)?;
        }
        Ok(())
    }
}
