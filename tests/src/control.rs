//! The replies of a server's control socket, as values. They come through batonctl, as for operators, or through the
//! library, which needs no process when a test asks again and again.

use std::path::Path;
use std::process::Command;

use baton::control::{Client, Event, EventKind, Failure, Outcome, Reply, Request, Status};

use crate::PATIENCE;
use crate::program::{self, batonctl};

/// The result of a run of batonctl.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code.
    pub code: i32,
    /// The events until then.
    pub events: Vec<Event>,
    /// The outcome; `None` if no server reported one.
    pub outcome: Option<Result<Outcome, Failure>>,
    /// The text of a failure for people.
    pub stderr: String,
}

impl Answer {
    /// The outcome of a successful operation.
    ///
    /// # Panics
    /// If it was refused or failed, or the exit code does not mean success.
    pub fn done(self) -> Outcome {
        match self.outcome {
            Some(Ok(ref outcome)) if self.code == 0 => outcome.clone(),
            _ => panic!("{self:#?}"),
        }
    }

    /// Why the operation failed.
    ///
    /// # Panics
    /// If it succeeded, or the exit code does not mean failure.
    pub fn failed(self) -> Failure {
        match self.outcome {
            Some(Err(ref failure)) if self.code == 1 => failure.clone(),
            _ => panic!("{self:#?}"),
        }
    }
}

/// A run of `batonctl --json` with these arguments, which begin with the command.
pub fn command(control: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(batonctl());
    command.arg("--control").arg(control).arg(arguments[0]).arg("--json").args(&arguments[1..]);
    command
}

/// Runs `batonctl --json` to its end.
///
/// # Panics
/// If it does not end, or prints something other than replies.
pub fn ask(control: &Path, arguments: &[&str]) -> Answer {
    let output = program::run(&mut command(control, arguments));
    let code = output.status.code().expect("an exit code");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut answer = Answer { code, events: Vec::new(), outcome: None, stderr };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        assert!(answer.outcome.is_none(), "an outcome is the last: {line}");
        match serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")) {
            Reply::Event(event) => answer.events.push(event),
            Reply::Done(outcome) => answer.outcome = Some(Ok(outcome)),
            Reply::Failed(failure) => answer.outcome = Some(Err(failure)),
            other => panic!("{other:?}"),
        }
    }
    answer
}

/// The status of the master that has this control socket; `None` if no master answers.
pub fn status(control: &Path) -> Option<Status> {
    match Client::ask(control, &Request::Status, Some(PATIENCE)) {
        Ok(Reply::Status(status)) => Some(status),
        _ => None,
    }
}

/// The last events of the master that has this control socket.
///
/// # Panics
/// If it does not answer.
pub fn events(control: &Path) -> Vec<EventKind> {
    ask(control, &["events"]).events.into_iter().map(|event| event.kind).collect()
}
