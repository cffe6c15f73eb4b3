//! The commands in this process, with their output captured. `tests/cli` runs the real binary.

use std::sync::Arc;

use clap::CommandFactory;
use parking_lot::Mutex;

use super::*;

/// Output in memory.
#[derive(Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// What was written.
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs a command line; its output, or the line it fails with.
pub(super) fn alluvium(arguments: &[&str], environment: &[(&str, &str)]) -> Result<String, String> {
    let arguments = ["alluvium"].iter().chain(arguments);
    let arguments = Arguments::try_parse_from(arguments).map_err(|error| one_line(&error.render().to_string()))?;
    let captured = Captured::default();
    let mut context = Context {
        runtime: Runtime::production(),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        working_directory: PathBuf::from("/work"),
        output: Output::to(captured.clone()),
    };
    run(arguments, &mut context).and_then(|()| context.output.flush()).map_err(|failure| failure.to_string())?;
    Ok(captured.text())
}

#[test]
fn the_command_tree_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn help_documents_every_exit_code() {
    let help = Arguments::command().render_long_help().to_string();
    for exit in [Exit::Done, Exit::Failed, Exit::Usage, Exit::Damaged, Exit::Unreachable, Exit::Offline] {
        assert!(help.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}\n{help}");
    }
}

#[test]
fn every_command_and_argument_is_documented() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Arguments::command());
}

#[test]
fn a_wrong_argument_is_one_line_that_says_what_to_do() {
    let error = alluvium(&["serve", "--kafka-lissen", "x"], &[]).unwrap_err();
    let expected = "error: unexpected argument '--kafka-lissen' found tip: a similar argument exists: '--kafka-listen'; see --help";
    assert_eq!(error, expected);
    let error = alluvium(&["serf"], &[]).unwrap_err();
    assert_eq!(error, "error: unrecognized subcommand 'serf' tip: a similar subcommand exists: 'serve'; see --help");
    let error = alluvium(&["topic", "frob"], &[]).unwrap_err();
    assert_eq!(error, "error: unrecognized subcommand 'frob'; see --help");
}

#[test]
fn a_number_that_has_to_be_positive_says_so() {
    for arguments in [
        &["topic", "create", "t", "--partitions", "-1"][..],
        &["topic", "create", "t", "--partitions", "0"],
        &["topic", "create", "t", "--replication-factor", "-1"],
        &["topic", "alter", "t", "--partitions", "-3"],
    ] {
        let error = alluvium(arguments, &[]).unwrap_err();
        assert!(error.ends_with(": a positive number is needed; see --help"), "{arguments:?}: {error}");
    }
}

#[test]
fn a_separator_that_does_not_read_says_why() {
    for (separator, expected) in [
        (r"\q", r"\q is not an escape; there are \n, \r, \t, \0, \xHH and \\; see --help"),
        (r"\r\n", "no line has a line feed in it; see --help"),
        ("", "it needs at least one letter; see --help"),
    ] {
        let error = alluvium(&["produce", "t", "-K", separator], &[]).unwrap_err();
        assert!(error.contains("--key-separator") && error.ends_with(expected), "{error}");
    }
}

#[test]
fn a_partition_is_one_of_a_topic() {
    let error = alluvium(&["archive", "ls", "-p", "0"], &[]).unwrap_err();
    assert_eq!(error, "error: the following required arguments were not provided: <TOPIC>; see --help");
}

#[test]
fn a_wrong_value_names_its_setting_once() {
    let flag = alluvium(&["config", "check", "--set", "network.max_frame="], &[]).unwrap_err();
    assert!(flag.starts_with("--set network.max_frame: \"\" is not a size"), "{flag}");
    let variable = alluvium(&["config", "check"], &[("ALLUVIUM__NETWORK__MAX_FRAME", "x")]).unwrap_err();
    assert!(variable.starts_with("ALLUVIUM__NETWORK__MAX_FRAME: \"x\" is not a size"), "{variable}");
}

#[test]
fn the_flags_of_serve_do_without_its_name() {
    let error = alluvium(&["config", "check"], &[("ALLUVIUM__NETWORK__MAX_FRAME", "x")]).unwrap_err();
    assert!(error.starts_with("ALLUVIUM__NETWORK__MAX_FRAME: \"x\" is not a size"), "{error}");
    let error = alluvium(&["--data-dir", "/d", "--set", "network.max_frme=1"], &[]).unwrap_err();
    assert!(error.starts_with("--set network.max_frme: network.max_frme is not a setting"), "{error}");
    let error = alluvium(&["--data-dir", "/d", "topic", "list"], &[]).unwrap_err();
    assert!(error.contains("cannot be used with"), "{error}");
}

#[test]
fn the_unit_of_systemd_starts_a_broker_as_the_command_line_takes_it() {
    let unit = include_str!("../../deploy/systemd/alluvium.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let command = value("ExecStart").unwrap();
    let arguments = Arguments::try_parse_from(command.split_whitespace());
    let arguments = arguments.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(matches!(arguments.command, Some(Command::Serve(_))), "{command}");
    assert!(command.ends_with(" --config /etc/alluvium/alluvium.toml"), "{command}");
    assert!(unit.contains(" alluvium.toml /etc/alluvium/alluvium.toml\n"), "it is installed elsewhere");
    assert_eq!(value("RestartPreventExitStatus"), Some(&*(Exit::Usage as u8).to_string()));
}

#[test]
fn config_print_shows_where_each_value_comes_from() {
    let environment = [("ALLUVIUM__CLUSTER__NODE_ID", "7")];
    let printed =
        alluvium(&["config", "print", "--data-dir", "/d,e", "--set", "network.max_frame=1MiB"], &environment).unwrap();
    for line in [
        "directories = [\"/d,e\"]  # --data-dir",
        "max_frame = \"1MiB\"  # --set network.max_frame",
        "node_id = 7  # ALLUVIUM__CLUSTER__NODE_ID",
        "auto_create = true  # default",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&alluvium(&["config", "print", "--json"], &environment).unwrap()).unwrap();
    let expected = serde_json::json!({ "value": 7, "origin": "ALLUVIUM__CLUSTER__NODE_ID" });
    assert_eq!(json["cluster.node_id"], expected);
}

#[test]
fn the_flags_of_a_broker_among_others_are_settings_and_its_token_is_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let token = format!("alv1.{}", "A".repeat(96));
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let file = file.to_str().unwrap();
    let flags = ["config", "print", "--node-id", "2", "--peer-listen", "127.0.0.1:0", "--join", "a:9094,b:9094"];
    for (flag, value) in [("--join-token", token.as_str()), ("--join-token-file", file)] {
        let printed = alluvium(&[&flags[..], &[flag, value]].concat(), &[]).unwrap();
        for line in [
            "node_id = 2  # --node-id",
            "peer_listen = \"127.0.0.1:0\"  # --peer-listen",
            "join = [\"a:9094\", \"b:9094\"]  # --join",
            &format!("join_token = \"<redacted>\"  # {flag}"),
        ] {
            assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
        }
        assert!(!printed.contains(&token), "{printed}");
    }
    let refused = alluvium(&[&flags[..], &["--join-token-file", "nowhere"]].concat(), &[]).unwrap_err();
    assert!(refused.starts_with("--join-token-file: cannot read ") && refused.contains("/nowhere: "), "{refused}");
    let refused = alluvium(&[&flags[..], &["--join-token", "secret"]].concat(), &[]).unwrap_err();
    assert!(refused.starts_with("--join-token: cluster.join_token: this is no join token"), "{refused}");
    assert!(!refused.contains("secret"), "{refused}");
}

#[test]
fn insecure_is_allowed_by_its_flag_and_warned_about() {
    let open = ["config", "check", "--kafka-listen", "0.0.0.0:0", "--allow-insecure"];
    let said = alluvium(&open, &[]).unwrap();
    let warning = "listeners.kafka.default.address=0.0.0.0:0 is open to other machines WITHOUT encryption";
    assert!(said.contains(&format!("warning: {warning}")), "{said}");
    assert!(said.ends_with("\nthe configuration is right\n"), "{said}");
    let json = alluvium(&[&open[..], &["--json"]].concat(), &[]).unwrap();
    assert!(json.starts_with("{\"ok\":true,") && json.contains(warning), "{json}");
    assert!(alluvium(&open[..4], &[]).unwrap_err().ends_with("or say --allow-insecure"));
}

#[test]
fn config_check_refuses_with_one_line_for_each_problem() {
    assert_eq!(alluvium(&["config", "check"], &[]).unwrap(), "the configuration is right\n");
    let json = alluvium(&["config", "check", "--json"], &[]).unwrap();
    assert_eq!(json, "{\"ok\":true,\"problems\":[],\"warnings\":[]}\n");
    let error =
        alluvium(&["config", "check", "--kafka-listen", "0.0.0.0:9092", "--set", "memory.tail_percent=40"], &[]);
    let error = error.unwrap_err();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with("--set memory.tail_percent: memory: the shares make 110 percent"), "{error}");
    assert!(lines[1].starts_with("--kafka-listen: listeners.kafka.default.address: 0.0.0.0:9092 can be"), "{error}");
    let error = alluvium(&["serve", "--set", "network.max_frame"], &[]).unwrap_err();
    assert!(error.starts_with("--set network.max_frame: write it as section.key=value"), "{error}");
}
