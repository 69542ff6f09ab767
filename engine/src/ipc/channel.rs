//! The channel between a worker and its master, and between two masters: one JSON object per packet of a SOCK_SEQPACKET
//! pair, with or without descriptors. Nothing here ever blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Serialize, de::DeserializeOwned};

use crate::sys::channel;

/// Largest message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Both ends, close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message; never blocks.
///
/// # Errors
/// `WouldBlock` if the channel is full; `InvalidInput` if the message is larger than the other side accepts; else as
/// sendmsg(2).
pub(crate) fn tell<T: Serialize>(channel: &OwnedFd, message: &T) -> io::Result<()> {
    tell_with_all(channel, message, &[])
}

/// Sends one message with a descriptor; the other side gets a copy of it. Never blocks.
pub(crate) fn tell_with<T: Serialize>(channel: &OwnedFd, message: &T, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    tell_with_all(channel, message, &[descriptor])
}

/// The same with up to [`channel::DESCRIPTORS_MAX`].
pub(crate) fn tell_with_all<T: Serialize>(
    channel: &OwnedFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    channel::send(channel.as_fd(), &bytes, descriptors)
}

/// From now on, the kernel refuses descriptors sent over this channel, if it can do that (6.16).
pub(crate) fn refuse_descriptors(channel: &OwnedFd) {
    let _ = channel::refuse_descriptors(channel.as_fd());
}

/// Whether an error concerns one message alone: the message is of a later version, or invalid.
pub(crate) fn is_nonsense(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// The result of reading the channel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<T> {
    /// A message.
    Message(T),
    /// There is no message now.
    Nothing,
    /// The other side is gone.
    End,
}

/// Receives one message; never blocks.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hear<T: DeserializeOwned>(channel: &OwnedFd) -> io::Result<Heard<T>> {
    hear_with(channel).map(|(heard, _)| heard)
}

/// Receives one message with the descriptor that came with it; never blocks.
pub(crate) fn hear_with<T: DeserializeOwned>(channel: &OwnedFd) -> io::Result<(Heard<T>, Option<OwnedFd>)> {
    hear_with_all(channel).map(|(heard, descriptors)| (heard, descriptors.into_iter().next()))
}

/// Receives one message with all descriptors that came with it; never blocks.
pub(crate) fn hear_with_all<T: DeserializeOwned>(channel: &OwnedFd) -> io::Result<(Heard<T>, Vec<OwnedFd>)> {
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    match channel::receive(channel.as_fd(), &mut bytes) {
        Ok((0, _)) => Ok((Heard::End, Vec::new())),
        Ok((length, descriptors)) => Ok((Heard::Message(serde_json::from_slice(&bytes[..length])?), descriptors)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok((Heard::Nothing, Vec::new()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::orders::Order;

    #[test]
    fn a_descriptor_comes_with_its_message() {
        let (ours, theirs) = pair().expect("a pair");
        let (ours_passed, passed) = pair().expect("another pair");
        tell_with(&ours, &Order::Take, passed.as_fd()).expect("told");
        drop(passed);
        let (heard, descriptor) = hear_with::<Order>(&theirs).expect("heard");
        assert_eq!(heard, Heard::Message(Order::Take));
        tell(&ours_passed, &Order::Stop).expect("told");
        assert_eq!(hear(&descriptor.expect("it came")).expect("heard"), Heard::Message(Order::Stop));
    }

    #[test]
    fn messages_keep_their_order_and_the_end_is_seen() {
        let (ours, theirs) = pair().expect("a pair");
        let drain = Order::Drain { settle_ms: 7, drain_ms: 9, is_succeeded: false };
        tell(&ours, &drain).expect("told");
        tell(&ours, &Order::Stop).expect("told");
        assert_eq!(hear(&theirs).expect("heard"), Heard::Message(drain));
        assert_eq!(hear(&theirs).expect("heard"), Heard::Message(Order::Stop));
        assert_eq!(hear::<Order>(&theirs).expect("heard"), Heard::Nothing);
        drop(ours);
        assert_eq!(hear::<Order>(&theirs).expect("heard"), Heard::End);
    }
}
