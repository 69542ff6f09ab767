//! What must hold for any frozen state of the example `resp`, as one function for the fuzzer and for ordinary tests.

use std::time::Duration;

use baton::testing::Harness;

use crate::service::Service;

/// Requests for a store that was made from any bytes.
const QUESTIONS: &[u8] = b"INFO\r\nCLIENT LIST\r\nCLIENT GETNAME\r\nDBSIZE\r\nKEYS *\r\nGET k\r\nINCR k\r\nTTL k\r\nPTTL k\r\nEXPIRETIME k\r\n\
PEXPIRETIME k\r\nAPPEND k 1\r\nSET k 1 KEEPTTL\r\nPERSIST k\r\nSTRLEN k\r\nDEL k\r\n";

/// Takes over `data` as the state of a client, and of a store: its first byte says how much belongs to the client. If
/// it is understood, this sends all requests, lets time pass, and hands everything over again.
///
/// # Panics
/// If the store does.
pub(crate) fn check(data: &[u8]) {
    let (client_bytes, rest) = data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest));
    let (client, store) = rest.split_at(client_bytes.min(rest.len()));
    let mut harness = Harness::new(Service::default());
    let _ = harness.take_over_worker(1, store);
    let client = harness.take_over(1, client, QUESTIONS, &[]).unwrap_or_else(|_| harness.open());
    harness.send(client, QUESTIONS);
    harness.advance(Duration::from_secs(100));
    harness.send(client, QUESTIONS);
    harness.hand_over(Service::default());
    harness.send(client, QUESTIONS);
}
