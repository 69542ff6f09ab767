//! The packets in which two workers hand over connections, and the channel that carries them. [`Message`] describes
//! their meaning.
//!
//! A packet is the length of a head, the head as JSON, and bytes. A large number of bytes travels in a memory file
//! whose descriptor comes with the packet: a packet that fills the channel would have to wait for the other side, and
//! so would the next one. Packets may contain keys of connections, so their memory is zeroed after use.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use socket2::SockRef;
use zeroize::Zeroizing;

use super::descriptors;
use crate::handover::limits::{BATCH_MS_MAX, OFFER_BYTES_MAX};
use crate::handover::{
    Envelope, Frozen, LayerState, Message, Refusal, VERSION, VERSION_WITH_LAYERS, VERSION_WITH_OUTBOUND_LAYERS,
    VERSION_WITH_PAIRS,
};
use crate::sys::channel;
use crate::types::StateFormat;

/// How often a waiting side shows that it is alive.
const BEAT_MS: u16 = 100;

/// The most bytes of a packet. Two packets fit into the smallest default of `net.core.wmem_default`.
pub(super) const PACKET_BYTES_MAX: usize = 64 * 1024;

/// An offer with more bytes has them in a file. With the largest head of a batch they still fit into a packet.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// A connection of an offer.
pub(crate) struct Member<'a> {
    pub(crate) frozen: &'a Frozen,
    /// Nothing was received on it yet.
    pub(crate) is_fresh: bool,
    /// The index in the offer of the connection with which it is paired.
    pub(crate) partner: Option<usize>,
}

/// A batch of connections to be offered.
pub(crate) struct Offer {
    packet: Zeroizing<Vec<u8>>,
    descriptors: Vec<OwnedFd>,
    /// All its bytes, apart from descriptors.
    pub(crate) bytes: usize,
}

impl Offer {
    /// An offer of these connections, with their descriptors.
    ///
    /// # Errors
    /// If there is no room for a file.
    pub(crate) fn new(
        batch: u64,
        format: StateFormat,
        members: &[Member<'_>],
        mut descriptors: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let parts = members.iter().flat_map(|member| member.frozen.parts());
        let body_bytes: usize = members.iter().map(|member| member.frozen.bytes()).sum();
        let has_file = body_bytes > INLINE_BYTES_MAX;
        let envelope = |member: &Member<'_>| Envelope::new(member.frozen, member.is_fresh, member.partner);
        let connections = members.iter().map(envelope).collect();
        let has_pairs = members.iter().any(|member| member.partner.is_some());
        let has_layers = members.iter().any(|member| member.frozen.is_layered());
        let has_outbound_layers = members.iter().any(|member| member.frozen.standing.outbound_layer.is_some());
        let version = match (has_layers, has_pairs) {
            _ if has_outbound_layers => VERSION_WITH_OUTBOUND_LAYERS,
            (true, _) => VERSION_WITH_LAYERS,
            (false, true) => VERSION_WITH_PAIRS,
            (false, false) => VERSION,
        };
        let (format, format_version) = (format.name.to_owned(), format.version);
        let head = Message::Offer { version, batch, has_file, format, format_version, connections };
        let mut packet = Zeroizing::new(packet(&head)?);
        let bytes = packet.len() + body_bytes;
        if has_file {
            descriptors.push(file_of(parts)?);
        } else {
            // The buffer must not be reallocated with keys in it.
            packet.reserve_exact(body_bytes);
            parts.for_each(|part| packet.extend_from_slice(part));
        }
        Ok(Self { packet, descriptors, bytes })
    }
}

/// A connection of an offer that has arrived.
pub(crate) struct Arrived {
    /// Nothing was received on it yet.
    pub(crate) is_fresh: bool,
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
    body: Body,
}

enum Body {
    Inline(Zeroizing<Vec<u8>>),
    /// Its bytes cannot change any more.
    File(fs::File),
}

impl Body {
    fn read(&self, at: usize, length: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Inline(bytes) => {
                bytes.get(at..at + length).map(<[u8]>::to_vec).ok_or(io::ErrorKind::InvalidData.into())
            }
            Self::File(file) => {
                let mut bytes = vec![0; length];
                // Read at an explicit offset: the sender shares the open file, and may move its position.
                file.read_exact_at(&mut bytes, at as u64).map(|()| bytes)
            }
        }
    }
}

impl Arrival {
    pub(crate) fn len(&self) -> usize {
        self.envelopes.len()
    }

    pub(crate) fn has_all_descriptors(&self) -> bool {
        self.descriptors.len() == self.envelopes.len()
    }

    /// Bytes of all connections together, as checked by [`Arrival::fill`].
    pub(crate) fn bytes(&self) -> usize {
        self.envelopes.iter().flat_map(Envelope::lengths).fold(0, usize::saturating_add)
    }

    /// The indices of paired connections: each is in one pair, and both are in the offer.
    pub(crate) fn pairs(&self) -> Vec<(usize, usize)> {
        let partner = |place: usize| self.envelopes.get(place).and_then(|envelope| envelope.partner);
        let pairs = (0..self.envelopes.len()).filter_map(|place| Some((place, partner(place)?)));
        pairs.filter(|(one, other)| one < other && partner(*other) == Some(*one)).collect()
    }

    /// Reads the bytes from the packet or the file.
    ///
    /// # Errors
    /// If there are fewer or more than announced, or more than allowed, or if they may still change.
    fn fill(&mut self, has_file: bool, inline: &[u8]) -> io::Result<()> {
        let total = self.bytes();
        if total > OFFER_BYTES_MAX {
            return Err(io::Error::other(format!("{total} bytes are more than {OFFER_BYTES_MAX}")));
        }
        if !has_file {
            self.body = Body::Inline(inline.to_vec().into());
            if inline.len() != total {
                return Err(io::Error::other(format!("{} bytes came instead of {total}", inline.len())));
            }
        } else if self.descriptors.len() == self.envelopes.len() + 1
            && let Some(file) = self.descriptors.pop()
        {
            self.body = Body::File(descriptors::sealed(file, total as u64).map_err(io::Error::other)?);
        } else {
            // The last descriptors are the first to be missing. Without the file, the others are of no use.
            self.descriptors.clear();
        }
        Ok(())
    }

    /// The connections, one by one, if all descriptors have come. What cannot be read, or is not a connection, is
    /// refused.
    pub(crate) fn into_connections(self) -> impl Iterator<Item = Result<Arrived, Refusal>> {
        let Self { envelopes, descriptors, body, .. } = self;
        let mut at = 0;
        envelopes.into_iter().zip(descriptors).map(move |(envelope, descriptor)| {
            let part = |length: usize| {
                let from = at;
                at += length;
                body.read(from, length).map_err(|_| Refusal::State)
            };
            let [state, input, output, proxy, layer] = envelope.lengths().map(part);
            let (state, input, output, proxy, layer) = (state?, input?, output?, proxy?, LayerState::from(layer?));
            let frozen = Frozen { standing: envelope.standing, state, input, output, proxy, layer };
            let descriptor = descriptors::connection(descriptor).map_err(|unfit| {
                tracing::warn!("refused a descriptor from another worker: {unfit}");
                Refusal::Descriptors
            })?;
            Ok(Arrived { is_fresh: envelope.is_fresh, frozen, descriptor })
        })
    }
}

/// A packet that was received.
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
    /// It concerns the messages that connections hear while they move.
    Circle(Message),
    /// A message of a later version.
    Unknown,
    /// Nothing more for now.
    Nothing,
    /// The other side is gone, or sent something illegal.
    End,
}

/// One end of the channel between two workers.
pub(crate) struct Channel {
    descriptor: OwnedFd,
    outgoing: VecDeque<(Zeroizing<Vec<u8>>, Vec<OwnedFd>)>,
}

impl Channel {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor, outgoing: VecDeque::new() }
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Sends an offer as soon as there is room.
    ///
    /// # Errors
    /// If the other side is gone.
    pub(crate) fn offer(&mut self, offer: Offer) -> io::Result<()> {
        self.outgoing.push_back((offer.packet, offer.descriptors));
        self.flush()
    }

    /// Sends a message as soon as there is room.
    ///
    /// # Errors
    /// If the other side is gone.
    pub(crate) fn say(&mut self, message: &Message) -> io::Result<()> {
        self.outgoing.push_back((packet(message)?.into(), Vec::new()));
        self.flush()
    }

    /// The other side can send nothing more. What it sent before is still read, and then the end.
    pub(crate) fn refuse_more(&self) {
        // If this fails, the channel has ended already.
        let _ = SockRef::from(&self.descriptor).shutdown(Shutdown::Read);
    }

    /// Whether everything was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Sends what had no room before.
    ///
    /// # Errors
    /// If the other side is gone.
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

    /// Sends a message with bytes, and waits until there is room, for at most [`BATCH_MS_MAX`].
    ///
    /// # Errors
    /// `TimedOut`, or if the other side is gone.
    pub(crate) fn say_waiting(&mut self, message: &Message, bytes: &[u8]) -> io::Result<()> {
        let mut packet = packet(message)?;
        packet.extend_from_slice(bytes);
        self.outgoing.push_back((packet.into(), Vec::new()));
        self.flush()?;
        while !self.is_flushed() {
            if !self.wait(PollFlags::POLLOUT, BATCH_MS_MAX as u16)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Waits for the next packet, for at most `ms_max`; calls `beat` at intervals.
    ///
    /// # Errors
    /// `TimedOut`, or if the other side is gone or sends something illegal.
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

    /// Returns `false` if nothing happened within this time.
    fn wait(&self, events: PollFlags, ms: u16) -> io::Result<bool> {
        match poll(&mut [PollFd::new(self.descriptor.as_fd(), events)], PollTimeout::from(ms)) {
            Ok(0) => Ok(false),
            Ok(_) | Err(Errno::EINTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives the next packet; never waits.
    pub(crate) fn hear(&mut self) -> Heard {
        let mut packet = Zeroizing::new(vec![0; PACKET_BYTES_MAX]);
        loop {
            let (length, descriptors) = match channel::receive(self.descriptor.as_fd(), &mut packet) {
                Ok((0, _)) => return Heard::End,
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Heard::End,
            };
            let Some((message, bytes)) = parse(&packet[..length]) else { return Heard::End };
            match message {
                Message::Offer { version, batch, has_file, format, format_version, connections: envelopes } => {
                    let body = Body::Inline(Zeroizing::default());
                    let mut arrival = Arrival { batch, version, format, format_version, envelopes, descriptors, body };
                    return match arrival.fill(has_file, bytes) {
                        Ok(()) => Heard::Offer(arrival),
                        Err(error) => {
                            tracing::warn!("cannot take the connections that another worker offers: {error}");
                            Heard::End
                        }
                    };
                }
                Message::Takes { batch, refused, open } => return Heard::Takes { batch, refused, open },
                Message::Gives { batch } => return Heard::Gives { batch },
                Message::State { version, format, format_version } => {
                    return Heard::State { version, format, format_version };
                }
                Message::Gather { .. }
                | Message::Gathers { .. }
                | Message::Senders { .. }
                | Message::Gathered
                | Message::AllGiven => return Heard::Circle(message),
                Message::Unknown => return Heard::Unknown,
                Message::StatePart | Message::StateEnd { .. } | Message::StateTaken { .. } => return Heard::End,
            }
        }
    }
}

/// A memory file that cannot change any more.
pub(crate) fn file_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let make = |flags| memfd_create(c"baton-connections", flags);
    // This flag is required if vm.memfd_noexec is 2, and unknown before kernel 6.3.
    let made = make(flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL));
    let made = made.or_else(|error| if error == Errno::EINVAL { make(flags) } else { Err(error) });
    let mut file = BufWriter::with_capacity(INLINE_BYTES_MAX, fs::File::from(made?));
    parts.into_iter().try_for_each(|part| file.write_all(part))?;
    let file = file.into_inner()?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(descriptors::SEALS))?;
    Ok(file.into())
}

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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use nix::fcntl::SealFlag;

    use super::*;
    use crate::handover::Standing;
    use crate::ipc::meeting::both_ends as pair;

    fn frozen(output: Vec<u8>) -> Frozen {
        let (state, input, proxy) = (b"st".to_vec(), b"in".to_vec(), b"proxy\n".to_vec());
        Frozen { standing: Standing::default(), state, input, output, proxy, layer: b"keys".to_vec().into() }
    }

    /// A connection, and its peer.
    fn connection() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        (listener.accept().expect("accepted").0.into(), peer)
    }

    fn null() -> OwnedFd {
        fs::File::open("/dev/null").expect("open").into()
    }

    fn offer(output_bytes: usize) -> (Vec<Frozen>, Offer) {
        let members: Vec<Frozen> = (0..3).map(|member| frozen(vec![member; output_bytes])).collect();
        let member = |(place, frozen)| Member { frozen, is_fresh: true, partner: [None, Some(2), Some(1)][place] };
        let references: Vec<Member<'_>> = members.iter().enumerate().map(member).collect();
        let format = StateFormat { name: "format", version: 3 };
        let offer = Offer::new(7, format, &references, (0..3).map(|_| connection().0).collect()).expect("made");
        (members, offer)
    }

    #[test]
    fn what_is_offered_arrives_however_much_it_is() {
        let (mut sender, mut receiver) = pair();
        for output_bytes in [0, 1, INLINE_BYTES_MAX / 3 - 14, INLINE_BYTES_MAX / 3, 20_000_000] {
            let (members, offer) = offer(output_bytes);
            assert!(offer.bytes > 3 * (output_bytes + 14), "all bytes count");
            sender.offer(offer).expect("said");
            let Heard::Offer(arrival) = receiver.hear() else { panic!("no offer of {output_bytes}") };
            assert_eq!((arrival.batch, arrival.format.as_str(), arrival.format_version), (7, "format", 3));
            assert!(arrival.has_all_descriptors());
            let arrived: Vec<Arrived> = arrival.into_connections().map(|one| one.expect("read")).collect();
            assert!(arrived.iter().map(|one| &one.frozen).eq(members.iter()), "{output_bytes}");
            assert!(matches!(receiver.hear(), Heard::Nothing));
        }
    }

    /// Binaries that would misread a connection refuse its offer.
    #[test]
    fn an_offer_has_the_version_that_its_connections_need() {
        let plain = Frozen { layer: LayerState::default(), ..frozen(Vec::new()) };
        let outbound_layer = Some("upstream".into());
        let outbound = Standing { outbound_layer, ..Standing::default() };
        for (frozen, partner, version) in [
            (plain.clone(), None, VERSION),
            (plain, Some(0), VERSION_WITH_PAIRS),
            (frozen(Vec::new()), Some(0), VERSION_WITH_LAYERS),
            (Frozen { standing: outbound, ..frozen(Vec::new()) }, None, VERSION_WITH_OUTBOUND_LAYERS),
        ] {
            let (mut sender, mut receiver) = pair();
            let format = StateFormat { name: "format", version: 3 };
            let member = Member { frozen: &frozen, is_fresh: true, partner };
            sender.offer(Offer::new(7, format, &[member], vec![connection().0]).expect("made")).expect("said");
            let Heard::Offer(arrival) = receiver.hear() else { panic!("no offer") };
            assert_eq!(arrival.version, version);
            let arrived = arrival.into_connections().next().expect("one").expect("read");
            assert_eq!(arrived.frozen, frozen);
        }
    }

    #[test]
    fn without_its_file_an_offer_has_not_all_descriptors() {
        let (mut sender, mut receiver) = pair();
        let (_, mut offer) = offer(INLINE_BYTES_MAX);
        drop(offer.descriptors.pop());
        sender.offer(offer).expect("said");
        let Heard::Offer(arrival) = receiver.hear() else { panic!("no offer") };
        assert!(!arrival.has_all_descriptors());
    }

    /// What the receiver gets from an offer of 48 KiB whose bytes are in this file.
    fn heard_of(file: OwnedFd) -> Heard {
        let (mut sender, mut receiver) = pair();
        let (_, mut offer) = offer(INLINE_BYTES_MAX);
        *offer.descriptors.last_mut().expect("a file") = file;
        sender.offer(offer).expect("said");
        receiver.hear()
    }

    #[test]
    fn a_file_that_is_not_as_announced_ends_the_channel() {
        let zeroes = vec![0; 3 * (INLINE_BYTES_MAX + 14)];
        let make = |bytes: &[u8], seals: SealFlag| {
            let file = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).expect("a file");
            (&fs::File::from(file.try_clone().expect("a copy"))).write_all(bytes).expect("written");
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
            file
        };
        assert!(matches!(heard_of(make(&zeroes, descriptors::SEALS)), Heard::Offer(_)));
        assert!(matches!(heard_of(make(&zeroes[1..], descriptors::SEALS)), Heard::End), "too few bytes");
        assert!(matches!(heard_of(make(&[&zeroes[..], b"more"].concat(), descriptors::SEALS)), Heard::End));
        let others = [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW];
        for missing in others {
            assert!(matches!(heard_of(make(&zeroes, descriptors::SEALS - missing)), Heard::End), "{missing:?}");
        }
        assert!(matches!(heard_of(null()), Heard::End));
    }

    #[test]
    fn more_bytes_than_may_be_end_the_channel() {
        let (mut sender, mut receiver) = pair();
        let file = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).expect("a file");
        fs::File::from(file.try_clone().expect("a copy")).set_len(OFFER_BYTES_MAX as u64 + 1).expect("grown");
        fcntl(&file, FcntlArg::F_ADD_SEALS(descriptors::SEALS)).expect("sealed");
        let large = |output_bytes: usize| {
            let lengths = format!("\"state_bytes\":0,\"input_bytes\":0,\"output_bytes\":{output_bytes}");
            let head = format!(
                "{{\"message\":\"offer\",\"version\":{VERSION},\"batch\":1,\"has_file\":true,\"format\":\"format\",\
                 \"format_version\":3,\"connections\":[{{\"standing\":{{}},{lengths}}}]}}"
            );
            [&(head.len() as u32).to_le_bytes()[..], head.as_bytes()].concat()
        };
        for output_bytes in [OFFER_BYTES_MAX + 1, usize::MAX] {
            let (descriptors, bytes) = (vec![connection().0, file.try_clone().expect("a copy")], output_bytes);
            let offer = Offer { packet: large(output_bytes).into(), descriptors, bytes };
            sender.offer(offer).expect("said");
            assert!(matches!(receiver.hear(), Heard::End), "{output_bytes}");
        }
    }

    #[test]
    fn what_is_no_connection_is_refused_and_others_are_not() {
        let (mut sender, mut receiver) = pair();
        let (members, mut offer) = offer(1);
        offer.descriptors[1] = null();
        sender.offer(offer).expect("said");
        let Heard::Offer(arrival) = receiver.hear() else { panic!("no offer") };
        let arrived: Vec<_> = arrival.into_connections().map(|one| one.map(|one| one.frozen)).collect();
        assert_eq!(arrived, [Ok(members[0].clone()), Err(Refusal::Descriptors), Ok(members[2].clone())]);
    }
}
