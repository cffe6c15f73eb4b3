//! `alluvium cluster rebalance` and `alluvium cluster drain`: replicas and leaders are moved by a plan, which is shown first.
//!
//! A plan is made of what the cluster tells, carried out in steps of a few partitions, and kept nowhere: after an interruption the
//! command is given again, and plans what is left. What is under way goes on meanwhile, and a throttle stays, as with Kafka's tool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kafka_protocol::error::ResponseError;
use serde_json::{Value, json};

use super::plan::{self, Change, Layout, Node, Placed};
use super::{SHOWN, numbers};
use crate::cli::client::moves::{self, OnDisk, Place, Throttled};
use crate::cli::client::quorum::{self, Members, Moving};
use crate::cli::client::{ClientArguments, ClientError, Cluster, Topic, block_on};
use crate::cli::progress::Progress;
use crate::cli::{Context, Exit, Failure, Output};
use crate::config::ByteSize;
use crate::types::Monotonic;

/// Between two looks at what is under way.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How often the preferred leaders are asked for that were not in sync yet.
const ELECTIONS: usize = 20;

/// Arguments of `alluvium cluster rebalance`.
#[derive(Debug, Args)]
pub struct RebalanceArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Only partitions of this topic move; can be repeated
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Replicas move only to this broker; can be repeated [default: all that are active]
    #[arg(long = "broker", value_name = "NODE_ID")]
    brokers: Vec<i32>,
    #[command(flatten)]
    how: How,
}

/// Arguments of `alluvium cluster drain`.
#[derive(Debug, Args)]
pub struct DrainArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// The broker that is to hold nothing any more
    #[arg(value_name = "NODE_ID", value_parser = clap::value_parser!(i32).range(0..), allow_negative_numbers = true)]
    node: i32,
    #[command(flatten)]
    how: How,
}

/// How a plan is carried out.
#[derive(Debug, Args)]
struct How {
    /// Carry the plan out; without this it is only shown
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Show the plan and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Partitions that move at a time
    #[arg(long, value_name = "NUMBER", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    at_once: u32,
    /// What each broker may send, and be sent, in a second for replicas that move, like 50MiB
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    throttle: Option<ByteSize>,
    /// Print plan and result as a JSON object
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<ByteSize, String> {
    let rate: ByteSize = text.parse()?;
    if rate.bytes() == 0 { Err("nothing would move".to_owned()) } else { Ok(rate) }
}

/// Runs `alluvium cluster rebalance`.
pub(super) fn rebalance(arguments: &RebalanceArguments, context: &mut Context) -> Result<(), Failure> {
    block_on(async {
        let mut cluster = arguments.client.cluster(context);
        let survey = Survey::ask(&mut cluster).await?;
        survey.check(&arguments.topics, &arguments.brokers)?;
        let layout = survey.layout(&Aim::Balance { topics: &arguments.topics, brokers: &arguments.brokers });
        let plan = Plan { changes: plan::balanced(&layout), layout, drains: None };
        carry_out(&mut cluster, &survey, &plan, &arguments.how, context).await
    })
}

/// Runs `alluvium cluster drain`.
pub(super) fn drain(arguments: &DrainArguments, context: &mut Context) -> Result<(), Failure> {
    block_on(async {
        let node = arguments.node;
        let mut cluster = arguments.client.cluster(context);
        let survey = Survey::ask(&mut cluster).await?;
        let layout = survey.layout(&Aim::Drain(node));
        let changes = drained(&survey, &layout, node)?;
        let plan = Plan { changes, layout, drains: Some(node) };
        carry_out(&mut cluster, &survey, &plan, &arguments.how, context).await
    })
}

/// The changes that leave a broker with nothing, or why that can't be.
fn drained(survey: &Survey, layout: &Layout, node: i32) -> Result<Vec<Change>, Failure> {
    let on_it = |placed: &&Placed| placed.replicas.contains(&node);
    if !survey.members.brokers.iter().any(|broker| broker.id == node) && !layout.partitions.iter().any(|it| on_it(&it))
    {
        return Err(Failure::usage(format!("no broker has the number {node}, and no partition is there")));
    }
    if let Some(stuck) = layout.partitions.iter().filter(on_it).find(|placed| !placed.may_move) {
        let text = format!(
            "partition {} of {} has no leader, so that nobody can give its records to another broker; \
             start one of the brokers that have them first, see `alluvium cluster status`",
            stuck.partition, stuck.topic
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    plan::drained(layout, node).map_err(|no_place| {
        let placed = &layout.partitions[no_place.index];
        let text = format!(
            "partition {} of {} has {} replicas, and without broker {node} there are {} brokers that could hold them; \
             add a broker first, or start one that is down",
            placed.partition,
            placed.topic,
            placed.replicas.len(),
            no_place.brokers
        );
        Failure::new(Exit::Failed, text)
    })
}

/// What a plan is for.
enum Aim<'a> {
    Balance { topics: &'a [String], brokers: &'a [i32] },
    Drain(i32),
}

/// What a cluster tells of itself.
struct Survey {
    members: Members,
    topics: Vec<Topic>,
    moving: BTreeMap<Place, Moving>,
    on_disk: BTreeMap<i32, BTreeMap<Place, OnDisk>>,
}

impl Survey {
    async fn ask(cluster: &mut Cluster) -> Result<Self, ClientError> {
        let members = quorum::members(cluster).await?;
        let topics = described(cluster).await?;
        let moving = by_place(quorum::moving(cluster).await?);
        let mut on_disk = BTreeMap::new();
        for broker in members.brokers.iter().filter(|broker| !broker.is_fenced) {
            // Without sizes there is a plan as well.
            if let Ok(known) = moves::on_disk(cluster, broker.id).await {
                on_disk.insert(broker.id, known);
            }
        }
        Ok(Self { members, topics, moving, on_disk })
    }

    /// Refuses names and numbers that are none.
    fn check(&self, topics: &[String], brokers: &[i32]) -> Result<(), Failure> {
        if let Some(unknown) = topics.iter().find(|name| !self.topics.iter().any(|topic| topic.name == **name)) {
            return Err(Failure::new(Exit::Failed, format!("there is no topic {unknown}")));
        }
        for node in brokers {
            let text = match self.members.brokers.iter().find(|broker| broker.id == *node) {
                None => format!("there is no broker {node}; `alluvium cluster status` lists them"),
                Some(broker) if broker.is_fenced => {
                    format!("broker {node} is fenced, so that nothing can move to it; start it")
                }
                Some(_) => continue,
            };
            return Err(Failure::new(Exit::Failed, text));
        }
        Ok(())
    }

    fn bytes(&self, place: &Place, leader: i32) -> u64 {
        let on = |node: &i32| self.on_disk.get(node)?.get(place).map(|on_disk| on_disk.bytes);
        on(&leader).or_else(|| self.on_disk.keys().filter_map(on).max()).unwrap_or(0)
    }

    /// Whether all sizes are known that could be.
    fn knows_sizes(&self) -> bool {
        self.members.brokers.iter().all(|broker| broker.is_fenced || self.on_disk.contains_key(&broker.id))
    }

    fn layout(&self, aim: &Aim<'_>) -> Layout {
        let takes = |id: &i32| match aim {
            Aim::Balance { brokers, .. } => brokers.is_empty() || brokers.contains(id),
            Aim::Drain(node) => id != node,
        };
        let node = |broker: &quorum::Member| {
            let is_up = !broker.is_fenced;
            (broker.id, Node { rack: broker.rack.clone(), is_up, takes: is_up && takes(&broker.id) })
        };
        let mut partitions = Vec::new();
        for topic in &self.topics {
            for partition in &topic.partitions {
                let place = (topic.name.clone(), partition.index);
                let moving = self.moving.get(&place);
                // Where it moves to already counts as where it is.
                let leaves = |id: &i32| moving.is_some_and(|moving| moving.removing.contains(id));
                let replicas: Vec<i32> = partition.replicas.iter().copied().filter(|id| !leaves(id)).collect();
                let is_meant = match aim {
                    Aim::Balance { topics, .. } => {
                        moving.is_none() && (topics.is_empty() || topics.contains(&topic.name))
                    }
                    Aim::Drain(_) => true,
                };
                let (bytes, may_move) = (self.bytes(&place, partition.leader), is_meant && partition.is_led());
                let (topic, partition) = place;
                partitions.push(Placed { topic, partition, replicas, bytes, may_move });
            }
        }
        Layout { nodes: self.members.brokers.iter().map(node).collect(), partitions }
    }
}

async fn described(cluster: &mut Cluster) -> Result<Vec<Topic>, ClientError> {
    let mut topics = cluster.describe(None, false).await?.into_iter().collect::<Result<Vec<Topic>, _>>()?;
    topics.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(topics)
}

fn by_place(moving: Vec<Moving>) -> BTreeMap<Place, Moving> {
    moving.into_iter().map(|moving| ((moving.topic.clone(), moving.partition), moving)).collect()
}

/// What is to be done.
struct Plan {
    layout: Layout,
    changes: Vec<Change>,
    /// The broker that is to have nothing afterwards.
    drains: Option<i32>,
}

impl Plan {
    fn place(&self, change: &Change) -> Place {
        let placed = &self.layout.partitions[change.index];
        (placed.topic.clone(), placed.partition)
    }

    /// Replicas that are copied.
    fn copies(&self) -> usize {
        self.changes.iter().map(|change| change.adds.len()).sum()
    }

    fn bytes_of(&self, change: &Change) -> u64 {
        self.layout.partitions[change.index].bytes * change.adds.len() as u64
    }

    fn bytes(&self) -> u64 {
        self.changes.iter().map(|change| self.bytes_of(change)).sum()
    }

    /// The replicas for which a throttle is to hold.
    fn throttled(&self) -> BTreeMap<String, Throttled> {
        let mut topics: BTreeMap<String, Throttled> = BTreeMap::new();
        for change in self.changes.iter().filter(|change| !change.adds.is_empty()) {
            let placed = &self.layout.partitions[change.index];
            let throttled = topics.entry(placed.topic.clone()).or_default();
            throttled.leaders.extend(placed.replicas.iter().map(|node| (placed.partition, *node)));
            throttled.followers.extend(change.adds.iter().map(|node| (placed.partition, *node)));
        }
        topics
    }

    fn print(&self, knows_sizes: bool, output: &mut Output) -> Result<(), Failure> {
        let (before, after) = (plan::loads(&self.layout, &[]), plan::loads(&self.layout, &self.changes));
        let arrow = |one: String, other: String| if one == other { one } else { format!("{one} -> {other}") };
        let row = |(id, load): (&i32, &plan::Load)| {
            let then = after.get(id).copied().unwrap_or_default();
            vec![
                id.to_string(),
                arrow(load.replicas.to_string(), then.replicas.to_string()),
                arrow(load.leaders.to_string(), then.leaders.to_string()),
                arrow(human(load.bytes), human(then.bytes)),
            ]
        };
        let rows: Vec<_> = before.iter().map(row).collect();
        output.table(&["BROKER", "REPLICAS", "PREFERRED LEADER", "ON DISK"], &rows)?;
        if self.changes.is_empty() {
            return Ok(());
        }
        let row = |change: &Change| {
            let placed = &self.layout.partitions[change.index];
            let (from, to) = (numbers(&placed.replicas), numbers(&change.replicas));
            let copied = if change.adds.is_empty() { "-".to_owned() } else { human(self.bytes_of(change)) };
            vec![placed.topic.clone(), placed.partition.to_string(), from, to, copied]
        };
        let rows: Vec<_> = self.changes.iter().take(SHOWN).map(row).collect();
        output.table(&["TOPIC", "PARTITION", "FROM", "TO", "COPIED"], &rows)?;
        if self.changes.len() > SHOWN {
            output.line(format!("and {} more, which --json lists", self.changes.len() - SHOWN))?;
        }
        let but = if knows_sizes { "" } else { ", as far as brokers tell" };
        output.line(format!(
            "{} partitions change, {} replicas are copied: {}{but}; what is archived is not copied",
            self.changes.len(),
            self.copies(),
            human(self.bytes())
        ))
    }

    fn json(&self, result: &str) -> Value {
        let (before, after) = (plan::loads(&self.layout, &[]), plan::loads(&self.layout, &self.changes));
        let load =
            |load: plan::Load| json!({ "replicas": load.replicas, "leaders": load.leaders, "bytes": load.bytes });
        let brokers = before.iter().map(|(id, was)| {
            json!({ "id": id, "before": load(*was), "after": load(after.get(id).copied().unwrap_or_default()) })
        });
        let change = |change: &Change| {
            let placed = &self.layout.partitions[change.index];
            json!({
                "topic": placed.topic,
                "partition": placed.partition,
                "from": placed.replicas,
                "to": change.replicas,
                "adding": change.adds,
                "removing": change.drops,
                "bytes": self.bytes_of(change),
            })
        };
        json!({
            "result": result,
            "brokers": brokers.collect::<Vec<_>>(),
            "changes": self.changes.iter().map(change).collect::<Vec<_>>(),
            "copies": self.copies(),
            "bytes": self.bytes(),
        })
    }
}

/// Shows a plan and, if that is asked for, does what it says.
async fn carry_out(
    cluster: &mut Cluster,
    survey: &Survey,
    plan: &Plan,
    how: &How,
    context: &mut Context,
) -> Result<(), Failure> {
    if !how.json {
        plan.print(survey.knows_sizes(), &mut context.output)?;
        context.output.flush()?;
    }
    let is_done = plan.changes.is_empty() && survey.moving.is_empty();
    if (how.dry_run || !how.yes) && !is_done {
        return match how.json {
            true => context.output.json(&plan.json("planned")),
            false if plan.changes.is_empty() => context.output.line(format!(
                "{} partitions are on their way, see `alluvium cluster reassignments`; with --yes they are waited for",
                survey.moving.len()
            )),
            false => context.output.line("nothing is changed yet; give the command again with --yes to have it done"),
        };
    }
    let mut later = 0;
    if how.yes {
        let progress = Progress::new(Arc::clone(&context.runtime.clock), "moving", true);
        let moved = Mover::new(plan, survey, how).run(cluster, how, &progress).await;
        progress.clear();
        later = moved.map_err(|failure| match how.throttle {
            None => failure,
            Some(_) => Failure::new(
                failure.exit(),
                format!("{failure}; the throttle stays: give the command again, or `alluvium cluster reassignments --unthrottle`"),
            ),
        })?;
    }
    let result = if is_done { "balanced" } else { "moved" };
    let result = if plan.drains.is_some() { "drained" } else { result };
    if how.json {
        let mut object = plan.json(result);
        object["not_led_by_preferred"] = later.into();
        return context.output.json(&object);
    }
    if later > 0 {
        context.output.line(format!("{later} partitions are led by another than the preferred replica for now"))?;
    }
    context.output.line(match plan.drains {
        Some(node) => format!(
            "broker {node} holds nothing any more: stop it before anything new is placed there, then forget it with \
             `alluvium cluster unregister {node}`"
        ),
        None if is_done => "the cluster is in balance".to_owned(),
        None => "done".to_owned(),
    })
}

/// A plan that is being carried out.
struct Mover<'a> {
    plan: &'a Plan,
    at_once: usize,
    /// What is not asked for yet, in reverse.
    waiting: Vec<(Place, Vec<i32>)>,
    /// What is asked for, and what was under way before.
    under_way: BTreeSet<Place>,
    refused: Vec<(Place, ClientError)>,
    brokers: Vec<i32>,
    topics: Vec<String>,
}

impl<'a> Mover<'a> {
    fn new(plan: &'a Plan, survey: &Survey, how: &How) -> Self {
        let waiting = plan.changes.iter().rev().map(|change| (plan.place(change), change.replicas.clone())).collect();
        Self {
            plan,
            at_once: usize::try_from(how.at_once).unwrap_or(usize::MAX),
            waiting,
            under_way: survey.moving.keys().cloned().collect(),
            refused: Vec::new(),
            brokers: survey.members.brokers.iter().map(|broker| broker.id).collect(),
            topics: survey.topics.iter().map(|topic| topic.name.clone()).collect(),
        }
    }

    /// Moves everything, and has preferred leaders lead; tells how many partitions those do not lead yet.
    async fn run(mut self, cluster: &mut Cluster, how: &How, progress: &Progress) -> Result<usize, Failure> {
        if let Some(rate) = how.throttle {
            moves::throttle(cluster, &self.brokers, rate.bytes(), &self.plan.throttled()).await?;
        }
        let clock = Arc::clone(&cluster.runtime().clock);
        let mut failing_since: Option<Monotonic> = None;
        loop {
            match self.step(cluster).await {
                Ok(true) => break,
                Ok(false) => {
                    failing_since = None;
                    let (left, under_way) = (self.waiting.len(), self.under_way.len());
                    progress.note(&format!("{under_way} partitions are under way, {left} to go"));
                }
                Err(error) => {
                    let now = clock.monotonic();
                    let failing = now.since(*failing_since.get_or_insert(now));
                    if !error.is_retriable() || failing >= cluster.limit() {
                        return Err(error.into());
                    }
                    cluster.disconnect();
                }
            }
            clock.sleep(LOOK_PAUSE).await;
        }
        let later = self.elect(cluster).await?;
        self.verdict(cluster).await?;
        if how.throttle.is_some() {
            moves::unthrottle(cluster, &self.brokers, &self.topics).await?;
        }
        Ok(later)
    }

    /// Asks for as much as may be under way; tells whether all is over.
    async fn step(&mut self, cluster: &mut Cluster) -> Result<bool, ClientError> {
        let moving = by_place(quorum::moving(cluster).await?);
        self.under_way.retain(|place| moving.contains_key(place));
        let room = self.at_once.saturating_sub(self.under_way.len()).min(self.waiting.len());
        if room == 0 {
            return Ok(self.under_way.is_empty() && self.waiting.is_empty());
        }
        let left = self.waiting.len() - room;
        let some: Vec<_> =
            self.waiting[left..].iter().rev().map(|(place, to)| (place.clone(), Some(to.clone()))).collect();
        let refused = moves::reassign(cluster, &some).await?;
        // What was asked for and not answered is asked for again.
        self.waiting.truncate(left);
        self.under_way.extend(some.into_iter().map(|(place, _)| place));
        self.refused.extend(refused);
        Ok(false)
    }

    /// Has preferred leaders lead where something changed, once they are in sync.
    async fn elect(&self, cluster: &mut Cluster) -> Result<usize, ClientError> {
        let mut places: Vec<Place> = self.plan.changes.iter().map(|change| self.plan.place(change)).collect();
        for _ in 0..ELECTIONS {
            if places.is_empty() {
                break;
            }
            let elected = moves::elect_leaders(cluster, false, Some(&places)).await?;
            let is_later = |error: &ClientError| {
                matches!(error, ClientError::Refused { code: ResponseError::PreferredLeaderNotAvailable, .. })
            };
            let later = elected.into_iter().filter(|one| one.refused.as_ref().is_some_and(is_later));
            places = later.map(|one| one.place).collect();
            if !places.is_empty() {
                cluster.runtime().clock.sleep(LOOK_PAUSE).await;
            }
        }
        Ok(places.len())
    }

    /// Whether replicas are where they were to be.
    async fn verdict(&self, cluster: &mut Cluster) -> Result<(), Failure> {
        if let Some((_, first)) = self.refused.first() {
            let text = format!(
                "{} of {} partitions were not moved, the first: {first}",
                self.refused.len(),
                self.plan.changes.len()
            );
            return Err(Failure::new(Exit::Failed, text));
        }
        let topics = described(cluster).await?;
        let mut found: BTreeMap<Place, &[i32]> = BTreeMap::new();
        for topic in &topics {
            let places = topic.partitions.iter().map(|it| ((topic.name.clone(), it.index), &*it.replicas));
            found.extend(places);
        }
        let is_elsewhere = |change: &&Change| {
            found.get(&self.plan.place(change)).is_some_and(|replicas| {
                replicas.iter().collect::<BTreeSet<_>>() != change.replicas.iter().collect::<BTreeSet<_>>()
            })
        };
        let elsewhere = self.plan.changes.iter().filter(is_elsewhere).count();
        let left = self.plan.drains.map_or(0, |node| found.values().filter(|nodes| nodes.contains(&node)).count());
        if elsewhere == 0 && left == 0 {
            return Ok(());
        }
        let text = match self.plan.drains.filter(|_| left > 0) {
            Some(node) => format!("{left} partitions are on broker {node} still, or again; give the command again"),
            None => format!(
                "{elsewhere} partitions are not where they were to be: somebody else moved them; give the command again"
            ),
        };
        Err(Failure::new(Exit::Failed, text))
    }
}

/// Bytes for people.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{} KiB", bytes.div_ceil(1 << 10)),
    }
}

#[cfg(test)]
mod tests;
