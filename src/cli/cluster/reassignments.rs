//! `alluvium cluster reassignments`: how far replicas are that move, and an end to it.
//!
//! How far one is follows from what it has on disk beside its leader, as brokers tell it. Nothing is kept here.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::numbers;
use super::rebalance::human;
use crate::cli::client::moves::{self, OnDisk, Place};
use crate::cli::client::quorum::{self, Moving};
use crate::cli::client::{ClientArguments, ClientError, Cluster, block_on};
use crate::cli::{Context, Exit, Failure, Output};

/// Arguments of `alluvium cluster reassignments`.
#[derive(Debug, Args)]
pub struct ReassignmentArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Only those of this topic; can be repeated
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Leave the replicas where they were before
    #[arg(long)]
    cancel: bool,
    /// Remove the throttles of all brokers and topics that `rebalance`, or Apache Kafka's tool, has set
    #[arg(long)]
    unthrottle: bool,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

/// A replica that is on its way.
struct Coming {
    node: i32,
    /// None where its broker does not tell.
    here: Option<OnDisk>,
    /// What its leader has; none where that does not tell.
    of_bytes: Option<u64>,
}

/// A partition whose replicas move.
struct UnderWay {
    moving: Moving,
    leader: i32,
    coming: Vec<Coming>,
}

/// Runs `alluvium cluster reassignments`.
pub(super) fn run(arguments: &ReassignmentArguments, context: &mut Context) -> Result<(), Failure> {
    block_on(async {
        let mut cluster = arguments.client.cluster(context);
        let under_way = ask(&mut cluster, &arguments.topics).await?;
        let cancelled = if arguments.cancel { Some(cancel(&mut cluster, &under_way).await?) } else { None };
        let unthrottled = if arguments.unthrottle { Some(unthrottle(&mut cluster).await?) } else { None };
        if arguments.json {
            let all: Vec<_> = under_way.iter().map(UnderWay::json).collect();
            let object = json!({ "reassignments": all, "cancelled": cancelled, "unthrottled_topics": unthrottled });
            return context.output.json(&object);
        }
        print(&under_way, &mut context.output)?;
        if let Some(count) = cancelled {
            context.output.line(format!("cancelled {count}"))?;
        }
        if let Some(count) = unthrottled {
            context.output.line(format!("removed the throttles of the brokers and of {count} topics"))?;
        }
        Ok(())
    })
}

async fn ask(cluster: &mut Cluster, topics: &[String]) -> Result<Vec<UnderWay>, ClientError> {
    let moving = quorum::moving(cluster).await?;
    let moving = moving.into_iter().filter(|moving| topics.is_empty() || topics.contains(&moving.topic));
    let mut moving: Vec<Moving> = moving.collect();
    moving.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
    if moving.is_empty() {
        return Ok(Vec::new());
    }
    let mut leaders: BTreeMap<Place, i32> = BTreeMap::new();
    // Those that were deleted meanwhile are passed over.
    for topic in cluster.describe(None, false).await?.into_iter().flatten() {
        leaders.extend(topic.partitions.iter().map(|it| ((topic.name.clone(), it.index), it.leader)));
    }
    let mut on_disk = BTreeMap::new();
    for broker in quorum::members(cluster).await?.brokers.iter().filter(|broker| !broker.is_fenced) {
        if let Ok(known) = moves::on_disk(cluster, broker.id).await {
            on_disk.insert(broker.id, known);
        }
    }
    let on = |node: i32, place: &Place| on_disk.get(&node).and_then(|known| known.get(place)).copied();
    let under_way = moving.into_iter().map(|moving| {
        let place = (moving.topic.clone(), moving.partition);
        let leader = leaders.get(&place).copied().unwrap_or(-1);
        let of_bytes = on(leader, &place).map(|on_disk| on_disk.bytes);
        let coming = moving.adding.iter().map(|node| Coming { node: *node, here: on(*node, &place), of_bytes });
        UnderWay { coming: coming.collect(), leader, moving }
    });
    Ok(under_way.collect())
}

/// Leaves replicas where they were; tells of how many partitions.
async fn cancel(cluster: &mut Cluster, under_way: &[UnderWay]) -> Result<usize, Failure> {
    let places: Vec<_> = under_way.iter().map(|it| ((it.moving.topic.clone(), it.moving.partition), None)).collect();
    // What has ended meanwhile needs no end.
    let (over, refused): (Vec<_>, Vec<_>) =
        moves::reassign(cluster, &places).await?.into_iter().partition(|(_, error)| moves::was_not_moving(error));
    match refused.first() {
        None => Ok(places.len() - over.len()),
        Some((_, first)) => {
            let text = format!("{} of {} were not cancelled, the first: {first}", refused.len(), places.len());
            Err(Failure::new(Exit::Failed, text))
        }
    }
}

async fn unthrottle(cluster: &mut Cluster) -> Result<usize, ClientError> {
    let topics = cluster.describe(None, false).await?.into_iter().flatten().map(|topic| topic.name);
    let topics: Vec<String> = topics.collect();
    let brokers: Vec<i32> = quorum::members(cluster).await?.brokers.iter().map(|broker| broker.id).collect();
    moves::unthrottle(cluster, &brokers, &topics).await
}

fn print(under_way: &[UnderWay], output: &mut Output) -> Result<(), Failure> {
    if under_way.is_empty() {
        return output.line("no replicas are on their way");
    }
    let row = |it: &UnderWay| {
        let moving = &it.moving;
        let (to, from) = (numbers(&moving.adding), numbers(&moving.removing));
        let copied: Vec<String> = it.coming.iter().map(Coming::shown).collect();
        vec![moving.topic.clone(), moving.partition.to_string(), it.leader(), from, to, copied.join(", ")]
    };
    let rows: Vec<_> = under_way.iter().map(row).collect();
    output.table(&["TOPIC", "PARTITION", "LEADER", "FROM", "TO", "COPIED"], &rows)?;
    let left: u64 = under_way.iter().flat_map(|it| &it.coming).filter_map(Coming::left).sum();
    output.line(format!("{} partitions are on their way, {} are left to copy", under_way.len(), human(left)))
}

impl Coming {
    /// Bytes that it lacks; segments end elsewhere on two brokers, so that this is about right and not more.
    fn left(&self) -> Option<u64> {
        Some(self.of_bytes?.saturating_sub(self.here.map_or(0, |here| here.bytes)))
    }

    fn shown(&self) -> String {
        let here = self.here.map_or(0, |here| here.bytes);
        let lag = self.here.map(|here| here.lag).filter(|lag| *lag > 0);
        let lag = lag.map_or_else(String::new, |lag| format!(", {lag} records behind"));
        match self.of_bytes {
            Some(of) => format!("{}: {} of {}{lag}", self.node, human(here.min(of)), human(of)),
            None => format!("{}: {}{lag}", self.node, human(here)),
        }
    }
}

impl UnderWay {
    fn leader(&self) -> String {
        if self.leader < 0 { "NONE".to_owned() } else { self.leader.to_string() }
    }

    fn json(&self) -> Value {
        let coming = |coming: &Coming| {
            json!({
                "id": coming.node,
                "bytes": coming.here.map(|here| here.bytes),
                "of_bytes": coming.of_bytes,
                "offset_lag": coming.here.map(|here| here.lag),
            })
        };
        json!({
            "topic": self.moving.topic,
            "partition": self.moving.partition,
            "leader": self.leader,
            "replicas": self.moving.replicas,
            "adding": self.moving.adding,
            "removing": self.moving.removing,
            "progress": self.coming.iter().map(coming).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::Captured;

    fn under_way(leader: i32, here: Option<u64>, of_bytes: Option<u64>) -> UnderWay {
        let moving =
            Moving { topic: "t".to_owned(), partition: 4, replicas: vec![1, 3, 2], adding: vec![3], removing: vec![2] };
        let here = here.map(|bytes| OnDisk { bytes, lag: 0 });
        UnderWay { moving, leader, coming: vec![Coming { node: 3, here, of_bytes }] }
    }

    fn printed(under_way: &[UnderWay]) -> String {
        let captured = Captured::default();
        let mut output = Output::to(captured.clone());
        print(under_way, &mut output).unwrap();
        output.flush().unwrap();
        captured.text()
    }

    #[test]
    fn progress_is_what_a_replica_has_of_what_its_leader_has() {
        let half = under_way(1, Some(512 << 20), Some(1 << 30));
        let expected = "\
TOPIC  PARTITION  LEADER  FROM  TO  COPIED
t      4          1       2     3   3: 512.0 MiB of 1.0 GiB
1 partitions are on their way, 512.0 MiB are left to copy
";
        assert_eq!(printed(&[half]), expected);
        assert_eq!(printed(&[]), "no replicas are on their way\n");
        let json = under_way(1, Some(5), None).json();
        let progress = json!([{ "id": 3, "bytes": 5, "of_bytes": null, "offset_lag": 0 }]);
        assert_eq!(json["progress"], progress);
    }

    #[test]
    fn what_brokers_do_not_tell_is_not_made_up() {
        let text = printed(&[under_way(-1, None, None)]);
        assert!(text.contains("NONE    2     3   3: 0 KiB\n") && text.contains(" 0 KiB are left"), "{text}");
        let over = under_way(1, Some(3 << 20), Some(2 << 20));
        assert_eq!((over.coming[0].left(), &*over.coming[0].shown()), (Some(0), "3: 2.0 MiB of 2.0 MiB"));
    }
}
