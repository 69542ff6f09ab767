//! Messages of a turn that are not sent yet: packets, each for all members or for one.

use std::rc::Rc;

use super::packet::{WHOLE_BYTES_MAX, append, begin, has_room, parts};
use super::siblings::Place;

/// Memory of packets that went out, kept to be used again.
const SPARE_MAX: usize = 4;

/// Whom a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Everybody, this worker too.
    All,
    One(Place),
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    packets: Vec<(Audience, Vec<u8>)>,
    /// Packets that may be added to, by their audience: one for all, or some for one each. Whoever hears two of them hears them
    /// in the order in which they were begun, so that no message may be added to one behind which another was begun
    /// for the same ears.
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

    /// A packet of its own, in its place.
    pub(super) fn add_word(&mut self, audience: Audience, packet: Vec<u8>) {
        self.close_for(audience);
        self.open.retain(|(one, _)| *one != audience);
        self.packets.push((audience, packet));
    }

    /// A packet for these ears is begun: others that they hear as well are added to no more.
    fn close_for(&mut self, audience: Audience) {
        match audience {
            Audience::All => self.open.clear(),
            Audience::One(_) => self.open.retain(|(one, _)| *one != Audience::All),
        }
    }

    /// No packet is added to any more; gives how many there are.
    pub(super) fn close(&mut self) -> usize {
        self.open.clear();
        self.packets.len()
    }

    /// Everything, in order.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Audience, Rc<Vec<u8>>)> + use<> {
        self.open.clear();
        std::mem::take(&mut self.packets).into_iter().map(|(audience, packet)| (audience, Rc::new(packet)))
    }

    /// A packet has gone out.
    pub(super) fn reuse(&mut self, packet: Rc<Vec<u8>>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.extend(Rc::into_inner(packet));
        }
    }
}
