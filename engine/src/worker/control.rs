//! Messages between a worker and whoever started it: one JSON object per packet of a SOCK_SEQPACKET pair.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Largest message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// To a worker. The end of the channel (the starter is gone) means `Drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Accept nothing new, finish what there is, leave.
    Drain,
    /// Leave at once.
    Stop,
}

/// From a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub(crate) enum Report {
    /// Listening and accepting.
    Ready {
        /// The core it is pinned to, where it has one of its own.
        core: Option<usize>,
        /// Connections it will take at most.
        connections_max: u32,
    },
    /// It could not start, and leaves.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Both ends, close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message; never blocks.
pub(crate) fn tell<T: Serialize>(channel: &OwnedFd, message: &T) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.truncate(MESSAGE_BYTES_MAX);
    send(channel.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

/// What a read of the channel gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<T> {
    /// A message.
    Message(T),
    /// None is there now.
    Nothing,
    /// The other side is gone.
    End,
}

/// Takes one message; never blocks.
pub(crate) fn hear<T: DeserializeOwned>(channel: &OwnedFd) -> io::Result<Heard<T>> {
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    match recv(channel.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
        Ok(0) | Err(nix::errno::Errno::ECONNRESET) => Ok(Heard::End),
        Ok(length) => Ok(Heard::Message(serde_json::from_slice(&bytes[..length])?)),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(Heard::Nothing),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_order_and_the_end_is_seen() {
        let (ours, theirs) = pair().expect("a pair");
        tell(&ours, &Order::Drain).expect("told");
        tell(&ours, &Order::Stop).expect("told");
        assert_eq!(hear(&theirs).expect("heard"), Heard::Message(Order::Drain));
        assert_eq!(hear(&theirs).expect("heard"), Heard::Message(Order::Stop));
        assert_eq!(hear::<Order>(&theirs).expect("heard"), Heard::Nothing);
        drop(ours);
        assert_eq!(hear::<Order>(&theirs).expect("heard"), Heard::End);
    }
}
