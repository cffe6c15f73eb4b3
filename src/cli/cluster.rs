//! `alluvium cluster`: who is in a cluster and how it fares, who votes in it, where replicas are, and the tokens by which brokers join.
//!
//! - [`plan`], [`rebalance`]: replicas and leaders that are moved, by a plan; a broker that is emptied.
//! - [`reassignments`]: what is on its way; [`elections`]: leaders.
//!
//! `token` reads a member's files, beside the broker or without it, and asks nobody. All else speaks the Kafka protocol. Only
//! brokers keep what is changed here.

mod elections;
mod plan;
mod reassignments;
mod rebalance;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::quorum::{self, Member, Members, Moving, Quorum, QuorumNode};
use super::client::{ClientArguments, ClientError, Cluster, Partition, Topic, block_on};
use super::config::SettingArguments;
use super::{Context, Exit, Failure, Output};
use crate::config::Interval;
use crate::peer::identity_files::{IdentityError, IdentityFiles};
use crate::types::Timestamp;

/// Partitions that are shown one by one; JSON has them all.
const SHOWN: usize = 50;
/// The longest that a token may be good.
const VALID_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Print a token that lets brokers join, from a member's data directory; whoever has it can become a member until it ends
    Token(TokenArguments),
    /// Show brokers, voters and partitions, and what to do where something is wrong
    Status {
        #[command(flatten)]
        client: ClientArguments,
        /// As a JSON object, with every partition that is not well
        #[arg(long)]
        json: bool,
    },
    /// Give a broker a vote in the metadata quorum
    AddVoter(NodeArguments),
    /// Take a broker's vote in the metadata quorum
    RemoveVoter(NodeArguments),
    /// Forget a broker that is gone for good, and its vote
    Unregister(NodeArguments),
    /// Give all brokers equal shares, as after one was added: shows a plan, and with --yes carries it out
    Rebalance(rebalance::RebalanceArguments),
    /// Move everything off a broker, so that it can be removed: shows a plan, and with --yes carries it out
    Drain(rebalance::DrainArguments),
    /// Show how far replicas are that move, or leave them where they were
    Reassignments(reassignments::ReassignmentArguments),
    /// Have preferred replicas lead again
    ElectLeaders(elections::ElectArguments),
}

/// Arguments of `alluvium cluster token`.
#[derive(Debug, Args)]
pub struct TokenArguments {
    /// Settings file (TOML), for the data directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory of a member, the first where it has several [default: as `serve` would use]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Any setting, as section.key=value; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How long the token is good
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = validity)]
    valid: Interval,
}

/// Which broker of which cluster.
#[derive(Debug, Args)]
pub struct NodeArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Its number
    #[arg(value_name = "NODE_ID", value_parser = clap::value_parser!(i32).range(0..), allow_negative_numbers = true)]
    node: i32,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

fn validity(text: &str) -> Result<Interval, String> {
    let valid: Interval = text.parse()?;
    if valid.0.is_zero() || valid.0 > VALID_MAX {
        return Err("a token is good for more than nothing and at most 365d".to_owned());
    }
    Ok(valid)
}

/// Runs `alluvium cluster`.
pub(super) fn run(command: ClusterCommand, context: &mut Context) -> Result<(), Failure> {
    match command {
        ClusterCommand::Token(arguments) => token(&arguments, context),
        ClusterCommand::Status { client, json } => block_on(async {
            let mut cluster = client.cluster(context);
            let status = Status::ask(&mut cluster).await?;
            if json {
                context.output.json(&status.json())?
            } else {
                status.print(&mut context.output)?
            }
            status.verdict(json, &mut context.output)
        }),
        ClusterCommand::AddVoter(to) => block_on(async {
            quorum::add_voter(&mut to.client.cluster(context), to.node).await?;
            tell(&to, "added", &mut context.output)
        }),
        ClusterCommand::RemoveVoter(of) => block_on(async {
            quorum::remove_voter(&mut of.client.cluster(context), of.node).await?;
            tell(&of, "removed", &mut context.output)
        }),
        ClusterCommand::Unregister(gone) => block_on(async {
            quorum::unregister(&mut gone.client.cluster(context), gone.node).await?;
            tell(&gone, "unregistered", &mut context.output)
        }),
        ClusterCommand::Rebalance(arguments) => rebalance::rebalance(&arguments, context),
        ClusterCommand::Drain(arguments) => rebalance::drain(&arguments, context),
        ClusterCommand::Reassignments(arguments) => reassignments::run(&arguments, context),
        ClusterCommand::ElectLeaders(arguments) => elections::run(&arguments, context),
    }
}

/// Says what was done to a broker.
fn tell(arguments: &NodeArguments, done: &str, output: &mut Output) -> Result<(), Failure> {
    let node = arguments.node;
    if arguments.json {
        output.json(&json!({ "node": node, "result": done }))
    } else {
        output.line(format!("{done} {node}"))
    }
}

fn token(arguments: &TokenArguments, context: &mut Context) -> Result<(), Failure> {
    let settings = SettingArguments::for_directories(&arguments.config, &arguments.data_dir, &arguments.set);
    let directories = settings.resolve_directories(context)?;
    let first = &directories[0];
    let valid_ms = i64::try_from(arguments.valid.0.as_millis()).unwrap_or(i64::MAX);
    let expires = Timestamp(context.runtime.clock.wall().get().saturating_add(valid_ms));
    let token = IdentityFiles::of(first).join_token(&*context.runtime.disk, expires).map_err(|error| match &error {
        IdentityError::Io { error: refused, .. } if refused.kind() == std::io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Failed, format!("{error}; run this as the user that the broker runs as"))
        }
        _ => Failure::of(error),
    })?;
    let token = token.ok_or_else(|| {
        let text = format!(
            "no broker of a cluster has its data directory here: run this where one runs, or has run, that was started with \
             --peer-listen, with its --data-dir and as its user (with cluster.authorities no token is needed) directory={}",
            first.display()
        );
        Failure::new(Exit::Failed, text)
    })?;
    context.output.line(token.to_string())
}

/// How a cluster fares.
struct Status {
    members: Members,
    /// None while the metadata has no leader.
    quorum: Option<Quorum>,
    topics: Vec<Topic>,
    moving: Vec<Moving>,
}

/// A partition with its topic.
type Place<'a> = (&'a Topic, &'a Partition);

impl Status {
    async fn ask(cluster: &mut Cluster) -> Result<Self, ClientError> {
        let members = quorum::members(cluster).await?;
        let quorum = quorum::quorum(cluster).await?;
        let mut topics = cluster.describe(None, false).await?.into_iter().collect::<Result<Vec<Topic>, _>>()?;
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        let moving = quorum::moving(cluster).await?;
        Ok(Self { members, quorum, topics, moving })
    }

    fn partitions(&self) -> impl Iterator<Item = Place<'_>> {
        self.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
    }

    /// Partitions without a leader: nobody can write or read them.
    fn offline(&self) -> Vec<Place<'_>> {
        self.partitions().filter(|(_, partition)| !partition.is_led()).collect()
    }

    /// Partitions that are led and lack a replica in sync. Those that are only on their way to a broker lack none.
    fn under_replicated(&self) -> Vec<Place<'_>> {
        let is_coming = |topic: &Topic, partition: &Partition, node: i32| {
            let is_it = |moving: &&Moving| moving.topic == topic.name && moving.partition == partition.index;
            self.moving.iter().find(is_it).is_some_and(|moving| moving.adding.contains(&node))
        };
        let lacks = |(topic, partition): &Place<'_>| {
            let mut missing = partition.replicas.iter().filter(|node| !partition.in_sync.contains(node));
            partition.is_led() && missing.any(|node| !is_coming(topic, partition, *node))
        };
        self.partitions().filter(lacks).collect()
    }

    fn fenced(&self) -> Vec<i32> {
        self.members.brokers.iter().filter(|broker| broker.is_fenced).map(|broker| broker.id).collect()
    }

    /// What is wrong and what to do about it, the worst first; none where all is well.
    fn advice(&self) -> Option<String> {
        let (fenced, offline, under) = (self.fenced(), self.offline(), self.under_replicated());
        if self.quorum.is_none() {
            return Some(
                "the metadata has no leader: more than half of its voters have to run and reach each other; \
                         start those that are down, and see the logs of the others"
                    .to_owned(),
            );
        }
        if !offline.is_empty() {
            let holds = |node: &&i32| offline.iter().any(|(_, partition)| partition.replicas.contains(node));
            let holders: Vec<i32> = fenced.iter().filter(holds).copied().collect();
            let what_to_do = match holders.is_empty() {
                true => "the logs of the brokers that hold them say why".to_owned(),
                false => format!("start broker {}, where their replicas are", numbers(&holders)),
            };
            return Some(format!("{} partitions have no leader: {what_to_do}", offline.len()));
        }
        if let Some(first) = fenced.first() {
            return Some(format!(
                "broker {} is fenced: start it, or, if it is gone for good, remove it with `alluvium cluster unregister \
                 {first}`",
                numbers(&fenced)
            ));
        }
        if !under.is_empty() {
            return Some(format!(
                "{} partitions lack a replica in sync: replicas catch up by themselves; if one does not, the logs of its \
                 broker and of the leader say why",
                under.len()
            ));
        }
        None
    }

    /// The last line; an error where nobody can write or read a partition, or change anything.
    fn verdict(&self, json: bool, output: &mut Output) -> Result<(), Failure> {
        let advice = self.advice();
        if self.quorum.is_none() || !self.offline().is_empty() {
            // What was found comes before what to do about it.
            output.flush()?;
            return Err(Failure::new(Exit::Offline, advice.unwrap_or_default()));
        }
        if json { Ok(()) } else { output.line(advice.unwrap_or_else(|| "all is well".to_owned())) }
    }

    fn print(&self, output: &mut Output) -> Result<(), Failure> {
        output.line(format!("cluster   {}", self.members.cluster_id))?;
        match &self.quorum {
            Some(quorum) => output.line(format!("metadata  led by {}", quorum.leader))?,
            None => output.line("metadata  NO LEADER")?,
        }
        let row = |broker: &Member| {
            let (vote, lag) = self.vote(broker.id);
            let state = if broker.is_fenced { "FENCED" } else { "active" }.to_owned();
            let rack = broker.rack.clone().unwrap_or_default();
            vec![broker.id.to_string(), broker.address(), rack, state, vote, lag]
        };
        let rows: Vec<_> = self.members.brokers.iter().map(row).collect();
        output.table(&["BROKER", "ADDRESS", "RACK", "STATE", "METADATA", "LAG"], &rows)?;
        let (offline, under) = (self.offline(), self.under_replicated());
        output.line(format!(
            "{} partitions of {} topics: {} offline, {} under-replicated, {} reassigning",
            self.partitions().count(),
            self.topics.len(),
            offline.len(),
            under.len(),
            self.moving.len()
        ))?;
        self.print_partitions(&offline, &under, output)
    }

    fn print_partitions(&self, offline: &[Place<'_>], under: &[Place<'_>], output: &mut Output) -> Result<(), Failure> {
        let row = |state: &str, (topic, partition): &Place<'_>| {
            let (name, index) = (topic.name.clone(), partition.index.to_string());
            vec![name, index, state.to_owned(), numbers(&partition.replicas), numbers(&partition.in_sync)]
        };
        let moving = |moving: &Moving| {
            let state = format!("to {} from {}", numbers(&moving.adding), numbers(&moving.removing));
            vec![moving.topic.clone(), moving.partition.to_string(), state, numbers(&moving.replicas), String::new()]
        };
        let offline = offline.iter().map(|place| row("OFFLINE", place));
        let under = under.iter().map(|place| row("under-replicated", place));
        let all = offline.chain(under).chain(self.moving.iter().map(moving));
        let total = all.clone().count();
        let rows: Vec<_> = all.take(SHOWN).collect();
        if !rows.is_empty() {
            output.table(&["TOPIC", "PARTITION", "STATE", "REPLICAS", "IN-SYNC"], &rows)?;
        }
        if total > SHOWN {
            output.line(format!("and {} more, which --json lists", total - SHOWN))?;
        }
        Ok(())
    }

    /// A broker's part in the quorum, and how far it is behind.
    fn vote(&self, id: i32) -> (String, String) {
        let find = |nodes: &[QuorumNode]| nodes.iter().find(|node| node.id == id).map(|node| node.lag);
        let Some(quorum) = &self.quorum else { return (String::new(), String::new()) };
        let (vote, lag) = match (find(&quorum.voters), find(&quorum.observers)) {
            (Some(lag), _) => (if quorum.leader == id { "leader" } else { "voter" }, lag),
            (None, Some(lag)) => ("observer", lag),
            (None, None) => return (String::new(), String::new()),
        };
        (vote.to_owned(), lag.map_or_else(|| "unknown".to_owned(), |lag| lag.to_string()))
    }

    fn json(&self) -> Value {
        let broker = |broker: &Member| {
            let (host, rack) = (&broker.host, &broker.rack);
            json!({ "id": broker.id, "host": host, "port": broker.port, "rack": rack, "fenced": broker.is_fenced })
        };
        let nodes = |nodes: &[QuorumNode]| {
            let node = |node: &QuorumNode| {
                let mut object = json!({ "id": node.id, "lag": node.lag });
                if let Some(last_caught_up_ms) = node.last_caught_up_ms {
                    object["last_caught_up_ms"] = last_caught_up_ms.into();
                }
                object
            };
            nodes.iter().map(node).collect::<Vec<_>>()
        };
        let places = |places: &[Place<'_>]| {
            let place = |(topic, partition): &Place<'_>| {
                let (replicas, isr) = (&partition.replicas, &partition.in_sync);
                json!({ "topic": topic.name, "partition": partition.index, "replicas": replicas, "isr": isr })
            };
            places.iter().map(place).collect::<Vec<_>>()
        };
        let moving = |moving: &Moving| {
            json!({
                "topic": moving.topic,
                "partition": moving.partition,
                "replicas": moving.replicas,
                "adding": moving.adding,
                "removing": moving.removing,
            })
        };
        let quorum = self.quorum.as_ref();
        json!({
            "cluster_id": self.members.cluster_id,
            "controller_id": self.members.controller,
            "brokers": self.members.brokers.iter().map(broker).collect::<Vec<_>>(),
            "leader": quorum.map(|quorum| quorum.leader),
            "voters": quorum.map_or_else(Vec::new, |quorum| nodes(&quorum.voters)),
            "observers": quorum.map_or_else(Vec::new, |quorum| nodes(&quorum.observers)),
            "fenced": self.fenced(),
            "offline": places(&self.offline()),
            "under_replicated": places(&self.under_replicated()),
            "reassigning": self.moving.iter().map(moving).collect::<Vec<_>>(),
        })
    }
}

fn numbers(nodes: &[i32]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
