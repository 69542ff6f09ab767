//! Messages of a turn that are not sent yet: packets, each for all members or for one.

use std::rc::Rc;

use super::packet::{WHOLE_BYTES_MAX, append, begin, has_room, parts};
use super::siblings::Place;

/// Buffers of sent packets that are kept for reuse.
const SPARE_MAX: usize = 4;

/// The receivers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// All members, including this worker.
    All,
    One(Place),
}

/// The packets of a turn.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    packets: Vec<(Audience, Vec<u8>)>,
    /// Packets that may still grow, by their audience: one for all, or some for one member each. A member that hears
    /// two packets hears them in the order in which they were begun. So no message may be added to a packet after
    /// another one was begun for the same member.
    open: Vec<(Audience, usize)>,
    spare: Vec<Vec<u8>>,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(super) fn add(&mut self, audience: Audience, number: u64, message: &[u8]) {
        if message.len() > WHOLE_BYTES_MAX {
            self.close_for(audience);
            self.open.retain(|(one, _)| *one != audience);
            self.packets.extend(parts(number, message).map(|packet| (audience, packet)));
            return;
        }
        let open = self.open.iter().rev().find(|(one, _)| *one == audience).map(|(_, at)| *at);
        if let Some(at) = open.filter(|at| has_room(&self.packets[*at].1, message)) {
            return append(&mut self.packets[at].1, message);
        }
        self.close_for(audience);
        self.open.retain(|(one, _)| *one != audience);
        self.open.push((audience, self.packets.len()));
        let mut packet = begin(self.spare.pop().unwrap_or_default(), number);
        append(&mut packet, message);
        self.packets.push((audience, packet));
    }

    /// Adds a packet that contains only a word, in its place.
    pub(super) fn add_word(&mut self, audience: Audience, packet: Vec<u8>) {
        self.close_for(audience);
        self.open.retain(|(one, _)| *one != audience);
        self.packets.push((audience, packet));
    }

    /// A packet for this audience is begun: other packets that the same members hear may not grow any more.
    fn close_for(&mut self, audience: Audience) {
        match audience {
            Audience::All => self.open.clear(),
            Audience::One(_) => self.open.retain(|(one, _)| *one != Audience::All),
        }
    }

    /// Closes all packets; returns how many there are.
    pub(super) fn close(&mut self) -> usize {
        self.open.clear();
        self.packets.len()
    }

    /// Takes all packets, in order.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Audience, Rc<Vec<u8>>)> + use<> {
        self.open.clear();
        std::mem::take(&mut self.packets).into_iter().map(|(audience, packet)| (audience, Rc::new(packet)))
    }

    /// Takes back the buffer of a sent packet.
    pub(super) fn reuse(&mut self, packet: Rc<Vec<u8>>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.extend(Rc::into_inner(packet));
        }
    }
}
