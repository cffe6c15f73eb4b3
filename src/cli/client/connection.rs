//! One connection to one broker: frames, versions, and a time limit on every answer.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader};
use kafka_protocol::protocol::{Encodable, StrBytes, VersionRange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ClientError;
use crate::protocol::{ApiRequest, decode_response, split_response};
use crate::runtime::net::{Net, Stream};

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// `ApiVersions` 3 is answered in version 0 by a broker that does not know it (KIP-511).
const API_VERSIONS_VERSION: i16 = 3;
const UNSUPPORTED_VERSION: i16 = 35;
const CLIENT_ID: &str = "alluvium";

/// A connection on which one request at a time is under way.
pub struct Connection {
    address: String,
    stream: Box<dyn Stream>,
    versions: BTreeMap<i16, VersionRange>,
    correlation_id: i32,
    limit: Duration,
}

impl Connection {
    /// Connects to `host:port` and learns which versions the broker supports; each step may take `limit`.
    pub async fn open(net: &dyn Net, address: &str, limit: Duration) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { address: address.to_owned(), source };
        let connecting = tokio::time::timeout(limit, net.connect(address)).await;
        let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
        let versions = BTreeMap::new();
        let mut connection = Self { address: address.to_owned(), stream, versions, correlation_id: 0, limit };
        connection.learn_versions().await?;
        Ok(connection)
    }

    async fn learn_versions(&mut self) -> Result<(), ClientError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("alluvium"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer = self.exchange(&request, API_VERSIONS_VERSION, Duration::ZERO).await?;
        let refused = answer.len() >= 2 && answer[..2] == UNSUPPORTED_VERSION.to_be_bytes();
        let version = if refused { 0 } else { API_VERSIONS_VERSION };
        let answer = decode_response::<ApiVersionsRequest>(version, answer);
        let answer = answer.map_err(|error| self.malformed("ApiVersions", error))?;
        let range = |api: &kafka_protocol::messages::api_versions_response::ApiVersion| {
            (api.api_key, VersionRange { min: api.min_version, max: api.max_version })
        };
        self.versions = answer.api_keys.iter().map(range).collect();
        Ok(())
    }

    /// The newest version of a request that both sides know, no newer than `newest`; `None` when there is none.
    pub fn version<R: ApiRequest>(&self, newest: i16) -> Option<i16> {
        let theirs = self.versions.get(&R::KEY)?;
        let common = theirs.intersect(&R::VERSIONS);
        let version = common.max.min(newest);
        (version >= common.min).then_some(version)
    }

    /// Asks and waits for the answer, in the newest common version.
    pub async fn send<R: ApiRequest>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        self.send_at_most(request, i16::MAX, Duration::ZERO).await
    }

    /// Asks in a version no newer than `newest`, and allows the broker `patience` on top of the usual limit.
    pub async fn send_at_most<R: ApiRequest>(
        &mut self,
        request: &R,
        newest: i16,
        patience: Duration,
    ) -> Result<R::Response, ClientError> {
        let api = R::API.name();
        let Some(version) = self.version::<R>(newest) else {
            return Err(ClientError::Unsupported { address: self.address.clone(), api });
        };
        let answer = self.exchange(request, version, patience).await?;
        decode_response::<R>(version, answer).map_err(|error| self.malformed(api, error))
    }

    /// Sends without expecting an answer, as a produce request with `acks=0` is sent.
    pub async fn send_only<R: ApiRequest>(&mut self, request: &R, newest: i16) -> Result<(), ClientError> {
        let api = R::API.name();
        let Some(version) = self.version::<R>(newest) else {
            return Err(ClientError::Unsupported { address: self.address.clone(), api });
        };
        let frame = self.frame(request, version).map_err(|error| self.malformed(api, error))?;
        self.stream.write_all(&frame).await.map_err(|source| self.closed(api, source))
    }

    /// One request and the body of its answer.
    async fn exchange<R: ApiRequest>(
        &mut self,
        request: &R,
        version: i16,
        patience: Duration,
    ) -> Result<Bytes, ClientError> {
        let api = R::API.name();
        let frame = self.frame(request, version).map_err(|error| self.malformed(api, error))?;
        let limit = self.limit + patience;
        let exchange = async {
            self.stream.write_all(&frame).await?;
            read_frame(&mut self.stream).await
        };
        let answer = match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer.map_err(|source| self.closed(api, source))?,
            Err(_) => return Err(ClientError::TimedOut { address: self.address.clone(), api, limit }),
        };
        let (correlation_id, body) =
            split_response(R::API, version, answer).map_err(|error| self.malformed(api, error))?;
        if correlation_id != self.correlation_id {
            return Err(self.malformed(api, "it answers another request"));
        }
        Ok(body)
    }

    fn frame<R: ApiRequest>(&mut self, request: &R, version: i16) -> Result<BytesMut, String> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, R::header_version(version)).map_err(|error| error.to_string())?;
        request.encode(&mut frame, version).map_err(|error| error.to_string())?;
        let length = i32::try_from(frame.len() - 4).map_err(|_| "the request is larger than 2 GiB".to_owned())?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(frame)
    }

    fn malformed(&self, api: &'static str, reason: impl ToString) -> ClientError {
        ClientError::Malformed { address: self.address.clone(), api, reason: reason.to_string() }
    }

    fn closed(&self, api: &'static str, source: io::Error) -> ClientError {
        ClientError::Closed { address: self.address.clone(), api, source }
    }
}

/// Reads a frame without its length.
async fn read_frame(stream: &mut Box<dyn Stream>) -> io::Result<Bytes> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = usize::try_from(i32::from_be_bytes(length)).ok().filter(|&length| length <= MAX_ANSWER_BYTES);
    let Some(length) = length else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer's length is out of bounds"));
    };
    // Grows as bytes arrive, so that a lying length costs nothing.
    let mut frame = BytesMut::new();
    while frame.len() < length {
        let mut rest = stream.take((length - frame.len()) as u64);
        if rest.read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.copy_to_bytes(length))
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.address)
    }
}
