//! Messages to other workers, where there is but one: it hears what it says to all, and to its own slot.

use std::rc::Rc;

use crate::context::{Context, Inbox, Worker};
use crate::messages::{Heard, Inbox as Packets, Sibling};
use crate::protocol::Protocol;

/// The turn ends: the worker hears what it has said. `true` where that was anything.
pub(super) fn hear_self<P: Protocol>(protocol: &mut P, context: &mut Context, inbox: &Inbox<P::Message>) -> bool {
    let now_ns = context.now_ns;
    let Some(siblings) = context.siblings.as_mut().filter(|siblings| siblings.has_staged()) else { return false };
    siblings.seal(now_ns);
    let from = Sibling { slot: siblings.own().slot, number: 0 };
    let mut packets = Packets::new(usize::MAX);
    while let Some(packet) = context.siblings.as_mut().and_then(|siblings| siblings.take_own()) {
        hear(protocol, context, inbox, from, &mut packets, packet);
    }
    if context.siblings.as_mut().is_some_and(|siblings| siblings.settle()) {
        protocol.on_siblings_writable(&mut Worker::new(context, inbox));
    }
    true
}

fn hear<P: Protocol>(
    protocol: &mut P,
    context: &mut Context,
    inbox: &Inbox<P::Message>,
    from: Sibling,
    packets: &mut Packets,
    packet: Rc<Vec<u8>>,
) {
    let worker = &mut Worker::new(context, inbox);
    match packets.take(&packet) {
        Ok(Heard::Messages(messages)) => {
            messages.for_each(|message| protocol.on_sibling_message(from, message, worker));
        }
        Ok(Heard::Large(message)) => protocol.on_sibling_message(from, &message, worker),
        _ => {}
    }
}
