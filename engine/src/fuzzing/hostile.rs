//! A worker in a thread of this process, and other workers that send it what they must not.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::workers::Timed;
use crate::config::Settings;
use crate::handover::limits::GIVE_MS_MAX;
use crate::handover::{Frozen, LayerState, Message, Refusal, Standing, VERSION};
use crate::ipc::channel::{self, hear_with, tell};
use crate::ipc::meeting::{speak, visit};
use crate::ipc::orders::{Order, Report};
use crate::ipc::transfer::{Channel, Heard, Member, Offer};
use crate::messages::{self, Answer, Misfit, Word};
use crate::protocol::Protocol;
use crate::sys::channel::send;
use crate::sys::shared_memory::Shared;
use crate::telemetry::WorkerPage;
use crate::types::CloseReason;
use crate::worker::{Listeners, Setup, run};

/// Time within which an expected event happens, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(20);

struct Victim {
    control: OwnedFd,
    door: OwnedFd,
    page: Arc<Shared<WorkerPage>>,
    thread: JoinHandle<()>,
}

impl Victim {
    fn start() -> Self {
        let (control, theirs) = channel::pair().expect("a pair");
        let page = Arc::new(Shared::new().expect("memory"));
        let setup = Setup {
            slot: 0,
            generation: 1,
            core: None,
            settings: Settings::default(),
            listeners: Listeners::default(),
            steering: Vec::new(),
            loads: Default::default(),
            page: Arc::clone(&page),
            control: theirs,
            identity: None,
            access_log: None,
            rendezvous: None,
            succeeds: false,
            signals: true,
        };
        let thread = thread::spawn(|| run(setup, || Timed).expect("it runs"));
        let door = wait(|| match hear_with(&control).expect("heard") {
            (channel::Heard::Message(Report::Ready { .. }), door) => Some(door.expect("it can be met")),
            _ => None,
        });
        Self { control, door, page, thread }
    }

    fn visit(&self) -> Channel {
        visit(self.door.as_fd()).expect("it is open")
    }

    fn stop(self) {
        tell(&self.control, &Order::Stop).expect("told");
        self.thread.join().expect("it ends in good order");
    }
}

/// # Panics
/// If the event does not happen.
fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "it did not come about");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The next message on a channel.
fn next(channel: &mut Channel) -> Heard {
    wait(|| match channel.hear() {
        Heard::Nothing => None,
        heard => Some(heard),
    })
}

/// An offer of one connection, with its peer.
fn offer(batch: u64) -> (Offer, TcpStream) {
    let (standing, state) = (Standing::default(), vec![1]);
    offer_of(
        batch,
        &Frozen {
            standing,
            state,
            input: Vec::new(),
            output: Vec::new(),
            proxy: Vec::new(),
            layer: LayerState::default(),
        },
    )
}

fn offer_of(batch: u64, frozen: &Frozen) -> (Offer, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (connection, _) = listener.accept().expect("accepted");
    let format = Timed::STATE.expect("it can be handed over");
    let member = Member { frozen, is_fresh: false, partner: None };
    (Offer::new(batch, format, &[member], vec![connection.into()]).expect("made"), peer)
}

#[test]
fn what_is_never_given_is_dropped_in_time() {
    let victim = Victim::start();
    let mut channel = victim.visit();
    let (offer, _peer) = offer(1);
    channel.offer(offer).expect("said");
    assert!(matches!(next(&mut channel), Heard::Takes { batch: 1, refused, .. } if refused.is_empty()));
    let begun = Instant::now();
    assert!(matches!(next(&mut channel), Heard::End));
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(GIVE_MS_MAX - 1_000), "{waited:?}: the sender may have been slow");
    assert!(channel.say(&Message::Gives { batch: 1 }).is_err(), "it cannot be given any more");
    assert_eq!(victim.page.snapshot().taken_over, 0);
    victim.stop();
}

#[test]
fn what_is_given_in_time_is_kept() {
    let victim = Victim::start();
    let mut channel = victim.visit();
    for batch in 1..=20 {
        let (offer, _peer) = offer(batch);
        channel.offer(offer).expect("said");
        assert!(matches!(next(&mut channel), Heard::Takes { refused, .. } if refused.is_empty()));
        channel.say(&Message::Gives { batch }).expect("said");
    }
    wait(|| (victim.page.snapshot().taken_over == 20).then_some(()));
    victim.stop();
}

/// Another worker claims that a proxy has sent a header, or will send one.
#[test]
fn headers_of_proxies_are_believed_if_they_are_some() {
    let victim = Victim::start();
    let mut channel = victim.visit();
    let (state, output) = (vec![1], Vec::new());
    let whole = b"PROXY TCP4 192.0.2.7 198.51.100.1 4096 443\r\n";
    let too_long = [b"\r\n\r\n\0\r\nQUIT\n\x21\0\xff\xff".as_slice(), &[0; 0xffff]].concat();
    let cases: [(&[u8], Option<Refusal>); 5] = [
        (whole, None),
        (b"nonsense", Some(Refusal::State)),
        (&whole[1..], Some(Refusal::State)),
        (&whole[..20], Some(Refusal::State)),
        (&too_long, Some(Refusal::State)),
    ];
    for (batch, (proxy, expected)) in (1..).zip(cases) {
        let (state, output, proxy) = (state.clone(), output.clone(), proxy.to_vec());
        let (input, layer) = (Vec::new(), LayerState::default());
        let frozen = Frozen { standing: Standing::default(), state, input, output, proxy, layer };
        let (offer, _peer) = offer_of(batch, &frozen);
        channel.offer(offer).expect("said");
        let Heard::Takes { refused, .. } = next(&mut channel) else { panic!("no answer") };
        assert_eq!(refused, expected.map(|refusal| (0, refusal)).into_iter().collect::<Vec<_>>());
        channel.say(&Message::Gives { batch }).expect("said");
    }
    for (batch, input) in (10..).zip([&whole[..], &whole[..20], b"nonsense", b""]) {
        let standing =
            Standing { awaits_header: true, full: true, paused: true, peer_ended: true, ..Standing::default() };
        let (state, output, input) = (state.clone(), b"unsent".to_vec(), input.to_vec());
        let (offer, _peer) = offer_of(
            batch,
            &Frozen { standing, state, input, output, proxy: Vec::new(), layer: LayerState::default() },
        );
        channel.offer(offer).expect("said");
        assert!(matches!(next(&mut channel), Heard::Takes { refused, .. } if refused.is_empty()));
        channel.say(&Message::Gives { batch }).expect("said");
    }
    let closed = |reason: CloseReason| victim.page.snapshot().closed[reason as usize].1;
    wait(|| (closed(CloseReason::ProxyHeader) == 2 && closed(CloseReason::Peer) >= 1).then_some(()));
    victim.stop();
}

#[test]
fn whoever_talks_without_end_does_not_keep_others_waiting() {
    let victim = Victim::start();
    let talkers: Vec<JoinHandle<()>> = (0..2)
        .map(|_| {
            let mut channel = victim.visit();
            thread::spawn(move || while channel.say_waiting(&Message::Unknown, b"").is_ok() {})
        })
        .collect();
    let mut channel = victim.visit();
    let (offer, _peer) = offer(1);
    channel.offer(offer).expect("said");
    assert!(matches!(next(&mut channel), Heard::Takes { refused, .. } if refused.is_empty()));
    victim.stop();
    talkers.into_iter().for_each(|talker| talker.join().expect("its channel has ended"));
}

/// Introduces itself as another worker would.
fn hello(name: u32, format: &str) -> Word {
    Word::Hello {
        version: messages::VERSION,
        name: format!("{name:032x}"),
        slot: 1,
        generation: 1,
        format: format.to_owned(),
        format_version: 1,
    }
}

/// The answer; `None` if the channel has ended.
fn answer(channel: &OwnedFd) -> Option<Answer> {
    wait(|| match hear_with::<Answer>(channel).expect("heard") {
        (channel::Heard::Nothing, _) => None,
        (channel::Heard::Message(answer), _) => Some(Some(answer)),
        (channel::Heard::End, _) => Some(None),
    })
}

fn message(number: u64, text: &[u8]) -> Vec<u8> {
    let length = (text.len() as u32).to_le_bytes();
    [b"m", &number.to_le_bytes()[..], &length, text].concat()
}

#[test]
fn whoever_speaks_nonsense_is_heard_no_more_and_others_are() {
    let victim = Victim::start();
    let honest = speak(victim.door.as_fd()).expect("it is open");
    tell(&honest, &hello(1, "timed")).expect("told");
    assert_eq!(answer(&honest), Some(Answer::Welcome));
    let first: [&[u8]; 5] = [b"{", b"m", &message(1, b"before who it is"), b"?", &[b'p'; 64 << 10]];
    for packet in first {
        let channel = speak(victim.door.as_fd()).expect("it is open");
        send(channel.as_fd(), packet, &[]).expect("sent");
        assert_eq!(answer(&channel), None, "{:?}", &packet[..packet.len().min(20)]);
    }
    for (hello, expected) in [
        (hello(1, "timed"), None),
        (hello(2, "other"), Some(Answer::Refused { why: Misfit::Format })),
        (Word::Unknown, None),
    ] {
        let channel = speak(victim.door.as_fd()).expect("it is open");
        tell(&channel, &hello).expect("told");
        assert_eq!(answer(&channel), expected, "{hello:?}");
    }
    let later: [&[u8]; 4] = [b"m", &message(1, b"the same number"), &message(0, b"a lower one"), b"pxxxxxxxxxxxxxxxxx"];
    for (name, packet) in (10..).zip(later) {
        let channel = speak(victim.door.as_fd()).expect("it is open");
        tell(&channel, &hello(name, "timed")).expect("told");
        assert_eq!(answer(&channel), Some(Answer::Welcome));
        send(channel.as_fd(), &message(1, b"one"), &[]).expect("sent");
        send(channel.as_fd(), packet, &[]).expect("sent");
        assert_eq!(answer(&channel), None, "{packet:?}");
    }
    let heard = victim.page.snapshot().sibling_messages_heard;
    send(honest.as_fd(), &message(1, b"one"), &[]).expect("sent");
    wait(|| (victim.page.snapshot().sibling_messages_heard > heard).then_some(()));
    victim.stop();
}

#[test]
fn whoever_speaks_without_end_does_not_keep_others_waiting() {
    let victim = Victim::start();
    let talkers: Vec<JoinHandle<()>> = (1..3)
        .map(|name| {
            let channel = speak(victim.door.as_fd()).expect("it is open");
            tell(&channel, &hello(name, "timed")).expect("told");
            thread::spawn(move || {
                for number in 1.. {
                    match send(channel.as_fd(), &message(number, b"again"), &[]) {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                        _ => {}
                    }
                }
            })
        })
        .collect();
    let mut channel = victim.visit();
    let (offer, _peer) = offer(1);
    channel.offer(offer).expect("said");
    assert!(matches!(next(&mut channel), Heard::Takes { refused, .. } if refused.is_empty()));
    victim.stop();
    talkers.into_iter().for_each(|talker| talker.join().expect("its channel has ended"));
}

#[test]
fn state_is_brought_once_at_most() {
    let victim = Victim::start();
    let mut channel = victim.visit();
    let begin = Message::State { version: VERSION, format: "other".to_owned(), format_version: 1 };
    channel.say(&begin).expect("said");
    channel.say(&Message::StateEnd { bytes: 0, is_whole: true }).expect("said");
    let (answer, _) = channel.hear_waiting(PATIENCE.as_millis() as u64, &|| {}).expect("an answer");
    assert!(matches!(answer, Message::StateTaken { refused: Some(_) }), "{answer:?}");
    channel.say(&begin).expect("said");
    let _ = channel.say(&Message::StateEnd { bytes: 0, is_whole: true });
    assert!(channel.hear_waiting(PATIENCE.as_millis() as u64, &|| {}).is_err(), "it was heard again");
    victim.stop();
}
