//! The command line, and the request that it stands for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use baton::config::WORKERS_MAX;
use baton::control::{Allowed, CONNECTIONS_LISTED, CONNECTIONS_LISTED_MAX, ConnectionName, ConnectionOrder, Request};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

/// Shows and controls a running batond.
///
/// Each command waits until the server is done. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no server reached.
#[derive(Debug, Parser)]
#[command(name = "batonctl", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Path of the server's control socket [default: $BATON_CONTROL, else batond's own default]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// What this program was called with; ends it if that is wrong.
    pub(crate) fn read() -> Self {
        let matches = with_negative_numbers(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Lets numbers below 0 reach what refuses them by their range: `scale -1` otherwise has an unknown flag `-1`.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let takes_values = argument.get_action().takes_values();
        argument.allow_negative_numbers(takes_values)
    });
    command.mut_subcommands(with_negative_numbers)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show generations, workers, connections, requests, and the last handover
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Print it every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Show live rates, load and service times of each worker, and the steps of handovers; in a pipe, print lines every second
    Top,
    /// Show one line per worker
    Workers(Format),
    /// Print metrics in the Prometheus text format, such as for node_exporter's textfile collector
    Metrics {
        /// Print OpenMetrics 1.0 instead
        #[arg(long)]
        openmetrics: bool,
    },
    /// Read the configuration again and replace the workers, without losing a connection
    Reload(Format),
    /// Change the number of workers, without a reload
    Scale {
        /// The new number of workers, 1 to 1024
        #[arg(value_name = "N", value_parser = parse_workers)]
        workers: usize,
        #[command(flatten)]
        format: Format,
    },
    /// Move connections away from workers that are busier than the mean or have more connections, even if `rebalance` is off
    Rebalance {
        /// Show what would move and why, but move nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Start a new version or another binary, which takes over without losing a connection
    Upgrade(Upgrade),
    /// Make a held upgrade, or one on probation, final: the old workers leave
    Commit(Format),
    /// Revert a held upgrade, or one on probation: the old workers serve again, the new ones leave
    Revert(Format),
    /// Stop the server after its connections have finished
    Stop {
        /// Close all connections immediately
        #[arg(long, conflicts_with = "deadline")]
        now: bool,
        /// Close connections that have not finished after this time [default: the server's drain_ms_max]
        #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
        deadline: Option<Duration>,
        #[command(flatten)]
        format: Format,
    },
    /// List connections: the oldest, the busiest, or how many each peer has
    Connections(Connections),
    /// Close one connection as a drain does; answers when it has ended
    Close {
        /// Its ID, as `connections` lists it
        #[arg(value_name = "ID")]
        id: ConnectionName,
        /// Reset it at once
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Show recent events
    Events {
        /// Keep printing new events, until Ctrl-C
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Print the completion script for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page: batonctl manual | man -l -
    Manual {
        /// Print the page of this command instead
        #[arg(value_parser = command_name)]
        command: Option<String>,
    },
}

impl Command {
    /// Whether the command only shows something. Its reader may then close the pipe early and loses nothing.
    pub(crate) fn only_shows(&self) -> bool {
        matches!(
            self,
            Self::Status { .. }
                | Self::Top
                | Self::Workers(_)
                | Self::Connections(_)
                | Self::Events { .. }
                | Self::Completions { .. }
                | Self::Manual { .. }
                | Self::Metrics { .. }
        )
    }
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Format {
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Connections {
    /// List the oldest connections first (default)
    #[arg(long, group = "first")]
    oldest: bool,
    /// List those first that receive and send most often, counted over one second
    #[arg(long, group = "first")]
    busiest: bool,
    /// List peers instead, those with the most connections first
    #[arg(long, group = "first")]
    by_peer: bool,
    /// List at most N, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_LISTED, value_parser = parse_limit)]
    limit: usize,
    /// List only those of worker N, in each generation
    #[arg(long, value_name = "N", value_parser = parse_worker)]
    worker: Option<usize>,
    #[command(flatten)]
    pub(crate) format: Format,
}

impl Connections {
    pub(crate) fn request(&self) -> Request {
        let order = match (self.busiest, self.by_peer) {
            (true, _) => ConnectionOrder::Busiest,
            (_, true) => ConnectionOrder::ByPeer,
            _ => ConnectionOrder::Oldest,
        };
        Request::Connections { order, limit: self.limit, worker: self.worker }
    }
}

fn parse_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=CONNECTIONS_LISTED_MAX).contains(limit));
    limit.ok_or_else(|| format!("{text:?} is not a number of lines from 1 to {CONNECTIONS_LISTED_MAX}"))
}

fn parse_worker(text: &str) -> Result<usize, String> {
    let worker = text.parse().ok().filter(|worker| (0..WORKERS_MAX).contains(worker));
    worker.ok_or_else(|| format!("{text:?} is not the number of a worker, which is from 0 to {}", WORKERS_MAX - 1))
}

#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// Path of the new binary [default: the path of the running one, where you may have put a new file]
    #[arg(value_name = "BINARY")]
    binary: Option<PathBuf>,
    /// Keep both binaries serving until you commit or revert
    #[arg(long)]
    hold: bool,
    /// Revert if a new worker dies or hangs within this time or, with --hold, if nobody commits within it; this command
    /// waits until the upgrade is final or reverted
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    probation: Option<Duration>,
    /// Give up if the new binary does not serve within this time [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Upgrade although this would be lost; repeatable
    #[arg(long, value_name = "LOSS", value_parser = losses())]
    allow: Vec<Allowed>,
    /// Refuse the upgrade if it would close connections because they cannot move
    #[arg(long)]
    keep_connections: bool,
    #[command(flatten)]
    pub(crate) format: Format,
    /// Arguments for the new binary [default: those of the running one]
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

impl Upgrade {
    /// The request, with a path that does not depend on where this program runs.
    ///
    /// # Errors
    /// What is wrong with the path.
    pub(crate) fn request(&self) -> Result<Request, String> {
        Ok(Request::Upgrade {
            binary: self.binary.as_deref().map(absolute).transpose()?,
            arguments: (!self.arguments.is_empty()).then(|| self.arguments.clone()),
            hold: self.hold,
            probation_ms: self.probation.map(milliseconds),
            timeout_ms: self.timeout.map(milliseconds),
            allow: self.allow.clone(),
            keep_connections: self.keep_connections,
        })
    }
}

fn absolute(path: &Path) -> Result<String, String> {
    let absolute = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    absolute.into_os_string().into_string().map_err(|path| format!("{} is not UTF-8", path.display()))
}

pub(crate) fn milliseconds(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// The server knows the range, and refuses a number outside of it.
fn parse_workers(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number of workers from 1 to {WORKERS_MAX}"))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.0..=604_800.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("{text:?} is not a number of seconds from 0 to 604800 (seven days)"))
}

fn losses() -> impl TypedValueParser<Value = Allowed> {
    let values = Allowed::ALL.map(|loss| {
        PossibleValue::new(loss.name()).help(match loss {
            Allowed::State => "State of connections or workers that the new binary cannot read",
            Allowed::Messages => "Messages between workers that the new binary cannot read",
            Allowed::Control => "The new binary uses another control socket",
            Allowed::User => "The new workers run as another user",
            Allowed::Tier => {
                "The new binary does not hand listeners over by ebpf, which resets connections in accept queues"
            }
        })
    });
    PossibleValuesParser::new(values).map(|name| {
        let loss = Allowed::ALL.into_iter().find(|loss| loss.name() == name);
        loss.expect("a possible value is the name of one")
    })
}

/// The name of a command of batonctl.
fn command_name(name: &str) -> Result<String, String> {
    let is_known = Arguments::command().find_subcommand(name).is_some();
    if is_known {
        Ok(name.to_owned())
    } else {
        Err("batonctl has no such command; batonctl --help lists them".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::num::ParseIntError;

    use clap::error::ErrorKind;

    use super::*;

    fn upgrade(arguments: &[&str]) -> Request {
        let all = ["batonctl", "upgrade"].iter().chain(arguments);
        match Arguments::try_parse_from(all).expect("arguments").command {
            Command::Upgrade(upgrade) => upgrade.request().expect("a request"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn numbers_are_refused_by_what_knows_their_range() {
        let command = with_negative_numbers(Arguments::command());
        command.clone().debug_assert();
        for words in [
            &["scale"][..],
            &["stop", "--deadline"],
            &["upgrade", "--probation"],
            &["upgrade", "--timeout"],
            &["connections", "--limit"],
            &["connections", "--worker"],
        ] {
            for wrong in ["-1", "nan", "1 parsec", "99999999999999999999"] {
                let words = [&["batonctl"], words, &[wrong]].concat();
                let refused = command.clone().try_get_matches_from(&words).expect_err(wrong);
                assert_eq!(
                    (refused.kind(), refused.exit_code()),
                    (ErrorKind::ValueValidation, 2),
                    "{words:?}: {refused}"
                );
                let source = std::error::Error::source(&refused);
                assert!(source.is_some_and(|source| !source.is::<ParseIntError>()), "{words:?}: {refused}");
            }
        }
    }

    #[test]
    fn connections_are_asked_for_in_one_order_and_within_bounds() {
        let parse = |arguments: &[&str]| Arguments::try_parse_from(["batonctl", "connections"].iter().chain(arguments));
        let request = |arguments: &[&str]| match parse(arguments).expect("arguments").command {
            Command::Connections(connections) => connections.request(),
            other => panic!("{other:?}"),
        };
        let wanted = |order, limit, worker| Request::Connections { order, limit, worker };
        assert_eq!(request(&[]), wanted(ConnectionOrder::Oldest, 20, None));
        assert_eq!(request(&["--oldest", "--limit", "1"]), wanted(ConnectionOrder::Oldest, 1, None));
        assert_eq!(request(&["--busiest", "--worker", "3"]), wanted(ConnectionOrder::Busiest, 20, Some(3)));
        assert_eq!(request(&["--by-peer", "--limit", "1000"]), wanted(ConnectionOrder::ByPeer, 1000, None));
        for wrong in [&["--oldest", "--busiest"][..], &["--limit", "0"], &["--limit", "1001"], &["--worker", "-1"]] {
            assert_eq!(parse(wrong).expect_err("wrong usage").exit_code(), 2, "{wrong:?}");
        }
        let close = |id: &str| Arguments::try_parse_from(["batonctl", "close", id]).map(|arguments| arguments.command);
        let name = ConnectionName { pid: 4711, slot: 12, generation: 0 };
        assert!(matches!(close("4711-12-0"), Ok(Command::Close { id, now: false, .. }) if id == name));
        assert_eq!(close("4711").expect_err("no name").exit_code(), 2);
    }

    #[test]
    fn an_upgrade_has_everything_that_was_said() {
        let nothing = Request::Upgrade {
            binary: None,
            arguments: None,
            hold: false,
            probation_ms: None,
            timeout_ms: None,
            allow: Vec::new(),
            keep_connections: false,
        };
        assert_eq!(upgrade(&[]), nothing);
        let all = ["/bin/x", "--hold", "--probation", "2.5", "--timeout", "1", "--allow", "state", "--allow", "user"];
        let everything = Request::Upgrade {
            binary: Some("/bin/x".to_owned()),
            arguments: Some(vec!["--workers".to_owned(), "2".to_owned()]),
            hold: true,
            probation_ms: Some(2_500),
            timeout_ms: Some(1_000),
            allow: vec![Allowed::State, Allowed::User],
            keep_connections: true,
        };
        assert_eq!(upgrade(&[&all[..], &["--keep-connections", "--", "--workers", "2"]].concat()), everything);
        assert!(Arguments::try_parse_from(["batonctl", "upgrade", "--allow", "everything"]).is_err());
    }
}
