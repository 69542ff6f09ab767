//! The core's identifiers for workers, listeners and processes, and the plain values that it decides on.

use crate::config::{Connections, Rebalance, Settings, StateTooLarge, Steering};
use crate::endpoint::{Endpoint, SocketFile};

/// A moment of CLOCK_MONOTONIC in nanoseconds. It is passed in; the core never reads a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    pub(crate) fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Milliseconds since `earlier`.
    pub(crate) fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// A process. The driver chooses the number, and the core draws nothing from it. The real driver uses the process
/// number, since that is what people see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessId(pub(crate) u32);

/// A listen socket that this master holds a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SocketId(pub(crate) u32);

/// The steering programs and maps of one generation, one pair per address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SteeringId(pub(crate) u32);

/// A connection that the master accepted because no worker could.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ArrivalId(pub(crate) u32);

/// A client of the control socket that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId(pub(crate) u64);

/// A configuration that the driver keeps: settings, service, identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConfigurationId(pub(crate) u32);

/// An address as configured and as bound. They differ if the kernel chose the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) requested: Endpoint,
    pub(crate) bound: Endpoint,
}

/// What the core needs to know of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Plan {
    pub(crate) configuration: ConfigurationId,
    pub(crate) listen: Vec<Endpoint>,
    pub(crate) socket_file: SocketFile,
    pub(crate) workers: usize,
    pub(crate) backlog: u32,
    pub(crate) drain_ms: u64,
    pub(crate) settle_ms: u64,
    pub(crate) stop_ms: u64,
    /// 0: workers are not watched for hangs.
    pub(crate) hang_ms: u64,
    pub(crate) steering: Steering,
    pub(crate) connections: Connections,
    pub(crate) rebalance: Rebalance,
    pub(crate) state_bytes_max: u64,
    pub(crate) state_too_large: StateTooLarge,
    /// The protocol's connections have state that can be handed over. The next field says the same of its workers.
    pub(crate) has_connection_state: bool,
    pub(crate) has_worker_state: bool,
}

impl Plan {
    pub(crate) fn new(
        configuration: ConfigurationId,
        settings: &Settings,
        socket_file: SocketFile,
        has_connection_state: bool,
        has_worker_state: bool,
    ) -> Self {
        Self {
            configuration,
            listen: settings.listen.iter().map(|listener| listener.address).collect(),
            socket_file,
            workers: settings.workers,
            backlog: settings.limits.backlog,
            drain_ms: settings.timeouts.drain_ms_max,
            settle_ms: settings.timeouts.settle_ms,
            stop_ms: settings.timeouts.stop_ms_max,
            hang_ms: settings.timeouts.hang_ms,
            steering: settings.steering,
            connections: settings.connections,
            rebalance: settings.rebalance,
            state_bytes_max: settings.state_bytes_max,
            state_too_large: settings.state_too_large,
            has_connection_state,
            has_worker_state,
        }
    }
}

/// How much time connections get at a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stop {
    /// Connections have the configured drain time, or this one.
    Graceful { drain_ms: Option<u64> },
    /// Connections have the configured stop time.
    Fast,
    /// Connections have no time.
    Now,
}

/// A signal that a master handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Signal {
    Hup,
    Quit,
    Term,
    Int,
    /// Sent by a process. The driver drops those that a terminal resize causes.
    Winch,
    Usr2,
}

/// What an upgrade starts, and under which conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Upgrade {
    /// `None`: the running binary's path.
    pub(crate) binary: Option<String>,
    /// `None`: the running binary's arguments.
    pub(crate) arguments: Option<Vec<String>>,
    pub(crate) is_held: bool,
    pub(crate) probation_ms: Option<u64>,
    pub(crate) timeout_ms: Option<u64>,
    /// Losses that do not cause a refusal.
    pub(crate) allowed: Vec<crate::ipc::control::Allowed>,
    /// Refuses the upgrade if connections would be closed.
    pub(crate) keeps_connections: bool,
}
