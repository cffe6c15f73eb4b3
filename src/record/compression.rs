//! The four codecs of record batches, in the framings that Apache Kafka's Java client writes and reads.
//!
//! Decompression goes chunk by chunk and stops at the caller's limit; a size that the data declares about itself is
//! only ever used to refuse it sooner. What Kafka's reader refuses is refused too (LZ4 blocks that depend on each
//! other, frames without an end), since a batch that only we can read would be lost to its consumers.

use std::cell::Cell;
use std::io::{Read, Write};

use bytes::Bytes;
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, ResetDirective};

use super::{Compression, RecordError};

/// The most a produced batch may decompress to, and so what every later reader must be ready for. A bomb costs the CPU
/// to inflate this much once; readers that keep a whole batch pay it in memory.
pub const MAX_DECOMPRESSED_BYTES: usize = 128 << 20;

/// Bytes per chunk of the codecs that stream freely; larger costs cache misses, smaller costs calls.
const CHUNK_BYTES: usize = 32 << 10;
/// Snappy blocks as `SnappyOutputStream` cuts them.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;
/// Magic, version 1 and compatible version 1 of the xerial framing.
const XERIAL_HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_MAGIC_BYTES: usize = 8;
/// No snappy element yields more than 64 bytes, and none takes less than two.
const SNAPPY_LARGEST_RATIO: usize = 32;
const LZ4_MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// An LZ4 sequence yields at most 255 bytes for each of its own.
const LZ4_LARGEST_RATIO: usize = 256;
const LZ4_UNCOMPRESSED_BIT: u32 = 1 << 31;

/// Compresses a payload as the Java client does by default (gzip level 6, LZ4 in independent 64 KiB blocks, zstd level
/// 3).
pub fn compress(codec: Compression, payload: &[u8]) -> Result<Vec<u8>, RecordError> {
    let failed = |_| RecordError::CorruptCompression { codec: codec.name() };
    match codec {
        Compression::None => Ok(payload.to_vec()),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(payload).and_then(|()| encoder.finish()).map_err(failed)
        }
        Compression::Snappy => compress_snappy(payload),
        Compression::Lz4 => {
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(payload).map_err(failed)?;
            encoder.finish().map_err(|_| RecordError::CorruptCompression { codec: codec.name() })
        }
        Compression::Zstd => zstd::bulk::compress(payload, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(failed),
    }
}

fn compress_snappy(payload: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut out = XERIAL_HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in payload.chunks(SNAPPY_BLOCK_BYTES) {
        let length_at = out.len();
        let block_at = length_at + 4;
        out.resize(block_at + snap::raw::max_compress_len(block.len()), 0);
        let length = encoder.compress(block, &mut out[block_at..]).map_err(|_| corrupt(Compression::Snappy))?;
        out[length_at..block_at].copy_from_slice(&(length as u32).to_be_bytes());
        out.truncate(block_at + length);
    }
    Ok(out)
}

/// Decompresses a payload; fails once the result would pass `limit_bytes`, whatever the data says about its size.
pub fn decompress(codec: Compression, payload: &[u8], limit_bytes: usize) -> Result<Bytes, RecordError> {
    let mut stream = Decompression::new(codec, payload, limit_bytes)?;
    let mut out = Vec::new();
    loop {
        let chunk = stream.next_chunk()?;
        if chunk.is_empty() {
            return Ok(out.into());
        }
        out.extend_from_slice(chunk);
    }
}

fn corrupt(codec: Compression) -> RecordError {
    RecordError::CorruptCompression { codec: codec.name() }
}

/// A payload on its way out of its codec, one chunk at a time.
pub(super) struct Decompression<'a> {
    codec: Compression,
    source: Source<'a>,
    scratch: Scratch,
    chunk_bytes: usize,
    produced_bytes: usize,
    limit_bytes: usize,
}

enum Source<'a> {
    Plain(&'a [u8]),
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'a [u8]>>),
    Xerial(&'a [u8]),
    Snappy(&'a [u8]),
    Lz4(Lz4Blocks<'a>),
    Zstd(ZstdFrames<'a>),
}

/// What decompression needs beside its input, kept by each thread from one payload to the next: making a zstd context
/// costs as much as decompressing a small batch.
#[derive(Default)]
struct Scratch {
    buffer: Vec<u8>,
    zstd: Option<DCtx<'static>>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// The most that a thread keeps of its buffer.
const KEPT_BUFFER_BYTES: usize = 256 << 10;
/// The largest zstd context that a thread keeps: a frame whose window is larger than compressors make it by default, which may
/// be 128 MiB, takes its memory with it.
const KEPT_CONTEXT_BYTES: usize = 3 << 20;

impl Drop for Decompression<'_> {
    fn drop(&mut self) {
        let mut scratch = std::mem::take(&mut self.scratch);
        if scratch.buffer.capacity() > KEPT_BUFFER_BYTES {
            scratch.buffer = Vec::new();
        }
        scratch.zstd = scratch.zstd.filter(|context| context.sizeof() <= KEPT_CONTEXT_BYTES);
        SCRATCH.set(scratch);
    }
}

impl<'a> Decompression<'a> {
    pub(super) fn new(codec: Compression, payload: &'a [u8], limit_bytes: usize) -> Result<Self, RecordError> {
        let mut scratch = SCRATCH.take();
        let source = match codec {
            Compression::None => Source::Plain(payload),
            // Java's GZIPInputStream and zstd-jni both read on into a following member or frame.
            Compression::Gzip => Source::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(payload))),
            Compression::Zstd => Source::Zstd(ZstdFrames::new(payload, &mut scratch)?),
            // librdkafka and old clients send one bare snappy block; `SnappyInputStream` tells them by the missing magic.
            Compression::Snappy if payload.starts_with(&XERIAL_HEADER[..XERIAL_MAGIC_BYTES]) => Source::Xerial(payload),
            Compression::Snappy => Source::Snappy(payload),
            Compression::Lz4 => Source::Lz4(Lz4Blocks::new(payload)?),
        };
        Ok(Self { codec, source, scratch, chunk_bytes: 0, produced_bytes: 0, limit_bytes })
    }

    /// The next bytes, or an empty chunk at the end.
    pub(super) fn next_chunk(&mut self) -> Result<&[u8], RecordError> {
        let left = self.limit_bytes - self.produced_bytes;
        self.chunk_bytes = 0;
        let Scratch { buffer, zstd } = &mut self.scratch;
        let length = match &mut self.source {
            Source::Plain(rest) => rest.read(room(buffer, CHUNK_BYTES)).map_err(|_| corrupt(self.codec))?,
            Source::Gzip(reader) => reader.read(room(buffer, CHUNK_BYTES)).map_err(|_| corrupt(self.codec))?,
            Source::Xerial(rest) => match next_xerial_block(rest)? {
                Some(block) => snappy_block(block, buffer, left)?,
                None => 0,
            },
            Source::Snappy([]) => 0,
            Source::Snappy(block) => snappy_block(std::mem::take(block), buffer, left)?,
            Source::Lz4(blocks) => blocks.next_block(buffer)?,
            Source::Zstd(frames) => frames.next_chunk(zstd, room(buffer, CHUNK_BYTES))?,
        };
        if length > left {
            return Err(RecordError::TooLarge { limit: self.limit_bytes });
        }
        self.produced_bytes += length;
        self.chunk_bytes = length;
        Ok(self.chunk())
    }

    /// The bytes that the last [`next_chunk`](Self::next_chunk) gave.
    #[inline]
    pub(super) fn chunk(&self) -> &[u8] {
        &self.scratch.buffer[..self.chunk_bytes]
    }
}

/// The first bytes of a buffer, which grows to hold them.
fn room(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    &mut buffer[..bytes]
}

/// Zstandard frames, one after another.
struct ZstdFrames<'a> {
    input: InBuffer<'a>,
    between_frames: bool,
}

impl<'a> ZstdFrames<'a> {
    fn new(payload: &'a [u8], scratch: &mut Scratch) -> Result<Self, RecordError> {
        let failed = || corrupt(Compression::Zstd);
        match &mut scratch.zstd {
            Some(context) => _ = context.reset(ResetDirective::SessionOnly).map_err(|_| failed())?,
            none => *none = Some(DCtx::try_create().ok_or_else(failed)?),
        }
        Ok(Self { input: InBuffer::around(payload), between_frames: true })
    }

    fn next_chunk(&mut self, context: &mut Option<DCtx<'static>>, out: &mut [u8]) -> Result<usize, RecordError> {
        let failed = || corrupt(Compression::Zstd);
        let context = context.as_mut().ok_or_else(failed)?;
        let mut output = OutBuffer::around(out);
        while output.pos() == 0 {
            let used_up = self.input.pos() == self.input.src.len();
            if used_up && self.between_frames {
                return Ok(0);
            }
            let read_before = self.input.pos();
            let hint = context.decompress_stream(&mut output, &mut self.input).map_err(|_| failed())?;
            self.between_frames = hint == 0;
            let stuck = output.pos() == 0 && self.input.pos() == read_before && !self.between_frames;
            if stuck {
                return Err(failed());
            }
        }
        Ok(output.pos())
    }
}

/// Takes the next block of the xerial framing; a header may come again where streams were joined.
fn next_xerial_block<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordError> {
    while rest.starts_with(&XERIAL_HEADER[..XERIAL_MAGIC_BYTES]) {
        *rest = rest.get(XERIAL_HEADER.len()..).ok_or_else(|| corrupt(Compression::Snappy))?;
    }
    if rest.is_empty() {
        return Ok(None);
    }
    let block = rest.split_first_chunk::<4>().and_then(|(length, blocks)| {
        let length = u32::from_be_bytes(*length) as usize;
        blocks.split_at_checked(length)
    });
    let (block, after) = block.ok_or_else(|| corrupt(Compression::Snappy))?;
    *rest = after;
    Ok(Some(block))
}

fn snappy_block(block: &[u8], out: &mut Vec<u8>, left: usize) -> Result<usize, RecordError> {
    let declared = snap::raw::decompress_len(block).map_err(|_| corrupt(Compression::Snappy))?;
    if declared > block.len().saturating_mul(SNAPPY_LARGEST_RATIO) {
        return Err(corrupt(Compression::Snappy));
    }
    if declared > left {
        return Err(RecordError::TooLarge { limit: left });
    }
    snap::raw::Decoder::new().decompress(block, room(out, declared)).map_err(|_| corrupt(Compression::Snappy))
}

/// The blocks of one LZ4 frame, read as `Lz4BlockInputStream` does: checksums are skipped, since the batch has its own.
struct Lz4Blocks<'a> {
    rest: &'a [u8],
    largest_block_bytes: usize,
    has_block_checksum: bool,
    ended: bool,
}

impl<'a> Lz4Blocks<'a> {
    fn new(frame: &'a [u8]) -> Result<Self, RecordError> {
        let refused = || corrupt(Compression::Lz4);
        let after_magic = frame.strip_prefix(&LZ4_MAGIC).ok_or_else(refused)?;
        let (&[flags, descriptor], rest) = after_magic.split_first_chunk::<2>().ok_or_else(refused)?;
        let version_1 = flags >> 6 == 1;
        let independent = flags & 1 << 5 != 0;
        let reserved = flags & 0b11 != 0 || descriptor & 0b1000_1111 != 0;
        let size = descriptor >> 4;
        if !version_1 || !independent || reserved || size < 4 {
            return Err(refused());
        }
        let content_size_bytes = if flags & 1 << 3 == 0 { 0 } else { 8 };
        let header_checksum_bytes = 1;
        let rest = rest.get(content_size_bytes + header_checksum_bytes..).ok_or_else(refused)?;
        let largest_block_bytes = 1 << (2 * size + 8);
        Ok(Self { rest, largest_block_bytes, has_block_checksum: flags & 1 << 4 != 0, ended: false })
    }

    /// Puts the next block's content into `out` and returns its length, 0 after the end mark.
    fn next_block(&mut self, out: &mut Vec<u8>) -> Result<usize, RecordError> {
        let refused = || corrupt(Compression::Lz4);
        while !self.ended {
            let (length, rest) = self.rest.split_first_chunk::<4>().ok_or_else(refused)?;
            let length = u32::from_le_bytes(*length);
            if length & !LZ4_UNCOMPRESSED_BIT == 0 {
                self.ended = true;
                break;
            }
            let block_bytes = (length & !LZ4_UNCOMPRESSED_BIT) as usize;
            if block_bytes > self.largest_block_bytes {
                return Err(refused());
            }
            let (block, rest) = rest.split_at_checked(block_bytes).ok_or_else(refused)?;
            let checksum_bytes = if self.has_block_checksum { 4 } else { 0 };
            self.rest = rest.get(checksum_bytes..).ok_or_else(refused)?;
            let written = if length & LZ4_UNCOMPRESSED_BIT == 0 {
                let largest_bytes = self.largest_block_bytes.min(block_bytes * LZ4_LARGEST_RATIO);
                lz4_flex::block::decompress_into(block, room(out, largest_bytes)).map_err(|_| refused())?
            } else {
                room(out, block_bytes).copy_from_slice(block);
                block_bytes
            };
            // An empty block is not the end.
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODECS: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn sample(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|index| (index / 7 % 251) as u8).collect()
    }

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        for codec in CODECS {
            for bytes in [0, 1, 100, CHUNK_BYTES, 65_536, 65_537, 300_000] {
                let payload = sample(bytes);
                let compressed = compress(codec, &payload).unwrap();
                assert_eq!(decompress(codec, &compressed, bytes).unwrap(), payload, "{codec:?} {bytes}");
            }
        }
    }

    #[test]
    fn a_thread_does_not_keep_the_window_of_a_frame_that_has_a_large_one() {
        let kept = || {
            let scratch = SCRATCH.take();
            let bytes = scratch.zstd.as_ref().map(DCtx::sizeof);
            SCRATCH.set(scratch);
            bytes
        };
        let payload = sample(100_000);
        let small = compress(Compression::Zstd, &payload).unwrap();
        assert_eq!(decompress(Compression::Zstd, &small, payload.len()).unwrap(), payload);
        assert!(kept().is_some());
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(25)).unwrap();
        encoder.write_all(&payload).unwrap();
        let large = encoder.finish().unwrap();
        assert_eq!(decompress(Compression::Zstd, &large, payload.len()).unwrap(), payload);
        assert_eq!(kept(), None);
    }

    #[test]
    fn output_stops_at_the_limit_and_not_where_the_data_says() {
        for codec in CODECS {
            let compressed = compress(codec, &vec![0; 10 << 20]).unwrap();
            let refused = decompress(codec, &compressed, (10 << 20) - 1);
            assert!(matches!(refused, Err(RecordError::TooLarge { .. })), "{codec:?}");
        }
    }

    #[test]
    fn a_snappy_block_that_lies_about_its_size_costs_nothing() {
        // Declares 2^32 - 1 bytes.
        let block = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        assert_eq!(decompress(Compression::Snappy, &block, usize::MAX), Err(corrupt(Compression::Snappy)));
        let mut framed = XERIAL_HEADER.to_vec();
        framed.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(decompress(Compression::Snappy, &framed, usize::MAX), Err(corrupt(Compression::Snappy)));
    }

    #[test]
    fn bare_snappy_and_joined_streams_are_read_as_kafka_reads_them() {
        let payload = sample(50_000);
        let bare = snap::raw::Encoder::new().compress_vec(&payload).unwrap();
        assert_eq!(decompress(Compression::Snappy, &bare, 50_000).unwrap(), payload);
        for codec in [Compression::Snappy, Compression::Gzip, Compression::Zstd] {
            let one = compress(codec, &payload).unwrap();
            let joined = [&one[..], &one[..]].concat();
            assert_eq!(decompress(codec, &joined, 100_000).unwrap(), [&payload[..], &payload[..]].concat());
        }
    }

    #[test]
    fn streams_that_end_early_are_refused_and_leave_no_trace() {
        let payload = sample(100_000);
        for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
            let whole = compress(codec, &payload).unwrap();
            for end in [1, 10, whole.len() / 2, whole.len() - 1] {
                assert_eq!(decompress(codec, &whole[..end], 100_000), Err(corrupt(codec)), "{codec:?} {end}");
                assert_eq!(decompress(codec, &whole, 100_000).unwrap(), payload);
            }
            let damaged: Vec<u8> = whole.iter().map(|byte| byte ^ 0x55).collect();
            assert_eq!(decompress(codec, &damaged, 100_000), Err(corrupt(codec)));
        }
    }

    #[test]
    fn lz4_frames_that_kafka_cannot_read_are_refused() {
        let linked = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Linked);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(linked, Vec::new());
        encoder.write_all(&sample(1000)).unwrap();
        let frame = encoder.finish().unwrap();
        assert_eq!(decompress(Compression::Lz4, &frame, 1000), Err(corrupt(Compression::Lz4)));
        let frame = compress(Compression::Lz4, &sample(1000)).unwrap();
        let endless = &frame[..frame.len() - 4];
        assert_eq!(decompress(Compression::Lz4, endless, 1000), Err(corrupt(Compression::Lz4)));
        assert_eq!(decompress(Compression::Lz4, &[], 1000), Err(corrupt(Compression::Lz4)));
    }

    #[test]
    fn lz4_checksums_and_content_size_are_passed_over() {
        let payload = sample(200_000);
        let full = lz4_flex::frame::FrameInfo::new()
            .block_size(lz4_flex::frame::BlockSize::Max256KB)
            .block_checksums(true)
            .content_checksum(true)
            .content_size(Some(200_000));
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(full, Vec::new());
        encoder.write_all(&payload).unwrap();
        let frame = encoder.finish().unwrap();
        assert_eq!(decompress(Compression::Lz4, &frame, 200_000).unwrap(), payload);
    }
}
