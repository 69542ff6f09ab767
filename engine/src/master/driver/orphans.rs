//! Finds orphans in a folder beside their control socket. Workers whose master lives do not answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::allowance::Allowance;
use super::sockets::Sockets;
use crate::ipc::channel::{self, Heard, is_nonsense};
use crate::ipc::descriptors;
use crate::ipc::orders::{Order, Report};
use crate::ipc::rendezvous::{self, Found};
use crate::master::core::{Event, ProcessId, Time};
use crate::sys::process;

struct Orphan {
    process: ProcessId,
    /// The only way to kill it: it is not a child, and another process may have its number by now. This is the process
    /// that was found.
    handle: Option<OwnedFd>,
    channel: OwnedFd,
    allowance: Allowance,
}

/// The orphans that this master has found.
#[derive(Default)]
pub(super) struct Orphans(Vec<Orphan>);

impl Orphans {
    /// Contacts each worker of this control socket except those known. Returns those that were found.
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
        let open = self.0.iter().filter(|orphan| orphan.allowance.opens_at().is_none());
        open.map(|orphan| orphan.channel.as_fd())
    }

    /// As [`Workers::opens_at`](super::workers::Workers::opens_at).
    pub(super) fn opens_at(&self) -> Option<Time> {
        self.0.iter().filter_map(|orphan| orphan.allowance.opens_at()).min()
    }

    /// Whether messages of an orphan are read now. They are not if it has sent too many.
    pub(super) fn is_open(&mut self, process: ProcessId, now: Time) -> bool {
        let orphan = self.0.iter_mut().find(|orphan| orphan.process == process);
        orphan.is_some_and(|orphan| orphan.allowance.is_open(now))
    }

    pub(super) fn is_known(&self, process: ProcessId) -> bool {
        self.of(process).is_some()
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

    /// Reads the next message of an orphan.
    pub(super) fn hear(&mut self, process: ProcessId, sockets: &mut Sockets, now: Time) -> Option<Event> {
        let index = self.0.iter().position(|orphan| orphan.process == process)?;
        let orphan = &mut self.0[index];
        let (report, descriptor) = match channel::hear_with::<Report>(&orphan.channel) {
            Ok((Heard::Message(report), descriptor)) => (report.bounded(), descriptor),
            Ok((Heard::Nothing, _)) => return None,
            Err(error) if is_nonsense(&error) => (orphan.allowance.nonsense(now, process, &error), None),
            Ok((Heard::End, _)) | Err(_) => {
                self.0.remove(index);
                return Some(Event::OrphanEnded(process));
            }
        };
        orphan.allowance.count();
        if let (Report::Listener { address }, Some(descriptor)) = (&report, descriptor) {
            match descriptors::listener(descriptor, *address) {
                Ok(socket) => {
                    sockets.keep_path(*address);
                    return Some(Event::OrphanListener(process, sockets.keep_once(socket), *address));
                }
                // The core learns that one of the sockets did not come.
                Err(unfit) if orphan.allowance.may_show(now) => {
                    tracing::warn!(pid = process.0, %address, "refused a listen socket of another worker: {unfit}");
                }
                Err(_) => {}
            }
        }
        Some(Event::OrphanReport(process, report))
    }
}

impl From<Found> for Orphan {
    fn from(Found { pid, handle, channel }: Found) -> Self {
        Self { process: ProcessId(pid), handle, channel, allowance: Allowance::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{SocketAddr, TcpListener};

    use super::*;
    use crate::sys::channel::send;

    #[test]
    fn what_is_no_listen_socket_is_refused_and_counted() {
        let (channel, theirs) = channel::pair().expect("a pair");
        let (process, allowance) = (ProcessId(7), Allowance::default());
        let mut orphans = Orphans(vec![Orphan { process, handle: None, channel, allowance }]);
        let mut sockets = Sockets::default();
        let mut heard = |report: &Report, descriptor: BorrowedFd<'_>| {
            channel::tell_with(&theirs, report, descriptor).expect("told");
            orphans.hear(process, &mut sockets, Time(1)).expect("heard")
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address").into();
        let (here, elsewhere) = (Report::Listener { address }, SocketAddr::from(([127, 0, 0, 1], 1)).into());
        let elsewhere = Report::Listener { address: elsewhere };
        let null = File::open("/dev/null").expect("open");
        assert_eq!(heard(&here, null.as_fd()), Event::OrphanReport(process, here.clone()));
        assert_eq!(heard(&elsewhere, listener.as_fd()), Event::OrphanReport(process, elsewhere.clone()));
        assert!(matches!(heard(&here, listener.as_fd()), Event::OrphanListener(_, _, at) if at == address));
    }

    #[test]
    fn nonsense_is_no_reason_to_give_up_the_rest() {
        let (channel, theirs) = channel::pair().expect("a pair");
        let (process, allowance) = (ProcessId(7), Allowance::default());
        let mut orphans = Orphans(vec![Orphan { process, handle: None, channel, allowance }]);
        let mut hear = || orphans.hear(process, &mut Sockets::default(), Time(1));
        for bytes in [&b"{}"[..], b"[", &[0xff; 40_000]] {
            send(theirs.as_fd(), bytes, &[]).expect("sent");
            assert_eq!(hear(), Some(Event::OrphanReport(process, Report::Unknown)));
        }
        channel::tell(&theirs, &Report::Closed).expect("told");
        assert_eq!(hear(), Some(Event::OrphanReport(process, Report::Closed)));
        drop(theirs);
        assert_eq!(hear(), Some(Event::OrphanEnded(process)));
    }
}
