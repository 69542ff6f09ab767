//! The master's end of the control socket. Never blocks: a client that is slow, silent or too long is dropped.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use super::{Event, Reply, Request};

/// Clients at a time.
const CLIENTS_MAX: usize = 32;

/// A request is a short line.
const REQUEST_BYTES_MAX: usize = 4096;

/// Replies that a client has not taken.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// A client that has connected asks within this time.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// What a client waits for, once it has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It has not asked yet.
    ForNothing,
    /// Everything that happens.
    ForEvents,
    /// The outcome of this operation.
    ForOperation(u32),
    /// The end of the server.
    ForEnd,
    /// It has its answer: close when that is sent.
    IsOver,
}

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    waiting: Waiting,
    since: Instant,
}

/// See the module's head.
pub(crate) struct ControlSocket {
    listener: UnixListener,
    /// The name that clients look for.
    name: PathBuf,
    /// Where it is now; empty where it is somebody else's to take away.
    path: PathBuf,
    clients: Vec<Client>,
}

impl ControlSocket {
    /// Listens at `path`, for the same user and root alone. A socket file that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// `AddrInUse` where a server listens there; else as bind(2).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match UnixStream::connect(path) {
            Ok(_) => return Err(io::Error::from(io::ErrorKind::AddrInUse)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(_) => {}
        }
        Self::bind(path, path)
    }

    /// Listens beside a server that listens at `name`, to take its name over later.
    ///
    /// # Errors
    /// As bind(2).
    pub(crate) fn open_beside(name: &Path) -> io::Result<Self> {
        let path = sibling(name, std::process::id());
        let _ = fs::remove_file(&path);
        Self::bind(name, &path)
    }

    fn bind(name: &Path, path: &Path) -> io::Result<Self> {
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, name: name.to_owned(), path: path.to_owned(), clients: Vec::new() })
    }

    /// The name that clients look for.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// Takes the name over from the server of process `before`, which is reached at a name of its own from now on. At each
    /// moment somebody is reached.
    ///
    /// # Errors
    /// As link(2) and rename(2).
    pub(crate) fn take_name(&mut self, before: u32) -> io::Result<()> {
        let aside = sibling(&self.name, before);
        let _ = fs::remove_file(&aside);
        fs::hard_link(&self.name, aside)?;
        fs::rename(&self.path, &self.name)?;
        self.path.clone_from(&self.name);
        Ok(())
    }

    /// Another server has taken the name over: this one is reached beside it.
    pub(crate) fn name_was_taken(&mut self) {
        self.path = sibling(&self.name, std::process::id());
    }

    /// Takes the name back, whoever has it.
    ///
    /// # Errors
    /// As rename(2).
    pub(crate) fn take_name_back(&mut self) -> io::Result<()> {
        if self.path != self.name {
            fs::rename(&self.path, &self.name)?;
            self.path.clone_from(&self.name);
        }
        Ok(())
    }

    /// Whether somebody else has the name still.
    pub(crate) fn is_beside(&self) -> bool {
        self.path != self.name
    }

    /// The file is another server's now.
    pub(crate) fn leave_name(&mut self) {
        self.path = PathBuf::new();
    }

    /// Closes the sockets and leaves the file to the process this one was forked from.
    pub(crate) fn forget(mut self) {
        self.leave_name();
    }

    /// Descriptors to be waited for, each with whether it is to be written to.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let clients = self.clients.iter().map(|client| (client.stream.as_fd(), !client.output.is_empty()));
        std::iter::once((self.listener.as_fd(), false)).chain(clients)
    }

    /// When a client that does not ask is dropped.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let silent = self.clients.iter().filter(|client| client.waiting == Waiting::ForNothing);
        silent.map(|client| client.since + REQUEST_TIME_MAX)
    }

    /// Takes new clients and what they ask; each request comes with the client's place, for [`ControlSocket::reply`].
    pub(crate) fn requests(&mut self) -> Vec<(usize, Request)> {
        while self.clients.len() < CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_ok() && is_permitted(&stream) {
                let (input, output, since) = (Vec::new(), Vec::new(), Instant::now());
                self.clients.push(Client { stream, input, output, waiting: Waiting::ForNothing, since });
            }
        }
        self.clients.retain_mut(Client::read);
        let mut requests = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            match client.request() {
                Some(Ok(request)) => requests.push((index, request)),
                Some(Err(reason)) => client.answer(&Reply::Failed(super::Failure::Request { problem: reason })),
                None => {}
            }
        }
        requests
    }

    /// Sends what clients wait for; forgets those that are served or gone.
    pub(crate) fn flush(&mut self) {
        self.clients.retain_mut(Client::write);
    }

    /// Answers a client; call before the next [`ControlSocket::requests`] or [`ControlSocket::flush`].
    pub(crate) fn reply(&mut self, client: usize, reply: &Reply) {
        self.clients[client].answer(reply);
    }

    /// Makes a client wait.
    pub(crate) fn wait_for(&mut self, client: usize, waiting: Waiting) {
        self.clients[client].waiting = waiting;
    }

    /// Tells everybody who waits for something what happened.
    pub(crate) fn tell(&mut self, event: &Event) {
        for client in &mut self.clients {
            if !matches!(client.waiting, Waiting::ForNothing | Waiting::IsOver) {
                client.answer(&Reply::Event(event.clone()));
            }
        }
    }

    /// An operation has ended in this way.
    pub(crate) fn conclude(&mut self, operation: u32, reply: &Reply) {
        for client in self.clients.iter_mut().filter(|one| one.waiting == Waiting::ForOperation(operation)) {
            client.answer(reply);
        }
    }

    /// The server has ended in this way.
    pub(crate) fn conclude_end(&mut self, reply: &Reply) {
        for client in
            self.clients.iter_mut().filter(|one| !matches!(one.waiting, Waiting::ForNothing | Waiting::IsOver))
        {
            client.answer(reply);
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where the server of a process is reached while another one has the name.
fn sibling(name: &Path, pid: u32) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(format!(".{pid}"));
    PathBuf::from(path)
}

/// Whether the peer is the same user, or root. The file's mode says the same; this says it also where the file was moved
/// or its mode changed.
fn is_permitted(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

impl Client {
    /// `false`: it is gone, or has not asked in time.
    fn read(&mut self) -> bool {
        if self.waiting == Waiting::ForNothing && self.since.elapsed() > REQUEST_TIME_MAX {
            return false;
        }
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                // One that has asked may say that it asks no more.
                Ok(0) => return self.waiting == Waiting::IsOver,
                Ok(count) if self.waiting == Waiting::ForNothing && self.input.len() <= REQUEST_BYTES_MAX => {
                    self.input.extend_from_slice(&buffer[..count]);
                }
                Ok(_) => return false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn request(&mut self) -> Option<Result<Request, String>> {
        if self.waiting != Waiting::ForNothing {
            return None;
        }
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
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
            self.waiting = Waiting::IsOver;
        }
    }

    /// `false`: it is served, or gone.
    fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        let is_served = self.waiting == Waiting::IsOver && self.output.is_empty();
        !is_served && self.output.len() <= OUTPUT_BYTES_MAX
    }
}
