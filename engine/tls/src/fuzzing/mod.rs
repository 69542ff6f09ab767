//! What must hold for any bytes: for ordinary tests, with seeds, and for libFuzzer. rustls is the oracle.

mod conversation;
mod outcome;
mod pem;
pub(crate) mod rig;
mod script;
#[cfg(test)]
mod tests;

use self::outcome::{of_rustls, of_session};
use self::rig::Rig;
use self::script::Wire;
use crate::accept::Progress;
use crate::record::Limits;
use crate::settings::Version;
use crate::state;

/// Any records that a client with the keys can send, and any damage to them, cut anywhere: a session gives the bytes and the alert
/// that rustls gives as the server, apart from what `Outcome::agrees_with` lists.
pub fn records(data: &[u8]) {
    let (choice, script) = data.split_first().unwrap_or((&0, &[]));
    let suite = rig::suite_of(*choice);
    let mut rig = Rig::new(suite);
    let Wire { bytes, cuts } = Wire::of(script, &mut rig.client);
    let theirs = of_rustls(&mut rig, &bytes, &cuts);
    let ours = of_session(&mut rig, &bytes, &cuts, false);
    assert!(ours.agrees_with(&theirs, suite.version() == Version::Tls12), "here {ours:?}, with rustls {theirs:?}");
    let mut rig = rig.again();
    let moved = of_session(&mut rig, &bytes, &cuts, true);
    assert_eq!(moved, ours, "frozen and thawed at every cut");
}

/// A session speaks with a client of rustls, in any order: both write, change keys, pad and close, and whatever was sent arrives in
/// any parts. Between all of that the session moves. Each side reads what the other has written.
pub fn conversation(data: &[u8]) {
    conversation::run(data);
}

/// Any bytes as the files of an operator, as PEM with a zero byte between certificates and key, or as DER: refused with an error that a
/// person can read, or an identity that rustls accepts.
pub fn pem(data: &[u8]) {
    pem::run(data);
}

/// Any bytes as a frozen session: refused, or a session that freezes to the same bytes.
pub fn frozen(data: &[u8]) {
    if let Ok((session, negotiated)) = state::thaw(data, Limits::default()) {
        let again = state::freeze(&session, &negotiated).expect("it has not failed");
        assert_eq!(&again[..], data);
    }
}

/// Any bytes from whoever has connected: the handshake does not panic and does not spin, and ends as one does that rustls makes
/// alone.
pub fn handshake(data: &[u8]) {
    let (choice, bytes) = data.split_first().unwrap_or((&0, &[]));
    let config = rig::server_config(rig::suite_of(*choice));
    let mut alone = config.rustls_alone();
    let mut expected = Ok(());
    for part in bytes.chunks(1 + usize::from(*choice)) {
        expected = expected.and_then(|()| rig::feed(&mut alone, part).map(drop));
    }
    let mut handshake = Some(config.begin().expect("a handshake"));
    let (mut input, mut output, mut seen) = (Vec::new(), Vec::new(), Ok(()));
    for part in bytes.chunks(1 + usize::from(*choice)) {
        let Some(one) = handshake.take() else { break };
        input.extend_from_slice(part);
        let (consumed, progress) = one.advance(&mut input, &mut output);
        input.drain(..consumed);
        match progress {
            Progress::Incomplete(one) => handshake = Some(one),
            Progress::Accepted(_) => unreachable!("nobody has signed anything"),
            Progress::Failed(error) => seen = Err(error),
        }
    }
    assert_eq!(seen, expected.map_err(Into::into));
}
