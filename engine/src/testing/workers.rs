//! Several workers of one server, each in a harness, that send each other messages, in one virtual time.

use std::time::Duration;

use super::Harness;
use crate::config::{Limits, Timeouts};
use crate::messages::{Inbox as Packets, Sibling, Who};
use crate::protocol::Protocol;

/// The most rounds of messages without a client's byte and without time passing.
const ROUNDS_MAX: usize = 10_000;

/// Workers that send each other messages ([`Worker::send`](crate::Worker::send),
/// [`Worker::broadcast`](crate::Worker::broadcast)), each with its own clients. Messages of a worker reach the others
/// before [`Workers::at`] and [`Workers::advance`] return, in the order in which it sent them. Messages of different
/// workers have no order on real sockets; here they arrive in the order of slots.
///
/// ```
/// # use baton::{Io, Peer, Protocol, Reject, Sibling, StateFormat, Step, Worker};
/// #[derive(Default)]
/// struct Counts {
///     heard: usize,
/// }
/// # impl Protocol for Counts {
/// #     type Connection = ();
/// #     type Message = ();
/// #     const MESSAGES: Option<StateFormat> = Some(StateFormat { name: "counts", version: 1 });
/// #     fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> { Ok(()) }
/// #     fn on_data(&mut self, _: &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
/// #         let _ = io.broadcast(input);
/// #         Step::more(input.len())
/// #     }
/// #     fn on_sibling_message(&mut self, _: Sibling, _: &[u8], _: &mut Worker<'_, ()>) {
/// #         self.heard += 1;
/// #     }
/// # }
/// use baton::testing::{Harness, Workers};
///
/// let mut workers = Workers::new(3, |_slot| Counts::default());
/// let client = workers.at(0, Harness::open);
/// workers.at(0, |worker| worker.send(client, b"to all"));
/// assert_eq!(workers.at(2, |worker| worker.protocol().heard), 1);
/// ```
pub struct Workers<P: Protocol> {
    /// By slot.
    all: Vec<Harness<P>>,
    /// The packets that each worker has read of each other one, by the slots of both.
    packets: Vec<Vec<Packets>>,
}

impl<P: Protocol> Workers<P> {
    /// This many workers with default limits and time-outs. They know each other once all have started.
    ///
    /// # Panics
    /// As [`Harness::new`].
    pub fn new(workers: usize, protocol: impl FnMut(usize) -> P) -> Self {
        Self::with(workers, protocol, &Limits::default(), &Timeouts::default())
    }

    /// The same with these limits and time-outs.
    ///
    /// # Panics
    /// As [`Harness::with`].
    pub fn with(workers: usize, mut protocol: impl FnMut(usize) -> P, limits: &Limits, timeouts: &Timeouts) -> Self {
        let start = |slot| Harness::start(protocol(slot), limits.clone(), timeouts.clone(), who(slot));
        let mut all: Vec<Harness<P>> = (0..workers).map(start).collect();
        for (slot, worker) in all.iter_mut().enumerate() {
            for other in (0..workers).filter(|other| *other != slot) {
                let siblings = worker.context.siblings.as_mut();
                siblings.and_then(|all| Some((all.join(who(other))?, all))).into_iter().for_each(|(place, all)| {
                    all.welcomed(place);
                });
            }
        }
        let packets = |_| (0..workers).map(|_| Packets::new(limits.sibling_message_bytes_max)).collect();
        let mut this = Self { all, packets: (0..workers).map(packets).collect() };
        this.settle();
        this
    }

    /// Runs an event at the worker with this slot, and delivers the messages that follow.
    ///
    /// # Panics
    /// If there is no such worker, if time passes for it alone, or if workers send each other messages without end.
    pub fn at<R>(&mut self, slot: usize, event: impl FnOnce(&mut Harness<P>) -> R) -> R {
        let now_ns = self.all[slot].context.now_ns;
        let result = event(&mut self.all[slot]);
        assert_eq!(self.all[slot].context.now_ns, now_ns, "time passes for all workers: Workers::advance");
        self.settle();
        result
    }

    /// Lets time pass for all workers. Timers fire in order, each at its time, and messages take no time.
    ///
    /// # Panics
    /// If workers send each other messages without end.
    pub fn advance(&mut self, time: Duration) {
        let Some(first) = self.all.first() else { return };
        let end_ns = first.context.now_ns + u64::try_from(time.as_nanos()).expect("within centuries");
        while let Some(next_ns) =
            self.all.iter().filter_map(Harness::next_ns).min().filter(|next_ns| *next_ns <= end_ns)
        {
            self.advance_to(next_ns);
        }
        self.advance_to(end_ns);
    }

    fn advance_to(&mut self, now_ns: u64) {
        self.all.iter_mut().for_each(|worker| worker.advance_to(now_ns));
        self.settle();
    }

    fn settle(&mut self) {
        let rounds = (0..ROUNDS_MAX).take_while(|_| self.deliver()).count();
        assert!(rounds < ROUNDS_MAX, "workers answer each other without end");
    }

    /// Delivers each worker's packets to the others. Returns `false` if there were none.
    fn deliver(&mut self) -> bool {
        let mut has_moved = false;
        for from in 0..self.all.len() {
            for to in (0..self.all.len()).filter(|to| *to != from) {
                let name = who(to).name;
                let mut is_told = false;
                while let Some(packet) = self.all[from].take_packet(&name) {
                    let sibling = Sibling { slot: from, number: from as u64 + 1 };
                    self.all[to].hear_packet(sibling, &mut self.packets[to][from], &packet);
                    is_told = true;
                }
                if is_told {
                    self.all[to].run();
                    has_moved = true;
                }
            }
            self.all[from].packets_are_out();
            self.all[from].run();
        }
        has_moved
    }
}

fn who(slot: usize) -> Who {
    Who { name: format!("worker-{slot}"), slot, generation: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::simulated::Sent;
    use crate::types::{Next, Peer, Reject, StateFormat, Step, TimerKey};
    use crate::{ConnectionId, Io, SendError, Worker};

    const TELL: TimerKey = TimerKey(0);
    const LOOK: TimerKey = TimerKey(1);

    /// A client's first byte names the slot that gets the rest. Messages from other workers go to all clients here.
    #[derive(Default)]
    struct Relay {
        clients: Vec<ConnectionId>,
        heard: Vec<(usize, Vec<u8>)>,
        heard_at_look: Option<usize>,
        is_full: bool,
        has_room: usize,
    }

    impl Protocol for Relay {
        type Connection = ();
        type Message = ();
        const MESSAGES: Option<StateFormat> = Some(StateFormat { name: "relay", version: 1 });

        fn on_start(&mut self, worker: &mut Worker<'_, ()>) -> std::io::Result<()> {
            let slot = worker.slot() as u64;
            // The later slot's timer fires first.
            worker.set_timer(TELL, Duration::from_millis(30 - 10 * slot));
            worker.set_timer(LOOK, Duration::from_millis(15));
            Ok(())
        }

        fn on_open(&mut self, _: Peer<'_>, io: &mut Io<'_>) -> Result<(), Reject> {
            self.clients.push(io.id());
            Ok(())
        }

        fn on_data(&mut self, _: &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
            self.is_full |= io.send(usize::from(input[0] - b'0'), &input[1..]) == Err(SendError::Full);
            Step::more(input.len())
        }

        fn on_worker_timer(&mut self, key: TimerKey, worker: &mut Worker<'_, ()>) {
            match key {
                TELL => worker.broadcast(b"tick").expect("there is room"),
                _ => self.heard_at_look = Some(self.heard.len()),
            }
        }

        fn on_sibling_message(&mut self, from: Sibling, message: &[u8], worker: &mut Worker<'_, ()>) {
            self.heard.push((from.slot(), message.to_vec()));
            for id in &self.clients {
                let _ = worker.with(*id, |_: &mut (), io| {
                    io.write(message);
                    Next::Keep
                });
            }
        }

        fn on_siblings_writable(&mut self, _: &mut Worker<'_, ()>) {
            self.has_room += 1;
        }
    }

    #[test]
    fn what_a_client_of_one_worker_says_reaches_clients_of_another() {
        let mut workers = Workers::new(3, |_| Relay::default());
        assert_eq!(workers.at(1, |worker| worker.protocol().heard.len()), 0);
        let speaker = workers.at(0, Harness::open);
        let hearers = [0, 1, 2].map(|slot| workers.at(slot, Harness::open));
        // The message takes many packets, and arrives whole.
        let large = vec![b'x'; 300_000];
        workers.at(0, |worker| worker.send(speaker, b"2hello"));
        workers.at(0, |worker| worker.send(speaker, &[b"2", large.as_slice()].concat()));
        let outputs = [0, 1, 2].map(|slot| workers.at(slot, |worker| worker.take_output(hearers[slot])));
        assert!(outputs[..2].iter().all(Vec::is_empty));
        assert!(outputs[2] == [b"hello", large.as_slice()].concat());
        assert!(workers.at(2, |worker| worker.protocol().heard.iter().all(|(from, _)| *from == 0)));
    }

    #[test]
    fn time_is_one_and_timers_fire_in_order_whosever_they_are() {
        let mut workers = Workers::new(3, |_| Relay::default());
        workers.advance(Duration::from_millis(40));
        for slot in 0..3 {
            let (from, at_look) = workers.at(slot, |worker| {
                let relay = worker.protocol();
                (relay.heard.iter().map(|(from, _)| *from).collect::<Vec<_>>(), relay.heard_at_look)
            });
            // Slot 2 sends after 10 ms, all look after 15, slot 1 sends after 20, slot 0 after 30.
            assert_eq!((from, at_look), (vec![2, 1, 0], Some(1)), "at {slot}");
        }
    }

    #[test]
    fn who_said_too_much_is_told_when_there_is_room() {
        let limits = Limits { sibling_message_bytes_max: 1_000, sibling_queue_bytes_max: 2_000, ..Limits::default() };
        let mut workers = Workers::with(2, |_| Relay::default(), &limits, &Timeouts::default());
        let clients = [0; 3].map(|_| workers.at(0, Harness::open));
        // In one turn.
        workers.at(0, |worker| {
            clients.iter().for_each(|client| worker.arrive(*client, Sent::Bytes([b'1'; 900].to_vec())));
            worker.run();
        });
        assert!(workers.at(0, |worker| worker.protocol().is_full));
        assert_eq!(workers.at(1, |worker| worker.protocol().heard.len()), 2);
        assert_eq!(workers.at(0, |worker| worker.protocol().has_room), 1);
    }

    #[test]
    #[should_panic = "time passes for all workers"]
    fn time_does_not_pass_for_one_alone() {
        let mut workers = Workers::new(2, |_| Relay::default());
        workers.at(0, |worker| worker.advance(Duration::from_millis(1)));
    }
}
