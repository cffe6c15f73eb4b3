//! `alluvium topic`: topics of any Kafka cluster.

use std::str::FromStr;

use clap::{Args, Subcommand};
use kafka_protocol::error::ResponseError;
use serde_json::{Value, json};

use super::client::admin::{self, TopicSetting};
use super::client::{ClientArguments, ClientError, Cluster, Topic, block_on, pairs};
use super::{Context, Exit, Failure, Output};

/// Topics.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create(CreateArguments),
    /// List the topics of the cluster
    List {
        #[command(flatten)]
        client: ClientArguments,
        /// Also those that the cluster made for itself
        #[arg(long)]
        internal: bool,
        /// One JSON object for each topic
        #[arg(long)]
        json: bool,
    },
    /// Show partitions and settings of topics
    Describe {
        #[command(flatten)]
        client: ClientArguments,
        /// Which topics
        #[arg(required = true, value_name = "TOPIC")]
        topics: Vec<String>,
        /// Show every setting in effect, and not only those of the topic itself
        #[arg(long)]
        all: bool,
        /// One JSON object for each topic
        #[arg(long)]
        json: bool,
    },
    /// Delete topics with all their records
    Delete {
        #[command(flatten)]
        client: ClientArguments,
        /// Which topics
        #[arg(required = true, value_name = "TOPIC")]
        topics: Vec<String>,
        /// A topic that does not exist is no error
        #[arg(long)]
        if_exists: bool,
        /// One JSON object for each topic
        #[arg(long)]
        json: bool,
    },
    /// Add partitions to a topic, or change its settings
    Alter(AlterArguments),
}

/// Arguments of `alluvium topic create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Its name
    topic: String,
    /// Number of partitions [default: the broker's]
    #[arg(long, value_name = "NUMBER", value_parser = positive::<i32>, allow_negative_numbers = true)]
    partitions: Option<i32>,
    /// Number of replicas [default: the broker's]
    #[arg(long, value_name = "NUMBER", value_parser = positive::<i16>, allow_negative_numbers = true)]
    replication_factor: Option<i16>,
    /// A setting by Kafka's name, like retention.ms=60000; can be repeated
    #[arg(long = "config", value_name = "NAME=VALUE")]
    configs: Vec<String>,
    /// A topic that exists already is no error
    #[arg(long)]
    if_not_exists: bool,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `alluvium topic alter`.
#[derive(Debug, Args)]
pub struct AlterArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Which topic
    topic: String,
    /// New number of partitions; keys are then spread differently
    #[arg(long, value_name = "NUMBER", value_parser = positive::<i32>, allow_negative_numbers = true)]
    partitions: Option<i32>,
    /// A setting by Kafka's name, like retention.ms=60000; can be repeated
    #[arg(long = "config", value_name = "NAME=VALUE")]
    configs: Vec<String>,
    /// A setting to return to its default; can be repeated
    #[arg(long = "unset", value_name = "NAME")]
    unset: Vec<String>,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

/// Reads a number of something.
fn positive<N: FromStr + PartialOrd + Default>(text: &str) -> Result<N, String> {
    let number = text.parse().ok().filter(|number| *number > N::default());
    number.ok_or_else(|| "a positive number is needed".to_owned())
}

/// Runs `alluvium topic`.
pub(super) fn run(command: TopicCommand, context: &mut Context) -> Result<(), Failure> {
    block_on(async {
        match command {
            TopicCommand::Create(arguments) => create(&arguments, context).await,
            TopicCommand::List { client, internal, json } => {
                let mut cluster = client.cluster(context);
                list(&mut cluster, internal, json, &mut context.output).await
            }
            TopicCommand::Describe { client, topics, all, json } => {
                let mut cluster = client.cluster(context);
                let mut refused = Vec::new();
                for name in &topics {
                    refused.extend(refusal(describe(&mut cluster, name, all, json, &mut context.output).await)?);
                }
                together(&refused)
            }
            TopicCommand::Delete { client, topics, if_exists, json } => {
                let mut cluster = client.cluster(context);
                let mut refused = Vec::new();
                for name in &topics {
                    refused.extend(refusal(delete(&mut cluster, name, if_exists, json, &mut context.output).await)?);
                }
                together(&refused)
            }
            TopicCommand::Alter(arguments) => alter(&arguments, context).await,
        }
    })
}

/// What was refused for one topic, after which there are the others; anything else ends the command.
fn refusal(result: Result<(), Failure>) -> Result<Option<Failure>, Failure> {
    match result {
        Ok(()) => Ok(None),
        Err(failure) if failure.exit() == Exit::Failed && !failure.is_output_closed() => Ok(Some(failure)),
        Err(failure) => Err(failure),
    }
}

/// Fails with everything that was refused, a line each.
fn together(refused: &[Failure]) -> Result<(), Failure> {
    let lines: Vec<_> = refused.iter().map(ToString::to_string).collect();
    if lines.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, lines.join("\n"))) }
}

/// Whether a result is this refusal.
fn is_refused<T>(result: &Result<T, ClientError>, wanted: ResponseError) -> bool {
    matches!(result, Err(ClientError::Refused { code, .. }) if *code == wanted)
}

/// Says what was done to a topic.
fn tell(output: &mut Output, json: bool, name: &str, done: &str) -> Result<(), Failure> {
    if json { output.json(&json!({ "topic": name, "result": done })) } else { output.line(format!("{done} {name}")) }
}

async fn create(arguments: &CreateArguments, context: &mut Context) -> Result<(), Failure> {
    let configs = pairs("--config", &arguments.configs)?;
    let name = &arguments.topic;
    let mut cluster = arguments.client.cluster(context);
    // So the protocol asks for the broker's defaults.
    let (partitions, replicas) = (arguments.partitions.unwrap_or(-1), arguments.replication_factor.unwrap_or(-1));
    let created = admin::create_topic(&mut cluster, name, partitions, replicas, &configs).await;
    let exists = is_refused(&created, ResponseError::TopicAlreadyExists);
    if exists && arguments.if_not_exists {
        return tell(&mut context.output, arguments.json, name, "exists");
    }
    created.map_err(|error| match exists {
        true => Failure::new(Exit::Failed, format!("{error}; with --if-not-exists that is no error")),
        false => error.into(),
    })?;
    tell(&mut context.output, arguments.json, name, "created")
}

async fn delete(
    cluster: &mut Cluster,
    name: &str,
    if_exists: bool,
    json: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let deleted = admin::delete_topic(cluster, name).await;
    if if_exists && is_refused(&deleted, ResponseError::UnknownTopicOrPartition) {
        return tell(output, json, name, "absent");
    }
    deleted?;
    tell(output, json, name, "deleted")
}

async fn list(cluster: &mut Cluster, internal: bool, json: bool, output: &mut Output) -> Result<(), Failure> {
    let mut topics = cluster.describe(None, false).await?.into_iter().collect::<Result<Vec<Topic>, _>>()?;
    topics.retain(|topic| internal || !topic.is_internal);
    topics.sort_by(|one, other| one.name.cmp(&other.name));
    if json {
        return topics.iter().try_for_each(|topic| output.json(&topic_json(topic)));
    }
    let row = |topic: &Topic| vec![topic.name.clone(), topic.partitions.len().to_string(), replicas(topic).to_string()];
    output.table(&["TOPIC", "PARTITIONS", "REPLICAS"], &topics.iter().map(row).collect::<Vec<_>>())
}

async fn describe(
    cluster: &mut Cluster,
    name: &str,
    all: bool,
    json: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let topic = cluster.topic(name, false, |_| false).await?;
    let mut settings = admin::describe_settings(cluster, name).await?;
    settings.retain(|setting| all || setting.is_own);
    settings.sort_by(|one, other| one.name.cmp(&other.name));
    if json {
        let mut object = topic_json(&topic);
        let pair = |setting: &TopicSetting| (setting.name.clone(), Value::from(setting.value.clone()));
        object["configs"] = settings.iter().map(pair).collect::<serde_json::Map<_, _>>().into();
        return output.json(&object);
    }
    output.line(format!("topic {} id {} partitions {}", topic.name, topic.topic_id, topic.partitions.len()))?;
    for setting in &settings {
        output.line(format!("  {}={}", setting.name, setting.value.as_deref().unwrap_or("(hidden)")))?;
    }
    let row = |partition: &super::client::Partition| {
        let nodes = |nodes: &[i32]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        vec![
            partition.index.to_string(),
            if partition.is_led() { partition.leader.to_string() } else { "none".to_owned() },
            nodes(&partition.replicas),
            nodes(&partition.in_sync),
        ]
    };
    output.table(&["PARTITION", "LEADER", "REPLICAS", "IN-SYNC"], &topic.partitions.iter().map(row).collect::<Vec<_>>())
}

async fn alter(arguments: &AlterArguments, context: &mut Context) -> Result<(), Failure> {
    let set = pairs("--config", &arguments.configs)?;
    if arguments.partitions.is_none() && set.is_empty() && arguments.unset.is_empty() {
        return Err(Failure::usage("nothing to alter: give --partitions, --config or --unset"));
    }
    let mut cluster = arguments.client.cluster(context);
    if let Some(count) = arguments.partitions {
        admin::create_partitions(&mut cluster, &arguments.topic, count).await?;
    }
    if !set.is_empty() || !arguments.unset.is_empty() {
        admin::alter_settings(&mut cluster, &arguments.topic, &set, &arguments.unset).await?;
    }
    tell(&mut context.output, arguments.json, &arguments.topic, "altered")
}

fn replicas(topic: &Topic) -> usize {
    topic.partitions.iter().map(|partition| partition.replicas.len()).min().unwrap_or(0)
}

fn topic_json(topic: &Topic) -> Value {
    let partition = |partition: &super::client::Partition| {
        json!({
            "partition": partition.index,
            "leader": partition.leader,
            "replicas": partition.replicas,
            "in_sync": partition.in_sync,
        })
    };
    json!({
        "topic": topic.name,
        "id": topic.topic_id.to_string(),
        "internal": topic.is_internal,
        "partitions": topic.partitions.iter().map(partition).collect::<Vec<_>>(),
    })
}
