//! `alluvium archive flush`: has a broker archive what a topic holds now, and waits until that is in the bucket.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::client::admin::{alter_settings, describe_settings};
use super::client::{ClientArguments, EARLIEST, LATEST, LATEST_TIERED, list_offsets};
use super::progress::Progress;
use super::{Context, Exit, Failure};
use crate::types::Offset;

/// The topic setting whose change has a broker seal and archive what there is.
const FLUSH_SETTING: &str = "archive.flush.timestamp";

/// Has a topic's segments sealed, by its setting for that, and waits for the archive to reach what is there now.
pub(super) async fn flush(
    arguments: &ClientArguments,
    name: &str,
    wait: bool,
    json: bool,
    context: &mut Context,
) -> Result<(), Failure> {
    let mut cluster = arguments.cluster(context);
    let topic = cluster.topic(name, false, |_| true).await?;
    for setting in describe_settings(&mut cluster, name).await? {
        // It would be waited for for ever.
        let what = match (&*setting.name, setting.value.as_deref()) {
            ("remote.storage.enable", Some("false")) => "archived: its remote.storage.enable is false",
            ("remote.log.copy.disable", Some("true")) => "copied to the archive: its remote.log.copy.disable is true",
            _ => continue,
        };
        return Err(Failure::new(Exit::Failed, format!("topic {name} is not {what}")));
    }
    let partitions: BTreeSet<i32> = topic.partitions.iter().map(|partition| partition.index).collect();
    let progress = Progress::new(Arc::clone(&context.runtime.clock), "archiving", true);
    let ends = list_offsets(&mut cluster, &topic, &partitions, LATEST).await?;
    let now = context.runtime.clock.wall().to_string();
    alter_settings(&mut cluster, name, &[(FLUSH_SETTING.to_owned(), now)], &[]).await?;
    let mut is_done = !wait;
    while !is_done {
        cluster.pause().await;
        if cluster.topic(name, false, |_| false).await?.topic_id != topic.topic_id {
            let text = format!("topic {name} was deleted meanwhile, and another has its name");
            return Err(Failure::new(Exit::Failed, text));
        }
        let archived = list_offsets(&mut cluster, &topic, &partitions, LATEST_TIERED).await?;
        // What was deleted meanwhile, or before, does not come there any more.
        let starts = list_offsets(&mut cluster, &topic, &partitions, EARLIEST).await?;
        let reached = |(index, end): (&i32, &Offset)| {
            archived.get(index).is_some_and(|last| last.next() >= *end)
                || starts.get(index).is_some_and(|start| start >= end)
        };
        let left = ends.iter().filter(|end| !reached(*end)).count();
        progress.note(&format!("{name}: {left} of {} partitions to go", partitions.len()));
        is_done = left == 0;
    }
    progress.clear();
    let what = if wait { "archived" } else { "archiving" };
    let offsets: i64 = ends.values().map(|end| end.0).sum();
    if json {
        let object = json!({ "topic": name, "result": what, "offsets": offsets, "partitions": partitions.len() });
        return context.output.json(&object);
    }
    context.output.line(format!("{what} {name}: {offsets} offsets in {} partitions", partitions.len()))
}
