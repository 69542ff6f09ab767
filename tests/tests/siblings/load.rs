//! Publishers and subscribers under load that count every message.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use baton_tests::client::connect;
use baton_tests::wait_until;

/// The most commands of a publisher that are not answered yet.
const WINDOW: usize = 16;

/// Pause between two windows.
const PAUSE: Duration = Duration::from_millis(5);

/// What all subscribers together have heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) deliveries: u64,
    pub(crate) lost: u64,
    pub(crate) twice: u64,
    /// Messages that came after a later one of the same publisher.
    pub(crate) swapped: u64,
}

/// See the module's head.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    published: Arc<Vec<AtomicU64>>,
    publishers: Vec<JoinHandle<u64>>,
    subscribers: Vec<Subscriber>,
}

struct Subscriber {
    heard: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Vec<u64>>>,
    stream: std::net::TcpStream,
}

impl Load {
    /// `direct` publishers send to slot 0, and only subscribers of its workers count them; the others send to all.
    pub(crate) fn start(address: SocketAddr, publishers: usize, subscribers: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let published: Arc<Vec<AtomicU64>> = Arc::new((0..publishers).map(|_| AtomicU64::new(0)).collect());
        // All of them hear everything from the first message on.
        let subscribers = (0..subscribers).map(|_| Subscriber::start(address, publishers)).collect();
        let publishers = (0..publishers).map(|number| {
            let (is_over, published) = (Arc::clone(&is_over), Arc::clone(&published));
            std::thread::spawn(move || publish(address, number, &published[number], &is_over))
        });
        let publishers = publishers.collect();
        Self { is_over, published, publishers, subscribers }
    }

    /// Number of published messages so far.
    pub(crate) fn published(&self) -> u64 {
        self.published.iter().map(|one| one.load(Ordering::Relaxed)).sum()
    }

    /// Ends the load, and counts.
    pub(crate) fn finish(self) -> Heard {
        self.is_over.store(true, Ordering::Relaxed);
        let counts: Vec<u64> = self.publishers.into_iter().map(|one| one.join().expect("it publishes")).collect();
        let total: u64 = counts.iter().sum();
        let mut last = u64::MAX;
        let mut same = 0;
        wait_until("no message comes any more", || {
            std::thread::sleep(Duration::from_millis(20));
            let heard = self.subscribers.iter().map(|one| one.heard.load(Ordering::Relaxed)).sum();
            same = if heard == last { same + 1 } else { 0 };
            last = heard;
            same > 25 || heard == total * self.subscribers.len() as u64
        });
        let mut sum = Heard::default();
        for subscriber in self.subscribers {
            let _ = subscriber.stream.shutdown(std::net::Shutdown::Both);
            let all = subscriber.thread.join().expect("it hears");
            for (count, numbers) in counts.iter().zip(all) {
                let mut times = vec![0_u32; *count as usize];
                let mut latest = 0;
                for number in &numbers {
                    times[*number as usize] += 1;
                    sum.swapped += u64::from(times[*number as usize] == 1 && *number < latest);
                    latest = latest.max(*number);
                }
                sum.deliveries += numbers.len() as u64;
                sum.lost += times.iter().filter(|times| **times == 0).count() as u64;
                sum.twice += times.iter().filter(|times| **times > 1).count() as u64;
            }
        }
        sum
    }
}

impl Subscriber {
    fn start(address: SocketAddr, publishers: usize) -> Self {
        let mut stream = connect(address);
        stream.write_all(b"sub\n").expect("sent");
        let mut lines = BufReader::new(stream.try_clone().expect("cloned"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("read");
        assert_eq!(line, "ok\n");
        let heard = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&heard);
        let thread = std::thread::spawn(move || {
            let mut numbers = vec![Vec::new(); publishers];
            loop {
                line.clear();
                match lines.read_line(&mut line) {
                    Ok(1..) => {}
                    _ => return numbers,
                }
                let mut words = line.trim_end().split(' ').skip(2).map(|word| word.parse::<u64>());
                let (Some(Ok(publisher)), Some(Ok(number))) = (words.next(), words.next()) else {
                    panic!("{line:?} is no message");
                };
                numbers[publisher as usize].push(number);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { heard, thread, stream }
    }
}

fn publish(address: SocketAddr, number: usize, published: &AtomicU64, is_over: &AtomicBool) -> u64 {
    let mut stream = connect(address);
    stream.set_nodelay(true).expect("set");
    let mut answers = BufReader::new(stream.try_clone().expect("cloned"));
    let mut line = String::new();
    let mut next = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        let mut commands = String::new();
        for _ in 0..WINDOW {
            commands += &format!("pub {number} {next}\n");
            next += 1;
        }
        stream.write_all(commands.as_bytes()).expect("sent");
        for _ in 0..WINDOW {
            line.clear();
            answers.read_line(&mut line).expect("read");
            assert_eq!(line, "ok\n");
        }
        published.store(next, Ordering::Relaxed);
        // Subscribers must keep up: what they have not read moves with them.
        std::thread::sleep(PAUSE);
    }
    next
}
