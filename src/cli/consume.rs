//! `alluvium consume`: records of a topic as text or JSON.

use std::io::{IsTerminal, Write};
use std::str::FromStr;

use clap::Args;

use super::client::{Bounds, ClientArguments, Consumer, Position, block_on};
use super::format::{Placed, TEMPLATE_HELP, Template, parse_date, to_json};
use super::progress::Progress;
use super::{Context, Failure};
use crate::config::Interval;
use crate::types::{Offset, Timestamp};

/// Arguments of `alluvium consume`.
#[derive(Debug, Args)]
pub struct ConsumeArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// What to read
    topic: String,
    /// Only this partition; can be repeated
    #[arg(long = "partition", short, value_name = "NUMBER", allow_negative_numbers = true)]
    partitions: Vec<i32>,
    /// Where to begin: beginning, end, an offset, -N for the last N of each partition, or @TIME with a date, milliseconds or
    /// an age, like @2013-01-01T05:00Z, @1357016400000 or @-1h
    #[arg(long, value_name = "WHERE", default_value = "beginning", allow_hyphen_values = true)]
    from: Where,
    /// Where to stop, before it: as --from [default: the end at the start]
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true, conflicts_with = "follow")]
    until: Option<Where>,
    /// Don't stop at the end, and wait for more
    #[arg(long, short)]
    follow: bool,
    /// Stop after so many records
    #[arg(long, short = 'n', value_name = "NUMBER")]
    count: Option<u64>,
    /// Text for each record
    #[arg(long, value_name = "TEMPLATE", default_value = r"%s\n", long_help = TEMPLATE_HELP)]
    format: String,
    /// One JSON object for each record, as `produce --json` reads it
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// A place, as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Position(Position),
    /// So long ago.
    Age(Interval),
}

impl Where {
    fn position(self, now: Timestamp) -> Position {
        match self {
            Self::Position(position) => position,
            Self::Age(age) => {
                let millis = i64::try_from(age.0.as_millis()).unwrap_or(i64::MAX);
                Position::Time(Timestamp(now.0.saturating_sub(millis).max(0)))
            }
        }
    }
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "it is none of beginning, end, an offset, -N, or @TIME".to_owned();
        Ok(Self::Position(match text.strip_prefix('@') {
            Some(time) => match time.strip_prefix('-').map(str::parse) {
                Some(age) => return age.map(Self::Age),
                None => Position::Time(parse_date(time).ok_or_else(wrong)?),
            },
            None if text == "beginning" => Position::Beginning,
            None if text == "end" => Position::End,
            None => match text.parse::<i64>().map_err(|_| wrong())? {
                offset @ 0.. => Position::At(Offset(offset)),
                before => Position::BeforeEnd(before.saturating_neg()),
            },
        }))
    }
}

/// Runs `alluvium consume`.
pub(super) fn run(arguments: &ConsumeArguments, context: &mut Context) -> Result<(), Failure> {
    let template = Template::parse(&arguments.format)?;
    let clock = context.runtime.clock.clone();
    let now = clock.wall();
    let until = match arguments.until {
        _ if arguments.follow => None,
        Some(until) => Some(until.position(now)),
        None => Some(Position::End),
    };
    let bounds = Bounds { partitions: arguments.partitions.clone(), from: arguments.from.position(now), until };
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut progress = Progress::new(clock, "read", !std::io::stdout().is_terminal());
    block_on(async {
        let mut cluster = arguments.client.cluster(context);
        let mut consumer = Consumer::open(&mut cluster, &arguments.topic, &bounds).await?;
        for (index, first, end) in consumer.ended().await? {
            // There is nobody left to tell when standard error is closed.
            let _ = writeln!(
                std::io::stderr(),
                "partition {index} of {} has offsets from {first} up to {end}, and none from --from on",
                arguments.topic
            );
        }
        let mut line = Vec::new();
        while left > 0
            && let Some(read) = consumer.next().await?
        {
            for record in read.records() {
                let record = record?;
                let placed = Placed { topic: &arguments.topic, partition: read.partition, record };
                line.clear();
                if arguments.json {
                    line.extend_from_slice(to_json(&placed).to_string().as_bytes());
                    line.push(b'\n');
                } else {
                    template.render(&placed, &mut line);
                }
                context.output.bytes(&line)?;
                progress.record(line.len());
                left -= 1;
                if left == 0 {
                    break;
                }
            }
            // Who follows wants to see what there is.
            if arguments.follow {
                context.output.flush()?;
            }
        }
        progress.finish();
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_in_all_their_forms() {
        for (text, position) in [
            ("beginning", Position::Beginning),
            ("end", Position::End),
            ("42", Position::At(Offset(42))),
            ("-10", Position::BeforeEnd(10)),
            ("@1357016400000", Position::Time(Timestamp(1_357_016_400_000))),
            ("@2013-01-01T05:00Z", Position::Time(Timestamp(1_357_016_400_000))),
        ] {
            assert_eq!(text.parse::<Where>().unwrap(), Where::Position(position), "{text}");
        }
        let age: Where = "@-1h".parse().unwrap();
        assert_eq!(age.position(Timestamp(3_600_001)), Position::Time(Timestamp(1)));
        for text in ["", "start", "@", "@-", "@-5", "1.5"] {
            assert!(text.parse::<Where>().is_err(), "{text}");
        }
    }
}
