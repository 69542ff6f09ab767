//! An echo client on the engine's own loop: each connection sends a message, reads it back, checks every byte, and
//! sends the next.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use baton::config::{Limits, Timeouts};
use baton::{CloseReason, Io, Peer, Protocol, Reject, Running, Server, Step, TimerKey, Worker};
use serde::{Deserialize, Serialize};

const END: TimerKey = TimerKey(0);

/// What the client is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    pub(crate) connections: u32,
    pub(crate) bytes: u32,
    pub(crate) seconds: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Messages that came back whole and right.
    pub(crate) messages: u64,
    /// Connections that could not be made.
    pub(crate) refused: u64,
    /// Connections the server ended.
    pub(crate) ended: u64,
    /// Answers with a wrong byte.
    pub(crate) wrong: u64,
    /// Measured time.
    pub(crate) seconds: f64,
}

struct Client {
    plan: Echo,
    message: Vec<u8>,
    outcome: Rc<RefCell<Outcome>>,
    is_over: bool,
}

impl Protocol for Client {
    /// Bytes of the current message that came back.
    type Connection = usize;
    type Message = ();

    fn on_start(&mut self, worker: &mut Worker<'_, ()>) -> io::Result<()> {
        for token in 0..self.plan.connections {
            worker.connect(self.plan.address, u64::from(token));
        }
        worker.set_timer(END, Duration::from_secs(u64::from(self.plan.seconds)));
        Ok(())
    }

    fn on_open(&mut self, _: Peer<'_>, io: &mut Io<'_>) -> Result<usize, Reject> {
        io.write(&self.message);
        Ok(0)
    }

    fn on_data(&mut self, received: &mut usize, input: &[u8], io: &mut Io<'_>) -> Step {
        let mut rest = input;
        let mut outcome = self.outcome.borrow_mut();
        while !rest.is_empty() {
            let expected = &self.message[*received..];
            let length = rest.len().min(expected.len());
            if rest[..length] != expected[..length] {
                outcome.wrong += 1;
                return Step::abort();
            }
            rest = &rest[length..];
            *received += length;
            if *received == self.message.len() {
                *received = 0;
                outcome.messages += 1;
                io.write(&self.message);
            }
        }
        Step::more(input.len())
    }

    fn on_connect_failed(&mut self, _: u64, _: io::Error, worker: &mut Worker<'_, ()>) {
        let mut outcome = self.outcome.borrow_mut();
        outcome.refused += 1;
        if outcome.refused == u64::from(self.plan.connections) {
            worker.drain();
        }
    }

    fn on_worker_timer(&mut self, _: TimerKey, worker: &mut Worker<'_, ()>) {
        self.is_over = true;
        self.outcome.borrow_mut().seconds = f64::from(self.plan.seconds);
        worker.drain();
    }

    fn on_close(&mut self, _: usize, _: CloseReason) {
        self.outcome.borrow_mut().ended += u64::from(!self.is_over);
    }
}

/// Runs the client.
pub(crate) fn run(plan: Echo) -> Result<Outcome, baton::ServerError> {
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let message: Vec<u8> = (0..plan.bytes).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let limits = Limits {
        connections_max: plan.connections.max(1),
        outbound_bytes_high: (plan.bytes as usize * 2).max(1 << 20),
        ..Limits::default()
    };
    let timeouts = Timeouts { drain_ms_max: 0, linger_ms: 0, ..Timeouts::default() };
    let client = Client { plan, message, outcome: Rc::clone(&outcome), is_over: false };
    Server::builder().limits(limits).timeouts(timeouts).build()?.run_on_this_thread(|| client, Running::detach)?;
    let outcome = outcome.borrow().clone();
    Ok(outcome)
}

/// Reads what `echo --json` printed: messages, and what went wrong.
pub(crate) fn read_json(text: &str) -> io::Result<(u64, String)> {
    let outcome: Outcome = serde_json::from_str(text)?;
    let failures = outcome.refused + outcome.ended + outcome.wrong;
    let errors = if failures > 0 { text.trim().to_owned() } else { String::new() };
    Ok((outcome.messages, errors))
}
