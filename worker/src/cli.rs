//! The command line.

use std::path::PathBuf;

use clap::{Args, Command, CommandFactory, FromArgMatches, Parser};

use crate::access_log::AccessFormat;
use crate::config::{
    Choices, ConnectionsChoice, HandoverChoice, HttpChoices, LimitChoices, LogChoices, LogFormat, LogLevel,
    ProtocolChoice, RebalanceChoice, SandboxChoice, SteeringChoice, TimeoutChoices,
};
use crate::listen::{Listen, UnixMode};
use crate::statics::StaticChoice;
use crate::tls::TlsChoices;
use crate::units::{Bytes, MetricsAddress, Number, Workers};

/// A thread-per-core io_uring server for HTTP/1.1 and echo
///
/// batond runs in the foreground and logs to stderr.
///
/// Signals: QUIT stops the server after its connections have finished, for at most drain_ms_max. TERM and INT (Ctrl-C) do
/// the same for at most stop_ms_max. A second QUIT, TERM or INT stops it immediately. HUP reads the configuration again
/// and replaces the workers without losing a connection. WINCH makes the workers leave; the master stays and waits for
/// HUP. USR1 reopens the access log. USR2 starts the binary again beside this one, see batonctl upgrade --hold.
#[derive(Debug, Parser)]
#[command(name = "batond", version, next_line_help = false, after_help = EXAMPLES)]
pub struct Arguments {
    /// Read settings from a TOML file; flags take precedence
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the flags, the file and this machine (permissions, addresses, paths, limits), then exit without starting
    #[arg(long)]
    pub check: bool,
    /// Print the manual page and exit: batond --manual | man -l -
    #[arg(long, exclusive = true)]
    pub manual: bool,
    /// Listen on this address, such as 0.0.0.0:80, [::]:80, 80 for 127.0.0.1:80, or unix:/run/app.sock; tls:// before it means TLS; port 0 lets the kernel choose; repeatable [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Listen>,
    /// Permissions of Unix sockets' files, in octal, which decide who may connect [default: 0666]
    #[arg(long, value_name = "MODE")]
    unix_mode: Option<UnixMode>,
    /// Owner of Unix sockets' files: user, user:group or :group; needs root [default: the user who starts batond]
    #[arg(long, value_name = "USER:GROUP")]
    unix_owner: Option<String>,
    /// Number of worker processes, 1 to 1024, each pinned to a core; auto means one per core [default: 1]
    #[arg(long, value_name = "N|auto")]
    workers: Option<Workers>,
    /// Protocol to serve [default: http]
    #[arg(long, value_enum, value_name = "NAME", hide_possible_values = false)]
    protocol: Option<ProtocolChoice>,
    /// How old workers hand their listeners over to new ones [default: auto]
    #[arg(long, value_enum, value_name = "KIND")]
    handover: Option<HandoverChoice>,
    /// Which worker gets a new connection; needs handover by ebpf [default: least]
    #[arg(long, value_enum, value_name = "KIND")]
    steering: Option<SteeringChoice>,
    /// What happens to established connections when their worker is replaced or removed [default: handover]
    #[arg(long, value_enum, value_name = "KIND")]
    connections: Option<ConnectionsChoice>,
    /// Whether connections move between serving workers, to keep them about equally busy [default: auto]
    #[arg(long, value_name = "HOW")]
    rebalance: Option<RebalanceChoice>,
    /// Control socket, for batonctl: a path, auto or off [default: auto]
    #[arg(long, value_name = "PATH")]
    control: Option<String>,
    /// Serve metrics over HTTP, at /metrics, on this IP address and port; or off [default: off]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<MetricsAddress>,
    /// Write the master's process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<String>,
    /// Run workers as this user, by name or number; needs root
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Run workers as this group [default: the user's]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Whether workers give up privileges and system calls that they do not need, once they have their sockets [default: auto]
    #[arg(long, value_enum, value_name = "KIND")]
    sandbox: Option<SandboxChoice>,
    /// Serve the files of a folder under a path, such as /static/=/srv/www; repeatable
    #[arg(long = "static", value_name = "PATH=FOLDER")]
    statics: Vec<StaticChoice>,
    /// Certificate for tls:// addresses, a PEM file with its issuers' certificates after it; for several hosts see [tls] in the file
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of that certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArguments,
    #[command(flatten)]
    timeouts: TimeoutArguments,
    #[command(flatten)]
    http: HttpArguments,
    #[command(flatten)]
    log: LogArguments,
}

const EXAMPLES: &str = "\
Sizes may have suffixes: 64k, 1MiB (powers of 1024). The example file batond.toml explains every setting
and shows its default.
Exit codes: 0 stopped cleanly, 1 could not start or workers died, 2 wrong flags or configuration.

Examples:
  batond                                     HTTP on 127.0.0.1:8080, one worker
  batond --workers auto --listen 0.0.0.0:80 --listen '[::]:80'
  batond --protocol echo --listen 7000
  batond --listen tls://0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem
  batond --config batond.toml --check";

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of each worker")]
struct LimitArguments {
    /// Most open connections, 1 to 1048576; at the limit, idle ones are closed to make room, or accepting pauses [default: 65536, or what the limit of open files allows]
    #[arg(long, value_name = "N")]
    connections_max: Option<Number<u32>>,
    /// Most connections in the accept queue of a listener; the kernel caps it at net.core.somaxconn [default: 4096]
    #[arg(long, value_name = "N")]
    backlog: Option<Number<u32>>,
    /// Largest message (HTTP head) that is kept while the rest of it arrives [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    message_bytes_max: Option<Bytes>,
    /// Stop reading a connection while more output than this is queued for it [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    outbound_bytes_high: Option<Bytes>,
    /// Read it again when less output than this is queued [default: 256KiB]
    #[arg(long, value_name = "BYTES")]
    outbound_bytes_low: Option<Bytes>,
    /// Memory for all connections together; near the limit the largest are not read, above it they are cut [default: 256MiB]
    #[arg(long, value_name = "BYTES")]
    memory_bytes_max: Option<Bytes>,
    /// Size of a receive buffer, 1KiB to 1MiB [default: 16KiB]
    #[arg(long, value_name = "BYTES")]
    receive_buffer_bytes: Option<Bytes>,
    /// Number of receive buffers, a power of two from 2 to 32768 [default: 128]
    #[arg(long, value_name = "N")]
    receive_buffers: Option<Number<u16>>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Time-outs, in milliseconds, up to seven days")]
struct TimeoutArguments {
    /// Close a connection after this long without input, between messages; 0 for never [default: 75000]
    #[arg(long, value_name = "MS")]
    idle_ms: Option<Number<u64>>,
    /// At connections_max, make room by closing the longest idle connection if it has been idle this long; 0 for never [default: 1000]
    #[arg(long, value_name = "MS")]
    idle_at_limit_ms: Option<Number<u64>>,
    /// Longest time from the first byte of a message (HTTP head) to its last; 0 for no limit [default: 10000]
    #[arg(long, value_name = "MS")]
    message_ms: Option<Number<u64>>,
    /// Close a connection whose peer reads no output for this long; 0 for never [default: 30000]
    #[arg(long, value_name = "MS")]
    write_ms: Option<Number<u64>>,
    /// Longest time from a new connection to the end of its TLS handshake; 0 for no limit [default: 10000]
    #[arg(long, value_name = "MS")]
    handshake_ms: Option<Number<u64>>,
    /// Longest wait for the peer's FIN after ours; 0 for none [default: 2000]
    #[arg(long, value_name = "MS")]
    linger_ms: Option<Number<u64>>,
    /// How long connections may take to finish when their worker is replaced, and after QUIT; 0 for no time [default: 30000]
    #[arg(long, value_name = "MS")]
    drain_ms_max: Option<Number<u64>>,
    /// How long replaced listeners stay open for handshakes in flight [default: 1200]
    #[arg(long, value_name = "MS")]
    settle_ms: Option<Number<u64>>,
    /// How long connections may take to finish after TERM and INT; 0 for no time [default: 3000]
    #[arg(long, value_name = "MS")]
    stop_ms_max: Option<Number<u64>>,
    /// Kill and replace a worker that has not answered its master for this long; 0 for never [default: 5000]
    #[arg(long, value_name = "MS")]
    hang_ms: Option<Number<u64>>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "HTTP")]
struct HttpArguments {
    /// Value of the Server header; "" for no header [default: baton]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Largest request head, 128 bytes to 1MiB [default: 16KiB]
    #[arg(long, value_name = "BYTES")]
    head_bytes_max: Option<Bytes>,
    /// Largest request target, up to head_bytes_max [default: 8KiB]
    #[arg(long, value_name = "BYTES")]
    target_bytes_max: Option<Bytes>,
    /// Largest request body, up to 1GiB [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    body_bytes_max: Option<Bytes>,
    /// Longest time from a request's head to the end of its body, in milliseconds; 0 for no limit [default: 30000]
    #[arg(long, value_name = "MS")]
    body_ms: Option<Number<u64>>,
    /// Close a connection after this many requests; 0 for no limit [default: 0]
    #[arg(long, value_name = "N")]
    requests_max: Option<Number<u32>>,
    /// Memory of each worker for files of --static; 0 for none [default: 64MiB]
    #[arg(long, value_name = "BYTES")]
    cache_bytes_max: Option<Bytes>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
struct LogArguments {
    /// Least severe level that is logged [default: info]
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// Format of log lines [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Log a line for each answer to stderr or to a file, which USR1 reopens; or off [default: off]
    #[arg(long, value_name = "PATH")]
    access_log: Option<String>,
    /// Format of access log lines [default: combined]
    #[arg(long, value_enum, value_name = "FORMAT")]
    access_format: Option<AccessFormat>,
    /// Log one in this many answers [default: 1]
    #[arg(long, value_name = "N")]
    access_sample: Option<Number<u32>>,
}

impl Arguments {
    /// The flags that this program was started with; ends it if they are wrong.
    pub fn read() -> Self {
        let matches = with_negative_numbers(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The settings given by flags.
    pub fn choices(&self) -> Choices {
        let Self {
            config: _,
            check: _,
            manual: _,
            listen,
            unix_mode,
            unix_owner,
            workers,
            protocol,
            handover,
            steering,
            connections,
            rebalance,
            control,
            metrics,
            pid_file,
            user,
            group,
            sandbox,
            statics,
            tls_cert,
            tls_key,
            limits,
            timeouts,
            http,
            log,
        } = self;
        Choices {
            listen: (!listen.is_empty()).then(|| listen.clone()),
            unix_mode: *unix_mode,
            unix_owner: unix_owner.clone(),
            workers: *workers,
            protocol: *protocol,
            handover: *handover,
            steering: *steering,
            connections: *connections,
            rebalance: *rebalance,
            control: control.clone(),
            metrics: *metrics,
            pid_file: pid_file.clone(),
            user: user.clone(),
            group: group.clone(),
            sandbox: *sandbox,
            statics: (!statics.is_empty()).then(|| statics.clone()),
            limits: Some(LimitChoices {
                connections_max: limits.connections_max,
                backlog: limits.backlog,
                message_bytes_max: limits.message_bytes_max,
                outbound_bytes_high: limits.outbound_bytes_high,
                outbound_bytes_low: limits.outbound_bytes_low,
                memory_bytes_max: limits.memory_bytes_max,
                receive_buffer_bytes: limits.receive_buffer_bytes,
                receive_buffers: limits.receive_buffers,
            }),
            timeouts: Some(TimeoutChoices {
                idle_ms: timeouts.idle_ms,
                idle_at_limit_ms: timeouts.idle_at_limit_ms,
                message_ms: timeouts.message_ms,
                write_ms: timeouts.write_ms,
                handshake_ms: timeouts.handshake_ms,
                linger_ms: timeouts.linger_ms,
                drain_ms_max: timeouts.drain_ms_max,
                settle_ms: timeouts.settle_ms,
                stop_ms_max: timeouts.stop_ms_max,
                hang_ms: timeouts.hang_ms,
            }),
            http: Some(HttpChoices {
                server: http.server_name.clone(),
                head_bytes_max: http.head_bytes_max,
                target_bytes_max: http.target_bytes_max,
                body_bytes_max: http.body_bytes_max,
                body_ms: http.body_ms,
                requests_max: http.requests_max,
                cache_bytes_max: http.cache_bytes_max,
            }),
            log: Some(LogChoices {
                level: log.log_level,
                format: log.log_format,
                access: log.access_log.clone(),
                access_format: log.access_format,
                access_sample: log.access_sample,
            }),
            tls: Some(TlsChoices::of_files(tls_cert.as_ref(), tls_key.as_ref())),
        }
    }
}

/// Lets numbers below 0 reach the flag that refuses them by its range: `--idle-ms -1` otherwise has an unknown flag `-1`.
fn with_negative_numbers(command: Command) -> Command {
    command.mut_args(|argument| {
        let takes_values = argument.get_action().takes_values();
        argument.allow_negative_numbers(takes_values)
    })
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;
    use std::num::ParseIntError;

    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn numbers_are_refused_by_what_knows_their_range() {
        let command = with_negative_numbers(Arguments::command());
        let types = [TypeId::of::<Workers>(), TypeId::of::<Bytes>(), TypeId::of::<Number<u16>>()];
        let types = [&types[..], &[TypeId::of::<Number<u32>>(), TypeId::of::<Number<u64>>()]].concat();
        let is_number = |flag: &&clap::Arg| types.iter().any(|known| flag.get_value_parser().type_id() == *known);
        let flags: Vec<&str> = command.get_opts().filter(is_number).filter_map(|flag| flag.get_long()).collect();
        assert!(flags.contains(&"workers") && flags.contains(&"idle-ms") && flags.contains(&"body-bytes-max"));
        for flag in flags {
            for wrong in ["-1", "nan", "1 parsec", "99999999999999999999"] {
                let words = ["batond", &format!("--{flag}"), wrong];
                let refused = command.clone().try_get_matches_from(words).expect_err(flag);
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
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
