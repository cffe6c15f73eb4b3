//! `alluvium archive flush`: has a broker archive what a topic holds now, and waits until that is in the bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::client::admin::{alter_settings, describe_settings};
use super::client::{ClientArguments, ClientError, Cluster, EARLIEST, LATEST, LATEST_TIERED, Topic, list_offsets};
use super::progress::Progress;
use super::{Context, Exit, Failure};
use crate::config::Interval;
use crate::runtime::clock::timeout;
use crate::types::{Monotonic, Offset};

/// The topic setting whose change has a broker seal and archive what there is.
const FLUSH_SETTING: &str = "archive.flush.timestamp";

/// Has a topic's segments sealed, by its setting for that. If it is to `wait`, the archive reaches what is there now when it
/// returns, or it fails after a limit, if there is one.
pub(super) async fn flush(
    arguments: &ClientArguments,
    name: &str,
    wait: Option<Option<Interval>>,
    json: bool,
    context: &mut Context,
) -> Result<(), Failure> {
    let mut cluster = arguments.cluster(context);
    let topic = cluster.topic(name, false, |_| true).await?;
    refuse_what_is_not_archived(&mut cluster, name).await?;
    let partitions: BTreeSet<i32> = topic.partitions.iter().map(|partition| partition.index).collect();
    let progress = Progress::new(Arc::clone(&context.runtime.clock), "archiving", true);
    let mut flush = Flush { topic, partitions, ends: BTreeMap::new(), is_forgotten: false };
    flush.ask(&mut cluster).await?;
    if let Some(limit) = wait {
        let waited = flush.wait(&mut cluster, limit, &progress).await;
        progress.clear();
        waited?;
    }
    let what = if wait.is_some() { "archived" } else { "archiving" };
    let offsets: i64 = flush.ends.values().map(|end| end.0).sum();
    let partitions = flush.partitions.len();
    if json {
        let object = json!({ "topic": name, "result": what, "offsets": offsets, "partitions": partitions });
        return context.output.json(&object);
    }
    context.output.line(format!("{what} {name}: {offsets} offsets in {partitions} partitions"))
}

/// Fails for a topic whose archive would be waited for for ever.
async fn refuse_what_is_not_archived(cluster: &mut Cluster, name: &str) -> Result<(), Failure> {
    for setting in describe_settings(cluster, name).await? {
        let what = match (&*setting.name, setting.value.as_deref()) {
            ("remote.storage.enable", Some("false")) => "archived: its remote.storage.enable is false",
            ("remote.log.copy.disable", Some("true")) => "copied to the archive: its remote.log.copy.disable is true",
            _ => continue,
        };
        return Err(Failure::new(Exit::Failed, format!("topic {name} is not {what}")));
    }
    Ok(())
}

/// A topic on its way to the archive.
struct Flush {
    topic: Topic,
    partitions: BTreeSet<i32>,
    /// What is waited for: where each partition ended when it was asked for.
    ends: BTreeMap<i32, Offset>,
    /// The broker may have begun anew since it was asked, and knows of no flush then.
    is_forgotten: bool,
}

impl Flush {
    /// Has the broker seal and archive what there is.
    async fn ask(&mut self, cluster: &mut Cluster) -> Result<(), ClientError> {
        let ends = list_offsets(cluster, &self.topic, &self.partitions, LATEST).await?;
        for (index, end) in ends {
            // A broker that lost records with a power cut, as `write.caching` allows, ends before what was seen.
            self.ends.entry(index).and_modify(|seen| *seen = end.min(*seen)).or_insert(end);
        }
        let now = cluster.runtime().clock.wall().to_string();
        alter_settings(cluster, &self.topic.name, &[(FLUSH_SETTING.to_owned(), now)], &[]).await?;
        self.is_forgotten = false;
        Ok(())
    }

    /// Waits until the archive has it all. A broker that is away is waited for up to the usual limit, and asked again.
    async fn wait(
        &mut self,
        cluster: &mut Cluster,
        limit: Option<Interval>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let clock = Arc::clone(&cluster.runtime().clock);
        let began = clock.monotonic();
        let mut failing_since: Option<Monotonic> = None;
        let mut last = Ok(self.partitions.len());
        loop {
            cluster.pause().await;
            let rest =
                limit.map_or(Duration::MAX, |limit| limit.duration().saturating_sub(clock.monotonic().since(began)));
            let looked = timeout(&*clock, rest, self.look(cluster)).await;
            let now = clock.monotonic();
            let (name, all) = (&self.topic.name, self.partitions.len());
            match looked.map_err(|_| self.not_archived(limit, &last))? {
                Ok(Some(0)) => return Ok(()),
                Ok(Some(left)) => {
                    failing_since = None;
                    last = Ok(left);
                    progress.note(&format!("{name}: {left} of {all} partitions to go"));
                }
                Ok(None) => {
                    let text = format!("topic {name} was deleted meanwhile, and another has its name");
                    return Err(Failure::new(Exit::Failed, text));
                }
                Err(error) => {
                    let failing = now.since(*failing_since.get_or_insert(now));
                    if failing >= cluster.limit() || !error.is_retriable() || error.is_unknown_topic() {
                        return Err(error.into());
                    }
                    self.is_forgotten |= error.exit() == Exit::Unreachable;
                    cluster.disconnect();
                    last = Err(error);
                }
            }
        }
    }

    /// What to say when the time is over, by what was found last: how many partitions are left, or why that can't be told.
    fn not_archived(&self, limit: Option<Interval>, last: &Result<usize, ClientError>) -> Failure {
        let (name, all) = (&self.topic.name, self.partitions.len());
        let after = limit.map_or_else(String::new, |limit| format!(" after {limit}"));
        match last {
            Ok(left) => {
                let text = format!("{left} of {all} partitions of topic {name} are not archived{after}");
                let advice = "the broker goes on with it, and says in its log what keeps it";
                Failure::new(Exit::Failed, format!("{text}; {advice}"))
            }
            Err(error) => {
                Failure::new(error.exit(), format!("topic {name} is not known to be archived{after}: {error}"))
            }
        }
    }

    /// How many partitions are left; `None` if the topic is another by now.
    async fn look(&mut self, cluster: &mut Cluster) -> Result<Option<usize>, ClientError> {
        let topic = cluster.topic(&self.topic.name, false, |_| false).await?;
        if topic.topic_id != self.topic.topic_id {
            return Ok(None);
        }
        // Others may lead it by now.
        self.topic = topic;
        if self.is_forgotten {
            self.ask(cluster).await?;
        }
        let archived = list_offsets(cluster, &self.topic, &self.partitions, LATEST_TIERED).await?;
        // What was deleted meanwhile, or before, does not come there any more.
        let starts = list_offsets(cluster, &self.topic, &self.partitions, EARLIEST).await?;
        let reached = |(index, end): (&i32, &Offset)| {
            archived.get(index).is_some_and(|last| last.next() >= *end)
                || starts.get(index).is_some_and(|start| start >= end)
        };
        Ok(Some(self.ends.iter().filter(|end| !reached(*end)).count()))
    }
}
