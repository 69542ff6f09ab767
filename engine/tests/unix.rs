//! Unix sockets at both ends of a worker: it listens on one, and connects to one.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use baton::{Endpoint, Io, Peer, Protocol, Reject, Server, Step, UnixUser, Worker};

const PATIENCE: Duration = Duration::from_secs(20);

/// Connects at its start, and reports the peers at both ends.
struct Knocks {
    upstream: Endpoint,
    nowhere: Endpoint,
    events: mpsc::Sender<Event>,
}

#[derive(Debug, PartialEq)]
enum Event {
    Opened { token: Option<u64>, user: Option<UnixUser>, has_address: bool },
    Failed(u64, io::ErrorKind),
}

impl Protocol for Knocks {
    type Connection = ();
    type Message = ();

    fn on_start(&mut self, worker: &mut Worker<'_, ()>) -> io::Result<()> {
        worker.connect(self.upstream, 7);
        worker.connect(self.nowhere, 8);
        Ok(())
    }

    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<(), Reject> {
        let (token, user, has_address) = (peer.outbound_token(), peer.unix_user(), peer.address().is_ok());
        let _ = self.events.send(Event::Opened { token, user, has_address });
        io.write(b"hello");
        Ok(())
    }

    fn on_data(&mut self, _: &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        io.write_input(input);
        Step::more(input.len())
    }

    fn on_connect_failed(&mut self, token: u64, error: io::Error, _: &mut Worker<'_, ()>) {
        let _ = self.events.send(Event::Failed(token, error.kind()));
    }
}

#[test]
fn a_worker_listens_on_and_connects_to_unix_sockets() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let endpoint = |name: &str| format!("unix:{}", at(name).display()).parse::<Endpoint>().expect("a path");
    let upstream = UnixListener::bind(at("upstream")).expect("bound");
    let (events, heard) = mpsc::channel();
    let protocol = Knocks { upstream: endpoint("upstream"), nowhere: endpoint("nowhere"), events };
    let (sender, receiver) = mpsc::channel();
    let server = Server::builder().listen(endpoint("own")).build().expect("valid");
    let worker = thread::spawn(move || {
        server.run_on_this_thread(|| protocol, move |running| sender.send(running).expect("heard"))
    });
    let running = receiver.recv_timeout(PATIENCE).expect("it starts");
    assert_eq!(running.addresses(), [endpoint("own")]);

    let (mut accepted, _) = upstream.accept().expect("it connects");
    let mut client = UnixStream::connect(at("own")).expect("it listens");
    let mut came: Vec<Event> = (0..3).map(|_| heard.recv_timeout(PATIENCE).expect("an event")).collect();
    came.sort_by_key(|event| match event {
        Event::Opened { token, .. } => token.unwrap_or(0),
        Event::Failed(token, _) => *token,
    });
    let this = UnixUser {
        process: std::process::id() as i32,
        user: nix::unistd::getuid().as_raw(),
        group: nix::unistd::getgid().as_raw(),
    };
    let opened = |token| Event::Opened { token, user: Some(this), has_address: false };
    assert_eq!(came, [opened(None), opened(Some(7)), Event::Failed(8, io::ErrorKind::NotFound)]);
    for stream in [&mut accepted, &mut client] {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.write_all(b" you").expect("sent");
        let mut all = [0; 9];
        stream.read_exact(&mut all).expect("read");
        assert_eq!(&all, b"hello you");
    }
    running.stop();
    worker.join().expect("it ends").expect("in order");
    assert!(!at("own").exists(), "the path goes with the server");
}
