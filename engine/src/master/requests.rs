//! What clients of the control socket ask for, and reloads.

use std::path::PathBuf;
use std::time::Duration;

use super::leave::Stop;
use super::predecessor::Predecessor;
use super::scale::Scaled;
use super::successor::Upgrade;
use super::{Master, notify};
use crate::error::ServerError;
use crate::ipc::control::server::Waiting;
use crate::ipc::control::{Reply, Request};

impl Master<'_> {
    /// Begins a generation of the configuration as it is now; gives the operation whose outcome will be told.
    pub(super) fn reload(&mut self) -> Result<u32, String> {
        self.refuse_during_change()?;
        let Some(reload) = &mut self.reload else {
            let reason = "this program gives no way to read its configuration again";
            tracing::warn!("reload is ignored: {reason}");
            return Err(reason.to_owned());
        };
        notify::reloading();
        let started = match reload() {
            Ok((settings, service)) => {
                tracing::info!(generation = self.next_number, workers = settings.workers, "reload: starting");
                let result = match settings.validate() {
                    Ok(()) if settings.listen.is_empty() => Err(ServerError::NoAddress),
                    result => result.map_err(ServerError::from),
                };
                let result = result.and_then(|()| {
                    let serving = self.serving().map(|index| &self.generations[index]);
                    let refusal = serving.map_or(Ok(()), |generation| generation.refuse_large_state(&settings));
                    refusal.map_err(|problem| ServerError::Reload { problem })
                });
                result.and_then(|()| self.begin(settings, service, "reload"))
            }
            Err(problem) => Err(ServerError::Reload { problem }),
        };
        started.map_err(|error| {
            let reason = error.to_string();
            self.abandon(error);
            reason
        })
    }

    /// Changes of the workers come one after the other.
    pub(super) fn refuse_during_change(&self) -> Result<(), String> {
        let reason = if self.stopping {
            "the server is stopping"
        } else if self.successor.is_some() || self.predecessor.as_ref().is_some_and(Predecessor::is_undecided) {
            "an upgrade is under way; commit or revert it first"
        } else if self.is_changing() {
            "a reload, or a change of the number of workers, is under way; ask again"
        } else {
            return Ok(());
        };
        Err(reason.to_owned())
    }

    pub(super) fn serve_control(&mut self) {
        let Some(control) = &mut self.control else { return };
        for (client, request) in control.requests() {
            let reply = self.answer(client, request);
            if let (Some(reply), Some(control)) = (reply, &mut self.control) {
                control.reply(client, &reply);
            }
        }
    }

    /// What can be answered at once.
    fn answer(&mut self, client: usize, request: Request) -> Option<Reply> {
        match request {
            Request::Status => Some(Reply::Status(self.status())),
            Request::Reload => match self.reload() {
                Ok(operation) => self.wait_for(client, Waiting::ForOperation(operation)),
                Err(reason) => Some(Reply::Failed { reason }),
            },
            Request::Scale { workers } => match self.scale(workers) {
                Ok(Scaled::Begun(operation)) => self.wait_for(client, Waiting::ForOperation(operation)),
                Ok(Scaled::Done(message)) => Some(Reply::Done { message }),
                Err(reason) => Some(Reply::Failed { reason }),
            },
            Request::Upgrade { binary, arguments, hold, probation_ms, timeout_ms } => {
                let upgrade = Upgrade {
                    binary: binary.map(PathBuf::from),
                    arguments,
                    is_held: hold,
                    probation: probation_ms.map(Duration::from_millis),
                    timeout: timeout_ms.map(Duration::from_millis),
                };
                match self.upgrade(upgrade) {
                    Ok(operation) => self.wait_for(client, Waiting::ForOperation(operation)),
                    Err(reason) => Some(Reply::Failed { reason }),
                }
            }
            Request::Commit => match self.ask_to_commit() {
                Some(operation) => self.wait_for(client, Waiting::ForOperation(operation)),
                None => Some(
                    self.commit().map_or_else(|reason| Reply::Failed { reason }, |message| Reply::Done { message }),
                ),
            },
            Request::Revert if self.predecessor.as_ref().is_some_and(Predecessor::is_undecided) => {
                self.wait_for(client, Waiting::ForEnd);
                self.stop(Stop::Graceful { drain_ms: None }, "batonctl");
                None
            }
            Request::Revert => match self.begin_revert("batonctl") {
                Ok(operation) => self.wait_for(client, Waiting::ForOperation(operation)),
                Err(reason) => Some(Reply::Failed { reason }),
            },
            Request::Stop { now, deadline_ms } => {
                self.wait_for(client, Waiting::ForEnd);
                self.stop(if now { Stop::Now } else { Stop::Graceful { drain_ms: deadline_ms } }, "batonctl");
                None
            }
            Request::Events { follow } => {
                let events = self.journal.events();
                if let Some(control) = &mut self.control {
                    events.into_iter().for_each(|event| control.reply(client, &Reply::Event(event)));
                }
                self.wait_for(client, Waiting::ForEvents);
                (!follow).then(|| Reply::Done { message: String::new() })
            }
        }
    }

    /// Makes a client wait; there is no answer yet.
    fn wait_for(&mut self, client: usize, waiting: Waiting) -> Option<Reply> {
        if let Some(control) = &mut self.control {
            control.wait_for(client, waiting);
        }
        None
    }
}
