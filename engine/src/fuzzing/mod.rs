//! What must hold for any bytes that another process may send, one function for each way in: no panic, no wait, no state that
//! cannot be. Called by the fuzzers in `engine/fuzz`, and by ordinary tests with seeds and mutations of them.
//!
//! [`masters`] is what a master hears, [`workers`] what a worker hears, [`proxy`] what a proxy says.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod inspection;
pub mod masters;
pub mod proxy;
#[cfg(test)]
mod tests;
pub mod workers;
mod world;

use std::io;

use crate::ipc::channel::is_nonsense;
use crate::ipc::control::Request;

/// More of one input is not looked at.
const PIECES_MAX: usize = 64;

/// An input as several messages, one a line.
fn pieces(data: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    data.split(|byte| *byte == b'\n').take(PIECES_MAX).map(<[u8]>::to_vec)
}

/// What was heard; `None` where it made no sense.
///
/// # Panics
/// If the channel itself failed.
fn skip_nonsense<T>(heard: io::Result<T>) -> Option<T> {
    match heard {
        Ok(heard) => Some(heard),
        Err(error) => {
            assert!(is_nonsense(&error), "the channel failed: {error}");
            None
        }
    }
}

/// What a line at the control socket asks for.
fn asked(line: &[u8]) -> Option<Request> {
    serde_json::from_slice(line).ok()
}
