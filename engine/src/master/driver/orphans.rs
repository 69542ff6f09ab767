//! Workers of masters that are gone, found in a folder beside their control socket. Those whose master lives do not answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::channel_heard;
use super::sockets::Sockets;
use crate::ipc::channel::{self, Heard};
use crate::ipc::orders::{Order, Report};
use crate::ipc::rendezvous::{self, Found};
use crate::master::core::{Event, ProcessId};
use crate::sys::process;

struct Orphan {
    process: ProcessId,
    /// It is killed by this alone: it is no child, and its number may be another process's by now. It is known to be the
    /// process that was found.
    handle: Option<OwnedFd>,
    channel: OwnedFd,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Orphans(Vec<Orphan>);

impl Orphans {
    /// Knocks at each worker of this control socket except those known; gives those that were found.
    pub(super) fn find(&mut self, folder: &Path, known: &[ProcessId]) -> Vec<ProcessId> {
        let known: Vec<u32> =
            known.iter().map(|process| process.0).chain(self.0.iter().map(|one| one.process.0)).collect();
        let found = rendezvous::find_others(folder, &known).into_iter().map(Orphan::from);
        let first = self.0.len();
        self.0.extend(found);
        self.0[first..].iter().map(|orphan| orphan.process).collect()
    }

    pub(super) fn processes(&self) -> Vec<ProcessId> {
        self.0.iter().map(|orphan| orphan.process).collect()
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|orphan| orphan.channel.as_fd())
    }

    fn of(&self, process: ProcessId) -> Option<&Orphan> {
        self.0.iter().find(|orphan| orphan.process == process)
    }

    pub(super) fn tell(&self, process: ProcessId, order: &Order, descriptors: &[BorrowedFd<'_>]) -> bool {
        let orphan = self.of(process);
        orphan.is_some_and(|orphan| channel::tell_with_all(&orphan.channel, order, descriptors).is_ok())
    }

    pub(super) fn kill(&self, process: ProcessId) {
        if let Some(handle) = self.of(process).and_then(|orphan| orphan.handle.as_ref()) {
            tracing::warn!(pid = process.0, "a worker of the previous server did not leave in time and is killed");
            let _ = process::kill(handle.as_fd());
        }
    }

    /// What an orphan says next.
    pub(super) fn hear(&mut self, process: ProcessId, sockets: &mut Sockets) -> Option<Event> {
        let index = self.0.iter().position(|orphan| orphan.process == process)?;
        match channel_heard::<Report>(&self.0[index].channel) {
            (Heard::Message(Report::Listener { address }), Some(socket)) => {
                Some(Event::OrphanListener(process, sockets.keep_once(socket), address))
            }
            (Heard::Message(report), _) => Some(Event::OrphanReport(process, report)),
            (Heard::Nothing, _) => None,
            (Heard::End, _) => {
                self.0.remove(index);
                Some(Event::OrphanEnded(process))
            }
        }
    }
}

impl From<Found> for Orphan {
    fn from(Found { pid, handle, channel }: Found) -> Self {
        Self { process: ProcessId(pid), handle, channel }
    }
}
