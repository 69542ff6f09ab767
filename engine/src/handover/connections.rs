//! Established connections on their way from a worker that leaves to one that serves: what the two say to each other.
//!
//! The worker that serves listens at an abstract name of its own; the one that leaves connects to it, and for each batch:
//!
//! 1. the sender stops its connections (every completion is taken, so that no byte is in the kernel's hand) and *offers*
//!    them: descriptors, and for each where it stands, the protocol's state, input and output;
//! 2. the receiver makes the connections of that, does nothing with them yet, and says which it *takes*;
//! 3. the sender *gives* it those, and from then on has nothing to do with them; the others go on where they were.
//!
//! So each connection has one owner at any time. Until it gives, the sender has everything whole, and whatever happens to
//! the receiver or the channel, it goes on as if nothing had been; a receiver drops what was not given when the channel
//! ends. What was given is the receiver's, whatever happens to the sender.
//!
//! Messages are packets: the length of a head, the head as JSON, and bytes. Fields and kinds that one side does not know
//! are ignored; a change that may not be ignored raises [`VERSION`], and then nothing is taken.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::connection::{Frozen, Standing};
use crate::sys::channel;

/// Of these messages.
pub(crate) const VERSION: u32 = 1;

/// Connections of one batch. The fewer, the shorter the pause of each, and of those that the receiver serves already; the
/// more, the less is said.
pub(crate) const BATCH: usize = 16;

/// A batch that has so many bytes is not made larger.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// A batch that is not taken in so long is taken back.
pub(crate) const BATCH_MS_MAX: u64 = 2_000;

/// Whoever waits for the other side shows so often that it lives.
const BEAT_MS: u16 = 100;

/// Of a packet; two fit into the smallest default of `net.core.wmem_default`.
pub(super) const PACKET_BYTES_MAX: usize = 64 * 1024;

/// What the bytes of one batch may come to, so that nobody can make a worker take all memory.
const BODY_BYTES_MAX: usize = 1 << 30;

/// Senders that may wait at once.
const BACKLOG: i32 = 4096;

/// Why a connection was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub(crate) enum Refusal {
    /// The protocol keeps it.
    Protocol,
    /// It was about to end.
    Ending,
    /// The other side speaks another version of this.
    Version,
    /// The other side runs another protocol.
    Format,
    /// The other side's protocol does not understand the state.
    State,
    /// The other side has as many connections as it may.
    Limit,
    /// The other side leaves, too.
    Leaving,
    /// Descriptors did not arrive.
    Descriptors,
    /// The worker's own state is larger than it may be.
    TooLarge,
    /// The other side is gone, or does not answer.
    Channel,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

impl Refusal {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Ending => "ending",
            Self::Version => "version",
            Self::Format => "format",
            Self::State => "state",
            Self::Limit => "limit",
            Self::Leaving => "leaving",
            Self::Descriptors => "descriptors",
            Self::TooLarge => "too_large",
            Self::Channel => "channel",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A connection of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) standing: Standing,
    /// Nothing was received on it yet.
    #[serde(default)]
    pub(crate) is_fresh: bool,
    state_bytes: usize,
    input_bytes: usize,
    output_bytes: usize,
}

/// The head of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(crate) enum Message {
    /// Connections; their descriptors come with this packet, their bytes behind it and in packets of [`Message::More`].
    Offer {
        version: u32,
        batch: u64,
        /// What the protocol's state is.
        format: String,
        format_version: u32,
        connections: Vec<Envelope>,
    },
    /// More bytes of the offer.
    More,
    /// What the receiver has made of an offer.
    Takes {
        batch: u64,
        /// By their places in the offer: those that it does not take.
        refused: Vec<(usize, Refusal)>,
        /// Connections that it has, without these.
        open: u64,
    },
    /// Those that were not refused are the receiver's.
    Gives { batch: u64 },
    /// The worker's own state follows, in packets of [`Message::StatePart`], before any connection.
    State { version: u32, format: String, format_version: u32 },
    /// Bytes of it.
    StatePart,
    /// So many they were; where it is not whole, it is not to be used.
    StateEnd { bytes: u64, is_whole: bool },
    /// Whether the receiver has it.
    StateTaken { refused: Option<Refusal> },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// An offer in the making.
pub(crate) struct Offer {
    pub(crate) batch: u64,
    envelopes: Vec<Envelope>,
    descriptors: Vec<OwnedFd>,
    body: Vec<u8>,
}

impl Offer {
    pub(crate) fn new(batch: u64) -> Self {
        Self { batch, envelopes: Vec::new(), descriptors: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.envelopes.is_empty()
    }

    pub(crate) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    pub(crate) fn add(&mut self, frozen: &Frozen, is_fresh: bool, descriptor: OwnedFd) {
        self.envelopes.push(Envelope {
            standing: frozen.standing.clone(),
            is_fresh,
            state_bytes: frozen.state.len(),
            input_bytes: frozen.input.len(),
            output_bytes: frozen.output.len(),
        });
        self.descriptors.push(descriptor);
        for part in [&frozen.state, &frozen.input, &frozen.output] {
            self.body.extend_from_slice(part);
        }
    }
}

/// A connection of an offer that has arrived.
pub(crate) struct Arrived {
    pub(crate) envelope: Envelope,
    pub(crate) frozen: Frozen,
    pub(crate) descriptor: OwnedFd,
}

/// An offer that has arrived.
pub(crate) struct Arrival {
    pub(crate) batch: u64,
    pub(crate) version: u32,
    pub(crate) format: String,
    pub(crate) format_version: u32,
    envelopes: Vec<Envelope>,
    descriptors: Vec<OwnedFd>,
    body: Vec<u8>,
    missing: usize,
}

impl Arrival {
    pub(crate) fn len(&self) -> usize {
        self.envelopes.len()
    }

    pub(crate) fn has_all_descriptors(&self) -> bool {
        self.descriptors.len() == self.envelopes.len()
    }

    /// One by one; only where all descriptors have come.
    pub(crate) fn into_connections(self) -> impl Iterator<Item = Arrived> {
        let Self { envelopes, descriptors, body, .. } = self;
        let mut at = 0;
        let mut part = move |length: usize| {
            let bytes = body[at..at + length].to_vec();
            at += length;
            bytes
        };
        envelopes.into_iter().zip(descriptors).map(move |(envelope, descriptor)| {
            let standing = envelope.standing.clone();
            let (state, input) = (part(envelope.state_bytes), part(envelope.input_bytes));
            let frozen = Frozen { standing, state, input, output: part(envelope.output_bytes) };
            Arrived { envelope, frozen, descriptor }
        })
    }
}

/// What was heard.
pub(crate) enum Heard {
    Offer(Arrival),
    Takes {
        batch: u64,
        refused: Vec<(usize, Refusal)>,
        open: u64,
    },
    Gives {
        batch: u64,
    },
    State {
        version: u32,
        format: String,
        format_version: u32,
    },
    /// Nothing more for now.
    Nothing,
    /// The other side is gone, or says what cannot be.
    End,
}

/// One end of the channel between two workers.
pub(crate) struct Channel {
    descriptor: OwnedFd,
    outgoing: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// An offer of which bytes are missing.
    incoming: Option<Arrival>,
}

impl Channel {
    fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor, outgoing: VecDeque::new(), incoming: None }
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Says it, or as much as there is room for; gives the bytes that it takes.
    ///
    /// # Errors
    /// Where the other side is gone.
    pub(crate) fn offer(&mut self, offer: Offer, format: &str, format_version: u32) -> io::Result<usize> {
        let Offer { batch, envelopes, descriptors, body } = offer;
        let head = Message::Offer {
            version: VERSION,
            batch,
            format: format.to_owned(),
            format_version,
            connections: envelopes,
        };
        let mut packet = packet(&head)?;
        let length = packet.len() + body.len();
        let (first, rest) = body.split_at(PACKET_BYTES_MAX.saturating_sub(packet.len()).min(body.len()));
        packet.extend_from_slice(first);
        self.outgoing.push_back((packet, descriptors));
        for piece in rest.chunks(PACKET_BYTES_MAX - 64) {
            let mut more = self::packet(&Message::More)?;
            more.extend_from_slice(piece);
            self.outgoing.push_back((more, Vec::new()));
        }
        self.flush()?;
        Ok(length)
    }

    /// Says it, as soon as there is room.
    ///
    /// # Errors
    /// Where the other side is gone.
    pub(crate) fn say(&mut self, message: &Message) -> io::Result<()> {
        self.outgoing.push_back((packet(message)?, Vec::new()));
        self.flush()
    }

    /// Whether all was said.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Says what there was no room for.
    ///
    /// # Errors
    /// Where the other side is gone.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, descriptors)) = self.outgoing.front() {
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match channel::send(self.descriptor.as_fd(), bytes, &descriptors) {
                Ok(()) => drop(self.outgoing.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says it with bytes, and waits until there is room, for [`BATCH_MS_MAX`] at most.
    ///
    /// # Errors
    /// `TimedOut`, or where the other side is gone.
    pub(crate) fn say_waiting(&mut self, message: &Message, bytes: &[u8]) -> io::Result<()> {
        let mut packet = packet(message)?;
        packet.extend_from_slice(bytes);
        self.outgoing.push_back((packet, Vec::new()));
        self.flush()?;
        while !self.is_flushed() {
            if !self.wait(PollFlags::POLLOUT, BATCH_MS_MAX as u16)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Waits for the next packet, for so long at most; `beat` is called at times.
    ///
    /// # Errors
    /// `TimedOut`, or where the other side is gone or says what cannot be.
    pub(crate) fn hear_waiting(&mut self, ms_max: u64, beat: &dyn Fn()) -> io::Result<(Message, Vec<u8>)> {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let until = Instant::now() + Duration::from_millis(ms_max);
        loop {
            beat();
            match channel::receive(self.descriptor.as_fd(), &mut packet) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((length, _)) => {
                    let (message, bytes) = parse(&packet[..length]).ok_or(io::ErrorKind::InvalidData)?;
                    return Ok((message, bytes.to_vec()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::POLLIN, BEAT_MS)? && Instant::now() >= until {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// `false` where nothing happened in so long.
    fn wait(&self, events: PollFlags, ms: u16) -> io::Result<bool> {
        match poll(&mut [PollFd::new(self.descriptor.as_fd(), events)], PollTimeout::from(ms)) {
            Ok(0) => Ok(false),
            Ok(_) | Err(Errno::EINTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The next that was said; never waits.
    pub(crate) fn hear(&mut self) -> Heard {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        loop {
            let (length, descriptors) = match channel::receive(self.descriptor.as_fd(), &mut packet) {
                Ok((0, _)) => return Heard::End,
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Heard::End,
            };
            let Some((message, bytes)) = parse(&packet[..length]) else { return Heard::End };
            match (message, &mut self.incoming) {
                (Message::Offer { version, batch, format, format_version, connections }, None) => {
                    let lengths =
                        connections.iter().flat_map(|one| [one.state_bytes, one.input_bytes, one.output_bytes]);
                    let total = lengths.fold(0, usize::saturating_add);
                    if total > BODY_BYTES_MAX || bytes.len() > total {
                        return Heard::End;
                    }
                    let missing = total - bytes.len();
                    let (envelopes, body) = (connections, bytes.to_vec());
                    let arrival =
                        Arrival { batch, version, format, format_version, envelopes, descriptors, body, missing };
                    if missing == 0 {
                        return Heard::Offer(arrival);
                    }
                    self.incoming = Some(arrival);
                }
                (Message::More, Some(arrival)) if bytes.len() <= arrival.missing => {
                    arrival.body.extend_from_slice(bytes);
                    arrival.missing -= bytes.len();
                    if arrival.missing == 0
                        && let Some(arrival) = self.incoming.take()
                    {
                        return Heard::Offer(arrival);
                    }
                }
                (Message::Takes { batch, refused, open }, None) => return Heard::Takes { batch, refused, open },
                (Message::Gives { batch }, None) => return Heard::Gives { batch },
                (Message::State { version, format, format_version }, None) => {
                    return Heard::State { version, format, format_version };
                }
                (Message::Unknown, _) => {}
                _ => return Heard::End,
            }
        }
    }
}

/// A place where tests end a process, or halt this one, once: `BATON_FAULT=STEP@FILE`, where the file says `self`, `parent` or `stop`.
#[cfg(feature = "faults")]
pub(crate) fn reach(step: &str) {
    use nix::sys::signal::{Signal, kill};

    let Ok(fault) = std::env::var("BATON_FAULT") else { return };
    let Some((_, path)) = fault.split_once('@').filter(|(at, _)| *at == step) else { return };
    let whom = fs::read_to_string(path).unwrap_or_default();
    // Whoever takes the file away does it.
    if fs::remove_file(path).is_ok() {
        let pid = if whom == "parent" { nix::unistd::getppid() } else { nix::unistd::getpid() };
        let _ = kill(pid, if whom == "stop" { Signal::SIGSTOP } else { Signal::SIGKILL });
    }
}

/// Nothing, but in tests.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) fn reach(_: &str) {}

fn packet(message: &Message) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(message)?;
    let length = u32::try_from(head.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes()[..], &head].concat())
}

fn parse(packet: &[u8]) -> Option<(Message, &[u8])> {
    let (length, rest) = packet.split_first_chunk::<4>()?;
    let (head, bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((serde_json::from_slice(head).ok()?, bytes))
}

/// Where others bring their connections.
#[derive(Debug)]
pub(crate) struct Meeting {
    socket: Socket,
    name: String,
    /// The user that the worker was started as; it may have become another since.
    user: u32,
}

impl Meeting {
    /// Listens at a name that nobody else has.
    ///
    /// # Errors
    /// As socket(2), bind(2), listen(2).
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        // 128 random bits, so that nobody can have it before.
        let mut random = [0; 16];
        fs::File::open("/dev/urandom").and_then(|mut file| io::Read::read_exact(&mut file, &mut random))?;
        let name = format!("baton/connections/{:032x}", u128::from_le_bytes(random));
        socket.bind(&address(&name)?)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, name, user: geteuid().as_raw() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Somebody who has come: a worker of root, of the user this one was started as, or of the user it is.
    pub(crate) fn accept(&self) -> Option<Channel> {
        loop {
            match self.socket.accept() {
                Ok((socket, _)) if is_trusted(&socket, self.user) => return Some(Channel::new(socket.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

/// Goes to a worker that serves. `user` is whom this worker was started as.
///
/// # Errors
/// As connect(2); `PermissionDenied` where somebody else listens there.
pub(crate) fn visit(name: &str, user: u32) -> io::Result<Channel> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&address(name)?)?;
    if !is_trusted(&socket, user) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(Channel::new(socket.into()))
}

fn address(name: &str) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0{name}"))
}

fn is_trusted(socket: &Socket, user: u32) -> bool {
    let trusted = [0, user, geteuid().as_raw()];
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| trusted.contains(&peer.uid()))
}
