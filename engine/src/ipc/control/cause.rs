//! Who asked for an operation, and how processes and upgrades ended.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::failure::Failure;

/// Who asked a master for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
    /// A request at the control socket.
    Control,
    /// The other master of an upgrade.
    OtherMaster,
    /// A cause of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Control => "batonctl",
            Self::OtherMaster => "the other master",
            Self::Unknown => "a cause that this version does not know",
        })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Unknown: it was not this process's child.
    #[serde(other)]
    Unknown,
}

impl Exit {
    /// Whether it ended normally.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exited with code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(formatter, "was killed by {signal}"),
                Err(_) => write!(formatter, "was killed by signal {number}"),
            },
            Self::Unknown => formatter.write_str("is gone"),
        }
    }
}

/// What ended an operation before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interruption {
    /// The server was told to stop.
    Stop,
    /// The server ended.
    End,
    /// The workers it concerned were told to leave.
    Leave,
    /// Another master serves for good.
    Upgrade,
    /// The workers change, or one of them is gone.
    Change,
    /// An interruption of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Interruption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stop => "the server was told to stop",
            Self::End => "the server ended",
            Self::Leave => "the workers were told to leave",
            Self::Upgrade => "another master took over for good",
            Self::Change => "the workers changed",
            Self::Unknown => "something happened that this version does not know",
        })
    }
}

/// Why an upgrade was reverted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Error)]
#[serde(tag = "revert", rename_all = "snake_case")]
pub enum RevertCause {
    /// A client or a signal asked for it.
    #[error("{by} asked for it")]
    Asked {
        /// Who.
        by: Cause,
    },
    /// The new master was told to stop.
    #[error("the new master was told to stop by {by}")]
    Stopped {
        /// Who told it.
        by: Cause,
    },
    /// On probation, a new worker ended.
    #[error("on probation, worker {slot} {exit}")]
    WorkerEnded {
        /// Its slot.
        slot: usize,
        /// How.
        exit: Exit,
    },
    /// On probation, a new worker hung.
    #[error("on probation, worker {slot} stopped responding")]
    WorkerHung {
        /// Its slot.
        slot: usize,
    },
    /// Nobody committed the held upgrade in time.
    #[error("nobody committed it in time")]
    NotCommitted,
    /// The new master ended by itself, or had to be ended.
    #[error("{why}")]
    Failed {
        /// How.
        why: Box<Failure>,
    },
    /// A cause of a later version.
    #[error("a reason that this version does not know")]
    #[serde(other)]
    Unknown,
}
