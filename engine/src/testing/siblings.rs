//! Messages between workers: a worker gets its own broadcasts and messages to its own slot; the others, if there are
//! any, get theirs.

use super::Harness;
use crate::messages::{Heard, Inbox as Packets, Sibling};
use crate::protocol::Protocol;

impl<P: Protocol> Harness<P> {
    /// Ends the turn: the worker hears its own messages. Returns `true` if there were any.
    pub(super) fn hear_self(&mut self) -> bool {
        let now_ns = self.context.now_ns;
        let Some(siblings) = self.context.siblings.as_mut().filter(|siblings| siblings.has_staged()) else {
            return false;
        };
        siblings.seal(now_ns);
        let from = Sibling { slot: siblings.own().slot, number: 0 };
        let mut packets = Packets::new(usize::MAX);
        while let Some(packet) = self.context.siblings.as_mut().and_then(|siblings| siblings.take_own()) {
            self.hear_packet(from, &mut packets, &packet);
        }
        self.packets_are_out();
        true
    }

    /// The next packet for the worker with this name.
    pub(super) fn take_packet(&mut self, to: &str) -> Option<Vec<u8>> {
        let now_ns = self.context.now_ns;
        let siblings = self.context.siblings.as_mut()?;
        let place = siblings.place_of(to)?;
        let packet = siblings.next(place)?.to_vec();
        siblings.sent(place, now_ns);
        Some(packet)
    }

    /// There may be room again for messages that were refused.
    pub(super) fn packets_are_out(&mut self) {
        if self.context.siblings.as_mut().is_some_and(|siblings| siblings.settle()) {
            self.call(self.serving(), Protocol::on_siblings_writable);
        }
    }

    /// Delivers a packet that the worker `from` has sent.
    pub(super) fn hear_packet(&mut self, from: Sibling, packets: &mut Packets, packet: &[u8]) {
        let serving = self.serving();
        match packets.take(packet) {
            Ok(Heard::Messages(messages)) => {
                for message in messages {
                    self.call(serving, |protocol, worker| protocol.on_sibling_message(from, message, worker));
                }
            }
            Ok(Heard::Large(message)) => {
                self.call(serving, |protocol, worker| protocol.on_sibling_message(from, &message, worker));
            }
            _ => {}
        }
    }
}
