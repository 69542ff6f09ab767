//! The loop on io_uring: one system call per turn, which submits all sends and brings all receives.

use std::collections::VecDeque;
use std::net::TcpListener;

use nix::libc::{ECONNABORTED, ENOBUFS};

use crate::answer::{Answers, Carry};
use crate::listener::Served;
use crate::sys::{Event, Lease, Ring};

pub(crate) const BUFFERS: u16 = 128;
pub(crate) const BUFFER_BYTES: u32 = 16 * 1024;

/// The state of a connection, by slot of the ring's table. Answers only need the carry; the rest is for echo.
#[derive(Default)]
struct Connection {
    carry: Carry,
    sending: bool,
    ended: bool,
    /// Received after the piece that is being sent: one send at a time keeps the order.
    waiting: VecDeque<Lease>,
}

struct Server {
    ring: Ring,
    answers: Option<Answers>,
    connections: Vec<Connection>,
    /// Slots whose receive found no buffer.
    starved: VecDeque<u32>,
}

pub(crate) fn run(ring: Ring, listener: &TcpListener, answers: Option<Answers>) -> Served {
    let mut server = Server { ring, answers, connections: Vec::new(), starved: VecDeque::new() };
    server.ring.accept(listener);
    loop {
        server.ring.turn().map_err(|error| format!("cannot wait for events: {error}"))?;
        while let Some(event) = server.ring.next_event() {
            match event {
                Event::Receive { slot, result: Ok(Some(lease)), armed } => server.received(slot, lease, armed),
                Event::Receive { slot, result: Err(error), .. } if error.raw_os_error() == Some(ENOBUFS) => {
                    server.starved.push_back(slot);
                }
                Event::Receive { slot, .. } => server.ended(slot),
                Event::SendLease { slot, lease, result } => server.sent(slot, lease, result.is_ok()),
                Event::Accept { result, armed } => {
                    match result {
                        Ok(slot) => server.accepted(slot),
                        Err(error) if error.raw_os_error() == Some(ECONNABORTED) => {}
                        Err(error) => return Err(format!("cannot accept a connection: {error}")),
                    }
                    if !armed {
                        server.ring.accept(listener);
                    }
                }
                Event::Failure => {}
            }
        }
        // Arm no more receives than there are buffers: those that find none would keep the loop busy.
        for _ in 0..server.ring.free_buffers().min(server.starved.len()) {
            server.starved.pop_front().into_iter().for_each(|slot| server.arm(slot));
        }
    }
}

impl Server {
    fn accepted(&mut self, slot: u32) {
        let index = slot as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, Connection::default);
        }
        self.connections[index] = Connection::default();
        self.arm(slot);
    }

    fn arm(&mut self, slot: u32) {
        // Armed once if the loop itself closes: a close must not find a receive armed.
        let once = self.answers.as_ref().is_some_and(|answers| answers.close);
        self.ring.receive(slot, once);
    }

    #[inline]
    fn received(&mut self, slot: u32, lease: Lease, armed: bool) {
        let connection = &mut self.connections[slot as usize];
        if let Some(answers) = &mut self.answers {
            if let Some(answer) = answers.learn(self.ring.bytes(&lease)) {
                self.ring.give_back(lease);
                self.ring.send(slot, answer, false);
                if !armed {
                    self.arm(slot);
                }
                return;
            }
            let requests = answers.count(&mut connection.carry, self.ring.bytes(&lease));
            self.ring.give_back(lease);
            if answers.close && requests > 0 {
                answers.pieces(1).for_each(|(piece, _)| self.ring.send(slot, piece, false));
                return self.ring.close(slot);
            }
            answers.pieces(requests).for_each(|(piece, more)| self.ring.send(slot, piece, more));
        } else if connection.sending {
            connection.waiting.push_back(lease);
        } else {
            connection.sending = true;
            self.ring.send_lease(slot, lease);
        }
        if !armed {
            self.arm(slot);
        }
    }

    fn sent(&mut self, slot: u32, lease: Lease, well: bool) {
        if well && !self.ring.bytes(&lease).is_empty() {
            return self.ring.send_lease(slot, lease);
        }
        self.ring.give_back(lease);
        let connection = &mut self.connections[slot as usize];
        if !well {
            // The receive ends as well, now or soon.
            connection.waiting.drain(..).for_each(|lease| self.ring.give_back(lease));
        }
        match connection.waiting.pop_front() {
            Some(next) => self.ring.send_lease(slot, next),
            None if connection.ended => self.ring.close(slot),
            None => connection.sending = false,
        }
    }

    /// The peer sends nothing more. Its earlier bytes are still echoed.
    fn ended(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.ended = true;
        if !connection.sending {
            self.ring.close(slot);
        }
    }
}
