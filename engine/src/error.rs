//! Why a server did not start, or how it ended. The master and its caller share this type.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::InvalidSetting;
use crate::ipc::control::Failure;
use crate::sys::listener::ListenError;
use crate::worker::StartError;

/// Why a server did not start, or how it ended. `Debug` writes the message, and under it the causes that the message does not have,
/// because that is what people see if `main` returns this.
#[derive(thiserror::Error)]
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

impl fmt::Debug for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.to_string();
        formatter.write_str(&text)?;
        let mut next = self.source();
        while let Some(cause) = next {
            let said = cause.to_string();
            if !text.contains(&said) {
                write!(formatter, "\n  caused by: {said}")?;
                text = said;
            }
            next = cause.source();
        }
        Ok(())
    }
}

impl From<Failure> for ServerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Listen { address, problem } => Self::Listen(ListenError::told(address, problem)),
            Failure::ListenUnix { endpoint, problem } => Self::Listen(ListenError::told(*endpoint, problem)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_main_returns_can_be_read() {
        let problem = "must be between 1 and 1024, not 0".to_owned();
        let invalid = ServerError::from(InvalidSetting { setting: "workers", problem });
        assert_eq!(format!("{invalid:?}"), "invalid setting workers: must be between 1 and 1024, not 0");
        let (what, cause) = ("the ring failed", || io::Error::from_raw_os_error(libc::ENOMEM));
        let named = ServerError::System { what, source: cause() };
        assert_eq!(format!("{named:?}"), "the ring failed: Cannot allocate memory (os error 12)");
        let address = ([127, 0, 0, 1], 80);
        let in_use = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let unnamed = format!("{:?}", ServerError::from(ListenError::new(address, "bind", in_use)));
        let (message, causes) = unnamed.split_once('\n').expect("a line for each");
        assert!(message.starts_with("cannot listen on 127.0.0.1:80: the address is in use"), "{message}");
        assert_eq!(causes, "  caused by: Address already in use (os error 98)");
    }
}
