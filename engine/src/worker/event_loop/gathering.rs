//! Messages that connections hear from other workers move with them: the steps of [`Gate`](crate::messages::Gate), for
//! a leaving worker and for its heir.
//!
//! If a step is not confirmed in time, the next one begins without it. Connections move in any case, and may miss a
//! message or hear one twice.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use super::links::Other;
use super::{EventLoop, Master};
use crate::handover::Message;
use crate::handover::receiver::Visitor;
use crate::handover::sender::{Heir, Input};
use crate::ipc::channel::tell;
use crate::ipc::meeting::is_name;
use crate::ipc::orders::Report;
use crate::messages::{Answer, SELF};
use crate::protocol::Protocol;

/// The longest wait for this worker's turn among leaving workers: each of the others may have many connections.
const TURN_NS_MAX: u64 = 16_000_000_000;

/// The longest wait for the marks of all others, and for the heir to read them. Connections are served meanwhile, so a
/// hung worker only delays the change. A worker that waits for a processor on a busy machine gets it within this time.
const MARKS_NS_MAX: u64 = 3_000_000_000;

/// The longest time for which an heir makes others wait while all connections of one worker arrive.
const ARRIVAL_NS_MAX: u64 = 8_000_000_000;

/// The step that a leaving worker has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Another worker moves its connections.
    Waiting,
    /// The worker has asked the heir from whom it hears messages.
    Asking,
    /// The worker has asked all others for marks.
    Marking,
    /// The marks have come; the heir reads them, too.
    Marked,
    /// All messages before the marks were heard. What callbacks asked for then is done in this turn.
    Heard,
    /// Connections are moving.
    Moving,
}

/// State of this worker while it leaves.
pub(super) struct Departure {
    heir: Heir,
    attempt: u32,
    step: Step,
    until_ns: u64,
    /// Others know that connections send no more messages from here.
    has_moved: bool,
}

/// Another worker is moving its connections here.
pub(super) struct Arrival {
    visitor: Visitor,
    of: String,
    attempt: u32,
    has_gathered: bool,
    until_ns: u64,
}

/// Another worker wants to move its connections here.
pub(super) struct Announced {
    visitor: Visitor,
    of: String,
    attempt: u32,
}

impl<P: Protocol> EventLoop<P> {
    /// Prepares to move connections to this heir, when it is this worker's turn.
    pub(super) fn listen(&mut self, heir: Heir) {
        self.circle.attempts += 1;
        let (attempt, until_ns) = (self.circle.attempts, self.context.now_ns + TURN_NS_MAX);
        self.circle.departure = Some(Departure { heir, attempt, step: Step::Waiting, until_ns, has_moved: false });
        if self.master == Master::Gone || tell(&self.control, &Report::AsksToGather).is_err() {
            self.begin_gathering();
        }
    }

    /// Begins, since no other worker moves its connections now.
    pub(super) fn begin_gathering(&mut self) {
        let Some((name, _)) = self.moving.door() else { return };
        let name = name.to_owned();
        let Some(departure) = self.circle.departure.as_mut().filter(|one| one.step == Step::Waiting) else { return };
        (departure.step, departure.until_ns) = (Step::Asking, self.context.now_ns + MARKS_NS_MAX);
        let (heir, attempt) = (departure.heir, departure.attempt);
        self.say_circle(Other::Heir(heir), &Message::Gather { name, attempt });
    }

    fn say_circle(&mut self, other: Other, message: &Message) {
        match self.moving.channel(other).map(|channel| channel.say(message)) {
            Some(Ok(())) => self.flush_link(other),
            Some(Err(_)) => self.lose_link(other),
            None => {}
        }
    }

    /// Handles what the other side of a handover says about messages.
    pub(super) fn hear_circle(&mut self, other: Other, message: Message) {
        if P::MESSAGES.is_none() {
            return;
        }
        self.circle.is_due = true;
        let step = match (&self.circle.departure, other) {
            (Some(departure), Other::Heir(heir)) if departure.heir == heir => Some(departure.step),
            _ => None,
        };
        let is_here = |visitor| self.circle.arrival.as_ref().is_some_and(|arrival| arrival.visitor == visitor);
        match (message, other) {
            (Message::Gathers { senders }, _) if step == Some(Step::Asking) => self.ask_for_marks(senders),
            (Message::Gathered, _) if step == Some(Step::Marked) => self.enter(Step::Heard),
            (Message::Gather { name, attempt }, Other::Visitor(visitor)) if is_name(&name) => {
                self.await_arrival(visitor, name, attempt);
            }
            (Message::Senders { senders, ended }, Other::Visitor(visitor)) if is_here(visitor) => {
                let names = |all: Vec<String>| all.into_iter().filter(|name| is_name(name));
                self.circle.gate.expect(names(senders), names(ended));
            }
            (Message::AllGiven, Other::Visitor(visitor)) => self.end_arrival(visitor),
            _ => {}
        }
    }

    fn enter(&mut self, step: Step) {
        if let Some(departure) = &mut self.circle.departure {
            departure.step = step;
            self.circle.is_due = true;
        }
    }

    /// Asks for marks: the heir hears messages from these senders.
    fn ask_for_marks(&mut self, senders: Vec<String>) {
        let Some(departure) = &self.circle.departure else { return };
        let (heir, attempt) = (departure.heir, departure.attempt);
        let Some(to) = self.moving.heir_door(heir).map(|(name, _)| name.to_owned()) else { return };
        self.circle.gate.depart(attempt, senders.into_iter().filter(|name| is_name(name)));
        self.enter(Step::Marking);
        if let Some(siblings) = &mut self.context.siblings {
            siblings.mark(SELF, to, attempt);
        }
        if let Some((mark, door)) = self.mark_for(heir, attempt) {
            self.circle.ask_for_marks(&mark, door);
        }
    }

    /// The request for a mark that each sender gets, and the heir's door.
    fn mark_for(&self, heir: Heir, attempt: u32) -> Option<(Answer, Option<BorrowedFd<'_>>)> {
        let (to, door) = self.moving.heir_door(heir)?;
        let known = self.context.siblings.as_ref().and_then(|siblings| siblings.named(to));
        // Without a place, the heir cannot be introduced.
        let door = door.filter(|_| known.is_some());
        let (slot, generation) = known.map_or((0, 0), |who| (who.slot, who.generation));
        Some((Answer::Mark { to: to.to_owned(), slot, generation, attempt }, door))
    }

    /// Handles a newly connected worker, which may have to be asked for a mark.
    pub(super) fn ask_newcomer(&mut self, number: u32) {
        let Some(Departure { heir, attempt, step, .. }) = self.circle.departure else { return };
        if step >= Step::Marking
            && let Some((mark, door)) = self.mark_for(heir, attempt)
        {
            self.circle.ask_for_mark(number, &mark, door);
        }
    }

    /// Handles a worker's announcement that it will move all its connections here.
    fn await_arrival(&mut self, visitor: Visitor, of: String, attempt: u32) {
        if !self.takes() {
            return;
        }
        // They move one after the other. A worker may begin when the previous one has ended, and its announcement may
        // arrive earlier.
        let Some(senders) = self.circle.gate.arrive(of.clone(), attempt) else {
            self.circle.announced.retain(|one| one.visitor != visitor);
            return self.circle.announced.push_back(Announced { visitor, of, attempt });
        };
        let until_ns = self.context.now_ns + ARRIVAL_NS_MAX;
        self.circle.arrival = Some(Arrival { visitor, of, attempt, has_gathered: false, until_ns });
        self.say_circle(Other::Visitor(visitor), &Message::Gathers { senders });
    }

    /// Ends an arrival: this worker has brought all its connections, or will bring none any more.
    pub(super) fn end_arrival(&mut self, visitor: Visitor) {
        self.circle.announced.retain(|one| one.visitor != visitor);
        if self.circle.arrival.take_if(|arrival| arrival.visitor == visitor).is_none() {
            return;
        }
        self.circle.gate.end_arriving();
        self.circle.is_due = true;
        self.call(Protocol::on_all_arrived);
        if let Some(Announced { visitor, of, attempt }) = self.circle.announced.pop_front() {
            self.await_arrival(visitor, of, attempt);
        }
    }

    /// Tells others that everything is frozen: connections send no more messages from here.
    pub(super) fn say_moved(&mut self) {
        let Some(departure) = self.circle.departure.as_mut().filter(|departure| !departure.has_moved) else { return };
        departure.has_moved = true;
        if let Some(siblings) = &mut self.context.siblings {
            siblings.moved(departure.attempt);
        }
        self.flush_said();
    }

    /// The heir now has all connections that move together.
    pub(super) fn all_given(&mut self, heir: Heir) {
        self.say_circle(Other::Heir(heir), &Message::AllGiven);
        self.end_departure(heir);
    }

    /// Ends a departure. Connections that stay here, or are here again, continue to hear messages.
    pub(super) fn end_departure(&mut self, heir: Heir) {
        if self.circle.departure.as_ref().is_none_or(|departure| departure.heir != heir) {
            return;
        }
        self.say_moved();
        self.circle.departure = None;
        self.circle.gate.end_departing();
        self.circle.is_due = true;
        let _ = tell(&self.control, &Report::HasGathered);
    }

    /// Takes the steps that are possible now.
    pub(super) fn settle_gathering(&mut self) {
        self.circle.is_due = false;
        let now_ns = self.context.now_ns;
        self.settle_arrival(now_ns);
        let Some(departure) = &self.circle.departure else { return };
        let (heir, slot) = (departure.heir, self.context.slot);
        match departure.step {
            Step::Marking => {
                if let Some((senders, ended)) = self.circle.gate.departed() {
                    self.enter(Step::Marked);
                    self.say_circle(Other::Heir(heir), &Message::Senders { senders, ended });
                }
            }
            Step::Heard => {
                self.enter(Step::Moving);
                self.tell_sender(Input::Listened(heir));
            }
            Step::Waiting if departure.until_ns <= now_ns => self.begin_gathering(),
            _ => {}
        }
        let is_late = |one: &Departure| one.until_ns <= now_ns && one.step > Step::Waiting && one.step < Step::Heard;
        if let Some(step) = self.circle.departure.as_ref().filter(|one| is_late(one)).map(|one| one.step) {
            let missing = self.circle.missing();
            tracing::warn!(
                slot,
                ?step,
                ?missing,
                "connections move before all messages to them were marked: some may be missed"
            );
            self.enter(Step::Heard);
        }
    }

    fn settle_arrival(&mut self, now_ns: u64) {
        let Some(arrival) = &mut self.circle.arrival else { return };
        let visitor = arrival.visitor;
        if arrival.until_ns <= now_ns {
            tracing::warn!(
                slot = self.context.slot,
                "connections of a leaving worker come too late; the others no longer wait for them"
            );
            return self.end_arrival(visitor);
        }
        if !arrival.has_gathered && self.circle.gate.has_gathered() {
            arrival.has_gathered = true;
            let (of, attempt) = (arrival.of.clone(), arrival.attempt);
            if let Some(siblings) = &mut self.context.siblings {
                siblings.began(of, attempt);
            }
            self.flush_said();
            self.say_circle(Other::Visitor(visitor), &Message::Gathered);
        }
    }

    pub(super) fn next_gathering_ns(&self) -> Option<u64> {
        let departure = self.circle.departure.as_ref().filter(|one| one.step < Step::Heard).map(|one| one.until_ns);
        departure.into_iter().chain(self.circle.arrival.as_ref().map(|arrival| arrival.until_ns)).min()
    }

    /// Continues to read from senders that were held.
    pub(super) fn read_on(&mut self) {
        let released: BTreeSet<u32> = self.circle.released();
        for number in released {
            self.hear_again(number);
        }
        self.hear_self();
    }
}
