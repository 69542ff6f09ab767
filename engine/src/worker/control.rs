//! Messages between a worker and whoever started it: one JSON object per packet of a SOCK_SEQPACKET pair.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::handover::connections::Refusal;
use crate::sys::channel;

/// Largest message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// To a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Finish what there is, leave. Listeners stay open so long, for handshakes under way.
    Drain {
        /// Milliseconds; 0 closes at once what nobody waits at.
        settle_ms: u64,
        /// Milliseconds that connections have from then on.
        drain_ms: u64,
        /// Others accept from the very same sockets: what waits there is theirs.
        is_succeeded: bool,
    },
    /// Bring your connections to these workers when you drain.
    Heirs {
        /// Where they can be met.
        names: Vec<String>,
    },
    /// Serve the connection that comes with this order.
    Take,
    /// Accept from the listen socket that comes with this order, too.
    Adopt {
        /// Its name between master and worker.
        listener: u32,
        /// Where it is bound.
        address: SocketAddr,
    },
    /// Accept from this one no more, and close the copy: others have it.
    Release {
        /// Its name between master and worker.
        listener: u32,
    },
    /// Report [`Report::Listener`] for each listen socket.
    Share,
    /// No worker brings its state any more: serve without.
    Serve,
    /// Make a turn, which shows that the loop is alive.
    Ping,
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
        /// Its listen sockets' descriptors.
        listeners: Vec<i32>,
        /// Where other workers can bring their connections.
        #[serde(default)]
        meeting: Option<String>,
        /// It has state of its own to hand over.
        #[serde(default)]
        has_state: bool,
    },
    /// To a master that did not start it, the first thing.
    Orphan {
        /// The generation it belongs to.
        generation: u32,
        /// Its index there.
        slot: usize,
        /// Where it listens.
        addresses: Vec<SocketAddr>,
        /// How many listen sockets it has there.
        listeners: usize,
    },
    /// A copy of a listen socket comes with this report.
    Listener {
        /// Where it is bound.
        address: SocketAddr,
    },
    /// It has taken the connection of the oldest [`Order::Take`] not reported yet.
    Taken,
    /// Its protocol has told it to leave.
    Leaving,
    /// How far the move of its connections to other workers has come.
    Moved(Moved),
    /// Its listen sockets are closed, after all that waited there was taken.
    Closed,
    /// It could not start, and leaves.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What has become of a worker's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Moved {
    /// Others have them.
    pub(crate) moved: u64,
    /// It still has them.
    pub(crate) left: u64,
    /// It has them until they have ended, which was decided before: their last bytes or the peer's FIN are on their way.
    pub(crate) ending: u64,
    /// They stay, by reason.
    pub(crate) refused: Vec<(Refusal, u64)>,
    /// Sent to other workers, descriptors aside.
    pub(crate) bytes: u64,
    /// Of the worker's own state, where it was handed over.
    pub(crate) state_bytes: Option<u64>,
    /// Since it began.
    pub(crate) took_us: u64,
    /// No more will move, but what is let in from now on.
    pub(crate) is_over: bool,
}

impl Moved {
    /// So many stay for this reason.
    pub(crate) fn count(&mut self, refusal: Refusal, count: u64) {
        match self.refused.iter_mut().find(|(one, _)| *one == refusal) {
            Some((_, total)) => *total += count,
            None if count > 0 => self.refused.push((refusal, count)),
            None => {}
        }
    }
}

/// Both ends, close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message; never blocks.
pub(crate) fn tell<T: Serialize>(channel: &OwnedFd, message: &T) -> io::Result<()> {
    tell_with_all(channel, message, &[])
}

/// Sends one message with a descriptor, of which the other side gets a copy; never blocks.
pub(crate) fn tell_with<T: Serialize>(channel: &OwnedFd, message: &T, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    tell_with_all(channel, message, &[descriptor])
}

/// The same with up to [`channel::DESCRIPTORS_MAX`].
pub(crate) fn tell_with_all<T: Serialize>(
    channel: &OwnedFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    channel::send(channel.as_fd(), &serde_json::to_vec(message)?, descriptors)
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
    hear_with(channel).map(|(heard, _)| heard)
}

/// Takes one message with the descriptor that came with it; never blocks.
pub(crate) fn hear_with<T: DeserializeOwned>(channel: &OwnedFd) -> io::Result<(Heard<T>, Option<OwnedFd>)> {
    hear_with_all(channel).map(|(heard, descriptors)| (heard, descriptors.into_iter().next()))
}

/// Takes one message with all descriptors that came with it; never blocks.
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
