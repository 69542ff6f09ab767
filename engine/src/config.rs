//! Settings of a server, their defaults, and their validation. Pure, except for `check_` methods, which ask the machine.

mod accounts;
mod listener;
pub(crate) mod metrics;
mod outbound;
mod rebalance;
mod steering;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub(crate) use self::listener::listener_of;
pub use self::listener::{ConnectionTimeouts, Listener, Network};
pub use self::outbound::LAYER_NAME_BYTES_MAX;
pub use self::rebalance::Rebalance;
pub use self::steering::Steering;

use crate::layer::SharedLayers;
use crate::sys::access_log;
use crate::sys::readable;
use crate::sys::system_calls;

/// Default of [`Limits::connections_max`], before the limit of open files cuts it.
pub const CONNECTIONS_MAX_DEFAULT: u32 = 65_536;

/// Largest [`Limits::connections_max`].
pub const CONNECTIONS_MAX_LARGEST: u32 = 1 << 20;

/// Most workers of one server.
pub const WORKERS_MAX: usize = 1024;

/// Longest [`Settings::name`] and [`Settings::version`], bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Largest [`Limits::receive_buffer_bytes`].
pub const RECEIVE_BUFFER_BYTES_LARGEST: u32 = 1 << 20;

/// Largest [`Limits::memory_bytes_max`].
pub const MEMORY_BYTES_LARGEST: u64 = 1 << 40;

/// Largest [`Limits::sibling_message_bytes_max`].
pub const SIBLING_MESSAGE_BYTES_LARGEST: usize = 64 << 20;

/// Smallest and largest [`Limits::mailbox_messages_max`]: its memory is allocated at the start.
const MAILBOX_MESSAGES_LEAST: usize = 16;
const MAILBOX_MESSAGES_LARGEST: usize = 1 << 20;

/// Largest [`Limits::sibling_queue_bytes_max`].
pub const SIBLING_QUEUE_BYTES_LARGEST: usize = 1 << 30;

const _: () = assert!(CONNECTIONS_MAX_DEFAULT <= CONNECTIONS_MAX_LARGEST);
const _: () = assert!(CONNECTIONS_MAX_LARGEST < crate::sys::ring::SLOTS_MAX);
const _: () = assert!(CONNECTIONS_MAX_LARGEST as usize <= crate::sys::ring::OPERATIONS_MAX);

/// Limits of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most open connections, 1 to [`CONNECTIONS_MAX_LARGEST`], default 65,536, or fewer if the limit of open files is lower. At the
    /// limit, the longest idle connection is closed to make room ([`Timeouts::idle_at_limit_ms`]). If none can be closed, accepting
    /// pauses and new connections wait in the accept queue; the engine refuses none.
    pub connections_max: u32,
    /// Most connections in the accept queue of a listener, default 4,096. The kernel caps it at `net.core.somaxconn`.
    pub backlog: u32,
    /// Largest message that is kept while the rest of it arrives, default 1 MiB; a larger one is [`Limit::MessageBytes`].
    ///
    /// [`Limit::MessageBytes`]: crate::Limit::MessageBytes
    pub message_bytes_max: usize,
    /// While more output than this is queued for a connection, it is not read; default 1 MiB.
    pub outbound_bytes_high: usize,
    /// When less output than this is queued for a connection, it is read again; default 256 KiB.
    pub outbound_bytes_low: usize,
    /// Memory for all connections of a worker together, default 256 MiB: unconsumed input, unsent output, connections that are
    /// moving to another worker, and what the protocol reports ([`Io::set_held_bytes`](crate::Io::set_held_bytes)).
    /// From three quarters of it on, connections that hold more than 64 KiB are not read for a while. Above it,
    /// connections are cut until an eighth of it is free: the largest first, and among those of about the same size (within a power
    /// of two) the one whose peer has read nothing for longest.
    pub memory_bytes_max: u64,
    /// Size of a receive buffer, 1 KiB to 1 MiB, default 16 KiB.
    pub receive_buffer_bytes: u32,
    /// Number of receive buffers, a power of two from 2 to 32,768, default 128. Only as many as the load needs are in use at a time.
    pub receive_buffers: u16,
    /// Largest message to other workers, default 1 MiB; see [`Worker::broadcast`](crate::Worker::broadcast). Use the same value for all
    /// workers that may run at the same time: a worker drops a message that is larger than its own value.
    pub sibling_message_bytes_max: usize,
    /// Bytes of messages that may wait for one other worker, default 8 MiB.
    pub sibling_queue_bytes_max: usize,
    /// Messages of helper threads that may wait for a worker, default 1,024; see [`Mailbox::send`](crate::Mailbox::send).
    pub mailbox_messages_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX_DEFAULT,
            backlog: 4096,
            message_bytes_max: 1 << 20,
            outbound_bytes_high: 1 << 20,
            outbound_bytes_low: 256 << 10,
            memory_bytes_max: 256 << 20,
            receive_buffer_bytes: 16 << 10,
            receive_buffers: 128,
            sibling_message_bytes_max: 1 << 20,
            sibling_queue_bytes_max: 8 << 20,
            mailbox_messages_max: 1024,
        }
    }
}

/// Time-outs and other times, in milliseconds, at most [`TIMEOUT_MS_LARGEST`]. 0 turns one off, except for the linger time and the
/// times to leave, where 0 means no wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Longest time without input between messages, default 75,000.
    pub idle_ms: u64,
    /// At [`Limits::connections_max`], a connection that has been idle for at least this long may be closed to make room,
    /// the longest idle first, default 1,000; see [`Limit::Connections`](crate::Limit::Connections).
    pub idle_at_limit_ms: u64,
    /// From the first byte of a message to its last, default 10,000.
    pub message_ms: u64,
    /// Longest time in which the peer reads no output, default 30,000.
    pub write_ms: u64,
    /// From accepting or establishing a connection to the end of its [layer](crate::layer)'s handshake, default 10,000.
    pub handshake_ms: u64,
    /// Longest time to establish an outbound connection, without the handshake of its layer, default 10,000.
    pub connect_ms: u64,
    /// From our FIN to the peer's, default 2,000.
    pub linger_ms: u64,
    /// From the order to drain to the end of the last connection, default 30,000.
    pub drain_ms_max: u64,
    /// How long a parked listener stays open for handshakes in flight, default 1,200:
    /// longer than the first retransmit of a SYN-ACK.
    pub settle_ms: u64,
    /// From TERM or INT to the end of the last connection, default 3,000; for QUIT it is `drain_ms_max`.
    pub stop_ms_max: u64,
    /// The master kills and replaces a worker that has not answered for about this long, default 5,000.
    /// Must be longer than any callback of the protocol takes.
    pub hang_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle_ms: 75_000,
            idle_at_limit_ms: 1_000,
            message_ms: 10_000,
            write_ms: 30_000,
            handshake_ms: 10_000,
            connect_ms: 10_000,
            linger_ms: 2_000,
            drain_ms_max: 30_000,
            settle_ms: 1_200,
            stop_ms_max: 3_000,
            hang_ms: 5_000,
        }
    }
}

/// How old workers hand their listeners over to new ones, without losing a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handover {
    /// `Ebpf` if the server may load a program, else `Adopt`.
    #[default]
    Auto,
    /// A program in the kernel steers new connections to the newest generation; the previous listeners settle,
    /// then close. Needs CAP_BPF and CAP_NET_ADMIN when the server starts, and kernel 5.14.
    Ebpf,
    /// New workers get the open listen sockets. Needs no privilege.
    Adopt,
}

/// What happens to established connections whose worker leaves while others serve: at a reload, an upgrade, scaling down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Connections {
    /// They move to a serving worker and continue there; see [`Protocol::freeze`](crate::Protocol::freeze). Those that
    /// cannot move are closed as with `Goodbye`.
    #[default]
    Handover,
    /// They are closed at the end of a message; see [`Protocol::on_drain`](crate::Protocol::on_drain).
    Goodbye,
    /// They stay where they are until they end, for at most `drain_ms_max`.
    Wait,
}

/// What happens if a worker that is to be replaced has more state of its own than it may hand over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StateTooLarge {
    /// It is not replaced: the server refuses a reload, an upgrade or scaling down.
    #[default]
    Refuse,
    /// The new worker starts without the state.
    Discard,
}

/// Whether workers give up what they do not need, once they have their sockets and rings: capabilities, system calls and
/// operations of the ring. [`Protocol::SYSTEM_CALLS`](crate::Protocol::SYSTEM_CALLS) says what they need.
///
/// A compromised worker can then start no program, attach nothing to the listeners, and look into
/// no other process. A denied call fails with EPERM and does not end the worker: a call that was overlooked costs a log line or
/// an error, and not the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// If the kernel cannot filter system calls, the log says so, and workers serve without the filter.
    #[default]
    Auto,
    /// If the kernel cannot filter system calls, or the protocol needs [all of them](crate::SystemCalls::Any), the server does not
    /// start. Landlock is used if the kernel has it, but not required, because it is newer than the oldest supported kernel.
    On,
    /// Workers keep everything except what [`Settings::user`] takes from them.
    Off,
}

/// The control socket of a running server; see [`crate::control`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// There is none.
    #[default]
    Off,
    /// At this path, unless another server is there.
    IfFree(PathBuf),
    /// At this path; another server there is an error.
    At(PathBuf),
}

/// Where the lines of the access log go; see [`Worker::access_log`](crate::Worker::access_log).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    #[default]
    Off,
    /// To the master's standard error.
    StandardError,
    /// To the end of this file. The master opens it, creates it with mode 0640, and refuses a symbolic link. On
    /// USR1 the master reopens it, and its workers continue in that file.
    File(PathBuf),
}

impl LogTarget {
    /// Opens the log's file.
    ///
    /// # Errors
    /// Names the setting and the file, and says why it cannot be opened.
    pub(crate) fn open(&self) -> Result<Option<OwnedFd>, InvalidSetting> {
        let opened = match self {
            Self::Off => return Ok(None),
            Self::StandardError => access_log::standard_error(),
            Self::File(path) => access_log::open(path),
        };
        opened.map(|file| Some(file.into())).map_err(|error| {
            let problem = match (self, error.raw_os_error()) {
                (Self::File(path), Some(libc::ELOOP)) => {
                    format!(
                        "{} is a symbolic link, which the server does not follow; name the file itself",
                        path.display()
                    )
                }
                (Self::File(path), Some(libc::ENXIO)) => {
                    format!("{} is a FIFO that nobody reads; start its reader first", path.display())
                }
                (Self::File(path), _) => {
                    format!(
                        "cannot open {} for appending: {error}; create its folder, or name another file",
                        path.display()
                    )
                }
                _ => format!("cannot use standard error: {error}"),
            };
            InvalidSetting { setting: "access_log", problem }
        })
    }
}

/// All settings of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Addresses to listen on.
    pub listen: Vec<Listener>,
    /// Layers for outbound connections, by name ([`Target::with_layer`](crate::Target::with_layer)). A connection that moves continues
    /// with the layer of the same name in the next settings.
    pub outbound_layers: BTreeMap<String, SharedLayers>,
    /// Permissions of the files of Unix sockets, which decide who may connect; 0200, for the server's own user, must be set. The
    /// default is everybody (0666), as for a TCP port; the permissions of the folder can restrict that. Set only when the file is
    /// created.
    pub unix_mode: u32,
    /// Owner of these files: `user`, `user:group` or `:group`, by names or numbers; `None`: the user who starts the server.
    /// Another user needs root; another group needs root or membership. Set only when the file is created.
    pub unix_owner: Option<String>,
    /// Number of worker processes, 1 to [`WORKERS_MAX`]; each is pinned to a core of its own while there are any left.
    pub workers: usize,
    /// Limits.
    pub limits: Limits,
    /// Times.
    pub timeouts: Timeouts,
    /// How listeners are handed over; read when the server starts.
    pub handover: Handover,
    /// Which worker gets a new connection; only in the tier [`Ebpf`](Handover::Ebpf).
    pub steering: Steering,
    /// What happens to established connections.
    pub connections: Connections,
    /// Whether connections move between serving workers, to keep them about equally busy.
    pub rebalance: Rebalance,
    /// Largest state of a worker that may be handed over, bytes, default 1 GiB; see
    /// [`Protocol::WORKER_STATE`](crate::Protocol::WORKER_STATE).
    pub state_bytes_max: u64,
    /// What happens if it has more.
    pub state_too_large: StateTooLarge,
    /// The control socket; read when the server starts.
    pub control: Control,
    /// Address at which metrics are served over HTTP (`GET /metrics`), in the formats of OpenMetrics and Prometheus; `None`: they are not
    /// served. There is no authentication: choose an address that only the monitoring system can reach. Port 0 is refused.
    pub metrics: Option<SocketAddr>,
    /// File to which the master writes its process id; read when the server starts.
    pub pid_file: Option<PathBuf>,
    /// Workers run as this user, by name or number, without any privilege; needs root.
    pub user: Option<String>,
    /// Workers run as this group, by name or number; if only the user is given, as the user's own group.
    pub group: Option<String>,
    /// What workers give up; the filter needs seccomp (`CONFIG_SECCOMP_FILTER`) on x86-64, AArch64 or RISC-V.
    pub sandbox: Sandbox,
    /// Folders under which workers with [`SystemCalls::ServeOnly`](crate::SystemCalls::ServeOnly) may open files to read, only with
    /// openat2(2). The filter then allows that call, and Landlock limits it to these folders. Without Landlock such a worker could open
    /// whatever its user can: [`Sandbox::On`] then refuses to start, and [`Sandbox::Auto`] logs it. Other workers may read files in any
    /// case.
    pub readable: Vec<PathBuf>,
    /// Where workers write the access log.
    pub access_log: LogTarget,
    /// The program's name, as `batonctl status` shows it; read when the server starts.
    pub name: Option<String>,
    /// The program's own version; read when the server starts.
    pub version: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            outbound_layers: BTreeMap::new(),
            unix_mode: 0o666,
            unix_owner: None,
            workers: 1,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            handover: Handover::default(),
            steering: Steering::default(),
            connections: Connections::default(),
            rebalance: Rebalance::default(),
            state_bytes_max: 1 << 30,
            state_too_large: StateTooLarge::default(),
            control: Control::default(),
            metrics: None,
            pid_file: None,
            user: None,
            group: None,
            sandbox: Sandbox::default(),
            readable: Vec::new(),
            access_log: LogTarget::default(),
            name: None,
            version: None,
        }
    }
}

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct InvalidSetting {
    /// Its name.
    pub setting: &'static str,
    /// What is wrong, and which values are right.
    pub problem: String,
}

impl Settings {
    /// Checks whether this machine has what [`Sandbox::On`] needs, if that is set.
    ///
    /// # Errors
    /// Names the setting, and says what is missing.
    pub fn check_sandbox(&self) -> Result<(), InvalidSetting> {
        match system_calls::check_available() {
            Err(error) if self.sandbox == Sandbox::On => Err(InvalidSetting {
                setting: "sandbox",
                problem: format!(
                    "this kernel cannot filter system calls ({error}); choose \"auto\" to serve without a filter"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Checks whether workers can read each of [`Settings::readable`] as their user. Forks if that is another user than
    /// that of this process.
    ///
    /// # Errors
    /// Names the setting and the folder, and says why it cannot be read.
    pub fn check_readable(&self) -> Result<(), InvalidSetting> {
        let identity = self.identity()?;
        let user = self.user.as_ref().map_or_else(|| "this user".to_owned(), |user| format!("user {user:?}"));
        self.readable.iter().try_for_each(|folder| {
            readable::check(folder, identity.as_ref()).map_err(|error| {
                let advice = match error.kind() {
                    io::ErrorKind::NotFound => "create it, or name another one".to_owned(),
                    io::ErrorKind::NotADirectory => "name the folder, not a file".to_owned(),
                    io::ErrorKind::PermissionDenied => {
                        format!("give {user} permissions r and x on it, and x on the folders above it")
                    }
                    _ => "name another one".to_owned(),
                };
                let problem = format!("cannot read the folder {}: {error}; {advice}", folder.display());
                InvalidSetting { setting: "readable", problem }
            })
        })
    }

    /// Opens the access log, and creates it if there is none.
    ///
    /// # Errors
    /// Names the setting and the file, and says why it cannot be opened.
    pub fn check_access_log(&self) -> Result<(), InvalidSetting> {
        self.access_log.open().map(drop)
    }
}

/// The most memory of a connection apart from what it holds: its slot, its timer, its operations in flight.
const CONNECTION_BYTES: u64 = 512;

/// The memory of a worker without connections.
const WORKER_BYTES: u64 = 8 << 20;

impl Settings {
    /// About the most memory that one worker needs, bytes, with the largest number of connections. One callback may write
    /// more; the kernel's socket buffers and the protocol's own memory are not in it.
    pub fn memory_bytes_worst(&self) -> u64 {
        let Limits { connections_max, receive_buffers, receive_buffer_bytes, memory_bytes_max, .. } = self.limits;
        let connections = u64::from(connections_max) * CONNECTION_BYTES;
        // Buffers for bulk need half as much again.
        let buffers = u64::from(receive_buffers) * u64::from(receive_buffer_bytes) * 3 / 2;
        memory_bytes_max + connections + buffers + WORKER_BYTES
    }

    /// Checks every setting, also against the others.
    ///
    /// # Errors
    /// Names the first setting that is out of range and the range.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let Self {
            listen,
            outbound_layers,
            unix_mode,
            unix_owner: _,
            workers,
            limits,
            timeouts,
            handover: _,
            steering: _,
            connections: _,
            rebalance: _,
            state_bytes_max: _,
            state_too_large: _,
            control: _,
            metrics,
            pid_file: _,
            user,
            group,
            sandbox: _,
            readable: _,
            access_log: _,
            name,
            version,
        } = self;
        let invalid = |setting, problem: String| Err(InvalidSetting { setting, problem });
        listener::validate(listen, *unix_mode)?;
        outbound::validate(outbound_layers)?;
        if *workers == 0 || *workers > WORKERS_MAX {
            return invalid("workers", format!("must be between 1 and {WORKERS_MAX}, not {workers}"));
        }
        metrics::validate(*metrics, listen)?;
        let Limits {
            connections_max,
            backlog,
            message_bytes_max,
            outbound_bytes_high,
            outbound_bytes_low,
            memory_bytes_max,
            receive_buffer_bytes,
            receive_buffers,
            sibling_message_bytes_max,
            sibling_queue_bytes_max,
            mailbox_messages_max,
        } = limits;
        if !(1..=CONNECTIONS_MAX_LARGEST).contains(connections_max) {
            return invalid(
                "connections_max",
                format!("must be between 1 and {CONNECTIONS_MAX_LARGEST}, not {connections_max}"),
            );
        }
        if *backlog == 0 || *backlog > i32::MAX as u32 {
            return invalid("backlog", format!("must be between 1 and {}, not {backlog}", i32::MAX));
        }
        if !(1..=1 << 30).contains(message_bytes_max) {
            return invalid("message_bytes_max", format!("must be between 1 and {}, not {message_bytes_max}", 1 << 30));
        }
        if !(1..=1 << 30).contains(outbound_bytes_high) {
            return invalid(
                "outbound_bytes_high",
                format!("must be between 1 and {}, not {outbound_bytes_high}", 1 << 30),
            );
        }
        if outbound_bytes_low >= outbound_bytes_high {
            return invalid(
                "outbound_bytes_low",
                format!("must be below outbound_bytes_high, which is {outbound_bytes_high}, not {outbound_bytes_low}"),
            );
        }
        let one = *message_bytes_max as u64 + *outbound_bytes_high as u64;
        if *memory_bytes_max < one || *memory_bytes_max > MEMORY_BYTES_LARGEST {
            return invalid(
                "memory_bytes_max",
                format!(
                    "must be between {one} (message_bytes_max plus outbound_bytes_high) and {MEMORY_BYTES_LARGEST}, not {memory_bytes_max}"
                ),
            );
        }
        if !(1024..=RECEIVE_BUFFER_BYTES_LARGEST).contains(receive_buffer_bytes) {
            return invalid(
                "receive_buffer_bytes",
                format!("must be between 1024 and {RECEIVE_BUFFER_BYTES_LARGEST}, not {receive_buffer_bytes}"),
            );
        }
        if !receive_buffers.is_power_of_two() || !(2..=1 << 15).contains(receive_buffers) {
            return invalid(
                "receive_buffers",
                format!("must be a power of two between 2 and 32768, not {receive_buffers}"),
            );
        }
        if !(1..=SIBLING_MESSAGE_BYTES_LARGEST).contains(sibling_message_bytes_max) {
            return invalid(
                "sibling_message_bytes_max",
                format!("must be between 1 and {SIBLING_MESSAGE_BYTES_LARGEST}, not {sibling_message_bytes_max}"),
            );
        }
        let least = sibling_message_bytes_max.saturating_mul(2);
        if !(MAILBOX_MESSAGES_LEAST..=MAILBOX_MESSAGES_LARGEST).contains(mailbox_messages_max) {
            return invalid(
                "mailbox_messages_max",
                format!(
                    "must be between {MAILBOX_MESSAGES_LEAST} and {MAILBOX_MESSAGES_LARGEST}, not {mailbox_messages_max}"
                ),
            );
        }
        if !(least..=SIBLING_QUEUE_BYTES_LARGEST).contains(sibling_queue_bytes_max) {
            return invalid(
                "sibling_queue_bytes_max",
                format!(
                    "must be between {least} (twice sibling_message_bytes_max) and {SIBLING_QUEUE_BYTES_LARGEST}, not {sibling_queue_bytes_max}"
                ),
            );
        }
        for (setting, name) in [("user", user), ("group", group)] {
            if name.as_ref().is_some_and(|name| name.is_empty() || name.contains('\0')) {
                return invalid(setting, "must be a name or a number".to_owned());
            }
        }
        for (setting, text) in [("name", name), ("version", version)] {
            if let Some(text) = text.as_ref().filter(|text| text.is_empty() || text.len() > NAME_BYTES_MAX) {
                return invalid(setting, format!("must have 1 to {NAME_BYTES_MAX} bytes, unlike {text:?}"));
            }
        }
        let times = [
            ("idle_ms", timeouts.idle_ms),
            ("idle_at_limit_ms", timeouts.idle_at_limit_ms),
            ("message_ms", timeouts.message_ms),
            ("write_ms", timeouts.write_ms),
            ("connect_ms", timeouts.connect_ms),
            ("linger_ms", timeouts.linger_ms),
            ("drain_ms_max", timeouts.drain_ms_max),
            ("settle_ms", timeouts.settle_ms),
            ("stop_ms_max", timeouts.stop_ms_max),
            ("hang_ms", timeouts.hang_ms),
        ];
        for (setting, value) in times {
            if value > TIMEOUT_MS_LARGEST {
                return invalid(setting, format!("must be at most {TIMEOUT_MS_LARGEST} (seven days), not {value}"));
            }
        }
        Ok(())
    }
}

/// Largest time-out: seven days.
pub const TIMEOUT_MS_LARGEST: u64 = 7 * 24 * 3600 * 1000;

#[cfg(test)]
mod tests;
