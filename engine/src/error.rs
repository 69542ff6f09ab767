//! Why a server did not start, or how it ended: what the master and its caller share.

use std::io;
use std::path::PathBuf;

use crate::config::InvalidSetting;
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
    #[error("{count} of the workers died; see the log")]
    WorkersDied { count: usize },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}
