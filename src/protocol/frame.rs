//! Frames: a length of four bytes, a header, a body.
//!
//! A request's header holds key i16, version i16, correlation id i32 and client id (nullable string, never compact),
//! and in flexible versions tagged fields. An answer's header holds the correlation id and, in flexible versions of all
//! but ApiVersions, tagged fields.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::reader::Reader;
use super::{Api, ErrorCode, ProtocolError};

/// Bytes of the length before each frame.
pub const LENGTH_PREFIX_BYTES: usize = 4;

/// The header of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API asked for.
    pub api: Api,
    /// The version asked for; accepted, except that ApiVersions may come in any.
    pub version: i16,
    /// What the answer has to repeat.
    pub correlation_id: i32,
    /// How the client calls itself; damaged text is mended, as Java does it.
    pub client_id: Option<String>,
}

/// Checks the length before a frame and returns it.
pub const fn frame_bytes(prefix: [u8; LENGTH_PREFIX_BYTES], limit_bytes: usize) -> Result<usize, ProtocolError> {
    let length = i32::from_be_bytes(prefix);
    if length < 0 || length.cast_unsigned() as usize > limit_bytes {
        return Err(ProtocolError::FrameLength { length, limit: limit_bytes });
    }
    Ok(length.cast_unsigned() as usize)
}

/// Splits a frame, without its length, into header and body. The body shares the frame's memory.
///
/// Keys and versions that are not served are errors. ApiVersions alone passes in any version, since asking is how a
/// client learns what it may ask: answer with [`unsupported_api_versions`] what is not accepted.
pub fn split_request(mut frame: Bytes) -> Result<(RequestHeader, Bytes), ProtocolError> {
    let mut reader = Reader::new(&frame);
    let key = reader.int16("api_key")?;
    let version = reader.int16("api_version")?;
    let api = Api::from_key(key).ok_or(ProtocolError::UnknownApi { key, version })?;
    if !api.accepts(version) && api != Api::ApiVersions {
        return Err(ProtocolError::UnsupportedVersion { api, version });
    }
    let correlation_id = reader.int32("correlation_id")?;
    let client_id = match usize::try_from(reader.int16("client_id")?) {
        Ok(length) => Some(String::from_utf8_lossy(reader.take(length, "client_id")?).into_owned()),
        Err(_) => None,
    };
    if api.request_header_version(version) >= 2 {
        reader.skip_tagged_fields()?;
    }
    let header_bytes = frame.len() - reader.left();
    frame.advance(header_bytes);
    Ok((RequestHeader { api, version, correlation_id, client_id }, frame))
}

/// Splits an answer's frame, without its length, into what it says that it answers and its body, which shares the frame's
/// memory.
pub fn split_response(api: Api, version: i16, mut frame: Bytes) -> Result<(i32, Bytes), ProtocolError> {
    let mut reader = Reader::new(&frame);
    let correlation_id = reader.int32("correlation_id")?;
    if api.response_header_version(version) >= 1 {
        reader.skip_tagged_fields()?;
    }
    let header_bytes = frame.len() - reader.left();
    frame.advance(header_bytes);
    Ok((correlation_id, frame))
}

/// Starts an answer: room for the length, then the header. [`finish_response`] fills the length in.
pub(super) fn start_response(api: Api, version: i16, correlation_id: i32) -> BytesMut {
    let mut frame = BytesMut::with_capacity(256);
    frame.put_i32(0);
    frame.put_i32(correlation_id);
    if api.response_header_version(version) >= 1 {
        frame.put_u8(0);
    }
    frame
}

/// Writes the length of the whole frame, of which `more_bytes` follow elsewhere. Fails over 2 GiB.
pub(super) fn finish_response(frame: &mut BytesMut, more_bytes: usize) -> Option<()> {
    let length = i32::try_from(frame.len() - LENGTH_PREFIX_BYTES + more_bytes).ok()?;
    frame[..LENGTH_PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    Some(())
}

/// The answer to ApiVersions in a version that is not accepted: version 0, `UNSUPPORTED_VERSION`, and the versions of
/// ApiVersions itself, so that the client can ask again (KIP-511).
pub fn unsupported_api_versions(correlation_id: i32) -> Bytes {
    let versions = Api::ApiVersions.versions();
    let mut frame = start_response(Api::ApiVersions, 0, correlation_id);
    frame.put_i16(ErrorCode::UnsupportedVersion.code());
    frame.put_i32(1);
    frame.put_i16(Api::ApiVersions.key());
    frame.put_i16(*versions.start());
    frame.put_i16(*versions.end());
    finish_response(&mut frame, 0).expect("a frame of twenty bytes has a length");
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: i16, version: i16, rest: &[u8]) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_i32(7);
        frame.put_slice(rest);
        frame.freeze()
    }

    #[test]
    fn headers_of_both_kinds_are_split_from_the_body() {
        let (header, body) = split_request(request(3, 0, b"\0\x03abcbody")).unwrap();
        let expected =
            RequestHeader { api: Api::Metadata, version: 0, correlation_id: 7, client_id: Some("abc".to_owned()) };
        assert_eq!((header, &body[..]), (expected, &b"body"[..]));
        let (header, body) = split_request(request(3, 9, b"\xff\xff\x01\x05\x02hibody")).unwrap();
        assert_eq!((header.client_id, &body[..]), (None, &b"body"[..]));
        // Kafka mends client ids and takes any negative length for null.
        assert_eq!(split_request(request(3, 0, b"\0\x01\xff")).unwrap().0.client_id, Some("\u{fffd}".to_owned()));
        assert_eq!(split_request(request(3, 0, b"\xff\xfe")).unwrap().0.client_id, None);
    }

    #[test]
    fn headers_that_end_early_or_lie_are_refused() {
        let whole = request(3, 9, b"\0\x03abc\x01\x05\x02hi");
        for end in 0..whole.len() {
            assert!(matches!(split_request(whole.slice(..end)), Err(ProtocolError::Truncated { .. })), "{end}");
        }
        let lying = request(3, 9, b"\xff\xff\xff\xff\xff\xff\x0f");
        assert!(matches!(split_request(lying), Err(ProtocolError::Truncated { .. })));
    }

    #[test]
    fn only_api_versions_may_come_in_a_version_that_is_not_accepted() {
        assert_eq!(split_request(request(999, 0, b"")), Err(ProtocolError::UnknownApi { key: 999, version: 0 }));
        let refused = ProtocolError::UnsupportedVersion { api: Api::Produce, version: 2 };
        assert_eq!(split_request(request(0, 2, b"")), Err(refused));
        let (header, _) = split_request(request(18, 9, b"\0\0\0")).unwrap();
        assert_eq!((header.api, header.version), (Api::ApiVersions, 9));
        // What Apache Kafka 4.3.1 answered.
        let answer = b"\0\0\0\x10\0\0\0\x07\0\x23\0\0\0\x01\0\x12\0\0\0\x04";
        assert_eq!(unsupported_api_versions(7), &answer[..]);
    }

    #[test]
    fn frame_lengths_are_bounded() {
        assert_eq!(frame_bytes([0, 0, 1, 0], 256), Ok(256));
        assert_eq!(frame_bytes([0, 0, 1, 1], 256), Err(ProtocolError::FrameLength { length: 257, limit: 256 }));
        assert_eq!(frame_bytes([0xff; 4], 256), Err(ProtocolError::FrameLength { length: -1, limit: 256 }));
    }
}
