//! The answer to a Fetch request, written around records that are never copied.
//!
//! The frame comes out as pieces to be sent one after another: what lies between two partitions' records is one piece,
//! and each stretch of records is the shared [`Bytes`] that the log or the cache handed out.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::frame::{finish_response, start_response};
use super::newer::put_compact_length;
use super::{Api, ErrorCode, ProtocolError};

/// An answer to a Fetch request of any version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FetchResponse {
    /// How long the request was throttled, in milliseconds.
    pub throttle_time_ms: i32,
    /// The error of the whole request; told from version 7.
    pub error_code: ErrorCode,
    /// The fetch session, or 0; told from version 7 (KIP-227).
    pub session_id: i32,
    /// The topics, in the order of the request.
    pub topics: Vec<FetchedTopic>,
    /// Addresses of the leaders that partitions name; told from version 16 (KIP-951).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// A topic in a fetch answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FetchedTopic {
    /// Name, told up to version 12.
    pub name: StrBytes,
    /// Identity, told from version 13.
    pub topic_id: Uuid,
    /// The partitions, in the order of the request.
    pub partitions: Vec<FetchedPartition>,
}

/// A partition in a fetch answer.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchedPartition {
    /// The partition's number.
    pub partition_index: i32,
    /// What went wrong with the partition.
    pub error_code: ErrorCode,
    /// High watermark, or −1.
    pub high_watermark: i64,
    /// Last stable offset, or −1.
    pub last_stable_offset: i64,
    /// Log start offset, or −1; told from version 5.
    pub log_start_offset: i64,
    /// Largest epoch below which the fetcher's log agrees, and its end offset; told from version 12 (KIP-595).
    pub diverging_epoch: Option<(i32, i64)>,
    /// Current leader and epoch, −1 where there is none, where the fetcher asked the wrong broker or in a passed epoch; can be
    /// told from version 12 (KIP-951).
    pub current_leader: Option<(i32, i32)>,
    /// Producer id and first offset of each aborted transaction in the records, for read_committed; else `None`.
    pub aborted_transactions: Option<Vec<(i64, i64)>>,
    /// The replica to fetch from instead, or −1; told from version 11 (KIP-392).
    pub preferred_read_replica: i32,
    /// Whole batches, in order.
    pub records: Vec<Bytes>,
}

impl Default for FetchedPartition {
    fn default() -> Self {
        Self {
            partition_index: 0,
            error_code: ErrorCode::None,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Vec::new(),
        }
    }
}

/// Where a leader listens.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeEndpoint {
    /// The broker.
    pub node_id: i32,
    /// Its advertised host.
    pub host: StrBytes,
    /// Its advertised port.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<StrBytes>,
}

impl FetchResponse {
    /// Writes the answer as the pieces of one frame, length and header included.
    pub fn encode(&self, version: i16, correlation_id: i32) -> Result<Vec<Bytes>, ProtocolError> {
        let mut writer = Writer {
            version,
            flexible: Api::Fetch.is_flexible(version),
            out: start_response(Api::Fetch, version, correlation_id),
            records: Vec::new(),
            record_bytes: 0,
        };
        writer
            .response(self)
            .and_then(|()| writer.into_pieces())
            .ok_or(ProtocolError::Unencodable { api: Api::Fetch, version })
    }
}

/// Collects everything but records in one buffer, and where in it records belong.
struct Writer<'a> {
    version: i16,
    flexible: bool,
    out: BytesMut,
    records: Vec<(usize, &'a [Bytes])>,
    record_bytes: usize,
}

/// Fails only where a length does not fit its field.
impl<'a> Writer<'a> {
    fn response(&mut self, response: &'a FetchResponse) -> Option<()> {
        self.out.put_i32(response.throttle_time_ms);
        if self.version >= 7 {
            self.out.put_i16(response.error_code.code());
            self.out.put_i32(response.session_id);
        }
        self.count(response.topics.len())?;
        for topic in &response.topics {
            if self.version >= 13 {
                self.out.put_slice(topic.topic_id.as_bytes());
            } else {
                self.string(&topic.name)?;
            }
            self.count(topic.partitions.len())?;
            for partition in &topic.partitions {
                self.partition(partition)?;
            }
            self.no_tagged_fields();
        }
        if self.version >= 16 && !response.node_endpoints.is_empty() {
            self.node_endpoints(&response.node_endpoints)
        } else {
            self.no_tagged_fields();
            Some(())
        }
    }

    fn partition(&mut self, partition: &'a FetchedPartition) -> Option<()> {
        self.out.put_i32(partition.partition_index);
        self.out.put_i16(partition.error_code.code());
        self.out.put_i64(partition.high_watermark);
        self.out.put_i64(partition.last_stable_offset);
        if self.version >= 5 {
            self.out.put_i64(partition.log_start_offset);
        }
        match &partition.aborted_transactions {
            None if self.flexible => self.out.put_u8(0),
            None => self.out.put_i32(-1),
            Some(transactions) => {
                self.count(transactions.len())?;
                for (producer_id, first_offset) in transactions {
                    self.out.put_i64(*producer_id);
                    self.out.put_i64(*first_offset);
                    self.no_tagged_fields();
                }
            }
        }
        if self.version >= 11 {
            self.out.put_i32(partition.preferred_read_replica);
        }
        self.records(&partition.records)?;
        if self.flexible {
            self.partition_tagged_fields(partition);
        }
        Some(())
    }

    fn records(&mut self, pieces: &'a [Bytes]) -> Option<()> {
        let length = pieces.iter().map(Bytes::len).sum();
        self.count(length)?;
        if length > 0 {
            self.records.push((self.out.len(), pieces));
            self.record_bytes += length;
        }
        Some(())
    }

    fn partition_tagged_fields(&mut self, partition: &FetchedPartition) {
        let fields = usize::from(partition.diverging_epoch.is_some()) + usize::from(partition.current_leader.is_some());
        self.out.put_u8(fields as u8);
        if let Some((epoch, end_offset)) = partition.diverging_epoch {
            self.out.put_slice(&[0, 13]);
            self.out.put_i32(epoch);
            self.out.put_i64(end_offset);
            self.no_tagged_fields();
        }
        if let Some((leader_id, leader_epoch)) = partition.current_leader {
            self.out.put_slice(&[1, 9]);
            self.out.put_i32(leader_id);
            self.out.put_i32(leader_epoch);
            self.no_tagged_fields();
        }
    }

    /// The one tagged field of the answer, whose size comes before its content.
    fn node_endpoints(&mut self, endpoints: &[NodeEndpoint]) -> Option<()> {
        let before = std::mem::take(&mut self.out);
        self.count(endpoints.len())?;
        for endpoint in endpoints {
            self.out.put_i32(endpoint.node_id);
            self.string(&endpoint.host)?;
            self.out.put_i32(endpoint.port);
            match &endpoint.rack {
                None => self.out.put_u8(0),
                Some(rack) => self.string(rack)?,
            }
            self.no_tagged_fields();
        }
        let content = std::mem::replace(&mut self.out, before);
        self.out.put_slice(&[1, 0]);
        // A size is written as it is; a compact length is one more than what it stands for.
        put_compact_length(&mut self.out, content.len().checked_sub(1)?)?;
        self.out.put_slice(&content);
        Some(())
    }

    fn string(&mut self, text: &str) -> Option<()> {
        if self.flexible {
            put_compact_length(&mut self.out, text.len())?;
        } else {
            self.out.put_i16(i16::try_from(text.len()).ok()?);
        }
        self.out.put_slice(text.as_bytes());
        Some(())
    }

    fn count(&mut self, count: usize) -> Option<()> {
        if self.flexible {
            put_compact_length(&mut self.out, count)
        } else {
            self.out.put_i32(i32::try_from(count).ok()?);
            Some(())
        }
    }

    fn no_tagged_fields(&mut self) {
        if self.flexible {
            self.out.put_u8(0);
        }
    }

    /// Cuts the buffer where records belong and puts them there.
    fn into_pieces(mut self) -> Option<Vec<Bytes>> {
        finish_response(&mut self.out, self.record_bytes)?;
        let mut rest = self.out.freeze();
        let mut pieces = Vec::new();
        let mut cut = 0;
        for (at, records) in self.records {
            pieces.push(rest.split_to(at - cut));
            pieces.extend(records.iter().filter(|piece| !piece.is_empty()).cloned());
            cut = at;
        }
        pieces.push(rest);
        Some(pieces)
    }
}

#[cfg(test)]
mod tests;
