//! The door of a serving worker, through which others bring it connections and send it messages: a pair of sockets
//! without a name. The worker keeps one end. The other end is its door: any process with a copy of it can visit the
//! worker.
//!
//! The worker gives its door to its master, and masters give copies to each other and to leaving workers. So a door
//! proves that its holder belongs to this server: no other process can find one, take its place, guess it, or block
//! those that have one, whatever its user is.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::channel::{is_nonsense, pair};
use super::transfer::Channel;
use crate::sys::channel;

/// Hexadecimal digits of a door's name.
const NAME_DIGITS: usize = 32;

/// Whether a door can have this name.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() == NAME_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes names that no door can have.
pub(super) fn bounded_names(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| is_name(name));
    names
}

/// Where others bring their connections.
#[derive(Debug)]
pub(crate) struct Meeting {
    inside: OwnedFd,
    /// Kept open, so that the end of a master does not look like the end of the last visitor.
    door: OwnedFd,
    name: String,
}

impl Meeting {
    /// Opens a new one, with a name that no other has.
    ///
    /// # Errors
    /// As socketpair(2), and if there is no `/dev/urandom`.
    pub(crate) fn open() -> io::Result<Self> {
        let (inside, door) = pair()?;
        let mut random = [0; 16];
        fs::File::open("/dev/urandom").and_then(|mut file| io::Read::read_exact(&mut file, &mut random))?;
        Ok(Self { inside, door, name: format!("{:0NAME_DIGITS$x}", u128::from_le_bytes(random)) })
    }

    /// The name of its door between masters and workers.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn door(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }

    /// Readable when a process has connected.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }

    /// Accepts the next arrival; `None` if there is none. Never waits.
    pub(crate) fn accept(&self) -> Option<Came> {
        let mut purpose = [0; VISIT.len()];
        match channel::receive(self.inside.as_fd(), &mut purpose) {
            Ok((0, _)) => Some(Came::End),
            Ok((_, descriptors)) => {
                let is_packets = |one: &OwnedFd| getsockopt(one, sockopt::SockType) == Ok(SockType::SeqPacket);
                let channel = descriptors.into_iter().next().filter(is_packets);
                Some(match channel {
                    Some(channel) if purpose == *SPEAK => Came::Speaker(channel),
                    Some(channel) => Came::Visitor(Channel::new(channel)),
                    None => Came::Nobody,
                })
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted || is_nonsense(&error) => Some(Came::Nobody),
            Err(_) => None,
        }
    }
}

/// An arrival.
pub(crate) enum Came {
    Visitor(Channel),
    /// A worker that will send messages; see [`crate::messages`].
    Speaker(OwnedFd),
    /// The arrival has no channel, or this process has no room for its descriptor.
    Nobody,
    /// A process has shut the door: no visitor can arrive any more.
    End,
}

/// What comes with a visitor's channel.
const VISIT: &[u8; 5] = b"visit";

/// What comes with a speaker's channel.
const SPEAK: &[u8; 5] = b"speak";

/// Visits a serving worker through its door; never waits.
///
/// # Errors
/// As socketpair(2) and sendmsg(2): `WouldBlock` if too many others wait there, `ConnectionReset` and then `BrokenPipe`
/// if the worker is gone.
pub(crate) fn visit(door: BorrowedFd<'_>) -> io::Result<Channel> {
    knock(door, VISIT).map(Channel::new)
}

/// Opens a channel to another worker, to send it messages; never waits.
///
/// # Errors
/// As [`visit`].
pub(crate) fn speak(door: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    knock(door, SPEAK)
}

fn knock(door: BorrowedFd<'_>, purpose: &[u8]) -> io::Result<OwnedFd> {
    let (ours, theirs) = pair()?;
    channel::send(door, purpose, &[theirs.as_fd()])?;
    Ok(ours)
}

/// Both ends: the visitor's, and that of the visited worker.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn both_ends() -> (Channel, Channel) {
    let meeting = Meeting::open().expect("a pair");
    let ours = visit(meeting.door()).expect("it is open");
    let Some(Came::Visitor(theirs)) = meeting.accept() else { panic!("nobody came") };
    (ours, theirs)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{Shutdown, shutdown};

    use super::*;
    use crate::ipc::transfer::Heard;

    #[test]
    fn a_full_door_and_one_of_a_worker_that_is_gone_are_told_apart() {
        let meeting = Meeting::open().expect("a pair");
        let refused = std::iter::repeat_with(|| visit(meeting.door())).find_map(Result::err);
        assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        // The one that waited has gone, so there is room for one more.
        let Some(Came::Visitor(mut gone)) = meeting.accept() else { panic!("nobody came") };
        assert!(matches!(gone.hear(), Heard::End));
        let mut waiting = visit(meeting.door()).expect("there is room");
        let door = meeting.door().try_clone_to_owned().expect("a copy");
        drop(meeting);
        assert!(matches!(waiting.hear(), Heard::End));
        let refused = [(); 2].map(|()| visit(door.as_fd()).err().map(|error| error.kind()));
        assert_eq!(refused, [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].map(Some));
    }

    /// A compromised worker may have a door, too.
    #[test]
    fn what_is_no_channel_is_nobody() {
        let meeting = Meeting::open().expect("a pair");
        assert!(meeting.accept().is_none());
        let null: OwnedFd = fs::File::open("/dev/null").expect("open").into();
        for (bytes, descriptors) in [(&b"no"[..], &[][..]), (&[7; 4096], &[null.as_fd()])] {
            channel::send(meeting.door(), bytes, descriptors).expect("sent");
            assert!(matches!(meeting.accept(), Some(Came::Nobody)));
        }
        assert!(meeting.accept().is_none());
        shutdown(meeting.door().as_raw_fd(), Shutdown::Both).expect("shut");
        assert!(matches!(meeting.accept(), Some(Came::End)));
    }
}
