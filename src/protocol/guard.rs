//! Walks a request, or an answer to the client, before it is decoded, so that what it claims about itself is true by then.
//!
//! The protocol crate's decoders reserve memory for as many elements as a count on the wire says
//! (`Vec::with_capacity`), and keep every unknown tagged field in a map: forty bytes could claim two thousand million
//! elements, and abort the process. The walk follows the message's fields over the bytes, in time proportional to the
//! bytes that are there, allocates nothing, and refuses whatever a decoder could be led astray by: lengths and counts
//! beyond the frame, too many elements in all, strings that are too long, tagged fields whose content is not as long as they
//! say.

use super::answer_schema::answer_fields;
use super::reader::Reader;
use super::schema::{Field, Kind};
use super::{Api, ProtocolError};

/// Array elements and tagged fields that one request may hold, all levels together. With [`ELEMENT_BYTES`] each this bounds
/// what a request costs in memory to about 50 MiB beside its frame. A full fetch or commit of 200,000 partitions fits.
pub const MAX_REQUEST_ELEMENTS: usize = 1 << 18;

/// What a decoded element takes in memory, at most.
pub const ELEMENT_BYTES: usize = 200;

/// The same of an answer. What a client is told of half a million partitions with three replicas each fits.
pub const MAX_ANSWER_ELEMENTS: usize = 1 << 22;

/// The longest string. Flexible versions could say more, but no older one could be told of it (Apache Kafka refuses it, too).
const MAX_STRING_BYTES: usize = i16::MAX as usize;

const TAGGED_FIELDS: &str = "tagged_fields";

/// Checks the body of a request, and counts its elements; bytes after its last field are not looked at, as in Kafka.
pub fn check_request(api: Api, version: i16, body: &[u8]) -> Result<usize, ProtocolError> {
    let mut walk = Walk::of(api, version, body, MAX_REQUEST_ELEMENTS);
    walk.structure(api.request_fields())?;
    Ok(MAX_REQUEST_ELEMENTS - walk.elements_left)
}

/// Checks the body of an answer, of an API whose answers are read here.
pub(super) fn check_answer(api: Api, version: i16, body: &[u8]) -> Result<(), ProtocolError> {
    let fields = answer_fields(api).ok_or(ProtocolError::Undecodable { api, version })?;
    Walk::of(api, version, body, MAX_ANSWER_ELEMENTS).structure(fields)
}

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    elements_limit: usize,
    elements_left: usize,
}

impl<'a> Walk<'a> {
    const fn of(api: Api, version: i16, body: &'a [u8], elements_limit: usize) -> Self {
        let (reader, flexible) = (Reader::new(body), api.is_flexible(version));
        Self { reader, version, flexible, elements_limit, elements_left: elements_limit }
    }

    fn structure(&mut self, fields: &'static [Field]) -> Result<(), ProtocolError> {
        for field in fields {
            if field.tag.is_none() && field.is_in(self.version) {
                self.value(field.name, &field.kind)?;
            }
        }
        if self.flexible { self.tagged_fields(fields) } else { Ok(()) }
    }

    fn value(&mut self, name: &'static str, kind: &Kind) -> Result<(), ProtocolError> {
        match kind {
            Kind::Fixed(bytes) => self.reader.take(*bytes, name).map(|_| ()),
            Kind::String => {
                let length = self.length(name, true)?.unwrap_or(0);
                if length > MAX_STRING_BYTES {
                    return Err(ProtocolError::Malformed { field: name, value: length as i64 });
                }
                self.reader.take(length, name).map(|_| ())
            }
            Kind::Bytes => {
                let length = self.length(name, false)?.unwrap_or(0);
                self.reader.take(length, name).map(|_| ())
            }
            Kind::Array(fields) => {
                for _ in 0..self.count(name)? {
                    self.structure(fields)?;
                }
                Ok(())
            }
            Kind::Elements(element) => {
                for _ in 0..self.count(name)? {
                    self.value(name, element)?;
                }
                Ok(())
            }
            Kind::Struct(fields) => self.structure(fields),
            Kind::Nullable(fields) => match self.reader.int8(name)? {
                -1 => Ok(()),
                1 => self.structure(fields),
                other => Err(ProtocolError::Malformed { field: name, value: i64::from(other) }),
            },
        }
    }

    /// A length or count; `None` is null. Only strings count in 16 bits, and only in inflexible versions.
    fn length(&mut self, name: &'static str, short: bool) -> Result<Option<usize>, ProtocolError> {
        if self.flexible {
            return self.reader.compact_length(name);
        }
        let length = if short { i32::from(self.reader.int16(name)?) } else { self.reader.int32(name)? };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length)
                .map(Some)
                .map_err(|_| ProtocolError::Malformed { field: name, value: i64::from(length) }),
        }
    }

    /// A count of elements, each of which takes a byte at least.
    fn count(&mut self, name: &'static str) -> Result<usize, ProtocolError> {
        let count = self.length(name, false)?.unwrap_or(0);
        self.spend(count, name)?;
        Ok(count)
    }

    fn spend(&mut self, count: usize, name: &'static str) -> Result<(), ProtocolError> {
        let available = self.reader.left();
        if count > available {
            return Err(ProtocolError::Truncated { field: name, needed: count, available });
        }
        self.elements_left = self
            .elements_left
            .checked_sub(count)
            .ok_or(ProtocolError::TooManyElements { field: name, limit: self.elements_limit })?;
        Ok(())
    }

    /// The tagged fields of a structure. A known one must be exactly as long as it says: the decoder reads on past its
    /// end.
    fn tagged_fields(&mut self, fields: &'static [Field]) -> Result<(), ProtocolError> {
        let count = self.reader.varint(TAGGED_FIELDS)? as usize;
        self.spend(count, TAGGED_FIELDS)?;
        for _ in 0..count {
            let tag = self.reader.varint(TAGGED_FIELDS)?;
            let size = self.reader.varint(TAGGED_FIELDS)? as usize;
            let content = self.reader.take(size, TAGGED_FIELDS)?;
            let known = fields.iter().find(|field| field.tag == Some(tag) && field.is_in(self.version));
            let Some(field) = known else { continue };
            let after = std::mem::replace(&mut self.reader, Reader::new(content));
            self.value(field.name, &field.kind)?;
            if self.reader.left() != 0 {
                return Err(ProtocolError::Malformed { field: field.name, value: size as i64 });
            }
            self.reader = after;
        }
        Ok(())
    }
}
