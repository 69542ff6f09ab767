use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::packet::{PACKET_BYTES_MAX, PART_BYTES, WHOLE_BYTES_MAX};
use super::siblings::SELF;
use super::{Heard, Inbox, Place, SendError, Siblings, Who};
use crate::config::Limits;

const MESSAGE_BYTES_MAX: usize = 3 * PACKET_BYTES_MAX;
const QUEUE_BYTES_MAX: usize = 8 * PACKET_BYTES_MAX;

fn limits() -> Limits {
    Limits {
        sibling_message_bytes_max: MESSAGE_BYTES_MAX,
        sibling_queue_bytes_max: QUEUE_BYTES_MAX,
        ..Limits::default()
    }
}

fn who(number: usize) -> Who {
    Who { name: format!("worker {number}"), slot: number, generation: 1 }
}

fn alone() -> Siblings {
    Siblings::new(who(0), &limits())
}

/// The messages of a packet.
fn messages(inbox: &mut Inbox, packet: &[u8]) -> Vec<Vec<u8>> {
    match inbox.take(packet).expect("it makes sense") {
        Heard::Messages(messages) => messages.map(<[u8]>::to_vec).collect(),
        Heard::Large(message) => vec![message],
        Heard::Nothing => Vec::new(),
        Heard::TooLarge(_) | Heard::Word(_) => panic!("nobody has said that"),
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A message to all, or to a slot.
    Say {
        from: usize,
        to: Option<usize>,
        bytes: usize,
    },
    /// The end of a turn.
    Seal {
        from: usize,
    },
    /// A worker reads this many packets of another one.
    Carry {
        from: usize,
        to: usize,
        packets: usize,
    },
    /// A worker can send to another one from now on.
    Join {
        from: usize,
        to: usize,
    },
    Welcome {
        from: usize,
        to: usize,
    },
}

const WORKERS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let worker = 0..WORKERS;
    let bytes = prop_oneof![
        8 => 0..200_usize,
        1 => WHOLE_BYTES_MAX - 2..WHOLE_BYTES_MAX + 3,
        1 => 0..MESSAGE_BYTES_MAX + 2,
    ];
    let step = prop_oneof![
        8 => (worker.clone(), proptest::option::of(0..WORKERS), bytes)
            .prop_map(|(from, to, bytes)| Step::Say { from, to, bytes }),
        3 => worker.clone().prop_map(|from| Step::Seal { from }),
        4 => (worker.clone(), worker.clone(), 0..4_usize)
            .prop_map(|(from, to, packets)| Step::Carry { from, to, packets }),
        1 => (worker.clone(), worker.clone()).prop_map(|(from, to)| Step::Join { from, to }),
        1 => (worker.clone(), worker).prop_map(|(from, to)| Step::Welcome { from, to }),
    ];
    proptest::collection::vec(step, 0..200)
}

/// Workers, and what each of them must hear from each.
struct Circle {
    workers: Vec<Siblings>,
    places: BTreeMap<(usize, usize), Place>,
    inboxes: BTreeMap<(usize, usize), Inbox>,
    expected: BTreeMap<(usize, usize), VecDeque<Vec<u8>>>,
    count: u8,
}

impl Circle {
    fn new() -> Self {
        let workers: Vec<Siblings> = (0..WORKERS).map(|number| Siblings::new(who(number), &limits())).collect();
        let places = (0..WORKERS).map(|number| ((number, number), SELF)).collect();
        Self { workers, places, inboxes: BTreeMap::new(), expected: BTreeMap::new(), count: 0 }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Say { from, to, bytes } => self.say(from, to, bytes),
            Step::Seal { from } => drop(self.workers[from].seal(0)),
            Step::Carry { from, to, packets } => (0..packets).for_each(|_| self.carry(from, to)),
            Step::Join { from, to } => {
                if let Some(place) = self.workers[from].join(who(to)) {
                    self.places.insert((from, to), place);
                }
            }
            Step::Welcome { from, to } => {
                if let Some(place) = self.places.get(&(from, to)) {
                    self.workers[from].welcomed(*place);
                }
            }
        }
    }

    fn say(&mut self, from: usize, to: Option<usize>, bytes: usize) {
        self.count = self.count.wrapping_add(1);
        let message = vec![self.count; bytes];
        let said = match to {
            Some(slot) => self.workers[from].send(slot, &message),
            None => self.workers[from].broadcast(&message),
        };
        let is_known = to.is_none_or(|to| self.places.contains_key(&(from, to)));
        match said {
            Ok(()) => {
                for to in (0..WORKERS).filter(|one| to.is_none_or(|to| to == *one)) {
                    if self.places.contains_key(&(from, to)) {
                        self.expected.entry((from, to)).or_default().push_back(message.clone());
                    }
                }
                assert!(is_known && bytes <= MESSAGE_BYTES_MAX);
            }
            Err(SendError::NoSuchSlot) => assert!(!is_known),
            Err(SendError::TooLarge) => assert!(bytes > MESSAGE_BYTES_MAX),
            Err(SendError::Full) => {}
        }
    }

    fn carry(&mut self, from: usize, to: usize) {
        let Some(place) = self.places.get(&(from, to)) else { return };
        let packet = if *place == SELF {
            self.workers[from].take_own().map(|packet| packet.to_vec())
        } else {
            let packet = self.workers[from].next(*place).map(<[u8]>::to_vec);
            packet.inspect(|_| self.workers[from].sent(*place, 0))
        };
        let Some(packet) = packet else { return };
        assert!(packet.len() <= PACKET_BYTES_MAX);
        let inbox = self.inboxes.entry((from, to)).or_insert_with(|| Inbox::new(MESSAGE_BYTES_MAX));
        for message in messages(inbox, &packet) {
            assert_eq!(self.expected.entry((from, to)).or_default().pop_front(), Some(message));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Each worker hears from each the messages that were sent since it joined, once and in order. A message for which
    /// there is no room reaches no worker.
    #[test]
    fn each_hears_what_it_is_told_once_and_in_order(steps in steps()) {
        let mut circle = Circle::new();
        steps.into_iter().for_each(|step| circle.step(step));
        for from in 0..WORKERS {
            for to in 0..WORKERS {
                circle.step(Step::Welcome { from, to });
            }
            circle.step(Step::Seal { from });
            for to in 0..WORKERS {
                circle.step(Step::Carry { from, to, packets: 100 });
            }
            prop_assert!(circle.workers[from].is_flushed());
        }
        prop_assert!(circle.expected.values().all(VecDeque::is_empty));
    }

    #[test]
    fn no_bytes_harm_an_inbox(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..10)) {
        let mut inbox = Inbox::new(100);
        for mut packet in packets {
            // Most inputs begin as packets do.
            if let Some(kind) = packet.first_mut() {
                *kind = b"mmmppp{?"[usize::from(*kind) % 8];
            }
            let _ = inbox.take(&packet);
            prop_assert!(inbox.held_bytes() <= 100);
        }
    }
}

#[test]
fn a_full_queue_refuses_all_or_nothing_and_says_when_there_is_room() {
    let mut siblings = alone();
    let place = siblings.join(who(1)).expect("a newcomer");
    assert_eq!(siblings.join(who(1)), None, "it is known");
    siblings.welcomed(place);
    let message = vec![7; PART_BYTES];
    while siblings.send(1, &message).is_ok() {}
    siblings.seal(0);
    assert_eq!(siblings.broadcast(&message), Err(SendError::Full));
    assert!(siblings.take_own().is_none(), "nobody hears it, this worker neither");
    assert_eq!(siblings.send(0, &message), Ok(()), "others have room");
    siblings.seal(0);
    assert!(siblings.take_own().is_some() && !siblings.settle());
    let mut went = 0;
    while siblings.next(place).is_some() && went * 2 < QUEUE_BYTES_MAX {
        siblings.sent(place, 0);
        went += PART_BYTES;
    }
    assert!(siblings.settle() && !siblings.settle(), "it is said once");
    assert_eq!(siblings.broadcast(&message), Ok(()));
}

#[test]
fn what_is_for_a_slot_goes_to_whoever_does_not_leave_and_else_to_the_first() {
    let mut siblings = alone();
    let generation = |generation| Who { name: format!("of {generation}"), slot: 5, generation };
    let heard = |siblings: &mut Siblings| {
        siblings.send(5, b"message").expect("somebody has this slot");
        let places = siblings.seal(0);
        places.iter().for_each(|place| siblings.sent(*place, 0));
        places
    };
    let younger = siblings.join(generation(2)).expect("a newcomer");
    let elder = siblings.join(generation(1)).expect("a newcomer");
    [younger, elder].into_iter().for_each(|place| siblings.welcomed(place));
    assert_eq!((siblings.slots(), heard(&mut siblings)), (vec![0, 5], vec![elder]));
    siblings.leaves(elder);
    assert_eq!(heard(&mut siblings), [younger]);
    siblings.part(younger);
    assert_eq!(heard(&mut siblings), [elder]);
    siblings.part(elder);
    assert_eq!(siblings.send(5, b"message"), Err(SendError::NoSuchSlot));
}

#[test]
fn who_takes_nothing_is_silent_after_ten_seconds() {
    let mut siblings = alone();
    let place = siblings.join(who(1)).expect("a newcomer");
    siblings.broadcast(b"message").expect("room");
    assert_eq!(siblings.seal(5), [], "it is not welcome yet");
    assert_eq!(siblings.next_ns(), Some(10_000_000_005));
    assert_eq!((siblings.silent(10_000_000_004), siblings.silent(10_000_000_005)), (vec![], vec![place]));
    siblings.welcomed(place);
    siblings.sent(place, 6);
    assert_eq!((siblings.next_ns(), siblings.is_flushed()), (None, true));
}

#[test]
fn a_message_that_is_larger_than_the_receiver_allows_is_not_heard_and_others_are() {
    let mut siblings = alone();
    siblings.broadcast(&vec![1; MESSAGE_BYTES_MAX]).expect("room");
    siblings.broadcast(b"next").expect("room");
    siblings.seal(0);
    let mut inbox = Inbox::new(MESSAGE_BYTES_MAX - 1);
    let mut heard = Vec::new();
    while let Some(packet) = siblings.take_own() {
        match inbox.take(&packet).expect("it makes sense") {
            Heard::TooLarge(bytes) => heard.push(bytes),
            Heard::Messages(messages) => heard.extend(messages.map(<[u8]>::len)),
            Heard::Nothing => assert_eq!(inbox.held_bytes(), 0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, [MESSAGE_BYTES_MAX, 4]);
}

#[test]
fn whoever_asks_for_marks_without_end_gets_some() {
    let mut siblings = alone();
    let places = [1, 2].map(|number| siblings.join(who(number)).expect("a newcomer"));
    let mut is_refused = |attempt: &u32| {
        siblings.mark(places[0], "worker 2".to_owned(), *attempt);
        siblings.mark(places[0], format!("nobody {attempt}"), *attempt);
        !siblings.has_staged() || !siblings.seal(0).is_empty()
    };
    assert!((0..1_000_000).find(|attempt| is_refused(attempt)).is_some_and(|attempt| attempt > 100));
}
