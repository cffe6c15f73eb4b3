//! The Kafka wire: frames, the one table of APIs and versions, error codes, and messages in and out.
//!
//! Bytes to values and back, with no IO. Callers are `server` and the command line's client. Whatever a frame says,
//! decoding it takes time and memory in proportion to its bytes and panics on none; see `guard`. A record set passes
//! through untouched, as a slice of the request on the way in and as shared pieces ([`fetch_response`]) on the way out.
//!
//! To serve an API: [`split_request`] gives its header and body, [`decode_request`] the message, and
//! [`encode_response`] takes the answer. A client takes it apart with [`split_response`] and [`decode_response`].

mod answer_schema;
mod api;
mod error;
mod error_code;
pub mod fetch_response;
mod frame;
mod guard;
mod messages;
mod newer;
mod reader;
mod schema;

#[cfg(test)]
mod tests;

pub use api::Api;
pub use error::ProtocolError;
pub use error_code::ErrorCode;
pub use frame::{
    LENGTH_PREFIX_BYTES, RequestHeader, frame_bytes, split_request, split_response, unsupported_api_versions,
};
pub use guard::{ELEMENT_BYTES, MAX_ANSWER_ELEMENTS, MAX_REQUEST_ELEMENTS, check_request};
pub use messages::{ApiRequest, decode_request, decode_response, encode_response};
