//! A master's process: selects which event its core may get next, and delivers it.

use super::calls::Calls;
use super::channels::{ChannelId, Letter, Message};
use super::kernel::{ConnectionKey, Holder, Place};
use super::process::{Binary, Birth, Master};
use super::timeline::say;
use super::universe::{Micro, Universe};
use crate::handover::Tier;
use crate::ipc::control::Exit;
use crate::master::core::{ArrivalId, Core, Event, Inheritance, ProcessId, Request, Signal, SocketId};

impl Universe {
    /// The steps that a master can take now.
    pub(super) fn master_steps(&self, id: ProcessId, master: &Master, steps: &mut Vec<Micro>) {
        let Some(core) = &master.core else {
            if master.binary != Binary::Silent {
                steps.push(Micro::Turn(id));
            }
            return;
        };
        if core.verdict().is_some() {
            return steps.push(Micro::Turn(id));
        }
        let relays = master.new.into_iter().chain(master.old);
        let channels = master.workers.values().chain(master.orphans.values()).copied().chain(relays.clone());
        let news = channels.filter(|channel| !master.ended_channels.contains(channel) && self.has_news(id, *channel));
        steps.extend(news.map(|channel| Micro::Hear(id, channel)));
        for (place, (child, _)) in master.ended.iter().enumerate() {
            let channel = master.workers.get(child).copied().or(master.new.filter(|new| self.is_of(*new, *child)));
            let said = channel
                .is_some_and(|channel| !master.ended_channels.contains(&channel) && self.has_message(id, channel));
            if !said {
                steps.push(Micro::Reap(id, place));
            }
        }
        // Earlier messages of another master are read first.
        if !relays.into_iter().any(|relay| self.has_message(id, relay)) {
            if !master.signals.is_empty() {
                steps.push(Micro::Signal(id));
            }
            if !master.requests.is_empty() {
                steps.push(Micro::Ask(id));
            }
        }
        if core.wants_arrivals() && self.arrival(master, core).is_some() {
            steps.push(Micro::Arrive(id));
        }
        if master.deadline.is_some_and(|deadline| deadline <= self.now) {
            steps.push(Micro::Tick(id));
        }
    }

    fn is_of(&self, channel: ChannelId, process: ProcessId) -> bool {
        self.channels.get(&channel).is_some_and(|channel| channel.ends.contains(&process))
    }

    pub(super) fn has_news(&self, process: ProcessId, channel: ChannelId) -> bool {
        self.channels.get(&channel).is_some_and(|channel| channel.has_news(process))
    }

    fn has_message(&self, process: ProcessId, channel: ChannelId) -> bool {
        self.channels.get(&channel).is_some_and(|channel| channel.has_message(process))
    }

    /// A listen socket at which a connection waits for the master.
    fn arrival(&self, master: &Master, core: &Core) -> Option<u32> {
        let unattended = core.unattended().map(|socket| socket.0);
        master.guards.values().copied().chain(unattended).find(|key| self.kernel.has_waiting(*key))
    }

    /// The first turn of a master: its core starts. Or the last turn.
    pub(super) fn master_turns(&mut self, id: ProcessId) {
        let Some(master) = self.master(id) else { return };
        if let Some(core) = &master.core {
            let Some(verdict) = core.verdict() else { return };
            let code = if verdict.is_ok() { 0 } else { 1 };
            self.judge_end(id);
            if self.path == Some(id) {
                self.path = None;
            }
            if self.pid_file == Some(id) {
                self.pid_file = None;
            }
            self.beside.remove(&id);
            self.end(id, Exit::Code(code));
            return self.judge_names_left();
        }
        if master.binary == Binary::Exiting {
            return self.end(id, Exit::Code(1));
        }
        let tier = master.tier;
        let is_strange = master.binary == Binary::Strange;
        let Some(Birth { plan, greeting }) = self.master_mut(id).birth.take() else { return };
        if is_strange {
            let channel = self.master(id).and_then(|master| master.old);
            if let Some(channel) = channel {
                self.send(id, channel, Message::Garbage);
            }
            self.master_mut(id).binary = Binary::Silent;
            return;
        }
        let inheritance = greeting.map(|(predecessor, greeting)| {
            self.beside.insert(id);
            if tier != Tier::Adopt {
                self.kernel.release_all(Holder::Process(id), self.now);
            }
            self.master_mut(id).old_map = greeting.maps.map(|(map, places)| (map.0, places as usize));
            Inheritance {
                predecessor,
                is_held: greeting.is_held,
                next_number: greeting.next_number,
                addresses: greeting.addresses,
                listeners: greeting.listeners,
            }
        });
        self.master_mut(id).core = Some(Core::new(id, tier, inheritance));
        self.step_core(id, Event::Start(plan));
    }

    /// Delivers an event to the core.
    pub(super) fn step_core(&mut self, id: ProcessId, event: Event) {
        let Some(mut core) = self.master_mut(id).core.take() else { return };
        core.step(&mut Calls { universe: self, me: id }, event);
        core.assert_legal(self.now);
        core.assert_serves();
        let retry = core.holds_arrivals().then(|| self.now.after_ms(10));
        let deadline = core.next_deadline(self.now).into_iter().chain(retry).min();
        let master = self.master_mut(id);
        master.core = Some(core);
        master.deadline = deadline;
    }

    pub(super) fn master_hears(&mut self, id: ProcessId, channel: ChannelId) {
        let Some(letter) = self.receive(id, channel) else { return self.master_hears_end(id, channel) };
        let Letter { number, message } = letter;
        let master = self.master_mut(id);
        let peer = master.workers.iter().chain(&master.orphans).find(|(_, one)| **one == channel);
        let peer = peer.map(|(process, _)| *process);
        let is_orphan = master.orphans.values().any(|one| *one == channel);
        let event = match (message, peer) {
            (Message::Report(report, None), Some(process)) if is_orphan => {
                say(self.now, id, || format!("hears orphan {}: {report:?}", process.0));
                Event::OrphanReport(process, report)
            }
            (Message::Report(report, Some(key)), Some(process)) if is_orphan => {
                self.kernel.hold(key, Holder::Process(id));
                let crate::ipc::orders::Report::Listener { address } = report else { return };
                Event::OrphanListener(process, SocketId(key), address)
            }
            (Message::Report(report, _), Some(process)) => {
                say(self.now, id, || format!("hears worker {}: {report:?}", process.0));
                Event::Report(process, report)
            }
            (Message::ToOld(message), _) => {
                say(self.now, id, || format!("hears the new master: {message:?}"));
                Event::FromNew(message)
            }
            (Message::ToNew(message), _) => {
                say(self.now, id, || format!("hears the old master: {message:?}"));
                Event::FromOld(message)
            }
            (Message::Listeners(keys), _) => {
                keys.iter().for_each(|key| self.kernel.hold(*key, Holder::Process(id)));
                let address = |key: &u32| self.kernel.sockets[key].address;
                Event::Listeners(keys.iter().map(|key| (SocketId(*key), address(key))).collect())
            }
            (Message::Arrival(connection), _) => Event::Arrived(self.arrived(id, connection)),
            (Message::Garbage, _) => {
                self.master_mut(id).ended_channels.push(channel);
                Event::NewEnded { problem: Some("no message of an upgrade".to_owned()) }
            }
            (Message::Order(..), _) | (Message::Report(..), None) => return self.drop_letter(number),
        };
        self.step_core(id, event);
        self.drop_letter(number);
    }

    fn master_hears_end(&mut self, id: ProcessId, channel: ChannelId) {
        let master = self.master_mut(id);
        master.ended_channels.push(channel);
        let is_it = |(process, one): (&ProcessId, &ChannelId)| (*one == channel).then_some(*process);
        let event = if master.new == Some(channel) {
            Event::NewEnded { problem: None }
        } else if master.old == Some(channel) {
            say(self.now, id, || "the channel to the old master has ended".to_owned());
            Event::OldEnded
        } else if let Some(process) = master.workers.iter().find_map(is_it) {
            Event::ChannelEnded(process)
        } else if let Some(process) = master.orphans.iter().find_map(is_it) {
            master.orphans.remove(&process);
            self.close_channel(id, channel);
            Event::OrphanEnded(process)
        } else {
            return;
        };
        self.step_core(id, event);
    }

    pub(super) fn master_reaps(&mut self, id: ProcessId, place: usize) {
        let master = self.master_mut(id);
        let (child, exit) = master.ended.remove(place);
        let channel = master.workers.get(&child).copied();
        self.step_core(id, Event::Ended(child, exit));
        if let Some(channel) = channel {
            self.master_mut(id).workers.remove(&child);
            self.close_channel(id, channel);
        }
    }

    pub(super) fn master_is_signalled(&mut self, id: ProcessId) {
        let signal = self.master_mut(id).signals.remove(0);
        say(self.now, id, || format!("gets {signal:?}"));
        match signal {
            Signal::Winch => _ = self.idled.insert(id),
            Signal::Quit | Signal::Term | Signal::Int => _ = self.stopped.insert(id),
            Signal::Hup | Signal::Usr2 => {}
        }
        self.step_core(id, Event::Signal(signal));
    }

    pub(super) fn master_is_asked(&mut self, id: ProcessId) {
        let Some((client, request)) = self.master_mut(id).requests.pop_front() else { return };
        if self.clients.get(&client).is_some_and(|client| client.is_gone) {
            return;
        }
        say(self.now, id, || format!("is asked by client {}: {request:?}", client.0));
        if matches!(request, Request::Stop { .. }) {
            self.stopped.insert(id);
        }
        self.step_core(id, Event::Request(client, request));
    }

    pub(super) fn master_accepts(&mut self, id: ProcessId) {
        let Some(master) = self.master(id) else { return };
        let key = master.core.as_ref().and_then(|core| self.arrival(master, core));
        let Some(arrival) = key.and_then(|key| self.arrive(id, key)) else { return };
        self.step_core(id, Event::Arrived(arrival));
    }

    /// A master accepts a connection that waits at a socket, if there is one.
    pub(super) fn arrive(&mut self, id: ProcessId, key: u32) -> Option<ArrivalId> {
        let connection = self.kernel.accept(key)?;
        Some(self.arrived(id, connection))
    }

    fn arrived(&mut self, id: ProcessId, connection: ConnectionKey) -> ArrivalId {
        self.kernel.connections[connection].place = Place::Held { master: Some(id), worker: None, message: None };
        self.numbers.arrivals += 1;
        let arrival = ArrivalId(self.numbers.arrivals);
        self.master_mut(id).arrivals.insert(arrival, connection);
        arrival
    }
}
