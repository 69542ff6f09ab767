//! What must hold for any bytes: for ordinary tests, with seeds, and for libFuzzer. rustls is the reference.

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

/// Any records that a client with the keys can send, and any damage to them, split anywhere: a session gives the same
/// bytes and the same alert as rustls as the server, except for the differences that `Outcome::agrees_with` lists.
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

/// A session and a client of rustls exchange data in any order. Both write, change keys, pad and close; bytes arrive in
/// any parts, and the session moves in between. Each side must read what the other has written.
pub fn conversation(data: &[u8]) {
    conversation::run(data);
}

/// Any bytes as the files of an operator: as PEM with a zero byte between certificates and key, or as DER. The result
/// is an error that a person can read, or an identity that rustls accepts.
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

/// Any bytes from a connected peer: the handshake does not panic or spin, and ends like one that rustls makes alone.
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
