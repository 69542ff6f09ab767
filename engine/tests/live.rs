//! The worker's loop on a real ring and real sockets, one worker on a thread of the test.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use baton::config::{ConnectionTimeouts, Limits, Listener, Timeouts};
use baton::telemetry::Snapshot;
use baton::{
    Builder, CloseReason, Io, Mailbox, Next, Peer, Protocol, Reject, Running, Server, ServerError, Step, Telemetry,
    TimerKey, Worker,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The first byte of a connection: `e` echo all; `q` answer each byte and finish; `b` a megabyte and finish; `p` the
/// addresses of both ends and close; `l` a line of 100,000 bytes read whole, then echoed; `k` answer, and keep the
/// connection when the peer has ended its side; `h` the same, and do not read any more.
#[derive(Default)]
struct Talker {
    mailbox: Option<mpsc::Sender<Mailbox<Order>>>,
    events: Option<mpsc::Sender<String>>,
}

enum Order {
    Say(&'static str),
    Connect(SocketAddr, u64),
    ConnectFrom(IpAddr, SocketAddr, u64),
}

struct Talk {
    mode: u8,
    address: String,
    outbound: Option<u64>,
}

impl Talker {
    fn tell(&self, event: String) {
        if let Some(events) = &self.events {
            let _ = events.send(event);
        }
    }
}

impl Protocol for Talker {
    type Connection = Talk;
    type Message = Order;

    fn on_start(&mut self, worker: &mut Worker<'_, Order>) -> io::Result<()> {
        if let Some(sender) = &self.mailbox {
            let _ = sender.send(worker.mailbox());
        }
        Ok(())
    }

    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<Talk, Reject> {
        if let Some(token) = peer.outbound_token() {
            io.write(b"hello from the worker");
            self.tell(format!("connected {token}"));
        }
        let text =
            |address: io::Result<SocketAddr>| address.map_or_else(|error| error.to_string(), |one| one.to_string());
        let address = format!("{} at {}", text(peer.address()), text(peer.local_address()));
        Ok(Talk { mode: 0, address, outbound: peer.outbound_token() })
    }

    fn on_data(&mut self, talk: &mut Talk, input: &[u8], io: &mut Io<'_>) -> Step {
        if let Some(token) = talk.outbound {
            self.tell(format!("{token} got {}", String::from_utf8_lossy(input)));
            return Step::close(input.len());
        }
        if talk.mode == 0 {
            talk.mode = input[0];
        }
        io.count_requests(1);
        match talk.mode {
            b'e' => io.write_input(input),
            b'q' => {
                io.write(input);
                return Step::finish(input.len());
            }
            b'b' => {
                io.write(&vec![b'b'; 1 << 20]);
                return Step::finish(input.len());
            }
            b'p' => {
                io.write(talk.address.as_bytes());
                return Step::close(input.len());
            }
            b'k' => io.write(b"k"),
            b'h' => {
                io.write(b"h");
                return Step::pause(1);
            }
            b'l' if input.len() < 100_000 => return Step::at_least(0, 100_000),
            b'l' => io.write_input(input),
            _ => return Step::abort(),
        }
        Step::more(input.len())
    }

    fn on_eof(&mut self, talk: &mut Talk, _: &[u8], _: &mut Io<'_>) -> Next {
        if talk.mode == b'k' { Next::Keep } else { Next::Close }
    }

    fn on_message(&mut self, order: Order, worker: &mut Worker<'_, Order>) {
        match order {
            Order::Say(text) => self.tell(format!("heard {text}")),
            Order::Connect(address, token) => worker.connect(address, token),
            Order::ConnectFrom(source, address, token) => worker.connect_from(source, address, token),
        }
    }

    fn on_connect_failed(&mut self, token: u64, error: io::Error, _: &mut Worker<'_, Order>) {
        self.tell(format!("failed {token} {:?}", error.kind()));
    }
}

struct Served {
    running: Option<Running>,
    telemetry: Telemetry,
    thread: JoinHandle<Result<(), ServerError>>,
    address: SocketAddr,
}

impl Served {
    fn start(builder: Builder, talker: Talker) -> Self {
        Self::start_on(Listener::new(([127, 0, 0, 1], 0)), builder, talker)
    }

    fn start_on(listener: Listener, builder: Builder, talker: Talker) -> Self {
        let server = builder.listen_on(listener).build().expect("valid settings");
        let telemetry = server.telemetry();
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            server.run_on_this_thread(|| talker, move |running| sender.send(running).expect("the test waits"))
        });
        let running = receiver.recv_timeout(PATIENCE).expect("the worker starts");
        let address = running.addresses()[0].internet().expect("TCP");
        Self { running: Some(running), telemetry, thread, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    fn snapshot(&self) -> Snapshot {
        self.telemetry.snapshots().remove(0)
    }

    fn wait_for(&self, what: &str, condition: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let start = Instant::now();
        loop {
            let snapshot = self.snapshot();
            if condition(&snapshot) {
                return snapshot;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {snapshot:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(mut self) -> Snapshot {
        drop(self.running.take());
        self.thread.join().expect("no panic").expect("a clean end");
        self.telemetry.snapshots().remove(0)
    }
}

fn ask(stream: &mut TcpStream, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the whole answer, then FIN");
    answer
}

#[test]
fn a_hundred_megabytes_come_back_exact() {
    let served = Served::start(Server::builder(), Talker::default());
    let mut stream = served.connect();
    let mut writer = stream.try_clone().expect("cloned");
    let pattern: Vec<u8> = (0..1_000_003u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let sent = pattern.clone();
    let sender = thread::spawn(move || {
        writer.write_all(b"e").expect("sent");
        for _ in 0..100 {
            writer.write_all(&sent).expect("sent");
        }
        writer.shutdown(Shutdown::Write).expect("shut");
    });
    let mut part = vec![0; pattern.len()];
    stream.read_exact(&mut part[..1]).expect("the first byte");
    for index in 0..100 {
        stream.read_exact(&mut part).expect("a part");
        assert!(part == pattern, "part {index} differs");
    }
    assert_eq!(stream.read(&mut part).expect("the end"), 0);
    sender.join().expect("sent all");
    assert_eq!(served.stop().bytes_sent, 100 * 1_000_003 + 1);
}

#[test]
fn one_request_a_connection_loses_nobody_and_leaks_nothing() {
    let served = Served::start(Server::builder(), Talker::default());
    for _ in 0..500 {
        assert_eq!(ask(&mut served.connect(), b"q"), b"q");
    }
    let snapshot = served.wait_for("all are closed", |snapshot| snapshot.open == 0);
    assert_eq!((snapshot.accepted, snapshot.requests), (500, 500));
    assert_eq!(snapshot.closed[CloseReason::Protocol as usize].1, 500);
    served.stop();
}

#[test]
fn an_answer_larger_than_the_window_arrives_whole_before_the_close() {
    let served = Served::start(Server::builder(), Talker::default());
    let mut stream = served.connect();
    stream.write_all(b"b").expect("sent");
    served.wait_for("the window is full", |snapshot| snapshot.bytes_sent > 0);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("whole");
    assert_eq!(answer.len(), 1 << 20);
    served.stop();
}

#[test]
fn the_addresses_of_both_ends_are_known() {
    let served = Served::start_on(Listener::new(([0, 0, 0, 0], 0)), Server::builder(), Talker::default());
    let mut stream = TcpStream::connect(("127.0.0.9", served.address.port())).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(b"p").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then FIN while we have not closed");
    let (peer, local) = (stream.local_addr().expect("bound"), stream.peer_addr().expect("connected"));
    assert_eq!(answer, format!("{peer} at {local}"));
    assert_eq!(local.ip(), IpAddr::from([127, 0, 0, 9]));
    served.stop();
}

#[test]
fn only_trusted_proxies_say_whose_connection_theirs_is() {
    let trusted_proxies = vec!["127.0.0.2".parse().expect("a network")];
    let timeouts = ConnectionTimeouts { message_ms: Some(300), ..ConnectionTimeouts::default() };
    let listener = Listener { trusted_proxies, timeouts, ..Listener::new(([127, 0, 0, 1], 0)) };
    let served = Served::start_on(listener, Server::builder(), Talker::default());
    let connect_from = |source: [u8; 4]| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("bound");
        socket.connect(&served.address.into()).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        TcpStream::from(socket)
    };
    let kind = |result: io::Result<usize>| result.expect_err("reset").kind();

    let mut untrusted = connect_from([127, 0, 0, 1]);
    assert_eq!(kind(untrusted.read(&mut [0])), io::ErrorKind::ConnectionReset);
    let mut proxy = connect_from([127, 0, 0, 2]);
    proxy.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 4096 443\r\np").expect("sent");
    let mut answer = String::new();
    proxy.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, format!("192.0.2.7:4096 at {}", served.address));
    // As HAProxy checks whether the port is open.
    for _ in 0..20 {
        let look = connect_from([127, 0, 0, 2]);
        socket2::SockRef::from(&look).set_linger(Some(Duration::ZERO)).expect("set");
    }
    let mut wrong = connect_from([127, 0, 0, 2]);
    wrong.write_all(b"p").expect("sent");
    assert_eq!(kind(wrong.read(&mut [0])), io::ErrorKind::ConnectionReset);
    let mut late = connect_from([127, 0, 0, 2]);
    late.write_all(b"PROXY").expect("sent");
    assert_eq!(kind(late.read(&mut [0])), io::ErrorKind::ConnectionReset);
    let mut first_speaks_late = connect_from([127, 0, 0, 2]);
    thread::sleep(Duration::from_millis(50));
    first_speaks_late.write_all(b"PROXY UNKNOWN\r\np").expect("sent");
    answer.clear();
    first_speaks_late.read_to_string(&mut answer).expect("an answer");
    let own = first_speaks_late.local_addr().expect("bound");
    assert_eq!(answer, format!("{own} at {}", served.address));
    assert_eq!(served.stop().closed[CloseReason::ProxyHeader as usize].1, 3);
}

#[test]
fn listeners_have_their_own_time_outs() {
    let timeouts = ConnectionTimeouts { idle_ms: Some(50), ..ConnectionTimeouts::default() };
    let hurried = Listener { timeouts, ..Listener::new(([127, 0, 0, 1], 0)) };
    let builder = Server::builder().listen(([127, 0, 0, 2], 0));
    let served = Served::start_on(hurried, builder, Talker::default());
    let running = served.running.as_ref().expect("it runs");
    let mut patient = TcpStream::connect(running.addresses()[0]).expect("connected");
    let mut hurried = TcpStream::connect(running.addresses()[1]).expect("connected");
    let snapshot = served.wait_for("one is idle for too long", |snapshot| snapshot.open == 1);
    assert_eq!(snapshot.closed[CloseReason::IdleTimeout as usize].1, 1);
    assert_eq!(hurried.read(&mut [0]).expect("FIN"), 0);
    patient.write_all(b"e").expect("sent");
    patient.read_exact(&mut [0]).expect("it lives");
    served.stop();
}

#[test]
fn at_the_connection_limit_the_backlog_waits_and_nobody_is_refused() {
    let limits = Limits { connections_max: 4, ..Limits::default() };
    let timeouts = Timeouts { idle_at_limit_ms: 0, ..Timeouts::default() };
    let served = Served::start(Server::builder().limits(limits).timeouts(timeouts), Talker::default());
    let mut clients: Vec<TcpStream> = (0..12).map(|_| served.connect()).collect();
    for client in &mut clients {
        client.write_all(b"e").expect("sent");
    }
    served.wait_for("four are open", |snapshot| snapshot.open == 4);
    assert!(served.snapshot().accept_pauses > 0);
    let mut served_count = 0;
    while let Some(mut client) = (!clients.is_empty()).then(|| clients.remove(0)) {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("each is served in its turn");
        served_count += 1;
        assert!(served.snapshot().open <= 4);
    }
    assert_eq!(served_count, 12);
    assert_eq!(served.stop().accepted, 12);
}

#[test]
fn running_out_of_buffers_slows_down_and_loses_nothing() {
    let limits = Limits { receive_buffers: 2, receive_buffer_bytes: 1024, ..Limits::default() };
    let served = Served::start(Server::builder().limits(limits), Talker::default());
    let mut clients: Vec<TcpStream> = (0..32).map(|_| served.connect()).collect();
    let message: Vec<u8> = [b"e".as_slice(), &[7; 30_000]].concat();
    for client in &mut clients {
        client.write_all(&message).expect("sent");
    }
    for client in &mut clients {
        let mut answer = vec![0; message.len()];
        client.read_exact(&mut answer).expect("whole");
        assert!(answer == message);
    }
    drop(clients);
    assert!(served.stop().buffers_exhausted > 0, "two buffers cannot have been enough");
}

#[test]
fn a_message_in_many_pieces_is_seen_whole() {
    let served = Served::start(Server::builder(), Talker::default());
    let mut stream = served.connect();
    let message = [b"l".as_slice(), &vec![b'x'; 99_999]].concat();
    for piece in message.chunks(9_000) {
        stream.write_all(piece).expect("sent");
    }
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer).expect("whole");
    assert!(answer == message);
    assert_eq!(served.stop().requests, 2, "called with the first piece, and with the whole");
}

#[test]
fn disconnects_at_any_moment_leave_nothing_behind() {
    let timeouts = Timeouts { linger_ms: 50, ..Timeouts::default() };
    let served = Served::start(Server::builder().timeouts(timeouts), Talker::default());
    // The first connection allocates what is kept.
    assert_eq!(ask(&mut served.connect(), b"q"), b"q");
    served.wait_for("closed", |snapshot| snapshot.open == 0);
    for round in 0..400u32 {
        let stream = served.connect();
        let socket = socket2::SockRef::from(&stream);
        let _ = (&stream).write_all(&b"eqbpl!"[round as usize % 6..][..1]);
        match round % 5 {
            0 => socket.set_linger(Some(Duration::ZERO)).expect("set"),
            // The server may have cut it already.
            1 => drop(stream.shutdown(Shutdown::Write)),
            2 => {
                let _ = (&stream).write_all(&[b'x'; 5_000]);
            }
            3 => {
                stream.set_nonblocking(true).expect("set");
                let _ = (&stream).read(&mut [0; 10]);
            }
            _ => {}
        }
    }
    let snapshot = served.wait_for("all are closed", |snapshot| snapshot.open == 0 && snapshot.accepted == 401);
    assert_eq!(snapshot.closed.iter().map(|(_, count)| count).sum::<u64>(), 401);
    assert_eq!(ask(&mut served.connect(), b"q"), b"q", "service goes on");
    served.stop();
}

#[test]
fn threads_reach_the_worker_and_the_worker_reaches_others() {
    let (mailboxes, mailbox) = mpsc::channel();
    let (events, heard) = mpsc::channel();
    let served = Served::start(Server::builder(), Talker { mailbox: Some(mailboxes), events: Some(events) });
    let mailbox = mailbox.recv_timeout(PATIENCE).expect("a mailbox");
    let next = || heard.recv_timeout(PATIENCE).expect("an event");

    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mailbox = mailbox.clone();
            thread::spawn(move || (0..100).for_each(|_| mailbox.send(Order::Say("hello")).expect("open")))
        })
        .collect();
    assert!((0..400).all(|_| next() == "heard hello"));
    threads.into_iter().for_each(|thread| thread.join().expect("sent"));

    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let there = listener.local_addr().expect("bound");
    mailbox.send(Order::Connect(there, 7)).expect("open");
    let (mut far_end, _) = listener.accept().expect("accepted");
    let mut greeting = [0; 21];
    far_end.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting, b"hello from the worker");
    assert_eq!(next(), "connected 7");
    far_end.write_all(b"welcome").expect("sent");
    assert_eq!(next(), "7 got welcome");
    assert_eq!(far_end.read(&mut greeting).expect("FIN"), 0);

    let source = IpAddr::from([127, 0, 0, 99]);
    mailbox.send(Order::ConnectFrom(source, there, 9)).expect("open");
    assert_eq!(listener.accept().expect("accepted").1.ip(), source);
    assert_eq!(next(), "connected 9");

    drop(listener);
    mailbox.send(Order::Connect(there, 8)).expect("open");
    assert_eq!(next(), "failed 8 ConnectionRefused");
    mailbox.send(Order::ConnectFrom(IpAddr::from([192, 0, 2, 1]), there, 10)).expect("open");
    assert_eq!(next(), "failed 10 AddrNotAvailable");
    assert_eq!(served.stop().connected, 2);
    assert!(mailbox.send(Order::Say("too late")).is_err());
}

#[test]
fn a_connection_that_is_not_established_in_time_is_given_up() {
    // A listener whose queue is full accepts no more handshakes.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
    full.listen(0).expect("listening");
    let there = full.local_addr().expect("bound").as_socket().expect("an address");
    let _waiting = TcpStream::connect(there).expect("queued");
    let (mailboxes, mailbox) = mpsc::channel();
    let (events, heard) = mpsc::channel();
    let timeouts = Timeouts { connect_ms: 50, ..Timeouts::default() };
    let talker = Talker { mailbox: Some(mailboxes), events: Some(events) };
    let served = Served::start(Server::builder().timeouts(timeouts), talker);
    let mailbox = mailbox.recv_timeout(PATIENCE).expect("a mailbox");
    mailbox.send(Order::Connect(there, 5)).expect("open");
    assert_eq!(heard.recv_timeout(PATIENCE).expect("told"), "failed 5 TimedOut");
    assert_eq!(served.stop().connected, 0);
}

#[test]
fn a_drain_serves_those_who_wait_in_the_backlog() {
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let served = Served::start(Server::builder().limits(limits), Talker::default());
    let mut first = served.connect();
    first.write_all(b"e").expect("sent");
    served.wait_for("one is open", |snapshot| snapshot.open == 1);
    let mut waiting = served.connect();
    waiting.write_all(b"q").expect("sent");
    let telemetry = served.stop();
    let mut answer = Vec::new();
    let _ = waiting.read_to_end(&mut answer);
    assert_eq!(telemetry.accepted, 2, "the second was taken from the backlog before the listener closed");
    assert_eq!(first.read(&mut [0; 8]).expect("its echo"), 1);
}

/// A watch for a reset once ended at once, again and again, if the peer had sent FIN.
#[test]
fn one_that_has_sent_fin_costs_nothing_and_its_reset_is_noticed() {
    let served = Served::start(Server::builder(), Talker::default());
    for request in [&b"k"[..], b"h", b"h and more"] {
        let mut stream = served.connect();
        stream.write_all(request).expect("sent");
        stream.read_exact(&mut [0]).expect("an answer");
        stream.shutdown(Shutdown::Write).expect("shut");
        let mut before = served.snapshot().turns;
        // Wait until the FIN has arrived and is fully handled.
        let begin = Instant::now();
        loop {
            thread::sleep(Duration::from_millis(200));
            let turns = served.snapshot().turns;
            if turns - before <= 10 {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "the worker turns and turns: {} times in 200 ms", turns - before);
            before = turns;
        }
        let snapshot = served.snapshot();
        assert_eq!(snapshot.open, 1, "{request:?}: {snapshot:?}");
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
        drop(stream);
        served.wait_for("the reset is noticed", |snapshot| snapshot.open == 0);
    }
    served.stop();
}

#[test]
fn the_address_is_free_again_after_the_end() {
    let served = Served::start(Server::builder(), Talker::default());
    let address = served.address;
    ask(&mut served.connect(), b"q");
    served.stop();
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    listener.set_reuse_address(true).expect("set");
    listener.bind(&address.into()).expect("nothing listens there any more");
}

/// Sets a timer when it starts, and leaves when the timer fires.
struct Alarm;

impl Protocol for Alarm {
    type Connection = ();
    type Message = ();

    fn on_start(&mut self, worker: &mut Worker<'_, ()>) -> io::Result<()> {
        worker.set_timer(TimerKey(0), Duration::from_millis(1));
        Ok(())
    }

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], _: &mut Io<'_>) -> Step {
        Step::more(input.len())
    }

    fn on_worker_timer(&mut self, _: TimerKey, worker: &mut Worker<'_, ()>) {
        worker.drain();
    }
}

#[test]
fn a_timer_that_is_set_at_the_start_fires_where_nothing_else_happens() {
    let (say, hear) = mpsc::channel();
    let thread = thread::spawn(move || {
        let server = Server::builder().build().expect("good settings");
        // Dropping the handle orders the worker to leave.
        server.run_on_this_thread(|| Alarm, |running| say.send(running).expect("somebody waits"))
    });
    let running = hear.recv_timeout(PATIENCE).expect("it runs");
    let begin = Instant::now();
    while !thread.is_finished() {
        assert!(begin.elapsed() < PATIENCE, "the timer has not fired");
        thread::sleep(Duration::from_millis(1));
    }
    thread.join().expect("no panic").expect("a good end");
    drop(running);
}
