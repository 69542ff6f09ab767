//! Scaling: more or fewer workers without a new generation.

use super::Core;
use super::generation::{Generation, Growth, Killed, Phase, Share, Slot};
use super::mutation::{Mutation, is_put_back};
use super::operations::Kind;
use super::types::{ClientId, SocketId};
use super::world::World;
use crate::config::WORKERS_MAX;
use crate::endpoint::Endpoint;
use crate::ipc::control::{EventKind, Failure, Moves, Outcome, TimelineKind};
use crate::ipc::orders::Order;

impl Core {
    /// Changes the number of workers of the serving generation.
    pub(super) fn scale(&mut self, world: &mut dyn World, client: ClientId, workers: usize) -> Result<(), Failure> {
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(Failure::Workers { workers, workers_max: WORKERS_MAX });
        }
        self.refuse_change()?;
        let index = self.serving().ok_or(Failure::NothingServes)?;
        let from = self.generations[index].slots.len();
        if workers < from {
            self.refuse_large_state(world, index, &self.generations[index].plan)?;
        }
        if workers == from {
            world.reply(client, Ok(Outcome::AlreadyScaled { workers }));
            return Ok(());
        }
        let generation = self.generations[index].number;
        world.begin_timeline(TimelineKind::Scale, generation);
        world.note(Some(generation), EventKind::Scaling { from, to: workers });
        // Clients that wait for moves get the state before it changes.
        self.conclude_scales(world);
        let shares = is_put_back(Mutation::ScalesShareOutcome);
        let kind = Kind::Scale { generation, workers: if shares { 0 } else { workers } };
        if workers > from {
            self.operations.wait(client, kind);
            if let Err(why) = self.grow(world, index, workers) {
                self.abandon_growth(world, index, why);
            }
            return Ok(());
        }
        self.shrink(world, index, workers)?;
        self.operations.wait(client, kind);
        Ok(())
    }

    fn grow(&mut self, world: &mut dyn World, index: usize, workers: usize) -> Result<(), Failure> {
        let generation = &mut self.generations[index];
        let from = generation.slots.len();
        generation.growth = Some(Growth { from, given_up: Vec::new() });
        generation.slots.extend((from..workers).map(Slot::new));
        self.find_sockets(world, index, from)?;
        (from..workers).try_for_each(|place| self.fork(world, index, place, None))
    }

    /// Finds sockets for the slots from `from` on: sockets that another slot has in addition to its own, else new ones.
    fn find_sockets(&mut self, world: &mut dyn World, index: usize, from: usize) -> Result<(), Failure> {
        let workers = self.generations[index].slots.len();
        let addresses: Vec<Endpoint> = self.generations[index].addresses.iter().map(|one| one.bound).collect();
        let file = self.generations[index].plan.socket_file;
        for address in addresses.into_iter().filter(|address| self.adopts(*address)).collect::<Vec<_>>() {
            for slot in from..workers {
                if address.is_unix() {
                    let kept = self.placement.kept.iter().filter(|kept| kept.address == address);
                    let shares = kept.map(|kept| Share { socket: kept.socket, slot });
                    self.generations[index].shares.extend(shares);
                    continue;
                }
                let socket: SocketId = match self.spare_share(index, address) {
                    Some(share) => {
                        let growth = self.generations[index].growth.as_mut();
                        growth.into_iter().for_each(|growth| growth.given_up.push(share));
                        share.socket
                    }
                    None => {
                        let (socket, address) = world.bind(address, file)?;
                        self.placement.keep(socket, address);
                        socket
                    }
                };
                self.generations[index].shares.push(Share { socket, slot });
            }
        }
        Ok(())
    }

    /// A share in a socket of this address whose owner has another one, and that is not given up yet.
    fn spare_share(&self, index: usize, address: Endpoint) -> Option<Share> {
        let generation = &self.generations[index];
        let is_given_up = |share: &Share| generation.growth.iter().any(|growth| growth.given_up.contains(share));
        let is_on_address = |share: &Share| {
            self.placement.kept.iter().any(|kept| kept.socket == share.socket && kept.address == address)
        };
        let shares = generation.shares.iter().filter(|share| is_on_address(share) && !is_given_up(share));
        let shares: Vec<&Share> = shares.collect();
        let owns = |slot: usize| shares.iter().filter(|share| share.slot == slot).count();
        shares.iter().rev().find(|share| owns(share.slot) > 1).map(|share| **share)
    }

    /// Continues a growth: the new workers get connections when all of them are ready.
    pub(super) fn proceed_growth(&mut self, world: &mut dyn World, index: usize) {
        let generation = &self.generations[index];
        let Some(growth) = &generation.growth else { return };
        if !generation.slots[growth.from..].iter().all(Slot::is_ready) {
            return;
        }
        match self.resize_steering(world, index, generation.slots.len()) {
            Ok(()) => self.finish_growth(world, index),
            Err(why) => self.abandon_growth(world, index, why),
        }
    }

    fn finish_growth(&mut self, world: &mut dyn World, index: usize) {
        let generation = &mut self.generations[index];
        let Some(growth) = generation.growth.take() else { return };
        for share in growth.given_up {
            generation.shares.retain(|other| *other != share);
            if let Some(child) = generation.slot(share.slot).and_then(Slot::serving) {
                // If the order cannot be sent, the worker continues to accept there, too.
                world.tell(child.process, &Order::Release { listener: share.socket.0 });
            }
        }
        let (number, workers) = (generation.number, generation.slots.len());
        generation.plan.workers = workers;
        self.last = Some(generation.plan.clone());
        world.note(Some(number), EventKind::Scaled { workers, leaving: 0 });
        let outcome = Outcome::Scaled { workers, leaving: 0, moves: Moves::default() };
        self.operations.conclude(world, Kind::Scale { generation: number, workers }, &Ok(outcome));
    }

    /// Ends a growth whose new workers failed to start. The other workers keep serving.
    pub(super) fn abandon_growth(&mut self, world: &mut dyn World, index: usize, why: Failure) {
        let Some(growth) = self.generations[index].growth.take() else { return };
        let workers = self.generations[index].slots.len();
        let leaving = self.split(index, growth.from);
        let generation = leaving.number;
        self.generations.insert(index, leaving);
        self.take_down(world, index);
        // Some addresses may have been switched before another one failed.
        if let Err(why) = self.resize_steering(world, index + 1, growth.from) {
            world.note(Some(generation), EventKind::NotSteered { why });
        }
        world.note(Some(generation), EventKind::NotScaled { why: why.clone() });
        self.operations.conclude(world, Kind::Scale { generation, workers }, &Err(why));
    }

    fn shrink(&mut self, world: &mut dyn World, index: usize, workers: usize) -> Result<(), Failure> {
        if let Err(why) = self.resize_steering(world, index, workers) {
            if is_put_back(Mutation::PlacesStay) {
                return Err(why);
            }
            let from = self.generations[index].slots.len();
            if let Err(why) = self.resize_steering(world, index, from) {
                world.note(Some(self.generations[index].number), EventKind::NotSteered { why });
            }
            return Err(why);
        }
        let mut leaving = self.split(index, workers);
        let (number, count) = (leaving.number, leaving.slots.len());
        self.generations[index].plan.workers = workers;
        self.last = Some(self.generations[index].plan.clone());
        // The siblings begin to accept from the sockets before the leaving workers stop.
        for (share, slot) in std::mem::take(&mut leaving.shares).into_iter().zip((0..workers).cycle()) {
            if !self.generations[index].shares.iter().any(|other| other.socket == share.socket) {
                self.share(world, index, share.socket, slot);
            }
        }
        let farewell = self.farewell(index);
        self.generations.insert(index, leaving);
        world.note(Some(number), EventKind::Scaled { workers, leaving: count });
        self.send_away(world, index, &farewell);
        let outcome = Outcome::Scaled { workers, leaving: count, moves: Moves::default() };
        let shares = is_put_back(Mutation::ScalesShareOutcome);
        let kind = Kind::Scale { generation: number, workers: if shares { 0 } else { workers } };
        self.conclude_when_moved(kind, outcome);
        Ok(())
    }

    /// Takes the slots from `workers` on, with their shares, out of a generation. They become a generation of the same
    /// number.
    fn split(&mut self, index: usize, workers: usize) -> Generation {
        let from = &mut self.generations[index];
        let slots = from.slots.split_off(workers);
        let (shares, kept) = from.shares.iter().partition(|share| share.slot >= workers);
        from.shares = kept;
        Generation { shares, slots, growth: None, steering: None, ..from.clone() }
    }

    fn resize_steering(&mut self, world: &mut dyn World, index: usize, workers: usize) -> Result<(), Failure> {
        if let Some(steering) = self.generations[index].steering {
            world.resize_steering(steering, workers)?;
        }
        self.steer_to(world, index)
    }

    /// Refuses a change if nothing serves, another change is under way, or another master decides.
    pub(super) fn refuse_change(&self) -> Result<(), Failure> {
        if let Some(refusal) = self.lifecycle.refusal() {
            return Err(refusal);
        }
        if self.is_changing() { Err(Failure::ChangeUnderWay) } else { Ok(()) }
    }

    /// Refuses a change if a worker to be replaced has more state than it may hand over.
    pub(super) fn refuse_large_state(
        &self,
        world: &dyn World,
        index: usize,
        plan: &super::types::Plan,
    ) -> Result<(), Failure> {
        let generation = &self.generations[index];
        if !generation.bounds_state(plan) {
            return Ok(());
        }
        let slots = generation.slots.iter().filter_map(|slot| Some((slot.index, slot.child()?.process)));
        let sizes = slots.map(|(slot, process)| (world.state_bytes(process), slot));
        match sizes.max().filter(|(bytes, _)| *bytes > plan.state_bytes_max) {
            Some((bytes, slot)) => Err(Failure::StateTooLarge { slot, bytes, bytes_max: plan.state_bytes_max }),
            None => Ok(()),
        }
    }

    /// Handles a worker that failed to start.
    pub(super) fn failed_to_start(&mut self, world: &mut dyn World, index: usize, place: usize, why: Failure) {
        let generation = &mut self.generations[index];
        let is_new = generation.growth.as_ref().is_some_and(|growth| place >= growth.from);
        match generation.phase {
            Phase::Starting => self.abandon(world, why),
            Phase::Serving if is_new => self.abandon_growth(world, index, why),
            _ => {
                if let Some(process) = generation.slots[place].killed(Killed::Late) {
                    world.kill(process);
                }
            }
        }
    }
}
