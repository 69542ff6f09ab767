//! The examples `proxy`, `jobs` and `pubsub` as processes, across reloads and upgrades: every byte and every answer comes, once.

mod common;
#[path = "resp_redis/process.rs"]
mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use baton::control::{Client, GenerationPhase, Outcome, Reply, Request};
use tempfile::TempDir;

use self::process::{PATIENCE, Process, is_missing};

/// A running example. Dropping it ends the example and all its processes.
struct Example {
    address: SocketAddr,
    control: PathBuf,
    first: Child,
    _folder: TempDir,
}

impl Example {
    fn start(name: &str, arguments: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (control, program) = (folder.path().join("control"), common::example(name));
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            let address = free.expect("a free port");
            let mut command = Command::new(&program);
            command.arg(address.to_string()).args(arguments).arg("--control").arg(&control);
            let mut first = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
            let began = Instant::now();
            while began.elapsed() < PATIENCE && first.try_wait().expect("waited").is_none() {
                if Client::ask(&control, &Request::Status, Some(PATIENCE)).is_ok_and(|reply| serves(&reply)) {
                    return Self { address, control, first, _folder: folder };
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        panic!("{name} does not come up");
    }

    /// Sends a request that must succeed.
    ///
    /// # Panics
    /// If it does not.
    fn done(&self, request: &Request) -> Outcome {
        match Client::ask(&self.control, request, Some(PATIENCE)) {
            Ok(Reply::Done(outcome)) => outcome,
            other => panic!("{request:?}: {other:?}"),
        }
    }

    /// Reloads, changes the number of workers, and upgrades.
    fn change(&self) {
        self.change_and(|| {});
    }

    /// The same, with an action after each step.
    fn change_and(&self, then: impl Fn()) {
        for workers in [2, 1, 2] {
            for request in [Request::Reload, Request::Scale { workers }, upgrade()] {
                self.done(&request);
                then();
            }
        }
    }

    /// Waits until the workers of earlier generations, and other masters, have left.
    fn settle(&self) {
        let began = Instant::now();
        let is_alone = |reply: Reply| match reply {
            Reply::Status(status) => status.generations.len() == 1,
            _ => false,
        };
        while !Client::ask(&self.control, &Request::Status, Some(PATIENCE)).is_ok_and(is_alone) {
            assert!(began.elapsed() < PATIENCE, "workers do not leave");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn serves(reply: &Reply) -> bool {
    matches!(reply, Reply::Status(status) if status.generations.iter().any(|generation| generation.phase == GenerationPhase::Serving))
}

fn upgrade() -> Request {
    Request::Upgrade {
        binary: None,
        arguments: None,
        hold: false,
        probation_ms: None,
        timeout_ms: None,
        allow: Vec::new(),
        keep_connections: true,
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = Client::ask(&self.control, &Request::Stop { now: true, deadline_ms: None }, Some(PATIENCE));
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Echoes what it receives, until the other side ends.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

/// Bytes that differ from each other, so that a wrong one is noticed.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(next).collect()
}

/// Sends bytes and FIN, and reads the answer to its end.
fn exchange(address: SocketAddr, seed: u64) {
    let sent = bytes(seed, 200_000);
    let stream = connect(address);
    let (mut writer, mut reader) = (stream.try_clone().expect("copied"), stream);
    let part = 1 + (seed as usize * 997) % 5000;
    let written = sent.clone();
    let writing = thread::spawn(move || {
        for (place, part) in written.chunks(part).enumerate() {
            writer.write_all(part).expect("taken");
            if place % 7 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        writer.shutdown(Shutdown::Write).expect("ended");
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).expect("the rest");
    writing.join().expect("no panic");
    assert!(received == sent, "{} of {} bytes came back as they were sent", received.len(), sent.len());
}

#[test]
fn bytes_cross_a_proxy_that_is_upgraded() {
    let upstreams = [echo_server(), echo_server()].map(|address| address.to_string());
    let proxy = Example::start("proxy", &upstreams);
    let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    // A connection that is idle the whole time.
    let mut idle = connect(proxy.address);
    idle.write_all(b"before").expect("taken");
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let (is_over, count, address) = (Arc::clone(&is_over), Arc::clone(&count), proxy.address);
            thread::spawn(move || {
                let mut seed = client;
                while !is_over.load(Ordering::Relaxed) {
                    exchange(address, seed);
                    seed += 6;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..2 {
        proxy.change();
    }
    is_over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
    idle.write_all(b" after").expect("taken");
    idle.shutdown(Shutdown::Write).expect("ended");
    let mut received = String::new();
    idle.read_to_string(&mut received).expect("the rest");
    assert_eq!(received, "before after");
    let count = count.load(Ordering::Relaxed);
    println!("{count} connections of 200,000 bytes each way crossed 6 reloads, 6 changes of scale and 6 upgrades");
    assert!(count >= 6);
}

#[test]
fn jobs_are_neither_lost_nor_done_twice() {
    let jobs = Example::start("jobs", &[]);
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (1..=4u64)
        .map(|client| {
            let (is_over, address) = (Arc::clone(&is_over), jobs.address);
            thread::spawn(move || {
                let stream = connect(address);
                let (mut writer, mut lines) = (stream.try_clone().expect("copied"), BufReader::new(stream).lines());
                let mut place = client;
                while !is_over.load(Ordering::Relaxed) {
                    // The second job waits for the first.
                    writer.write_all(format!("{place}\n{}\n", place + 1).as_bytes()).expect("taken");
                    for place in [place, place + 1] {
                        let line = lines.next().expect("a line").expect("text");
                        assert!(line.starts_with(&format!("prime {place} is ")), "{line}");
                    }
                    place = (place + 500) % 5_000 + 1;
                }
                writer.shutdown(Shutdown::Write).expect("ended");
                assert!(lines.next().is_none(), "an answer that nobody has asked for");
            })
        })
        .collect();
    for _ in 0..2 {
        jobs.change();
    }
    is_over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
}

#[test]
fn each_subscriber_hears_each_message_once_where_workers_leave_between_changes() {
    each_subscriber_hears_each_message_once(Example::settle);
}

#[test]
fn each_subscriber_hears_each_message_once_where_changes_overlap() {
    each_subscriber_hears_each_message_once(|_| thread::sleep(Duration::from_millis(40)));
}

/// Subscribers and publishers at two workers, across nine changes, with an action after each.
fn each_subscriber_hears_each_message_once(then: impl Fn(&Example)) {
    const PUBLISHERS: usize = 3;
    let pubsub = Example::start("pubsub", &["--workers".to_owned(), "2".to_owned()]);
    let is_over = Arc::new(AtomicBool::new(false));
    let published: Vec<_> = (0..PUBLISHERS).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let subscribers: Vec<_> = (0..8).map(|_| subscribe(pubsub.address)).collect();
    let hearing: Vec<_> = subscribers
        .into_iter()
        .map(|mut lines| {
            thread::spawn(move || {
                let (mut next, mut ended) = ([0; PUBLISHERS], 0);
                while ended < PUBLISHERS {
                    let line = lines.next().expect("a line").expect("text");
                    let words: Vec<&str> = line.split(' ').collect();
                    let ["news:", publisher, number] = words[..] else { panic!("{line}") };
                    let publisher: usize = publisher.parse().expect("a number");
                    if number == "end" {
                        ended += 1;
                    } else {
                        assert_eq!(number.parse(), Ok(next[publisher]), "of publisher {publisher}");
                        next[publisher] += 1;
                    }
                }
                next
            })
        })
        .collect();
    let publishing: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (is_over, count, address) = (Arc::clone(&is_over), Arc::clone(&published[publisher]), pubsub.address);
            thread::spawn(move || {
                let stream = connect(address);
                let (mut writer, mut lines) = (stream.try_clone().expect("copied"), BufReader::new(stream).lines());
                while !is_over.load(Ordering::Relaxed) {
                    let number = count.load(Ordering::Relaxed);
                    writer.write_all(format!("pub news {publisher} {number}\n").as_bytes()).expect("taken");
                    assert_eq!(lines.next().expect("a line").expect("text"), "ok");
                    count.store(number + 1, Ordering::Relaxed);
                    thread::sleep(Duration::from_micros(300));
                }
                writer.write_all(format!("pub news {publisher} end\n").as_bytes()).expect("taken");
                assert_eq!(lines.next().expect("a line").expect("text"), "ok");
            })
        })
        .collect();
    pubsub.change_and(|| then(&pubsub));
    is_over.store(true, Ordering::Relaxed);
    publishing.into_iter().for_each(|publisher| publisher.join().expect("no panic"));
    let published: Vec<usize> = published.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    for subscriber in hearing {
        assert_eq!(subscriber.join().expect("no panic").to_vec(), published);
    }
    println!("{published:?} messages were heard by 8 subscribers, once each and in order, across 9 changes");
}

fn subscribe(address: SocketAddr) -> std::io::Lines<BufReader<TcpStream>> {
    let mut stream = connect(address);
    stream.write_all(b"sub news\n").expect("taken");
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ok");
    lines
}

/// A message server that is measured, and its commands.
struct Broker<'a> {
    name: &'a str,
    address: SocketAddr,
    /// The processes whose CPU time counts.
    processes: Vec<u32>,
    subscription: &'a str,
    /// Bytes of the answer to the subscription.
    subscribed_bytes: usize,
    publication: String,
    /// Bytes of the answer to the publication. The next field: bytes of the message at a subscriber.
    published_bytes: usize,
    message_bytes: usize,
}

/// Measures the cost of a message to a thousand subscribers, compared with Redis: `cargo test --release -p baton-engine
/// --test examples -- --ignored --nocapture fan_out`.
#[test]
#[ignore = "measures; run it alone, in a release build"]
fn fan_out() {
    let text = "x".repeat(64);
    let pubsub = Example::start("pubsub", &["--workers".to_owned(), "2".to_owned()]);
    let Ok(Reply::Status(status)) = Client::ask(&pubsub.control, &Request::Status, Some(PATIENCE)) else {
        panic!("no status");
    };
    let workers = status.generations.iter().flat_map(|one| &one.workers).filter_map(|worker| worker.pid);
    let own = Broker {
        name: "pubsub, 2 workers",
        address: pubsub.address,
        processes: workers.collect(),
        subscription: "sub news\n",
        subscribed_bytes: "ok\n".len(),
        publication: format!("pub news {text}\n"),
        published_bytes: "ok\n".len(),
        message_bytes: format!("news: {text}\n").len(),
    };
    let redis = (!is_missing("redis-server")).then(|| Process::redis(0));
    let beside = redis.as_ref().map(|redis| Broker {
        name: "redis-server",
        address: SocketAddr::from(([127, 0, 0, 1], redis.port)),
        processes: vec![redis.child.id()],
        subscription: "SUBSCRIBE news\r\n",
        subscribed_bytes: "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n".len(),
        publication: format!("PUBLISH news {text}\r\n"),
        published_bytes: ":1000\r\n".len(),
        message_bytes: format!("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$64\r\n{text}\r\n").len(),
    });
    let brokers: Vec<Broker<'_>> = [own].into_iter().chain(beside).collect();
    let mut clients: Vec<_> = brokers.iter().map(Broker::connect).collect();
    for depth in [1, 16] {
        for (broker, clients) in brokers.iter().zip(&mut clients) {
            let mut rates: Vec<f64> = (0..5).map(|_| broker.messages_per_cpu_second(clients, depth)).collect();
            rates.sort_by(f64::total_cmp);
            let [least, median, most] = [0, 2, 4].map(|place| rates[place] / 1e3);
            println!("{}, {depth} at a time: {median:.0} thousand ({least:.0}–{most:.0})", broker.name);
        }
    }
}

impl Broker<'_> {
    const SUBSCRIBERS: usize = 1_000;
    const MESSAGES: usize = 640;

    /// A publisher and all subscribers.
    fn connect(&self) -> (TcpStream, Vec<TcpStream>) {
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        let subscribers = (0..Self::SUBSCRIBERS).map(|_| {
            let mut stream = connect(self.address);
            stream.write_all(self.subscription.as_bytes()).expect("taken");
            read_bytes(&mut stream, self.subscribed_bytes);
            stream
        });
        (connect(self.address), subscribers.collect())
    }

    /// Messages that subscribers have read, per second of the server's CPU time. `depth` messages are published at a
    /// time, and all subscribers read them before the next ones.
    fn messages_per_cpu_second(&self, clients: &mut (TcpStream, Vec<TcpStream>), depth: usize) -> f64 {
        let (publisher, subscribers) = clients;
        let before = self.cpu_time();
        for _ in 0..Self::MESSAGES / depth {
            publisher.write_all(self.publication.repeat(depth).as_bytes()).expect("taken");
            read_bytes(publisher, depth * self.published_bytes);
            subscribers.iter_mut().for_each(|stream| read_bytes(stream, depth * self.message_bytes));
        }
        (Self::MESSAGES * Self::SUBSCRIBERS) as f64 / (self.cpu_time() - before).as_secs_f64()
    }

    /// Nanoseconds for which its threads have run, by schedstat, which counts finer than ticks.
    fn cpu_time(&self) -> Duration {
        let tasks =
            self.processes.iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).expect("lives"));
        let times = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(times.sum())
    }
}

fn read_bytes(stream: &mut TcpStream, count: usize) {
    stream.read_exact(&mut vec![0; count]).expect("as many bytes as were sent");
}
