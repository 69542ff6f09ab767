//! The receiving side of moving connections, as a state machine without I/O: other workers bring connections, and this
//! worker takes what it can.
//!
//! Invariant: connections made from an offer belong to the sender until `Gives` arrives. If the channel ends earlier,
//! they are dropped, and their peers notice nothing.

use std::collections::{BTreeMap, VecDeque};

use super::Refusal;
use super::limits::{OFFER_BYTES_MAX, OFFER_CONNECTIONS_MAX, ON_OFFER_MIN, ON_OFFER_PART};
use super::mutation::{Mutation, is_put_back};
use crate::types::ConnectionId;

/// Senders that may be connected at the same time.
const VISITORS_MAX: usize = 4096;

/// A worker that brings connections, by the driver's number for its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Visitor(pub(crate) u32);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A worker has connected.
    Came(Visitor),
    /// A visitor offers a batch of this many connections and bytes. `refusal` says why nothing of it can be taken.
    Offer { visitor: Visitor, batch: u64, count: usize, bytes: usize, refusal: Option<Refusal> },
    /// The outcome of [`Command::Thaw`], in the order of the offer. `pairs` are indices of connections that are taken
    /// together or not at all. `open` is the number of connections without these.
    Thawed { visitor: Visitor, members: Vec<Result<ConnectionId, Refusal>>, pairs: Vec<(usize, usize)>, open: u64 },
    /// What was taken of this batch belongs to this worker.
    Gives { visitor: Visitor, batch: u64 },
    /// The channel ended, or the other side sent an illegal message.
    Ended(Visitor),
    /// The worker stops at once.
    Stop,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    /// Make connections from the offer that has just come: answered by `Thawed`.
    Thaw(Visitor),
    /// Answer which were not taken.
    Say { visitor: Visitor, batch: u64, refused: Vec<(usize, Refusal)>, open: u64 },
    /// The connection belongs to this worker and continues.
    Own(ConnectionId),
    /// The connection belongs to the sender: drop this worker's copy.
    Abandon(ConnectionId),
    /// Close the channel.
    Close(Visitor),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Offered {
    batch: u64,
    /// The most that may be taken of it.
    count: usize,
    bytes: usize,
    members: Vec<ConnectionId>,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Receiver {
    /// With what was offered and not given yet.
    visitors: BTreeMap<Visitor, Option<Offered>>,
    /// The most connections that may be on offer at once.
    on_offer_max: usize,
}

impl Receiver {
    /// For a worker with this limit of connections.
    pub(crate) fn new(connections_max: u32) -> Self {
        Self { visitors: BTreeMap::new(), on_offer_max: ON_OFFER_MIN.max(connections_max as usize / ON_OFFER_PART) }
    }

    /// Whether there is room for an offer, besides what others offer. One offer alone may have all bytes.
    fn has_room(&self, count: usize, bytes: usize) -> bool {
        let others = || self.visitors.values().flatten();
        let others_count: usize = others().map(|offered| offered.count).sum();
        let others_bytes: usize = others().map(|offered| offered.bytes).sum();
        count <= OFFER_CONNECTIONS_MAX
            && others_count + count <= self.on_offer_max
            && others_bytes.saturating_add(bytes) <= OFFER_BYTES_MAX
    }

    /// Whether no worker that may bring connections is connected.
    pub(crate) fn is_alone(&self) -> bool {
        self.visitors.is_empty()
    }

    /// Takes an input, and appends the commands that follow from it.
    pub(crate) fn step(&mut self, commands: &mut VecDeque<Command>, input: Input) {
        match input {
            Input::Came(visitor) if self.visitors.len() < VISITORS_MAX => drop(self.visitors.insert(visitor, None)),
            Input::Came(visitor) => commands.push_back(Command::Close(visitor)),
            Input::Offer { visitor, batch, count, bytes, refusal } => {
                let refusal = refusal.or_else(|| (!self.has_room(count, bytes)).then_some(Refusal::Limit));
                match (self.visitors.get_mut(&visitor), refusal) {
                    (None, _) => {}
                    // One batch at a time.
                    (Some(Some(_)), _) => self.lose(commands, visitor),
                    (Some(offered), Some(refusal)) => {
                        *offered = Some(Offered { batch, ..Offered::default() });
                        let refused = (0..count).map(|place| (place, refusal)).collect();
                        // The number does not matter to a sender that will bring nothing more.
                        commands.push_back(Command::Say { visitor, batch, refused, open: 0 });
                    }
                    (Some(offered), None) => {
                        *offered = Some(Offered { batch, count, bytes, members: Vec::new() });
                        commands.push_back(Command::Thaw(visitor));
                    }
                }
            }
            Input::Thawed { visitor, mut members, pairs, open } => {
                let Some(Some(offered)) = self.visitors.get_mut(&visitor) else {
                    members.into_iter().flatten().for_each(|id| commands.push_back(Command::Abandon(id)));
                    return;
                };
                for (one, other) in pairs {
                    for (place, partner) in [(one, other), (other, one)] {
                        if let Some(Err(_)) = members.get(partner)
                            && let Some(member) = members.get_mut(place)
                            && let Ok(id) = *member
                            && !is_put_back(Mutation::PairIsPartedByTaking)
                        {
                            *member = Err(Refusal::Partner);
                            commands.push_back(Command::Abandon(id));
                        }
                    }
                }
                let mut refused = Vec::new();
                for (place, member) in members.into_iter().enumerate() {
                    match member {
                        Ok(id) => offered.members.push(id),
                        Err(refusal) => refused.push((place, refusal)),
                    }
                }
                commands.push_back(Command::Say { visitor, batch: offered.batch, refused, open });
            }
            Input::Gives { visitor, batch } => match self.visitors.get_mut(&visitor) {
                None => {}
                Some(offered) if offered.as_ref().is_some_and(|offered| offered.batch == batch) => {
                    let members = offered.take().unwrap_or_default().members;
                    members.into_iter().for_each(|id| commands.push_back(Command::Own(id)));
                }
                Some(_) => self.lose(commands, visitor),
            },
            Input::Ended(visitor) => self.lose(commands, visitor),
            Input::Stop => {
                let all: Vec<Visitor> = self.visitors.keys().copied().collect();
                all.into_iter().for_each(|visitor| self.lose(commands, visitor));
            }
        }
    }

    /// What was not given belongs to the other side.
    fn lose(&mut self, commands: &mut VecDeque<Command>, visitor: Visitor) {
        let Some(offered) = self.visitors.remove(&visitor) else { return };
        for id in offered.into_iter().flat_map(|offered| offered.members) {
            let keeps = is_put_back(Mutation::KeptWithoutGiving);
            commands.push_back(if keeps { Command::Own(id) } else { Command::Abandon(id) });
        }
        commands.push_back(Command::Close(visitor));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISITOR: Visitor = Visitor(1);

    fn id(slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: 0 }
    }

    fn offer(visitor: Visitor, batch: u64, count: usize, bytes: usize) -> Input {
        Input::Offer { visitor, batch, count, bytes, refusal: None }
    }

    fn steps(receiver: &mut Receiver, inputs: impl IntoIterator<Item = Input>) -> Vec<Command> {
        let mut commands = VecDeque::new();
        inputs.into_iter().for_each(|input| receiver.step(&mut commands, input));
        commands.into()
    }

    fn offered() -> (Receiver, Vec<Command>) {
        let mut receiver = Receiver::new(1000);
        let inputs = [
            Input::Came(VISITOR),
            offer(VISITOR, 7, 2, 0),
            Input::Thawed { visitor: VISITOR, members: vec![Ok(id(1)), Err(Refusal::State)], pairs: vec![], open: 5 },
        ];
        let commands = steps(&mut receiver, inputs);
        (receiver, commands)
    }

    #[test]
    fn what_is_given_is_owned() {
        let (mut receiver, commands) = offered();
        let said = Command::Say { visitor: VISITOR, batch: 7, refused: vec![(1, Refusal::State)], open: 5 };
        assert_eq!(commands, [Command::Thaw(VISITOR), said]);
        let given = steps(&mut receiver, [Input::Gives { visitor: VISITOR, batch: 7 }]);
        assert_eq!(given, [Command::Own(id(1))]);
        assert_eq!(steps(&mut receiver, [Input::Ended(VISITOR)]), [Command::Close(VISITOR)]);
        assert!(receiver.is_alone());
    }

    #[test]
    fn a_pair_is_taken_whole_or_not_at_all() {
        let mut receiver = Receiver::new(1000);
        let members = vec![Ok(id(1)), Ok(id(2)), Err(Refusal::State), Ok(id(4)), Ok(id(5))];
        let pairs = vec![(0, 2), (3, 4), (1, 99)];
        let inputs = [
            Input::Came(VISITOR),
            offer(VISITOR, 7, 5, 0),
            Input::Thawed { visitor: VISITOR, members, pairs, open: 0 },
        ];
        let refused = vec![(0, Refusal::Partner), (2, Refusal::State)];
        let said = Command::Say { visitor: VISITOR, batch: 7, refused, open: 0 };
        assert_eq!(steps(&mut receiver, inputs), [Command::Thaw(VISITOR), Command::Abandon(id(1)), said]);
        let given = steps(&mut receiver, [Input::Gives { visitor: VISITOR, batch: 7 }]);
        assert_eq!(given, [2, 4, 5].map(|slot| Command::Own(id(slot))));
    }

    #[test]
    fn what_is_not_given_is_abandoned() {
        let nonsense =
            [Input::Ended(VISITOR), Input::Stop, Input::Gives { visitor: VISITOR, batch: 6 }, offer(VISITOR, 8, 1, 0)];
        for input in nonsense {
            let (mut receiver, _) = offered();
            let commands = steps(&mut receiver, [input]);
            assert_eq!(commands, [Command::Abandon(id(1)), Command::Close(VISITOR)]);
            assert!(receiver.is_alone());
        }
    }

    /// How many offers of different workers, none of them given, are considered.
    fn looked_at(receiver: &mut Receiver, offers: usize, count: usize, bytes: usize) -> usize {
        let all = (0..offers as u32).map(Visitor);
        let inputs = all.flat_map(|visitor| [Input::Came(visitor), offer(visitor, 1, count, bytes)]);
        let commands = steps(receiver, inputs);
        let refused = |command: &&Command| match command {
            Command::Say { refused, .. } => refused.iter().all(|(_, refusal)| *refusal == Refusal::Limit),
            _ => false,
        };
        let thawed = commands.iter().filter(|command| matches!(command, Command::Thaw(_))).count();
        assert_eq!(thawed + commands.iter().filter(refused).count(), offers);
        thawed
    }

    #[test]
    fn offers_that_are_never_given_keep_a_part_of_the_room() {
        assert_eq!(looked_at(&mut Receiver::new(40_000), 4000, 16, 0), 40_000 / ON_OFFER_PART / 16);
        assert_eq!(looked_at(&mut Receiver::new(8), 4000, 16, 0), ON_OFFER_MIN / 16);
        assert_eq!(looked_at(&mut Receiver::new(40_000), 10, OFFER_CONNECTIONS_MAX + 1, 0), 0);
    }

    #[test]
    fn offers_that_are_never_given_keep_no_more_memory_than_one() {
        assert_eq!(looked_at(&mut Receiver::new(40_000), 10, 1, 400 << 20), 2);
        let mut receiver = Receiver::new(40_000);
        assert_eq!(looked_at(&mut receiver, 10, 1, OFFER_BYTES_MAX), 1);
        let given = [
            Input::Thawed { visitor: Visitor(0), members: vec![Ok(id(1))], pairs: vec![], open: 0 },
            Input::Gives { visitor: Visitor(0), batch: 1 },
            offer(Visitor(0), 2, 1, 1),
        ];
        assert_eq!(steps(&mut receiver, given).last(), Some(&Command::Thaw(Visitor(0))), "there is room again");
    }
}
