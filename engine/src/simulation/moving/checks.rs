//! The invariants after every step, and at rest.

use super::connections::{Connection, End, Kind, Phase};
use super::links::Message;
use super::world::World;
use crate::handover::custody::Stage;

/// A connection may kill this many workers before it is left alone.
const KILLS_MAX: u32 = 2;

/// The most turns in a row without an event.
const TURNS_MAX: u32 = 20;

pub(super) fn after_step(world: &mut World) {
    for socket in 0..world.sockets.len() {
        owners(world, socket);
        let one = &world.sockets[socket];
        if one.kills > KILLS_MAX {
            let detail = format!("client {socket} has ended {} workers", one.kills);
            world.violate("one connection ends few workers", detail);
        }
    }
    for worker in 0..world.workers.len() {
        let own = &world.workers[worker];
        let spins = own.is_alive && own.turns_in_a_row > TURNS_MAX;
        let told_twice = own.connections.0.values().find(|connection| connection.told > 1).map(|one| one.socket.0);
        if spins {
            world.violate("nobody spins", format!("worker {worker}"));
        }
        if let Some(socket) = told_twice {
            world.violate("a connection is told once", format!("worker {worker}, client {socket}"));
        }
    }
}

/// Checks that a connection has one owner, unless it is on its way to one, or has ended.
fn owners(world: &mut World, socket: usize) {
    let has = |stage: fn(Stage) -> bool| {
        let workers = world.workers.iter().enumerate().filter(move |(_, worker)| {
            let mut connections = worker.connections.0.values();
            worker.is_alive
                && connections
                    .any(|one| one.socket.0 == socket && one.phase != Phase::Ended && stage(one.custody.stage()))
        });
        workers.map(|(index, _)| index).collect::<Vec<usize>>()
    };
    let owners = has(Stage::is_owned);
    if owners.len() > 1 {
        world.violate("a connection has one owner", format!("client {socket} is owned by workers {owners:?}"));
        return;
    }
    if let Some(partner) = world.sockets[socket].partner
        && let [owner] = owners[..]
    {
        let is_open = |one: &Connection| matches!(one.phase, Phase::Open | Phase::Frozen);
        let here = |socket: usize| {
            let connections = world.workers[owner].connections.0.values();
            connections.filter(move |one| one.socket.0 == socket).any(is_open)
        };
        let has_elsewhere = world.workers.iter().enumerate().any(|(index, worker)| {
            let mut connections = worker.connections.0.values();
            let is_it = |one: &Connection| one.socket == partner && is_open(one) && one.custody.stage().is_owned();
            index != owner && worker.is_alive && connections.any(is_it)
        });
        if here(socket) && has_elsewhere {
            let detail = format!("client {socket} is at worker {owner}, and its partner {} is not", partner.0);
            world.violate("a pair is not parted", detail);
            return;
        }
    }
    let is_given = |message: &Message| match message {
        Message::Gives { members, .. } => members.iter().any(|member| member.0 == socket),
        _ => false,
    };
    let is_on_its_way = world.links.iter().any(|link| link.up.messages().any(is_given) && !owners.contains(&link.to));
    let one = &world.sockets[socket];
    if owners.is_empty() && !is_on_its_way && one.end.is_none() {
        world.violate("no connection is dropped", format!("client {socket} has no owner"));
    } else if let (Some(End::Orderly), true) = (one.end, one.written < one.read + greeting(one.kind)) {
        world.violate("what was read is answered", format!("client {socket}: {} of {} bytes", one.written, one.read));
    }
}

fn greeting(kind: Kind) -> u64 {
    if kind == Kind::Rejected { 3 } else { 0 }
}

/// Checks the world after no faults came for a while and time has passed.
pub(super) fn at_rest(world: &mut World) {
    for worker in 0..world.workers.len() {
        let own = &world.workers[worker];
        if own.is_alive && own.lifecycle.is_leaving() {
            let detail = format!(
                "worker {worker} has {} connections, and stands at {:?}, {:?}",
                own.connections.0.len(),
                own.lifecycle,
                own.sender
            );
            world.violate("nobody waits for ever", detail);
        } else if own.is_alive && (own.owes_given > 0 || own.sender.is_giving()) {
            world.violate("nobody waits for ever", format!("worker {worker} gives for ever: {:?}", own.sender));
        } else if own.is_alive && own.connections.0.values().any(|one| one.custody.is_held()) {
            let held = own.connections.0.values().find(|one| one.custody.is_held()).map(|one| one.socket.0);
            world.violate("nobody waits for ever", format!("client {held:?} is held at worker {worker}, which serves"));
        }
    }
    for socket in 0..world.sockets.len() {
        let one = &world.sockets[socket];
        if one.end.is_none() && (one.received != one.sent || one.is_finished) {
            let detail = format!("client {socket} has sent {} bytes and received {}", one.sent, one.received);
            world.violate("every byte is answered in the end", detail);
        }
    }
}
