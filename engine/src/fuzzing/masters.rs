//! A serving master, and what workers, other masters and operators may send to it.

use std::os::fd::{AsFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::world::{ORPHANS, SUCCESSOR, Still, WORKER};
use super::{pieces, skip_nonsense};
use crate::config::{Listener, Settings};
use crate::handover::Tier;
use crate::ipc::channel::{Heard, hear, pair};
use crate::ipc::control::{ConnectionName, ConnectionOrder, Exit, Reply};
use crate::ipc::orders::Report;
use crate::ipc::relay::{ToNew, ToOld};
use crate::master::core::{
    ClientId, ConfigurationId, Core, Event, Inheritance, Lifecycle, Plan, ProcessId, Request, Signal, Time, Upgrade,
    Wanted,
};
use crate::sys::channel::send;

/// Time between two messages, so that deadlines pass as well.
const STEP_MS: u64 = 700;

pub(super) struct Master {
    core: Core,
    pub(super) world: Still,
}

impl Master {
    /// A master that serves with two workers, with two workers of another master.
    pub(super) fn serving(tier: Tier) -> Self {
        Self::starting(tier, None).with_workers()
    }

    /// The new master of an upgrade.
    fn new_one() -> Self {
        let predecessor = ProcessId(SUCCESSOR);
        let (addresses, listeners) = (Vec::new(), Vec::new());
        let inheritance = Inheritance { predecessor, is_held: true, next_number: 2, addresses, listeners };
        Self::starting(Tier::Adopt, Some(inheritance))
    }

    fn starting(tier: Tier, inheritance: Option<Inheritance>) -> Self {
        let listen = vec![Listener::new(([127, 0, 0, 1], 80))];
        let settings = Settings { listen, workers: 2, ..Settings::default() };
        let file = settings.socket_file().expect("no names to look up");
        let plan = Plan::new(ConfigurationId(0), &settings, file, true, true);
        let mut this = Self { core: Core::new(ProcessId(1), tier, inheritance), world: Still::new(plan.clone()) };
        this.step(Event::Start(plan));
        this
    }

    fn with_workers(mut self) -> Self {
        self.pass_time(5_000);
        for number in 0..2 {
            let process = ProcessId(WORKER + number);
            let (core, listeners, meeting) = (None, vec![7], Some(format!("baton/connections/{number:032x}")));
            let ready = Report::Ready { core, connections_max: 9, listeners, meeting, has_state: true, speaks: true };
            self.step(Event::Report(process, ready));
        }
        assert!(matches!(self.core.lifecycle(), Lifecycle::Serving(_)), "{:?}", self.core.lifecycle());
        self
    }

    pub(super) fn step(&mut self, event: Event) {
        self.core.step(&mut self.world, event);
        let _ = self.core.next_deadline(self.world.now);
        self.core.assert_legal(self.world.now);
    }

    pub(super) fn pass_time(&mut self, ms: u64) {
        self.world.now = Time(self.world.now.0.saturating_add(ms * 1_000_000));
        self.step(Event::Tick);
    }

    /// Operators have listed connections in each order, and ended one: the questions 1 to 4.
    fn asked_for_connections(mut self) -> Self {
        let orders = [ConnectionOrder::Oldest, ConnectionOrder::Busiest, ConnectionOrder::ByPeer];
        for (client, order) in (1..).zip(orders) {
            let wanted = Wanted { order, limit: 3, worker: None };
            self.step(Event::Request(ClientId(client), Request::Connections(wanted)));
        }
        let id = ConnectionName { pid: WORKER, slot: 7, generation: 1 };
        self.step(Event::Request(ClientId(4), Request::Close { id, now: false }));
        self
    }

    /// A report of a worker or an orphan. The driver is honest: each process ends once.
    fn hear(&mut self, number: u8, report: Report) {
        let process = ProcessId(WORKER + u32::from(number % 6));
        let orphan = ORPHANS[usize::from(number) % ORPHANS.len()];
        match number / 32 {
            0..=2 => self.step(Event::Report(process, report)),
            3 | 4 => match report {
                Report::Listener { address } if number.is_multiple_of(2) => {
                    let socket = self.world.next_socket();
                    self.step(Event::OrphanListener(orphan, socket, address));
                }
                report => self.step(Event::OrphanReport(orphan, report)),
            },
            5 => self.step(Event::Signal(Signal::Hup)),
            6 => self.step(Event::Ended(process, Exit::Signal(9))),
            _ => self.pass_time(STEP_MS * u64::from(number)),
        }
    }
}

/// Sends each piece as a packet, and passes what is received to `each`.
fn heard<T: DeserializeOwned + Serialize>(pieces: impl Iterator<Item = Vec<u8>>, mut each: impl FnMut(u8, T)) {
    let (ours, theirs): (OwnedFd, OwnedFd) = pair().expect("a pair");
    for piece in pieces {
        let Some((number, packet)) = piece.split_first() else { continue };
        if packet.is_empty() || send(ours.as_fd(), packet, &[]).is_err() {
            continue;
        }
        match skip_nonsense(hear::<T>(&theirs)) {
            Some(Heard::Message(message)) => each(*number, message),
            Some(Heard::Nothing | Heard::End) | None => {}
        }
    }
}

/// Reports of workers and orphans. Each piece is a number, which says who reports and how, and a report.
///
/// # Panics
/// If the master does, or reaches an illegal state.
pub fn reports(data: &[u8]) {
    let masters = [
        Master::serving(Tier::Adopt).asked_for_connections(),
        Master::serving(Tier::Ebpf),
        Master::starting(Tier::Adopt, None),
    ];
    for mut master in masters {
        heard(pieces(data), |number, report: Report| master.hear(number, report.bounded()));
        // Make the master use what it believed.
        master.pass_time(60_000);
        master.step(Event::Signal(Signal::Hup));
        master.pass_time(60_000);
    }
}

/// Messages between the new and the old master of an upgrade, in both directions.
///
/// # Panics
/// As [`reports`].
pub fn relay(data: &[u8]) {
    let mut old = Master::serving(Tier::Adopt);
    heard(pieces(data), |number, message: ToOld| {
        if number.is_multiple_of(8) {
            old.step(Event::Request(
                ClientId(0),
                Request::Upgrade(Upgrade { is_held: number >= 128, ..Upgrade::default() }),
            ));
        }
        old.step(Event::FromNew(message.bounded()));
        old.pass_time(u64::from(number) * 10);
    });
    let mut new = Master::new_one();
    heard(pieces(data), |number, message: ToNew| {
        new.step(Event::FromOld(message.bounded()));
        new.pass_time(u64::from(number) * 10);
    });
}

/// Requests of operators, as lines; the control socket answers each.
///
/// # Panics
/// As [`reports`].
pub fn control_requests(data: &[u8]) {
    let mut master = Master::serving(Tier::Adopt);
    for (place, piece) in pieces(data).enumerate() {
        let client = ClientId(place as u64);
        let Some(request) = super::asked(&piece).and_then(Request::of) else { continue };
        master.step(Event::Request(client, request));
        master.pass_time(STEP_MS);
        if master.core.verdict().is_some() {
            return;
        }
    }
}

/// What a server sends to an operator's program, which displays it.
///
/// # Panics
/// If what was read cannot be written.
pub fn control_replies(data: &[u8]) {
    for piece in pieces(data) {
        let Ok(reply) = serde_json::from_slice::<Reply>(&piece) else { continue };
        serde_json::to_vec(&reply).expect("what was read can be written");
        let _ = match reply {
            Reply::Event(event) => event.kind.to_string(),
            Reply::Done(outcome) => outcome.to_string(),
            Reply::Failed(failure) => failure.to_string(),
            Reply::Status(_) | Reply::Unknown => continue,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const ORPHAN: ProcessId = ORPHANS[0];

    /// An orphan that claims this number of listen sockets.
    fn with_orphan(generation: u32, listeners: usize) -> Master {
        let mut master = Master::serving(Tier::Adopt);
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 80))];
        let report = Report::Orphan {
            generation,
            slot: 0,
            addresses,
            unix: Vec::new(),
            listeners,
            unix_listeners: 0,
            master: None,
        };
        master.step(Event::OrphanReport(ORPHAN, report.bounded()));
        master
    }

    fn is_sent_away(master: &Master) -> bool {
        master.core.orphans().iter().any(|orphan| orphan.process == ORPHAN && orphan.until.is_some())
    }

    #[test]
    fn an_orphan_that_does_not_share_what_it_said_it_has_is_sent_away() {
        let mut master = with_orphan(1, 3);
        assert!(!is_sent_away(&master));
        master.pass_time(4_999);
        assert!(!is_sent_away(&master));
        master.pass_time(1);
        assert!(is_sent_away(&master));
        assert!(is_sent_away(&with_orphan(1, 0)), "it has nothing to share");
    }

    #[test]
    fn no_more_of_an_orphans_sockets_are_kept_than_it_said_it_has() {
        let mut master = with_orphan(1, 2);
        let address = crate::endpoint::Endpoint::from(([127, 0, 0, 1], 80));
        let sockets: Vec<_> = (0..10).map(|_| master.world.next_socket()).collect();
        for socket in &sockets {
            master.step(Event::OrphanListener(ORPHAN, *socket, address));
        }
        assert_eq!(master.world.closed, sockets[2..]);
        assert!(is_sent_away(&master));
    }

    #[test]
    fn an_orphan_says_once_who_it_is() {
        let mut master = with_orphan(1, 2);
        let again = Report::Orphan {
            generation: 9,
            slot: 4,
            addresses: Vec::new(),
            unix: Vec::new(),
            listeners: 4_000,
            unix_listeners: 0,
            master: None,
        };
        master.step(Event::OrphanReport(ORPHAN, again));
        let known = master.core.orphans()[0].known.clone().expect("it said who it is");
        assert_eq!((known.generation, known.slot), (1, 0));
    }
}
