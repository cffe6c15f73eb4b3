//! How a broker meets the others of its cluster: what the settings for it mean together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::error::Problem;
use super::host::Machine;
use super::listeners::{HostPort, parse_listen_address};
use super::load::Loaded;
use super::units::Interval;
use crate::peer::identity_files::OperatorFiles;
use crate::peer::token::JoinToken;

/// The most voters of a quorum: each waits for more than half of them.
const VOTERS_MAX: i32 = 9;
/// The most connections to one peer.
const CONNECTIONS_MAX: usize = 16;
/// The shortest session: heartbeats, four in a second, must have a chance to be late.
const SESSION_MIN: Interval = Interval::seconds(1);

/// A broker among others.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Where to listen for other brokers; port 0 picks a free port.
    pub listen: SocketAddr,
    /// What other brokers are told; `None` stands for the address that was bound.
    pub advertised: Option<HostPort>,
    /// Members of the cluster to join; none for one that begins a cluster.
    pub join: Vec<HostPort>,
    /// The token that lets this broker in.
    pub token: Option<Secret>,
    /// Certificates of the operator's own.
    pub pki: Option<OperatorFiles>,
    /// Voters that the metadata quorum is to have.
    pub voters: usize,
    /// Connections to each other broker for records.
    pub connections: usize,
    /// How long a broker may be silent before others lead in its place.
    pub session_timeout: Duration,
    /// How long a replica may lag and be in sync.
    pub replica_lag_max: Duration,
}

/// The peer settings; `None` for a broker by itself, or where something is wrong with them.
pub(super) fn resolve(
    loaded: &Loaded,
    machine: &Machine,
    warnings: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) -> Option<PeerConfig> {
    let cluster = &loaded.settings.cluster;
    check_ranges(loaded, problems);
    let Some(listen) = &cluster.peer_listen else {
        refuse_without_listener(loaded, problems);
        return None;
    };
    let (token, pki) = (resolve_token(loaded, problems), resolve_pki(loaded, machine, problems));
    let join = resolve_join(loaded, problems);
    let listen = parse_listen_address(listen).map_err(|text| loaded.problem("cluster.peer_listen", text));
    let listen = listen.map_err(|problem| problems.push(problem)).ok()?;
    let advertised = resolve_advertised(loaded, machine, listen, warnings);
    let advertised = advertised.map_err(|problem| problems.push(problem)).ok()?;
    Some(PeerConfig {
        listen,
        advertised,
        join,
        token,
        pki,
        voters: usize::try_from(cluster.voters).unwrap_or(0),
        connections: cluster.peer_connections,
        session_timeout: cluster.session_timeout.0,
        replica_lag_max: cluster.replica_lag_max.0,
    })
}

fn check_ranges(loaded: &Loaded, problems: &mut Vec<Problem>) {
    let cluster = &loaded.settings.cluster;
    let mut check = |good: bool, key: &str, text: String| {
        if !good {
            problems.push(loaded.problem(key, text));
        }
    };
    let voters = cluster.voters;
    let is_odd = (1..=VOTERS_MAX).contains(&voters) && voters % 2 == 1;
    check(is_odd, "cluster.voters", format!("must be an odd number from 1 to {VOTERS_MAX}, is {voters}"));
    check(
        (1..=CONNECTIONS_MAX).contains(&cluster.peer_connections),
        "cluster.peer_connections",
        format!("must be from 1 to {CONNECTIONS_MAX}, is {}", cluster.peer_connections),
    );
    check(
        cluster.session_timeout >= SESSION_MIN,
        "cluster.session_timeout",
        format!("must be at least {SESSION_MIN}, is {}", cluster.session_timeout),
    );
    check(!cluster.replica_lag_max.0.is_zero(), "cluster.replica_lag_max", "must be more than nothing".to_owned());
}

/// A broker by itself would pass these over in silence, and not be where its operator believes it is.
fn refuse_without_listener(loaded: &Loaded, problems: &mut Vec<Problem>) {
    let cluster = &loaded.settings.cluster;
    for (is_set, key) in [
        (cluster.peer_advertised.is_some(), "cluster.peer_advertised"),
        (!cluster.join.0.is_empty(), "cluster.join"),
        (cluster.join_token.is_some(), "cluster.join_token"),
        (cluster.certificate.is_some(), "cluster.certificate"),
        (cluster.key.is_some(), "cluster.key"),
        (cluster.authorities.is_some(), "cluster.authorities"),
    ] {
        if is_set {
            let text = "needs an address for other brokers; set --peer-listen ADDR or cluster.peer_listen too";
            problems.push(loaded.problem(key, text));
        }
    }
}

/// A token that no cluster can have made is refused before anything is opened. What is wrong with it is said without showing it.
fn resolve_token(loaded: &Loaded, problems: &mut Vec<Problem>) -> Option<Secret> {
    const KEY: &str = "cluster.join_token";
    let cluster = &loaded.settings.cluster;
    let token = cluster.join_token.clone()?;
    if cluster.join.0.is_empty() {
        let text = "means nothing without a cluster to join; set --join ADDR or cluster.join too, or unset it";
        problems.push(loaded.problem(KEY, text));
    } else if cluster.authorities.is_some() {
        let text = "means nothing beside cluster.authorities, whose certificates let a broker in; unset it";
        problems.push(loaded.problem(KEY, text));
    } else if let Err(error) = token.expose().parse::<JoinToken>() {
        problems.push(loaded.problem(KEY, error));
    }
    Some(token)
}

/// All three files, or none.
fn resolve_pki(loaded: &Loaded, machine: &Machine, problems: &mut Vec<Problem>) -> Option<OperatorFiles> {
    let cluster = &loaded.settings.cluster;
    let files = [
        ("cluster.certificate", &cluster.certificate),
        ("cluster.key", &cluster.key),
        ("cluster.authorities", &cluster.authorities),
    ];
    let (set, unset): (Vec<_>, Vec<_>) = files.iter().partition(|(_, path)| path.is_some());
    if let (Some((key, _)), false) = (set.first(), unset.is_empty()) {
        let missing: Vec<&str> = unset.iter().map(|(key, _)| *key).collect();
        problems.push(loaded.problem(key, format!("needs {} beside it", missing.join(" and "))));
    }
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(|path| machine.working_directory.join(path));
    Some(OperatorFiles {
        certificate: absolute(&cluster.certificate)?,
        key: absolute(&cluster.key)?,
        authorities: absolute(&cluster.authorities)?,
    })
}

/// Whether a token is needed is for the broker to say: one that is a member already starts without.
fn resolve_join(loaded: &Loaded, problems: &mut Vec<Problem>) -> Vec<HostPort> {
    const KEY: &str = "cluster.join";
    let mut members = Vec::new();
    for text in &loaded.settings.cluster.join.0 {
        match text.trim().parse::<HostPort>() {
            Ok(member) if member.is_unspecified() || member.port == 0 => {
                let text = format!("{member} is no address to connect to; give the peer address that a member shows");
                problems.push(loaded.problem(KEY, text));
            }
            Ok(member) => members.push(member),
            Err(text) => problems.push(loaded.problem(KEY, text)),
        }
    }
    members
}

fn resolve_advertised(
    loaded: &Loaded,
    machine: &Machine,
    listen: SocketAddr,
    warnings: &mut Vec<String>,
) -> Result<Option<HostPort>, Problem> {
    const KEY: &str = "cluster.peer_advertised";
    let advertised = loaded.settings.cluster.peer_advertised.as_deref().map(str::parse::<HostPort>).transpose();
    let advertised = advertised.map_err(|text| loaded.problem(KEY, text))?;
    match advertised {
        Some(advertised) if advertised.is_unspecified() => {
            let text = format!("other brokers can't connect to {advertised}; give the name or address that they reach");
            Err(loaded.problem(KEY, text))
        }
        None if listen.ip().is_unspecified() => {
            let (host, why) = machine.host_for_others();
            warnings.push(format!(
                "cluster.peer_listen={listen} is no address to connect to: other brokers are told {host}, {why}; \
                 where they reach it by another, say so with {KEY}"
            ));
            Ok(Some(HostPort { host, port: listen.port() }))
        }
        advertised => Ok(advertised),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Assignment, Config, Sources, load, resolve};
    use crate::runtime::production::LocalDisk;
    use crate::types::{ClusterId, Timestamp};

    const LISTEN: (&str, &str) = ("cluster.peer_listen", "127.0.0.1:9094");
    const JOIN: (&str, &str) = ("cluster.join", "10.0.0.1:9094,[::1]:9095");

    fn token() -> String {
        JoinToken::new(&[9; 32], ClusterId::from_entropy([7; 16]), [1; 32], Timestamp(1)).to_string()
    }

    fn resolve_with(flags: &[(&str, &str)]) -> Result<Config, String> {
        let machine = Machine {
            memory_bytes: 8 << 30,
            working_directory: PathBuf::from("/srv"),
            address: "10.1.2.3".parse().unwrap(),
        };
        let flags = flags.iter().map(|(key, text)| Assignment::text(*key, *text, "flag")).collect();
        let loaded = load(&Sources { flags, ..Sources::default() }, &LocalDisk).map_err(|error| error.to_string())?;
        resolve(&loaded, &[], &machine, &LocalDisk).map_err(|error| error.to_string())
    }

    fn peers(flags: &[(&str, &str)]) -> PeerConfig {
        resolve_with(flags).unwrap().peers.unwrap()
    }

    #[test]
    fn a_broker_without_an_address_for_others_is_by_itself() {
        assert!(resolve_with(&[("cluster.voters", "5"), ("cluster.join", "")]).unwrap().peers.is_none());
    }

    #[test]
    fn a_broker_among_others_has_what_was_set_and_defaults() {
        let token = token();
        let config = peers(&[LISTEN, JOIN, ("cluster.join_token", &token)]);
        assert_eq!((config.listen.to_string().as_str(), &config.advertised), ("127.0.0.1:9094", &None));
        let members: Vec<String> = config.join.iter().map(ToString::to_string).collect();
        assert_eq!(members, ["10.0.0.1:9094", "[::1]:9095"]);
        assert_eq!(config.token.as_ref().map(Secret::expose), Some(token.as_str()));
        assert!(!format!("{config:?}").contains(&token));
        assert_eq!((config.voters, config.connections), (3, 2));
        assert_eq!((config.session_timeout, config.replica_lag_max), (Duration::from_secs(3), Duration::from_secs(10)));
        let files =
            [("cluster.certificate", "a.crt"), ("cluster.key", "/b.key"), ("cluster.authorities", "pki/../ca.crt")];
        let pki = peers(&[&[LISTEN, JOIN][..], &files].concat()).pki.unwrap();
        assert_eq!((pki.certificate, pki.key), (PathBuf::from("/srv/a.crt"), PathBuf::from("/b.key")));
        assert_eq!(pki.authorities, PathBuf::from("/srv/pki/../ca.crt"));
    }

    #[test]
    fn an_address_that_other_machines_reach_needs_no_permission() {
        let config = resolve_with(&[("cluster.peer_listen", "192.168.1.1:9094")]).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn peers_of_every_address_are_told_the_one_by_which_the_machine_reaches_others() {
        let open = ("cluster.peer_listen", "0.0.0.0:0");
        let config = resolve_with(&[open]).unwrap();
        assert_eq!(config.peers.unwrap().advertised.unwrap().to_string(), "10.1.2.3:0");
        let expected = "other brokers are told 10.1.2.3, by which this machine reaches others; ";
        assert!(config.warnings[0].contains(expected), "{:?}", config.warnings);
        let config = resolve_with(&[open, ("cluster.peer_advertised", "broker-1:9094")]).unwrap();
        assert_eq!(config.peers.unwrap().advertised.unwrap().to_string(), "broker-1:9094");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn settings_for_peers_that_cannot_work_are_refused() {
        let token = token();
        let token = ("cluster.join_token", token.as_str());
        let files = [("cluster.certificate", "a"), ("cluster.key", "b"), ("cluster.authorities", "c")];
        let with_files = [&[LISTEN, JOIN, token][..], &files].concat();
        for (flags, expected) in [
            (&[JOIN][..], "flag: cluster.join: needs an address for other brokers; set --peer-listen"),
            (&[token], "cluster.join_token: needs an address for other brokers"),
            (&files[..1], "cluster.certificate: needs an address for other brokers"),
            (&[("cluster.peer_advertised", "h:1")], "cluster.peer_advertised: needs an address"),
            (&[LISTEN, token], "cluster.join_token: means nothing without a cluster to join"),
            (&with_files, "cluster.join_token: means nothing beside cluster.authorities"),
            (&[LISTEN, JOIN, ("cluster.join_token", "secret")], "cluster.join_token: this is no join token: it begins"),
            (&[LISTEN, files[0]], "cluster.certificate: needs cluster.key and cluster.authorities beside it"),
            (&[LISTEN, files[1], files[2]], "cluster.key: needs cluster.certificate beside it"),
            (&[("cluster.peer_listen", "broker:9094")], "cluster.peer_listen: \"broker:9094\" is not an address to"),
            (&[LISTEN, ("cluster.peer_advertised", "broker")], "cluster.peer_advertised: \"broker\" is not an address"),
            (&[LISTEN, ("cluster.peer_advertised", "0.0.0.0:1")], "other brokers can't connect to 0.0.0.0:1"),
            (&[LISTEN, ("cluster.join", "a:1,b")], "cluster.join: \"b\" is not an address"),
            (&[LISTEN, ("cluster.join", "0.0.0.0:1")], "cluster.join: 0.0.0.0:1 is no address to connect to"),
            (&[LISTEN, ("cluster.join", "a:0")], "cluster.join: a:0 is no address to connect to"),
            (&[LISTEN, ("cluster.join", "[\"a\"")], "cluster.join: needs a list of addresses"),
            (&[("cluster.voters", "4")], "cluster.voters: must be an odd number from 1 to 9, is 4"),
            (&[("cluster.voters", "11")], "cluster.voters: must be an odd number"),
            (&[("cluster.voters", "-1")], "cluster.voters: must be an odd number"),
            (&[("cluster.peer_connections", "0")], "cluster.peer_connections: must be from 1 to 16"),
            (&[("cluster.session_timeout", "999ms")], "cluster.session_timeout: must be at least 1s, is 999ms"),
            (&[("cluster.replica_lag_max", "0s")], "cluster.replica_lag_max: must be more than nothing"),
        ] {
            let error = resolve_with(flags).expect_err(&format!("{flags:?}"));
            assert!(error.contains(expected), "{flags:?}: {error}");
            assert!(!error.contains('\n') && !error.contains("secret") && !error.contains(token.1), "{error}");
        }
    }
}
