//! More workers, or fewer, without a new generation.

use std::net::SocketAddr;

use super::Master;
use super::generation::{Generation, Growth, Share, Slot};
use crate::config::WORKERS_MAX;
use crate::error::ServerError;
use crate::ipc::channel::{self};
use crate::ipc::control::Reply;
use crate::ipc::orders::Order;
use crate::steering::Steering;
use crate::sys::listener;
use crate::telemetry::Snapshot;

/// How far a request to scale has come.
pub(super) enum Scaled {
    /// It is done, in these words.
    Done(String),
    /// New workers come up; this operation's outcome will be told.
    Begun(u32),
}

impl<'a> Master<'a> {
    /// Changes the number of workers of the serving generation.
    pub(super) fn scale(&mut self, workers: usize) -> Result<Scaled, String> {
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(format!("{workers} is not in 1..={WORKERS_MAX}"));
        }
        self.refuse_during_change()?;
        let Some(index) = self.serving() else {
            return Err("no generation serves; reload first".to_owned());
        };
        let generation = &self.generations[index];
        let before = generation.slots.len();
        if workers < before {
            generation.refuse_large_state(&generation.settings)?;
        }
        if workers == before {
            return Ok(Scaled::Done(format!("{} already", count(workers))));
        }
        let number = self.generations[index].number;
        self.journal.begin("scale", number);
        self.event(Some(number), format_args!("from {before} to {}", count(workers)));
        tracing::info!(generation = number, from = before, to = workers, "scaling");
        if workers > before {
            match self.grow(index, workers) {
                Ok(operation) => Ok(Scaled::Begun(operation)),
                Err(error) => {
                    self.shrink_back(index, before);
                    Err(error.to_string())
                }
            }
        } else {
            self.shrink(index, workers).map(Scaled::Begun).map_err(|error| error.to_string())
        }
    }

    fn grow(&mut self, index: usize, workers: usize) -> Result<u32, ServerError> {
        let from = self.generations[index].slots.len();
        let operation = self.new_operation();
        self.generations[index].growth = Some(Growth { operation, from, given_up: Vec::new() });
        for slot in from..workers {
            let slot = self.new_slot(slot)?;
            self.generations[index].slots.push(slot);
        }
        if self.adopts() {
            self.find_sockets(index, from)?;
        }
        (from..workers).try_for_each(|place| self.fork_worker(index, place, None))?;
        Ok(operation)
    }

    /// Sockets for the slots from `from` on: those that somebody else has beside his own, else new ones.
    fn find_sockets(&mut self, index: usize, from: usize) -> Result<(), ServerError> {
        let Generation { addresses, slots, .. } = &self.generations[index];
        let (addresses, workers) = (addresses.clone(), slots.len());
        for (_, address) in addresses {
            for slot in from..workers {
                let kept = match self.spare_share(index, address) {
                    Some(share) => {
                        let generation = &mut self.generations[index];
                        generation.growth.iter_mut().for_each(|growth| growth.given_up.push(share));
                        share.kept
                    }
                    None => {
                        let (socket, _) = listener::bind(address)?;
                        self.keep(address, socket)
                    }
                };
                self.generations[index].shares.push(Share { kept, slot });
            }
        }
        Ok(())
    }

    /// A share in a socket of this address whose owner has another one, and that is not given up already.
    fn spare_share(&self, index: usize, address: SocketAddr) -> Option<Share> {
        let generation = &self.generations[index];
        let given_up = |share: &Share| generation.growth.iter().any(|growth| growth.given_up.contains(share));
        let of_address = |share: &&Share| {
            self.kept.iter().any(|kept| kept.id == share.kept && kept.address == address) && !given_up(share)
        };
        let shares: Vec<&Share> = generation.shares.iter().filter(of_address).collect();
        let owns = |slot: usize| shares.iter().filter(|share| share.slot == slot).count();
        shares.iter().rev().find(|share| owns(share.slot) > 1).map(|share| **share)
    }

    /// The generation grows: switch when all are ready.
    pub(super) fn proceed_growth(&mut self, index: usize) {
        let generation = &self.generations[index];
        let Some(growth) = &generation.growth else { return };
        if !generation.slots[growth.from..].iter().all(Slot::is_ready) {
            return;
        }
        match self.resize_steering(index, self.generations[index].slots.len()) {
            Ok(()) => self.finish_growth(index),
            Err(error) => self.abandon_growth(index, &error.to_string()),
        }
    }

    fn finish_growth(&mut self, index: usize) {
        let generation = &mut self.generations[index];
        let Some(growth) = generation.growth.take() else { return };
        for share in growth.given_up {
            generation.shares.retain(|other| *other != share);
            if let Some(control) = generation.slot(share.slot).and_then(Slot::serving) {
                // One that cannot be told goes on accepting, too.
                let _ = channel::tell(control, &Order::Release { listener: share.kept });
            }
        }
        let (number, workers) = (generation.number, generation.slots.len());
        generation.settings.workers = workers;
        tracing::info!(generation = number, workers, "scaled");
        let message = format!("{} now", count(workers));
        self.event(Some(number), &message);
        self.conclude(growth.operation, &Reply::Done { message });
    }

    /// The new workers do not come up: the others serve on.
    pub(super) fn abandon_growth(&mut self, index: usize, reason: &str) {
        let Some(growth) = self.generations[index].growth.take() else { return };
        self.shrink_back(index, growth.from);
        let number = self.generations[index].number;
        tracing::error!(generation = number, "scaling failed, the workers serve on as before: {reason}");
        self.event(Some(number), format_args!("its new workers are taken down: {reason}"));
        self.conclude(growth.operation, &Reply::Failed { reason: reason.to_owned() });
    }

    fn shrink_back(&mut self, index: usize, workers: usize) {
        self.generations[index].growth = None;
        let leaving = self.split(index, workers);
        self.generations.insert(index, leaving);
        self.take_down(index);
    }

    fn shrink(&mut self, index: usize, workers: usize) -> Result<u32, ServerError> {
        self.resize_steering(index, workers)?;
        let mut leaving = self.split(index, workers);
        let (number, count_leaving) = (leaving.number, leaving.slots.len());
        self.generations[index].settings.workers = workers;
        // The siblings accept from the sockets before those who leave cease to.
        for (share, slot) in std::mem::take(&mut leaving.shares).into_iter().zip((0..workers).cycle()) {
            if !self.generations[index].shares.iter().any(|other| other.kept == share.kept) {
                self.share(index, share.kept, slot);
            }
        }
        let farewell = self.farewell(index);
        self.generations.insert(index, leaving);
        self.send_away(index, farewell);
        let message = format!("{} now, {count_leaving} leave", count(workers));
        self.event(Some(number), &message);
        let operation = self.new_operation();
        self.conclude_when_moved(operation, message);
        Ok(operation)
    }

    /// Takes the slots from `workers` on, with their shares, out of a generation, as one of the same number.
    fn split(&mut self, index: usize, workers: usize) -> Generation<'a> {
        let from = &mut self.generations[index];
        let slots = from.slots.split_off(workers);
        let (shares, kept) = from.shares.iter().partition(|share| share.slot >= workers);
        from.shares = kept;
        Generation {
            number: from.number,
            operation: from.operation,
            settings: from.settings.clone(),
            service: from.service.clone(),
            identity: from.identity.clone(),
            addresses: from.addresses.clone(),
            steering: from.steering.clone(),
            shares,
            slots,
            phase: from.phase,
            is_abandoned: false,
            growth: None,
            began: from.began,
            ended: Snapshot::default(),
        }
    }

    fn resize_steering(&mut self, index: usize, workers: usize) -> Result<(), ServerError> {
        let system = |source| ServerError::System { what: "loading the steering program", source };
        let resized = self.generations[index].steering.iter().map(|steering| steering.resized(workers as u32));
        let resized: Vec<Steering> = resized.collect::<Result<_, _>>().map_err(system)?;
        self.generations[index].steering = resized;
        self.steer_to(index)
    }
}

fn count(workers: usize) -> String {
    if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") }
}
