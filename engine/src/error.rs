//! Why a server did not start, or how it ended: what the master and its caller share.

use std::io;
use std::path::PathBuf;

use crate::config::InvalidSetting;
use crate::ipc::control::Failure;
use crate::sys::listener::ListenError;
use crate::worker::StartError;

/// Why a server did not start, or how it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ServerError {
    #[error("invalid setting {0}")]
    Setting(#[from] InvalidSetting),
    #[error("no address to listen on was given")]
    NoAddress,
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("worker {slot} could not start: {reason}")]
    Worker { slot: usize, reason: String },
    #[error("worker {slot} (pid {pid}) was not ready within {seconds} s")]
    NotReady { slot: usize, pid: i32, seconds: u64 },
    #[error("{0}")]
    Handover(String),
    #[error("{problem}")]
    Reload { problem: String },
    #[error("upgrade: {problem}")]
    Upgrade { problem: String },
    #[error("control socket {path}: {problem}", path = path.display())]
    Control { path: PathBuf, problem: String },
    #[error("control socket {path}: {problem}", path = path.display())]
    ControlPath { path: PathBuf, problem: String },
    #[error("{count} of the workers died; see the log")]
    WorkersDied { count: usize },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
    #[error("{0}")]
    Failed(Failure),
}

impl From<Failure> for ServerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Listen { address, problem } => Self::Listen(ListenError::told(address, problem)),
            Failure::Worker { slot, problem } => Self::Worker { slot, reason: problem },
            Failure::WorkerEnded { slot, exit } => {
                Self::Worker { slot, reason: format!("it {exit} before it was ready") }
            }
            Failure::NotReady { slot, pid, waited_ms } => {
                Self::NotReady { slot, pid: pid as i32, seconds: waited_ms / 1000 }
            }
            Failure::WorkersDied { count } => Self::WorkersDied { count },
            Failure::Configuration { problem } => Self::Reload { problem },
            Failure::Incompatible { problem } => Self::Upgrade { problem },
            other => Self::Failed(other),
        }
    }
}
