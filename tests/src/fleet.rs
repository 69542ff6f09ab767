//! Clients that keep their connections. Each knows every byte that it sends and every byte that must come back.
//!
//! A client of a class repeats one request forever, and must get one answer repeated forever. The test sets how far it
//! may write and read, byte by byte, so that it can be stopped anywhere: between requests, in the middle of one, with
//! answers that it does not read.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::stream::{Stream, Trust};
use crate::wait_until;

/// The most bytes that are read or written at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// No limit.
pub const ALL: u64 = u64::MAX;

/// One kind of clients.
#[derive(Clone, Debug)]
pub struct Class {
    /// The name for reports of failures.
    pub name: &'static str,
    /// Number of connections.
    pub count: usize,
    /// The request that is sent again and again.
    pub request: Vec<u8>,
    /// The required answer to each request.
    pub answer: Vec<u8>,
    /// Bytes of the answer that vary over time.
    pub varying: std::ops::Range<usize>,
    /// Bytes of requests that are sent before the answers to them are read.
    pub ahead: u64,
    /// Bytes that each connection may write at first.
    pub write: u64,
    /// Bytes that each connection may read at first.
    pub read: u64,
    /// The certificate that the clients trust, if they use TLS.
    pub tls: Option<Trust>,
}

impl Class {
    /// Clients that send one request after the other as long as they may. The required answer is the server's present
    /// one.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn new(
        name: &'static str,
        count: usize,
        address: SocketAddr,
        tls: Option<Trust>,
        request: &[u8],
        answer_bytes: usize,
    ) -> Self {
        let mut stream = Stream::connect(address, tls.as_ref());
        stream.write_all(request).expect("sent");
        let mut answer = vec![0; answer_bytes];
        stream.read_exact(&mut answer).expect("an answer");
        let date = answer.windows(6).position(|window| window == b"Date: ");
        let varying = date.map_or(0..0, |at| at + 6..at + 35);
        let (request, ahead) = (request.to_vec(), request.len() as u64);
        Self { name, count, request, answer, varying, ahead, write: ALL, read: ALL, tls }
    }
}

#[derive(Debug)]
struct Bounds {
    write: AtomicU64,
    read: AtomicU64,
    /// Correct bytes read by all living connections.
    right: AtomicU64,
    /// Bytes read by all connections that have ever existed.
    progress: AtomicU64,
    /// The number of living connections.
    connections: AtomicU64,
    request_bytes: u64,
    answer_bytes: u64,
}

/// Running clients.
#[derive(Debug)]
pub struct Fleet {
    bounds: Arc<BTreeMap<&'static str, Bounds>>,
    failures: Arc<Mutex<Vec<String>>>,
    /// Connections may end.
    is_tolerant: AtomicBool,
    /// Limits have changed.
    is_changed: Arc<AtomicBool>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Connection {
    stream: Stream,
    class: usize,
    written: u64,
    read: u64,
    interest: EpollFlags,
    has_failed: bool,
}

impl Fleet {
    /// Connects all clients, and starts them.
    ///
    /// # Panics
    /// If one cannot connect.
    pub fn start(address: SocketAddr, classes: Vec<Class>) -> Self {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
        let bounds: BTreeMap<&'static str, Bounds> = classes.iter().map(|class| (class.name, class.bounds())).collect();
        let bounds = Arc::new(bounds);
        let failures = Arc::new(Mutex::new(Vec::new()));
        let (is_changed, is_stopping) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let connections = classes.iter().enumerate().flat_map(|(class, of)| (0..of.count).map(move |_| class));
        let connections = connections.map(|class| {
            let stream = Stream::connect(address, classes[class].tls.as_ref());
            stream.set_nonblocking();
            Connection { stream, class, written: 0, read: 0, interest: EpollFlags::empty(), has_failed: false }
        });
        let mut runner = Runner {
            connections: connections.collect(),
            classes,
            bounds: Arc::clone(&bounds),
            failures: Arc::clone(&failures),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll"),
            buffer: vec![0; CHUNK_BYTES],
        };
        let (changed, stopping) = (Arc::clone(&is_changed), Arc::clone(&is_stopping));
        let thread = std::thread::spawn(move || runner.run(&changed, &stopping));
        let is_tolerant = AtomicBool::new(false);
        Self { bounds, failures, is_tolerant, is_changed, is_stopping, thread: Some(thread) }
    }

    /// Lets each connection of a class write this many further bytes.
    pub fn allow(&self, class: &str, bytes: u64) {
        self.bounds[class].write.fetch_add(bytes, Ordering::Relaxed);
        self.is_changed.store(true, Ordering::Release);
    }

    /// Lets each connection of a class read this many further bytes.
    pub fn allow_reading(&self, class: &str, bytes: u64) {
        self.bounds[class].read.fetch_add(bytes, Ordering::Relaxed);
        self.is_changed.store(true, Ordering::Release);
    }

    /// Bytes that all connections of a class have read.
    pub fn progress(&self, class: &str) -> u64 {
        self.bounds[class].progress.load(Ordering::Relaxed)
    }

    /// Waits until every complete request of a class is answered.
    ///
    /// # Panics
    /// If an answer does not come in time, or a connection has failed.
    pub fn wait_for_answers(&self, class: &str) {
        let bounds = &self.bounds[class];
        let requests = bounds.write.load(Ordering::Relaxed) / bounds.request_bytes;
        wait_until(&format!("{class}: all is answered, {bounds:?}"), || {
            self.assert_whole();
            let living = bounds.connections.load(Ordering::Relaxed);
            bounds.right.load(Ordering::Relaxed) >= living * requests * bounds.answer_bytes
        });
    }

    /// Waits until all connections of a class together have read this many bytes, or none of them lives.
    ///
    /// # Panics
    /// If they do not in time, or a connection has failed.
    pub fn wait_for(&self, class: &str, bytes: u64) {
        wait_until(&format!("{class}: {bytes} bytes, {:?}", self.bounds[class]), || {
            self.assert_whole();
            self.progress(class) >= bytes || self.living(class) == 0
        });
    }

    /// The failures so far.
    ///
    /// # Panics
    /// Never.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no panic").clone()
    }

    /// From now on connections may end.
    pub fn tolerate(&self) {
        self.is_tolerant.store(true, Ordering::Relaxed);
    }

    /// Number of living connections of a class.
    pub fn living(&self, class: &str) -> u64 {
        self.bounds[class].connections.load(Ordering::Relaxed)
    }

    /// Checks that every connection lives, unless ends are tolerated, and that all bytes were correct.
    ///
    /// # Panics
    /// If not.
    pub fn assert_whole(&self) {
        let is_tolerant = self.is_tolerant.load(Ordering::Relaxed);
        let mut failures = self.failures();
        failures.retain(|failure| !is_tolerant || failure.contains("wrong"));
        assert!(failures.is_empty(), "{} failed: {:#?}", failures.len(), &failures[..failures.len().min(10)]);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Class {
    fn bounds(&self) -> Bounds {
        Bounds {
            write: AtomicU64::new(self.write),
            read: AtomicU64::new(self.read),
            right: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            connections: AtomicU64::new(self.count as u64),
            request_bytes: self.request.len() as u64,
            answer_bytes: self.answer.len() as u64,
        }
    }

    /// The part of endless repetitions of `bytes` that begins at `offset`.
    fn part(bytes: &[u8], offset: u64) -> &[u8] {
        &bytes[(offset % bytes.len() as u64) as usize..]
    }

    /// The index of the first wrong byte in `came`, which arrived at `offset`.
    fn wrong(&self, offset: u64, came: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < came.len() {
            let expected = Self::part(&self.answer, offset + at as u64);
            let length = expected.len().min(came.len() - at);
            let first = self.answer.len() - expected.len();
            if came[at..at + length] != expected[..length] {
                let differs =
                    |index: usize| came[at + index] != expected[index] && !self.varying.contains(&(first + index));
                if let Some(index) = (0..length).find(|index| differs(*index)) {
                    return Some(at + index);
                }
            }
            at += length;
        }
        None
    }
}

struct Runner {
    connections: Vec<Connection>,
    classes: Vec<Class>,
    bounds: Arc<BTreeMap<&'static str, Bounds>>,
    failures: Arc<Mutex<Vec<String>>>,
    epoll: Epoll,
    buffer: Vec<u8>,
}

impl Runner {
    fn run(&mut self, is_changed: &AtomicBool, is_stopping: &AtomicBool) {
        for index in 0..self.connections.len() {
            let event = EpollEvent::new(EpollFlags::empty(), index as u64);
            self.epoll.add(self.connections[index].stream.socket(), event).expect("added");
            self.settle(index);
        }
        let mut events = vec![EpollEvent::empty(); 1024];
        while !is_stopping.load(Ordering::Acquire) {
            if is_changed.swap(false, Ordering::AcqRel) {
                (0..self.connections.len()).for_each(|index| self.settle(index));
            }
            let count = self.epoll.wait(&mut events, EpollTimeout::from(2u8)).unwrap_or(0);
            for event in &events[..count] {
                let index = event.data() as usize;
                let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
                if event.events().contains(EpollFlags::EPOLLIN) {
                    self.read(index);
                } else if event.events().intersects(ended) {
                    self.fail(index, "closed, while it was not read");
                }
                if event.events().contains(EpollFlags::EPOLLOUT) {
                    self.write(index);
                }
                self.settle(index);
            }
        }
    }

    fn bounds(&self, index: usize) -> &Bounds {
        &self.bounds[self.classes[self.connections[index].class].name]
    }

    /// How many bytes it may write and read now.
    fn room(&self, index: usize) -> (u64, u64) {
        let connection = &self.connections[index];
        let (bounds, class) = (self.bounds(index), &self.classes[connection.class]);
        let answered = connection.read * bounds.request_bytes / bounds.answer_bytes;
        let write = bounds.write.load(Ordering::Relaxed).min(answered + class.ahead);
        (write.saturating_sub(connection.written), bounds.read.load(Ordering::Relaxed).saturating_sub(connection.read))
    }

    fn settle(&mut self, index: usize) {
        while self.connections[index].stream.has_opened()
            && !self.connections[index].has_failed
            && self.room(index).1 > 0
        {
            self.read(index);
        }
        let (write, read) = self.room(index);
        let connection = &mut self.connections[index];
        // The end must always be seen.
        let mut interest = EpollFlags::EPOLLRDHUP;
        interest.set(EpollFlags::EPOLLIN, read > 0);
        interest.set(EpollFlags::EPOLLOUT, write > 0 || connection.stream.wants_write());
        if connection.has_failed {
            interest = EpollFlags::empty();
        }
        if interest != connection.interest {
            connection.interest = interest;
            let mut event = EpollEvent::new(interest, index as u64);
            self.epoll.modify(connection.stream.socket(), &mut event).expect("modified");
        }
    }

    fn write(&mut self, index: usize) {
        let (room, _) = self.room(index);
        let connection = &mut self.connections[index];
        let part = Class::part(&self.classes[connection.class].request, connection.written);
        // Even without room, bytes that TLS has sealed may have to be sent.
        let length = (part.len() as u64).min(room).min(CHUNK_BYTES as u64) as usize;
        match connection.stream.write(&part[..length]) {
            Ok(count) => connection.written += count as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.fail(index, &format!("writing: {error}")),
        }
    }

    fn read(&mut self, index: usize) {
        let (_, room) = self.room(index);
        let connection = &mut self.connections[index];
        if connection.has_failed {
            return;
        }
        let length = room.min(CHUNK_BYTES as u64) as usize;
        match connection.stream.read(&mut self.buffer[..length.max(1)]) {
            Ok(0) => self.fail(index, "closed"),
            Ok(count) => {
                let class = &self.classes[connection.class];
                let wrong = class.wrong(connection.read, &self.buffer[..count]);
                connection.read += count as u64;
                let bounds = self.bounds(index);
                bounds.right.fetch_add(count as u64, Ordering::Relaxed);
                bounds.progress.fetch_add(count as u64, Ordering::Relaxed);
                if let Some(at) = wrong {
                    let came = String::from_utf8_lossy(&self.buffer[at..count.min(at + 80)]).into_owned();
                    self.fail(index, &format!("wrong from byte {at} of {count} on: {came:?}"));
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.fail(index, &format!("reading: {error}")),
        }
    }

    fn fail(&mut self, index: usize, what: &str) {
        let connection = &mut self.connections[index];
        if std::mem::replace(&mut connection.has_failed, true) {
            return;
        }
        let address = connection.stream.address();
        let (written, read) = (connection.written, connection.read);
        let name = self.classes[connection.class].name;
        let bounds = &self.bounds[name];
        bounds.right.fetch_sub(read, Ordering::Relaxed);
        bounds.connections.fetch_sub(1, Ordering::Relaxed);
        let failure = format!("{name}, from {address}, {written} bytes written, {read} read: {what}");
        self.failures.lock().expect("no panic").push(failure);
    }
}
