//! The cost of messages between two executors of glommio through its channel mesh. It measures and prints the same as
//! the engine's example `mesh_figures` does for workers.
//!
//! Latency: half of the time in which a message of 64 bytes goes to the other executor and back, one message at a time.
//! Throughput: one executor sends as fast as it can, a fixed number of messages in each turn; processor time is that of
//! both.

use std::error::Error;
use std::time::Duration;

use glommio::channels::channel_mesh::{MeshBuilder, Receivers, Senders};
use glommio::{GlommioError, LocalExecutorPoolBuilder, PoolPlacement};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

const BYTES: usize = 64;
const PINGS: usize = 50_000;
const BATCHES: [usize; 2] = [1, 100];
const MESSAGES: usize = 500_000;
/// About as many as fit into a channel between two workers of the engine.
const CHANNEL_MESSAGES: usize = 1_024;

type Message = [u8; BYTES];

fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.num_nanoseconds() as u64)
}

fn used() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process knows what it has used");
    Duration::from_micros((usage.user_time() + usage.system_time()).num_microseconds() as u64)
}

async fn ask(senders: &Senders<Message>, receivers: &Receivers<Message>) -> Result<(), Box<dyn Error>> {
    let mut halves_ns = Vec::new();
    for _ in 0..PINGS {
        let sent_ns = now_ns();
        senders.send_to(1, [b'p'; BYTES]).await?;
        receivers.recv_from(1).await?;
        halves_ns.push((now_ns() - sent_ns) / 2);
    }
    halves_ns.sort_unstable();
    let at = |part: f64| halves_ns[((halves_ns.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
    println!("glommio: latency p50 {:.1} us, p99 {:.1} us", at(0.5), at(0.99));
    for batch in BATCHES {
        let (began_ns, before) = (now_ns(), used());
        for sent in 1..=MESSAGES {
            senders.send_to(1, [b'm'; BYTES]).await?;
            if sent % batch == 0 {
                glommio::executor().yield_now().await;
            }
        }
        receivers.recv_from(1).await?;
        let (took_ns, cpu) = (now_ns() - began_ns, used().saturating_sub(before));
        let per_cpu = MESSAGES as f64 / cpu.as_secs_f64();
        let per_second = MESSAGES as f64 / (took_ns as f64 / 1e9);
        println!("glommio: batches of {batch}: {per_cpu:.0} messages per processor second, {per_second:.0} per second");
    }
    Ok(())
}

async fn answer(senders: &Senders<Message>, receivers: &Receivers<Message>) -> Result<(), Box<dyn Error>> {
    let mut heard = 0;
    while let Some(message) = receivers.recv_from(0).await? {
        heard += usize::from(message[0] == b'm');
        if message[0] == b'p' || heard == MESSAGES {
            senders.send_to(0, message).await?;
        }
        heard %= MESSAGES;
    }
    Ok(())
}

fn main() -> Result<(), GlommioError<()>> {
    let mesh = MeshBuilder::<Message, _>::full(2, CHANNEL_MESSAGES);
    let pool = LocalExecutorPoolBuilder::new(PoolPlacement::MaxSpread(2, None)).on_all_shards(move || async move {
        let (senders, receivers) = mesh.join().await.expect("both executors join");
        let end = match senders.peer_id() {
            0 => ask(&senders, &receivers).await,
            _ => answer(&senders, &receivers).await,
        };
        end.expect("the other executor is there");
    });
    pool?.join_all().into_iter().collect()
}
