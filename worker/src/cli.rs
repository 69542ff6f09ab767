//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser};

use crate::access_log::AccessFormat;
use crate::config::{
    Choices, ConnectionsChoice, HandoverChoice, HttpChoices, LimitChoices, LogChoices, LogFormat, LogLevel,
    ProtocolChoice, RebalanceChoice, SandboxChoice, SteeringChoice, TimeoutChoices,
};
use crate::listen::{Listen, UnixMode};
use crate::statics::StaticChoice;
use crate::tls::TlsChoices;
use crate::units::{Bytes, MetricsAddress, Number, Workers};

/// A thread-per-core io_uring server: HTTP/1.1 or echo, in the foreground, logging to stderr.
///
/// QUIT lets connections finish, then ends all workers; TERM and INT (Ctrl-C) have less patience; a second one of them
/// ends all at once. HUP reads the configuration again and replaces the workers, losing no connection. WINCH lets the
/// workers leave and the master wait for HUP. USR1 opens the access log anew. USR2 starts the binary anew beside this one; see batonctl upgrade.
#[derive(Debug, Parser)]
#[command(name = "batond", version, next_line_help = false, after_help = EXAMPLES)]
pub struct Arguments {
    /// Read settings from a TOML file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check flags, file, and what a start would find here (rights, addresses, paths, limits), and exit without starting it
    #[arg(long)]
    pub check: bool,
    /// Print the manual page, for man -l, and exit
    #[arg(long, exclusive = true)]
    pub manual: bool,
    /// Address such as 0.0.0.0:80, [::]:80, 80 for 127.0.0.1:80, or unix:/run/app.sock, or one of them behind tls://; port 0 lets the kernel choose; repeatable [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Listen>,
    /// Who may connect to Unix sockets: the mode of their files, in octal [default: 0666]
    #[arg(long, value_name = "MODE")]
    unix_mode: Option<UnixMode>,
    /// To whom these files belong: user, user:group or :group; needs root [default: whoever starts batond]
    #[arg(long, value_name = "USER:GROUP")]
    unix_owner: Option<String>,
    /// Worker processes, each on a core of its own; auto is one per core [default: 1]
    #[arg(long, value_name = "N|auto")]
    workers: Option<Workers>,
    /// What to serve [default: http]
    #[arg(long, value_enum, value_name = "NAME", hide_possible_values = false)]
    protocol: Option<ProtocolChoice>,
    /// How listeners are replaced at a reload [default: auto]
    #[arg(long, value_enum, value_name = "KIND")]
    handover: Option<HandoverChoice>,
    /// Which worker gets a new connection, where listeners are handed over by ebpf [default: least]
    #[arg(long, value_enum, value_name = "KIND")]
    steering: Option<SteeringChoice>,
    /// What becomes of established connections at a reload, an upgrade or with fewer workers [default: handover]
    #[arg(long, value_enum, value_name = "KIND")]
    connections: Option<ConnectionsChoice>,
    /// Whether connections move between workers that serve, so that all are about equally busy [default: auto]
    #[arg(long, value_name = "HOW")]
    rebalance: Option<RebalanceChoice>,
    /// Socket for batonctl: a path, auto or off [default: auto]
    #[arg(long, value_name = "PATH")]
    control: Option<String>,
    /// Serve metrics over HTTP here, at /metrics: an IP address with a port, or off [default: off]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<MetricsAddress>,
    /// Write the master's process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<String>,
    /// Workers serve as this user, name or number; needs root
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Workers serve as this group [default: the user's]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// What workers give up once they have their sockets: rights and system calls that they do not serve with [default: auto]
    #[arg(long, value_enum, value_name = "KIND")]
    sandbox: Option<SandboxChoice>,
    /// Serve the files of a folder beneath a path, such as /static/=/srv/www; repeatable
    #[arg(long = "static", value_name = "PATH=FOLDER")]
    statics: Vec<StaticChoice>,
    /// Certificate of tls:// addresses, in PEM, with those of its issuers behind it; for several hosts see [tls] of the file
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM
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
Sizes may have suffixes: 64k, 1MiB (powers of 1024). The annotated example batond.toml has every
setting of a file, each with its default.
Exit codes: 0 stopped in good order, 1 could not start or workers died, 2 wrong flags or configuration.

Examples:
  batond                                     HTTP on 127.0.0.1:8080, one worker
  batond --workers auto --listen 0.0.0.0:80 --listen '[::]:80'
  batond --protocol echo --listen 7000
  batond --listen tls://0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem
  batond --config batond.toml --check";

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits, per worker")]
struct LimitArguments {
    /// Connections open at once; at the limit idle ones make room, else accepting pauses [default: 65536, or what the limit of open files allows]
    #[arg(long, value_name = "N")]
    connections_max: Option<Number<u32>>,
    /// Pending connections the kernel queues per listener, up to net.core.somaxconn [default: 4096]
    #[arg(long, value_name = "N")]
    backlog: Option<Number<u32>>,
    /// Largest message (an HTTP head) that may wait for its remaining bytes [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    message_bytes_max: Option<Bytes>,
    /// Queued output above which a connection is read no more [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    outbound_bytes_high: Option<Bytes>,
    /// Queued output below which it is read again [default: 256KiB]
    #[arg(long, value_name = "BYTES")]
    outbound_bytes_low: Option<Bytes>,
    /// Held for all connections together; near it the largest are not read, above it they are cut [default: 256MiB]
    #[arg(long, value_name = "BYTES")]
    memory_bytes_max: Option<Bytes>,
    /// Size of a receive buffer [default: 16KiB]
    #[arg(long, value_name = "BYTES")]
    receive_buffer_bytes: Option<Bytes>,
    /// Number of receive buffers, a power of two [default: 128]
    #[arg(long, value_name = "N")]
    receive_buffers: Option<Number<u16>>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Time-outs of a connection, in milliseconds")]
struct TimeoutArguments {
    /// Close it when nothing is received and no message is begun; 0 never [default: 75000]
    #[arg(long, value_name = "MS")]
    idle_ms: Option<Number<u64>>,
    /// At connections_max, close the longest idle one for a newcomer once it is idle for so long; 0 never [default: 1000]
    #[arg(long, value_name = "MS")]
    idle_at_limit_ms: Option<Number<u64>>,
    /// From the first byte of a message (an HTTP head) to the whole of it; 0 for any time [default: 10000]
    #[arg(long, value_name = "MS")]
    message_ms: Option<Number<u64>>,
    /// Close it when the peer takes no output; 0 never [default: 30000]
    #[arg(long, value_name = "MS")]
    write_ms: Option<Number<u64>>,
    /// From a connection to the end of its TLS handshake; 0 for any time [default: 10000]
    #[arg(long, value_name = "MS")]
    handshake_ms: Option<Number<u64>>,
    /// Wait for the peer's FIN after ours; 0 does not wait [default: 2000]
    #[arg(long, value_name = "MS")]
    linger_ms: Option<Number<u64>>,
    /// Let connections finish when workers are replaced, and after QUIT; 0 does not wait [default: 30000]
    #[arg(long, value_name = "MS")]
    drain_ms_max: Option<Number<u64>>,
    /// Keep replaced listeners open for handshakes under way [default: 1200]
    #[arg(long, value_name = "MS")]
    settle_ms: Option<Number<u64>>,
    /// Let connections finish after TERM and INT; 0 does not wait [default: 3000]
    #[arg(long, value_name = "MS")]
    stop_ms_max: Option<Number<u64>>,
    /// Kill and replace a worker that does not answer its master for so long; 0 never [default: 5000]
    #[arg(long, value_name = "MS")]
    hang_ms: Option<Number<u64>>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "HTTP")]
struct HttpArguments {
    /// Value of the Server header, "" for none [default: baton]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Largest request head [default: 16KiB]
    #[arg(long, value_name = "BYTES")]
    head_bytes_max: Option<Bytes>,
    /// Largest request target [default: 8KiB]
    #[arg(long, value_name = "BYTES")]
    target_bytes_max: Option<Bytes>,
    /// Largest request body [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    body_bytes_max: Option<Bytes>,
    /// From a request's head to the end of its body, in milliseconds; 0 for any time [default: 30000]
    #[arg(long, value_name = "MS")]
    body_ms: Option<Number<u64>>,
    /// Requests on one connection before it is closed, 0 for any number [default: 0]
    #[arg(long, value_name = "N")]
    requests_max: Option<Number<u32>>,
    /// Files of --static that are kept in memory; 0 for none [default: 64MiB]
    #[arg(long, value_name = "BYTES")]
    cache_bytes_max: Option<Bytes>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
struct LogArguments {
    /// Least severe lines that are logged [default: info]
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// How log lines look [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// A line for each answer: off, stderr, or a file, which USR1 opens anew [default: off]
    #[arg(long, value_name = "PATH")]
    access_log: Option<String>,
    /// How these lines look [default: combined]
    #[arg(long, value_enum, value_name = "FORMAT")]
    access_format: Option<AccessFormat>,
    /// Log one of so many answers [default: 1]
    #[arg(long, value_name = "N")]
    access_sample: Option<Number<u32>>,
}

impl Arguments {
    /// What the flags say.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
