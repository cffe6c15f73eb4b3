//! `alluvium produce`: lines of a file or of standard input as records of a topic.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::client::{Acks, ClientArguments, ClientError, NewRecord, Producer, ProducerOptions, block_on, pairs};
use super::format::{from_json, unescape};
use super::lines::Lines;
use super::progress::Progress;
use super::{Context, Exit, Failure};
use crate::config::ByteSize;
use crate::record::Compression;

/// How long records wait for more of them before they are sent.
const LINGER: Duration = Duration::from_millis(20);

/// Arguments of `alluvium produce`.
#[derive(Debug, Args)]
pub struct ProduceArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Where to send to; a broker that allows it makes the topic
    topic: String,
    /// File to read [default: standard input]
    file: Option<PathBuf>,
    /// Each line is a JSON object: {"key","value","headers","timestamp","partition"}, as `consume --json` writes it
    #[arg(long, conflicts_with = "key_separator")]
    json: bool,
    /// Each line is a key, this separator, and a value; \t, \r, \0, \xHH and \\ as usual
    #[arg(long, short = 'K', value_name = "TEXT")]
    key_separator: Option<Separator>,
    /// Send to this partition [default: by the key; without a key in turns]
    #[arg(long, short, value_name = "NUMBER", allow_negative_numbers = true)]
    partition: Option<i32>,
    /// A header for every record; can be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// How batches are compressed
    #[arg(long, short = 'z', value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// Whose word counts as done
    #[arg(long, value_enum, default_value_t = Acks::All)]
    acks: Acks,
    /// Records of one partition that are sent together, before compression
    #[arg(long, value_name = "SIZE", default_value = "900KiB")]
    batch_size: ByteSize,
}

/// The bytes between a key and its value, written with escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Separator(Vec<u8>);

impl FromStr for Separator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match unescape(text)? {
            bytes if bytes.is_empty() => Err("it needs at least one letter".to_owned()),
            bytes if bytes.contains(&b'\n') => Err("no line has a line feed in it".to_owned()),
            bytes => Ok(Self(bytes)),
        }
    }
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

impl ProduceArguments {
    /// Turns a line into a record.
    fn record(&self, line: Vec<u8>, headers: &[(String, String)]) -> Result<NewRecord, String> {
        let mut record = match &self.key_separator {
            _ if self.json => from_json(&line)?,
            Some(Separator(separator)) => {
                let at = line.windows(separator.len()).position(|window| window == &**separator);
                let at = at.ok_or_else(|| format!("no separator {:?} in it", String::from_utf8_lossy(separator)))?;
                let (key, value) = (line[..at].to_vec(), line[at + separator.len()..].to_vec());
                NewRecord { key: Some(key), value: Some(value), ..NewRecord::default() }
            }
            None => NewRecord { value: Some(line), ..NewRecord::default() },
        };
        record.partition = self.partition.or(record.partition);
        let own = headers.iter().map(|(name, value)| (name.clone(), Some(value.clone().into_bytes())));
        record.headers.extend(own);
        Ok(record)
    }
}

/// Runs `alluvium produce`.
pub(super) fn run(arguments: &ProduceArguments, context: &mut Context) -> Result<(), Failure> {
    let headers = pairs("--header", &arguments.headers)?;
    let options = ProducerOptions {
        compression: arguments.compression.into(),
        acks: arguments.acks,
        batch_bytes: usize::try_from(arguments.batch_size.bytes()).unwrap_or(usize::MAX),
    };
    let runtime = context.runtime.clone();
    let mut lines = Lines::open(&runtime, arguments.file.as_deref()).map_err(|error| {
        let path = arguments.file.clone().unwrap_or_default();
        Failure::usage(format!("cannot read {}: {error}", path.display()))
    })?;
    let typed = arguments.file.is_none() && std::io::stdin().is_terminal();
    let mut progress = Progress::new(runtime.clock.clone(), "sent", !typed);
    block_on(async {
        let mut cluster = arguments.client.cluster(context);
        let mut producer = Producer::open(&mut cluster, &arguments.topic, options).await?;
        // What comes before a bad line is sent all the same.
        let sent = match send_lines(arguments, &headers, &mut lines, &mut producer, &mut progress).await {
            Ok(()) => producer.flush().await.map_err(Failure::from),
            Err(Stop::Sending(error)) => Err(error.into()),
            Err(Stop::Input(bad)) => producer.flush().await.map_err(Failure::from).and(Err(bad)),
        };
        progress.finish();
        let counted = if arguments.acks == Acks::None { "sent" } else { "acknowledged" };
        let done = producer.done();
        sent.map_err(|failure| Failure::new(failure.exit(), format!("{failure}; records {counted}: {done}")))
    })
}

/// Why not all lines were taken.
enum Stop {
    /// The broker does not take them.
    Sending(ClientError),
    /// What is read is no record, or can't be read.
    Input(Failure),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Sending(error)
    }
}

/// Takes lines until there are none; those that wait for more of them when it ends are still to be sent.
async fn send_lines(
    arguments: &ProduceArguments,
    headers: &[(String, String)],
    lines: &mut Lines,
    producer: &mut Producer<'_>,
    progress: &mut Progress,
) -> Result<(), Stop> {
    loop {
        let group = match tokio::time::timeout(LINGER, lines.next()).await {
            Ok(group) => group,
            Err(_) => {
                producer.flush().await?;
                lines.next().await
            }
        };
        let Some(group) = group else { return Ok(()) };
        let number = progress.records() + 1;
        let unreadable = |error| Failure::new(Exit::Failed, format!("line {number} can't be read: {error}"));
        let group = group.map_err(|error| Stop::Input(unreadable(error)))?;
        for line in group {
            let (number, bytes) = (progress.records() + 1, line.len());
            let bad = |what: String| Stop::Input(Failure::usage(format!("line {number} {what}")));
            let record = arguments.record(line, headers);
            let record = record.map_err(|reason| bad(format!("is not a record: {reason}")))?;
            producer.send(&record).await.map_err(|error| match error {
                ClientError::NoSuchPartition { .. } => bad(format!("has nowhere to go: {error}")),
                error => Stop::Sending(error),
            })?;
            progress.record(bytes);
        }
    }
}
