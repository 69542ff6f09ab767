//! What moves to another worker when this one is replaced: the store, and the state of each client.

use std::io::{self, Read, Write};
use std::time::Duration;

use baton::ThawError;

use super::client::{Client, ClientRecord};
use super::store::Store;
use super::{BULK_BYTES_MAX, State};

/// The version of both formats.
pub(super) const VERSION: u32 = 1;

/// Bytes of an entry in addition to its key and value.
pub(super) const ENTRY_BYTES: u64 = 16;

/// Larger counts are refused: one more, or the sum of two, must fit into 64 bits.
const COUNT_MAX: u64 = u64::MAX >> 2;

/// In place of a key's length: there are no more entries.
const END: u32 = u32::MAX;

/// In place of a time: never.
const NEVER_MS: i64 = i64::MAX;

/// Version 1: the client's number, whether it wants RESP3, when it connected, and its name. Times are on the loop's
/// clock, which is the machine's.
pub(super) fn freeze_client(client: &Client, record: Option<&ClientRecord>, state: &mut Vec<u8>) {
    let opened = record.map_or(Duration::ZERO, |record| record.opened).as_millis() as u64;
    state.extend_from_slice(&client.id.to_le_bytes());
    state.push(u8::from(client.is_resp3));
    state.extend_from_slice(&opened.to_le_bytes());
    state.extend_from_slice(record.map_or(&[][..], |record| &record.name));
}

pub(super) fn thaw_client(version: u32, state: &[u8]) -> Result<(Client, ClientRecord), ThawError> {
    if version != VERSION {
        return Err(ThawError::Version(version));
    }
    let (id, rest) = state.split_first_chunk().ok_or(ThawError::Malformed)?;
    let (&is_resp3, rest) = rest.split_first().ok_or(ThawError::Malformed)?;
    let (opened, name) = rest.split_first_chunk().ok_or(ThawError::Malformed)?;
    let mut client = Client::new(count(*id)?);
    client.is_resp3 = is_resp3 != 0;
    let mut record = ClientRecord::new(Duration::from_millis(u64::from_le_bytes(*opened)));
    (record.name, record.is_resp3) = (name.to_vec(), client.is_resp3);
    Ok((client, record))
}

/// Version 1: counts, and when the store began. Then for each entry the lengths of key and value, when it expires, key
/// and value.
pub(super) fn freeze_store(state: &State, to: &mut dyn Write) -> io::Result<()> {
    to.write_all(&state.connections_received.to_le_bytes())?;
    to.write_all(&state.commands_processed.to_le_bytes())?;
    to.write_all(&(state.started.as_millis() as u64).to_le_bytes())?;
    for (key, value, expiry_ms) in state.store.entries() {
        to.write_all(&(key.len() as u32).to_le_bytes())?;
        to.write_all(&(value.len() as u32).to_le_bytes())?;
        to.write_all(&expiry_ms.unwrap_or(NEVER_MS).to_le_bytes())?;
        to.write_all(key)?;
        to.write_all(value)?;
    }
    to.write_all(&END.to_le_bytes())
}

pub(super) fn thaw_store(version: u32, from: &mut dyn Read, now: Duration) -> Result<State, ThawError> {
    if version != VERSION {
        return Err(ThawError::Version(version));
    }
    let mut state = State {
        connections_received: count(array(from)?)?,
        commands_processed: count(array(from)?)?,
        started: Duration::from_millis(u64::from_le_bytes(array(from)?)),
        ..State::default()
    };
    let (mut key, mut value) = (Vec::new(), Vec::new());
    loop {
        let key_bytes = u32::from_le_bytes(array(from)?);
        if key_bytes == END {
            return Ok(state);
        }
        let value_bytes = u32::from_le_bytes(array(from)?);
        let expiry_ms = i64::from_le_bytes(array(from)?);
        part(from, key_bytes, &mut key)?;
        part(from, value_bytes, &mut value)?;
        let store: &mut Store = &mut state.store;
        store.put(&key, &value, (expiry_ms != NEVER_MS).then_some(expiry_ms), now);
    }
}

fn count(bytes: [u8; 8]) -> Result<u64, ThawError> {
    let count = u64::from_le_bytes(bytes);
    if count <= COUNT_MAX { Ok(count) } else { Err(ThawError::Malformed) }
}

fn array<const LENGTH: usize>(from: &mut dyn Read) -> Result<[u8; LENGTH], ThawError> {
    let mut bytes = [0; LENGTH];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Memory is allocated as the bytes arrive, and not by their announced number.
fn part(from: &mut dyn Read, length: u32, into: &mut Vec<u8>) -> Result<(), ThawError> {
    if length as usize > BULK_BYTES_MAX {
        return Err(ThawError::Malformed);
    }
    into.clear();
    from.take(length.into()).read_to_end(into)?;
    if into.len() == length as usize { Ok(()) } else { Err(ThawError::Incomplete) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn frozen_store(connections_received: u64, commands_processed: u64) -> Vec<u8> {
        let mut state = State { connections_received, commands_processed, ..State::default() };
        state.store.put(b"key", b"value", None, NOW);
        state.store.put(b"late", b"value", Some(200_000), NOW);
        let mut frozen = Vec::new();
        freeze_store(&state, &mut frozen).unwrap();
        frozen
    }

    #[test]
    fn frozen_counts_that_would_overflow_are_refused() {
        assert!(thaw_store(VERSION, &mut &frozen_store(3, COUNT_MAX)[..], NOW).is_ok());
        for (connections_received, commands_processed) in [(u64::MAX, 0), (0, u64::MAX), (COUNT_MAX + 1, 0)] {
            let frozen = frozen_store(connections_received, commands_processed);
            let refused = thaw_store(VERSION, &mut &frozen[..], NOW).err();
            assert!(matches!(refused, Some(ThawError::Malformed)), "{connections_received} {commands_processed}");
        }
        for id in [u64::MAX, COUNT_MAX + 1] {
            let mut frozen = Vec::new();
            freeze_client(&Client::new(id), None, &mut frozen);
            assert!(matches!(thaw_client(VERSION, &frozen).err(), Some(ThawError::Malformed)), "{id}");
        }
    }

    #[test]
    fn mutated_frozen_state_never_panics() {
        let sound = frozen_store(3, 5);
        let mut client = Vec::new();
        freeze_client(&Client::new(7), None, &mut client);
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            for first in 0..sound.len() {
                for count in [1, 4, 8] {
                    let mut state = sound.clone();
                    state.iter_mut().skip(first).take(count).for_each(|byte| *byte = value);
                    if let Ok(thawed) = thaw_store(VERSION, &mut &state[..], NOW) {
                        assert!(thawed.connections_received <= COUNT_MAX && thawed.commands_processed <= COUNT_MAX);
                    }
                    let mut state = client.clone();
                    state.iter_mut().skip(first).take(count).for_each(|byte| *byte = value);
                    let _ = thaw_client(VERSION, &state);
                }
            }
        }
    }
}
