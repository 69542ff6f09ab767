//! The clients of a control socket. Nothing here blocks: a client that is slow, silent or sends too much is dropped, and the
//! number of clients is bounded.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

use super::{Event, Failure, REPLY_BYTES_MAX, Reply, Request};

/// Number of clients at the same time.
const CLIENTS_MAX: usize = 32;

/// Clients that are accepted in one turn: more than can wait at once.
const ACCEPTS_MAX: usize = 256;

/// A request is a short line.
const REQUEST_BYTES_MAX: usize = 4096;

/// Bytes of replies that a client has not read.
const OUTPUT_BYTES_MAX: usize = REPLY_BYTES_MAX;

/// A client that has connected sends its request within this time.
const REQUEST_MS_MAX: u64 = 5_000;

/// The stage of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has sent no request yet.
    Silent,
    /// Its request is under way; it gets events meanwhile.
    Waiting,
    /// It has its last reply, and the connection is closed when that is sent.
    Answered,
}

struct Client {
    id: u64,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    stage: Stage,
    since_ns: u64,
    /// It sends nothing more; it may still read.
    has_ended: bool,
}

/// Input from clients.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The client with this number sends a request, and waits for a reply.
    Request(u64, Request),
    /// A client whose request was under way has gone.
    Gone(u64),
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Clients {
    all: Vec<Client>,
    /// Numbers are never reused: a late answer cannot reach another client.
    next_id: u64,
}

impl Clients {
    /// Descriptors to poll, each with the awaited events.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.all.iter().map(|client| (client.stream.as_fd(), client.awaited()))
    }

    /// When the next silent client is dropped, on CLOCK_MONOTONIC.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let silent = self.all.iter().filter(|client| client.stage == Stage::Silent);
        silent.map(|client| client.since_ns + REQUEST_MS_MAX * 1_000_000).min()
    }

    /// Accepts all waiting clients. If there are too many, the oldest silent client makes room. If none is silent, the
    /// new one is refused.
    pub(crate) fn accept(&mut self, listener: &UnixListener, now_ns: u64, is_worker: impl Fn(u32) -> bool) {
        for _ in 0..ACCEPTS_MAX {
            let Ok((stream, _)) = listener.accept() else { break };
            if stream.set_nonblocking(true).is_err() || !is_permitted(&stream, &is_worker) {
                continue;
            }
            let mut client = Client {
                id: self.next_id,
                stream,
                input: Vec::new(),
                output: Vec::new(),
                stage: Stage::Silent,
                since_ns: now_ns,
                has_ended: false,
            };
            self.next_id += 1;
            if self.all.len() >= CLIENTS_MAX {
                // They are kept in the order of their arrival.
                match self.all.iter().position(|client| client.stage == Stage::Silent) {
                    Some(oldest) => drop(self.all.remove(oldest)),
                    None => {
                        client.answer(&Reply::Failed(Failure::TooManyClients { clients_max: CLIENTS_MAX }));
                        let _ = client.write();
                        continue;
                    }
                }
            }
            self.all.push(client);
        }
    }

    /// Reads the input of all clients.
    pub(crate) fn hear(&mut self, now_ns: u64) -> Vec<Heard> {
        let mut heard = Vec::new();
        self.all.retain_mut(|client| {
            let is_there = client.read(now_ns);
            match client.request() {
                Some(Ok(request)) => {
                    client.stage = Stage::Waiting;
                    heard.push(Heard::Request(client.id, request));
                }
                Some(Err(problem)) => client.answer(&Reply::Failed(Failure::Request { problem })),
                None => {}
            }
            if !is_there && client.stage == Stage::Waiting {
                heard.push(Heard::Gone(client.id));
            }
            is_there
        });
        heard
    }

    /// Sends pending replies and forgets clients that have their last one. Returns those that disconnected while they
    /// waited.
    pub(crate) fn flush(&mut self) -> Vec<u64> {
        let mut gone = Vec::new();
        self.all.retain_mut(|client| {
            let is_there = client.write();
            if !is_there && client.stage == Stage::Waiting {
                gone.push(client.id);
            }
            is_there
        });
        gone
    }

    /// Whether something is still to be sent.
    pub(crate) fn has_output(&self) -> bool {
        self.all.iter().any(|client| !client.output.is_empty())
    }

    /// Replies to a client, if it is still there.
    pub(crate) fn reply(&mut self, id: u64, reply: &Reply) {
        let client = self.all.iter_mut().find(|client| client.id == id);
        client.into_iter().for_each(|client| client.answer(reply));
    }

    /// Sends an event to all clients that wait for something.
    pub(crate) fn tell(&mut self, event: &Event) {
        let reply = Reply::Event(event.clone());
        self.waiting().for_each(|client| client.answer(&reply));
    }

    /// Sends the server's end to all clients that still wait.
    pub(crate) fn conclude_all(&mut self, reply: &Reply) {
        self.waiting().for_each(|client| client.answer(reply));
    }

    fn waiting(&mut self) -> impl Iterator<Item = &mut Client> {
        self.all.iter_mut().filter(|client| client.stage == Stage::Waiting)
    }
}

/// Whether the peer is the same user, or root. The file's mode ensures the same; this also applies if the file was
/// moved or its mode changed. A worker may never give orders: by an upgrade to a binary of its choice it would leave
/// its sandbox.
fn is_permitted(stream: &UnixStream, is_worker: impl Fn(u32) -> bool) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| {
        let is_user = peer.uid() == 0 || peer.uid() == geteuid().as_raw();
        is_user && !is_worker(peer.pid() as u32)
    })
}

impl Client {
    /// After a client has ended its output, POLLIN would be reported forever. A disconnect is reported in any case.
    fn awaited(&self) -> PollFlags {
        let input = if self.has_ended { PollFlags::empty() } else { PollFlags::POLLIN };
        let output = if self.output.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        input | output
    }

    /// Returns `false` if the client has disconnected, sends something invalid, or has sent no request in time.
    fn read(&mut self, now_ns: u64) -> bool {
        if self.stage == Stage::Silent && now_ns.saturating_sub(self.since_ns) > REQUEST_MS_MAX * 1_000_000 {
            return false;
        }
        if self.has_ended {
            return !self.is_gone();
        }
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                // A client that has sent a request may end its half of the connection, and still wait.
                Ok(0) => {
                    self.has_ended = true;
                    return if self.stage == Stage::Silent { !self.input.is_empty() } else { !self.is_gone() };
                }
                Ok(count) if self.stage == Stage::Silent && self.input.len() <= REQUEST_BYTES_MAX => {
                    self.input.extend_from_slice(&buffer[..count]);
                }
                Ok(_) => return false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Whether both halves of the connection are closed.
    fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    fn request(&mut self) -> Option<Result<Request, String>> {
        if self.stage != Stage::Silent {
            return None;
        }
        let end = self.input.iter().position(|byte| *byte == b'\n');
        let whole = self.has_ended && !self.input.is_empty();
        let Some(end) = end.or_else(|| whole.then_some(self.input.len())) else {
            let is_long = self.input.len() > REQUEST_BYTES_MAX;
            return is_long.then(|| Err(format!("a request is one line of at most {REQUEST_BYTES_MAX} bytes")));
        };
        let parsed = serde_json::from_slice(&self.input[..end]);
        self.input.clear();
        Some(parsed.map_err(|error| format!("not a request this server knows: {error}")))
    }

    fn answer(&mut self, reply: &Reply) {
        let Ok(line) = serde_json::to_vec(reply) else { return };
        self.output.extend_from_slice(&line);
        self.output.push(b'\n');
        if reply.is_last() {
            self.stage = Stage::Answered;
        }
    }

    /// Returns `false` if the client has its last reply, has disconnected, or does not read.
    fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        let is_served = self.stage == Stage::Answered && self.output.is_empty();
        !is_served && self.output.len() <= OUTPUT_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    use super::super::Outcome;
    use super::*;

    /// A listener at an abstract name that only this test has, and a way to connect to it.
    fn listen(name: &str) -> (UnixListener, impl Fn() -> UnixStream) {
        let address = SocketAddr::from_abstract_name(format!("baton-test-{}-{name}", std::process::id()));
        let address = address.expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("bound");
        listener.set_nonblocking(true).expect("set");
        (listener, move || UnixStream::connect_addr(&address).expect("connected"))
    }

    fn read_all(mut stream: UnixStream) -> String {
        stream.set_nonblocking(true).expect("set");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    /// Whether the next wait would return at once.
    fn is_busy(clients: &Clients, listener: &UnixListener) -> bool {
        let mut polled = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        polled.extend(clients.descriptors().map(|(descriptor, flags)| PollFd::new(descriptor, flags)));
        poll(&mut polled, PollTimeout::ZERO).expect("polled") > 0
    }

    const STATUS: &[u8] = b"{\"request\":\"status\"}\n";

    #[test]
    fn silent_clients_make_room_and_nobody_spins() {
        let (listener, connect) = listen("silent");
        let mut clients = Clients::default();
        let silent: Vec<UnixStream> = (0..3 * CLIENTS_MAX).map(|_| connect()).collect();
        clients.accept(&listener, 0, |_| false);
        assert_eq!(clients.all.len(), CLIENTS_MAX);
        assert!(clients.hear(0).is_empty());
        assert!(!is_busy(&clients, &listener), "nothing is left to do");
        let mut asking = connect();
        asking.write_all(STATUS).expect("sent");
        clients.accept(&listener, 0, |_| false);
        assert_eq!(clients.hear(0), [Heard::Request(96, Request::Status)]);
        drop(silent);
        assert!(clients.hear(0).is_empty());
        assert_eq!(clients.all.len(), 1);
    }

    #[test]
    fn a_worker_gives_no_orders() {
        let (listener, connect) = listen("worker");
        let mut clients = Clients::default();
        let mut worker = connect();
        clients.accept(&listener, 0, |pid| pid == std::process::id());
        assert!(clients.all.is_empty());
        assert_eq!(worker.read(&mut [0; 1]).expect("closed"), 0);
    }

    #[test]
    fn where_all_wait_a_new_client_is_refused_at_once() {
        let (listener, connect) = listen("full");
        let mut clients = Clients::default();
        let ask = || {
            let mut stream = connect();
            stream.write_all(STATUS).expect("sent");
            stream
        };
        let waiting: Vec<UnixStream> = (0..CLIENTS_MAX).map(|_| ask()).collect();
        clients.accept(&listener, 0, |_| false);
        assert_eq!(clients.hear(0).len(), CLIENTS_MAX);
        let refused = ask();
        clients.accept(&listener, 0, |_| false);
        assert!(clients.hear(0).is_empty() && !is_busy(&clients, &listener));
        assert!(read_all(refused).contains("too_many_clients"));
        drop(waiting);
        assert_eq!(clients.hear(0).len(), CLIENTS_MAX, "all have gone");
    }

    #[test]
    fn a_request_that_comes_with_the_end_is_answered() {
        for text in [STATUS, &STATUS[..STATUS.len() - 1]] {
            let (listener, connect) = listen("end");
            let mut clients = Clients::default();
            let mut stream = connect();
            stream.write_all(text).expect("sent");
            stream.shutdown(Shutdown::Write).expect("shut");
            clients.accept(&listener, 0, |_| false);
            assert_eq!(clients.hear(0), [Heard::Request(0, Request::Status)]);
            assert!(clients.hear(0).is_empty() && !is_busy(&clients, &listener), "it waits, and nobody spins");
            clients.reply(0, &Reply::Done(Outcome::Stopped));
            assert!(clients.flush().is_empty() && clients.all.is_empty());
            assert_eq!(read_all(stream), "{\"reply\":\"done\",\"done\":\"stopped\"}\n");
        }
    }

    #[test]
    fn a_request_of_a_client_that_has_gone_is_heard_and_then_its_end() {
        let (listener, connect) = listen("gone");
        let mut clients = Clients::default();
        connect().write_all(STATUS).expect("sent");
        clients.accept(&listener, 0, |_| false);
        assert_eq!(clients.hear(0), [Heard::Request(0, Request::Status)]);
        assert!(is_busy(&clients, &listener));
        assert_eq!(clients.hear(0), [Heard::Gone(0)]);
        drop(connect());
        clients.accept(&listener, 0, |_| false);
        assert!(clients.hear(0).is_empty() && clients.all.is_empty());
    }

    #[test]
    fn a_client_that_never_asks_is_dropped_in_time() {
        let (listener, connect) = listen("late");
        let mut clients = Clients::default();
        let _silent = connect();
        clients.accept(&listener, 7, |_| false);
        let deadline_ns = clients.deadline_ns().expect("one is silent");
        assert!(clients.hear(deadline_ns).is_empty() && clients.all.len() == 1);
        assert!(clients.hear(deadline_ns + 1).is_empty() && clients.all.is_empty());
    }
}
