//! `alluvium cluster elect-leaders`: preferred replicas lead again, or, where records may be lost for that, any that is left.

use clap::Args;
use serde_json::json;

use crate::cli::client::moves::{self, Elected, Place};
use crate::cli::client::{ClientArguments, ClientError, block_on};
use crate::cli::{Context, Exit, Failure, Output};

/// Arguments of `alluvium cluster elect-leaders`.
#[derive(Debug, Args)]
pub struct ElectArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Only partitions of this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only this partition; can be repeated
    #[arg(long = "partition", value_name = "NUMBER", requires = "topic", value_parser = clap::value_parser!(i32).range(0..))]
    partitions: Vec<i32>,
    /// Where nobody leads, let a replica lead that lacks records: acknowledged records can be lost for good
    #[arg(long, requires = "topic")]
    unclean: bool,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `alluvium cluster elect-leaders`.
pub(super) fn run(arguments: &ElectArguments, context: &mut Context) -> Result<(), Failure> {
    block_on(async {
        let mut cluster = arguments.client.cluster(context);
        let places: Option<Vec<Place>> = match &arguments.topic {
            None => None,
            Some(name) if arguments.partitions.is_empty() => {
                let unknown = || Failure::new(Exit::Failed, format!("there is no topic {name}"));
                let topic = cluster.describe(Some(&[name]), false).await?.pop().ok_or_else(unknown)??;
                Some(topic.partitions.iter().map(|partition| (name.clone(), partition.index)).collect())
            }
            Some(name) => Some(arguments.partitions.iter().map(|partition| (name.clone(), *partition)).collect()),
        };
        let elected = moves::elect_leaders(&mut cluster, arguments.unclean, places.as_deref()).await?;
        tell(&elected, arguments.json, &mut context.output)
    })
}

/// Tells what came of elections; an error if one did not come off.
fn tell(elected: &[Elected], json: bool, output: &mut Output) -> Result<(), Failure> {
    let refused: Vec<(&Place, &ClientError)> =
        elected.iter().filter_map(|one| Some((&one.place, one.refused.as_ref()?))).collect();
    if json {
        let of = |(place, error): &(&Place, &ClientError)| json!({ "topic": place.0, "partition": place.1, "error": error.to_string() });
        let failed: Vec<_> = refused.iter().map(of).collect();
        output.json(&json!({ "result": "elected", "partitions": elected.len() - refused.len(), "failed": failed }))?;
    } else {
        output.line(format!("{} partitions have the leader that they are to have", elected.len() - refused.len()))?;
    }
    let Some((_, first)) = refused.first() else { return Ok(()) };
    output.flush()?;
    let text = format!("{} partitions have no such leader, the first: {first}", refused.len());
    Err(Failure::new(Exit::Failed, text))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::error::ResponseError;

    use super::*;
    use crate::cli::tests::{Captured, alluvium};

    #[test]
    fn elections_that_did_not_come_off_are_an_error_with_the_first_of_them() {
        let code = ResponseError::PreferredLeaderNotAvailable.code();
        let refused = ClientError::check("electing the leader of partition 1 of t", code, Some("not in sync")).err();
        let place = |partition| ("t".to_owned(), partition);
        let elected = [Elected { place: place(0), refused: None }, Elected { place: place(1), refused }];
        let captured = Captured::default();
        let mut output = Output::to(captured.clone());
        let failure = tell(&elected, false, &mut output).unwrap_err();
        assert_eq!(captured.text(), "1 partitions have the leader that they are to have\n");
        let expected = "1 partitions have no such leader, the first: electing the leader of partition 1 of t: not in sync \
                        (PreferredLeaderNotAvailable)";
        assert_eq!(failure.to_string(), expected);
        assert!(tell(&elected[..1], false, &mut output).is_ok());
    }

    #[test]
    fn an_unclean_election_is_about_a_topic_that_is_named() {
        let refused = |more: &str, value: &[&str]| {
            alluvium(&[&["cluster", "elect-leaders", more][..], value].concat(), &[]).unwrap_err()
        };
        assert!(refused("--unclean", &[]).contains("--topic <TOPIC>"));
        assert!(refused("--partition", &["1"]).contains("--topic <TOPIC>"));
    }
}
