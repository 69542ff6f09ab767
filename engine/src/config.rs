//! Settings of a server, their defaults, and what makes them invalid. Pure, but for what `check_` methods ask of the machine.

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

/// Least and largest [`Limits::mailbox_messages_max`]: all of it is memory from the start on.
const MAILBOX_MESSAGES_LEAST: usize = 16;
const MAILBOX_MESSAGES_LARGEST: usize = 1 << 20;

/// Largest [`Limits::sibling_queue_bytes_max`].
pub const SIBLING_QUEUE_BYTES_LARGEST: usize = 1 << 30;

const _: () = assert!(CONNECTIONS_MAX_DEFAULT <= CONNECTIONS_MAX_LARGEST);
const _: () = assert!(CONNECTIONS_MAX_LARGEST < crate::sys::ring::SLOTS_MAX);
const _: () = assert!(CONNECTIONS_MAX_LARGEST as usize <= crate::sys::ring::OPERATIONS_MAX);

/// Bounds of what one worker takes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections per worker, default 65,536, cut to what the limit of open files allows. At the limit the longest idle
    /// one makes room for a newcomer ([`Timeouts::idle_at_limit_ms`]); where none can, accepting pauses and the backlog
    /// pushes back; nobody is refused by the engine.
    pub connections_max: u32,
    /// Pending connections the kernel queues per listener, default 4,096; it cuts this to `net.core.somaxconn`.
    pub backlog: u32,
    /// Largest message that may wait for its remaining bytes, default 1 MiB; then [`Limit::MessageBytes`].
    ///
    /// [`Limit::MessageBytes`]: crate::Limit::MessageBytes
    pub message_bytes_max: usize,
    /// Output queued for one connection above which it is read no more, default 1 MiB.
    pub outbound_bytes_high: usize,
    /// Output queued for one connection below which it is read again, default 256 KiB.
    pub outbound_bytes_low: usize,
    /// Bytes held for all connections of a worker together, default 256 MiB: unconsumed input, unsent output, connections on
    /// their way to another worker, and what the protocol says it holds ([`Io::set_held_bytes`](crate::Io::set_held_bytes)).
    /// From three quarters of it on, connections that hold more than 64 KiB are not read for a while. Above it,
    /// connections are cut until an eighth of it is free: the largest first, and of those of about one size (within a power
    /// of two) the one whose peer has taken nothing for longest.
    pub memory_bytes_max: u64,
    /// Bytes of one receive buffer, default 16 KiB.
    pub receive_buffer_bytes: u32,
    /// Receive buffers per worker, a power of two, default 128. Only as many as the load needs are in use at a time.
    pub receive_buffers: u16,
    /// Largest message to other workers, default 1 MiB; see [`Worker::broadcast`](crate::Worker::broadcast). Let all workers that may
    /// run side by side have the same: what is larger than a receiver's is not heard there.
    pub sibling_message_bytes_max: usize,
    /// Bytes that may wait for one other worker, default 8 MiB.
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

/// Times after which the engine acts by itself, in milliseconds; 0 turns one off, except for the linger time and the
/// times for leaving, where 0 means at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Nothing received and no message begun, default 75,000.
    pub idle_ms: u64,
    /// At [`Limits::connections_max`], a connection that has been idle for so long may be closed to make room for a
    /// newcomer, the longest idle first, default 1,000; see [`Limit::Connections`](crate::Limit::Connections).
    pub idle_at_limit_ms: u64,
    /// From the first byte of a message to the whole message, default 10,000.
    pub message_ms: u64,
    /// The peer takes no output, default 30,000.
    pub write_ms: u64,
    /// From accepting or making a connection to the end of its [layer](crate::layer)'s handshake, default 10,000; 0 turns it off.
    pub handshake_ms: u64,
    /// From asking for an outbound connection to having it, without the handshake of its layer, default 10,000.
    pub connect_ms: u64,
    /// From our FIN to the peer's, default 2,000.
    pub linger_ms: u64,
    /// From the order to drain to the end of the last connection, default 30,000.
    pub drain_ms_max: u64,
    /// How long a listener that gets no new connections any more stays open for handshakes under way, default 1,200:
    /// longer than the first retransmit of a SYN-ACK.
    pub settle_ms: u64,
    /// From TERM or INT to the end of the last connection, default 3,000; QUIT gives them `drain_ms_max`.
    pub stop_ms_max: u64,
    /// A worker that does not answer its master for about so long is taken for hung, killed and replaced, default 5,000.
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

/// How listeners are replaced without losing a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handover {
    /// `Ebpf` where a program may be loaded, else `Adopt`.
    #[default]
    Auto,
    /// New connections are steered to the newest generation by a program in the kernel; the listeners before it settle,
    /// then close. Needs CAP_BPF and CAP_NET_ADMIN when the server starts, and kernel 5.14.
    Ebpf,
    /// Listen sockets are passed on and not closed. Needs nothing.
    Adopt,
}

/// What becomes of established connections whose worker leaves while others serve: at a reload, an upgrade, scaling down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Connections {
    /// They move to a worker that serves, and go on there; see [`Protocol::freeze`](crate::Protocol::freeze). Those that
    /// cannot are told goodbye.
    #[default]
    Handover,
    /// They are told goodbye at the next message boundary; see [`Protocol::on_drain`](crate::Protocol::on_drain).
    Goodbye,
    /// They go on where they are until they end, for `drain_ms_max` at most.
    Wait,
}

/// What happens where a worker that is to be replaced has more state of its own than it may hand over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StateTooLarge {
    /// It is not replaced: a reload, an upgrade or a smaller number of workers is refused.
    #[default]
    Refuse,
    /// The new worker begins without.
    Discard,
}

/// Whether workers give up what they do not need once they have their sockets and rings: capabilities, system calls and
/// operations of the ring. [`Protocol::SYSTEM_CALLS`](crate::Protocol::SYSTEM_CALLS) says what they need.
///
/// A worker whose code somebody else has taken over can then start no program, attach nothing to the listeners, and look into
/// no other process. What is denied fails with EPERM and does not end the worker: a call that was overlooked costs a log line or
/// an error, and not the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// Where the kernel filters no system calls, the log says so, and workers serve without the filter.
    #[default]
    Auto,
    /// Where the kernel filters no system calls, or the protocol needs [all of them](crate::SystemCalls::Any), the server does not
    /// start. Landlock is used where there is one, and not demanded: it is newer than the oldest kernel that is supported.
    On,
    /// Workers keep what they have, but for what [`Settings::user`] takes from them.
    Off,
}

/// Where a server can be asked and told things while it runs; see [`crate::control`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Nowhere.
    #[default]
    Off,
    /// At this path, unless another server is there.
    IfFree(PathBuf),
    /// At this path; another server there is an error.
    At(PathBuf),
}

/// Where lines about what was answered go; see [`Worker::access_log`](crate::Worker::access_log).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    #[default]
    Off,
    /// To the master's standard error.
    StandardError,
    /// To the end of this file, which the master opens, and makes with mode 0640 where there is none; a symbolic link is refused. On
    /// USR1 the master opens it anew, and its workers go on in that one.
    File(PathBuf),
}

impl LogTarget {
    /// # Errors
    /// Names the setting, the file, and says why not.
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

/// Everything a server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Addresses to listen on.
    pub listen: Vec<Listener>,
    /// Layers that outbound connections may go through, by names ([`Target::with_layer`](crate::Target::with_layer)); one that moves goes on
    /// with the layer that has its name in the next settings.
    pub outbound_layers: BTreeMap<String, SharedLayers>,
    /// Who may connect to Unix sockets that are listened on: the mode of their files, in which 0200, for the server's own user,
    /// must be set. Everybody by default (0666), as to a TCP port; the folder may let in fewer. It is set when the file is made,
    /// and no later.
    pub unix_mode: u32,
    /// To whom these files belong: `user`, `user:group` or `:group`, by names or numbers; `None`: to whoever starts the server.
    /// Giving them to another user needs root, and to a group root or being one of it. Set as the mode is, and no later.
    pub unix_owner: Option<String>,
    /// Worker processes; each is pinned to a core of its own while there are any left.
    pub workers: usize,
    /// Bounds.
    pub limits: Limits,
    /// Times.
    pub timeouts: Timeouts,
    /// How listeners are replaced; read when the server starts.
    pub handover: Handover,
    /// Which worker gets a new connection; in the tier [`Ebpf`](Handover::Ebpf) only.
    pub steering: Steering,
    /// What becomes of established connections.
    pub connections: Connections,
    /// Whether connections move between workers that serve, so that all are about equally busy.
    pub rebalance: Rebalance,
    /// What one worker may hand over of its own, bytes, default 1 GiB; see
    /// [`Protocol::WORKER_STATE`](crate::Protocol::WORKER_STATE).
    pub state_bytes_max: u64,
    /// What happens where it has more.
    pub state_too_large: StateTooLarge,
    /// The control socket; read when the server starts.
    pub control: Control,
    /// Where metrics are asked for over HTTP (`GET /metrics`), in the formats of OpenMetrics and Prometheus; `None`: nowhere. Whoever
    /// reaches the address may ask: choose one that only the monitoring system reaches. A port of 0 is refused.
    pub metrics: Option<SocketAddr>,
    /// A file for the master's process id; read when the server starts.
    pub pid_file: Option<PathBuf>,
    /// Workers serve as this user, by name or number, without any privilege; needs root.
    pub user: Option<String>,
    /// Workers serve as this group, by name or number; the user's own where only the user is given.
    pub group: Option<String>,
    /// What workers give up; needs seccomp (`CONFIG_SECCOMP_FILTER`) on x86-64, AArch64 or RISC-V.
    pub sandbox: Sandbox,
    /// Folders beneath which workers of [`SystemCalls::ServeOnly`](crate::SystemCalls::ServeOnly) may open files to read, by
    /// openat2(2) alone. The filter then allows that call, and Landlock keeps it to these folders; without Landlock such a worker can open
    /// whatever its user can, which [`Sandbox::On`] refuses and [`Sandbox::Auto`] logs. Other workers may read files in any case.
    pub readable: Vec<PathBuf>,
    /// Where workers log what they answered.
    pub access_log: LogTarget,
    /// What the program is called, for those who ask the running server; read when the server starts.
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
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Settings {
    /// Asks whether this machine has what [`Sandbox::On`] needs, where that is set.
    ///
    /// # Errors
    /// Names the setting, and says why not.
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

    /// Asks whether workers will be able to read each of [`Settings::readable`] as their user. Forks where that is another one than
    /// this process has.
    ///
    /// # Errors
    /// Names the setting, the folder, and says why not.
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

    /// Opens the access log, and makes it where there is none.
    ///
    /// # Errors
    /// Names the setting, the file, and says why not.
    pub fn check_access_log(&self) -> Result<(), InvalidSetting> {
        self.access_log.open().map(drop)
    }
}

/// What a connection costs a worker beside what it holds, at most: its place, its timer, its operations in flight.
const CONNECTION_BYTES: u64 = 512;

/// What a worker has without connections.
const WORKER_BYTES: u64 = 8 << 20;

impl Settings {
    /// What one worker needs at most, bytes, with as many connections as may be: about, since one callback may write any
    /// number of bytes, and without the kernel's buffers of sockets and what the protocol keeps for itself.
    pub fn memory_bytes_worst(&self) -> u64 {
        let Limits { connections_max, receive_buffers, receive_buffer_bytes, memory_bytes_max, .. } = self.limits;
        let connections = u64::from(connections_max) * CONNECTION_BYTES;
        // Those for bulk are half as much again.
        let buffers = u64::from(receive_buffers) * u64::from(receive_buffer_bytes) * 3 / 2;
        memory_bytes_max + connections + buffers + WORKER_BYTES
    }

    /// Checks every setting by itself and against the others.
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
