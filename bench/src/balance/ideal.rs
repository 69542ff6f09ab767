//! What the same clients would see at servers without any cost: one queue for all workers (M/D/n); a queue for each
//! worker with its fair part of the clients; and the same with turns, where all waiting requests are served first and
//! answered at the end. Pure.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::watch::ratio;
use crate::load::{ArrivalPlan, Arrivals};

/// How requests are assigned to workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    /// All workers take from one queue.
    Shared,
    /// Each worker has clients of its own. All loads are as equal as possible, and each request is answered when it is
    /// done.
    Parts,
    /// The same, but all waiting requests are served together and answered at the end.
    Turns,
}

/// A request: its client, and since when it is due.
type Asked = (u32, u64);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Service {
    done_ns: u64,
    /// Distinguishes two requests that are done at the same time.
    number: u64,
    station: usize,
    served: Vec<Asked>,
}

struct Station {
    idle: usize,
    queue: VecDeque<Asked>,
}

/// Assigns each client to a worker: the clients that ask most first, each to the worker with the least load. Also
/// returns the loads.
fn fair_parts(rates: &[f64], workers: usize) -> (Vec<usize>, Vec<f64>) {
    let mut order: Vec<usize> = (0..rates.len()).collect();
    order.sort_by(|one, other| rates[*other].total_cmp(&rates[*one]));
    let (mut parts, mut loads) = (vec![0; rates.len()], vec![0.0; workers]);
    for client in order {
        let least = (0..workers).min_by(|one, other| f64::total_cmp(&loads[*one], &loads[*other])).unwrap_or(0);
        parts[client] = least;
        loads[least] += rates[client];
    }
    (parts, loads)
}

/// The load of the busiest worker, in means, if clients are distributed as well as possible.
pub(super) fn best_ratio(plan: &ArrivalPlan, clients: u32, workers: usize) -> f64 {
    let (_, loads) = fair_parts(&plan.rates(clients), workers);
    ratio(&loads).unwrap_or(1.0)
}

/// Latencies since requests were due, in nanoseconds, over `time` after a warm-up of a tenth of it.
pub(super) fn simulate(
    plan: &ArrivalPlan,
    clients: u32,
    workers: usize,
    service: Duration,
    system: System,
    time: Duration,
) -> Histogram<u64> {
    let (parts, _) = fair_parts(&plan.rates(clients), workers);
    let (count, idle) = if system == System::Shared { (1, workers) } else { (workers, 1) };
    let station_of = |client: u32| if system == System::Shared { 0 } else { parts[client as usize] };
    let mut stations: Vec<Station> = (0..count).map(|_| Station { idle, queue: VecDeque::new() }).collect();
    let mut arrivals = Arrivals::new(&ArrivalPlan { churn: 0.0, ..*plan }, clients, (0, 1), 0, Duration::ZERO);
    let mut under_way: BinaryHeap<Reverse<Service>> = BinaryHeap::new();
    let mut waits = vec![false; clients as usize];
    let mut latencies = Histogram::new(3).expect("three digits");
    let service_ns = service.as_nanos() as u64;
    let (from_ns, until_ns) = ((time / 10).as_nanos() as u64, (time + time / 10).as_nanos() as u64);
    let mut number = 0;
    loop {
        let done_ns = under_way.peek().map_or(u64::MAX, |Reverse(service)| service.done_ns);
        let now_ns = done_ns.min(arrivals.next_ns());
        if now_ns > until_ns {
            return latencies;
        }
        let asking: Vec<u32> = if now_ns < done_ns {
            arrivals.due(now_ns).into_iter().collect()
        } else {
            let Some(Reverse(Service { station, served, .. })) = under_way.pop() else { return latencies };
            stations[station].idle += 1;
            for (client, due_ns) in &served {
                if now_ns >= from_ns {
                    // It grows as needed, and fails only when memory runs out.
                    let _ = latencies.record(now_ns - due_ns);
                }
                waits[*client as usize] = false;
                arrivals.answered(*client, now_ns);
            }
            start(&mut stations[station], station, system, (now_ns, service_ns), &mut number, &mut under_way);
            served.into_iter().map(|(client, _)| client).collect()
        };
        for client in asking {
            if !waits[client as usize]
                && let Some(due_ns) = arrivals.take(client)
            {
                waits[client as usize] = true;
                let station = station_of(client);
                stations[station].queue.push_back((client, due_ns));
                start(&mut stations[station], station, system, (now_ns, service_ns), &mut number, &mut under_way);
            }
        }
    }
}

/// Begins the requests that can begin.
fn start(
    station: &mut Station,
    place: usize,
    system: System,
    (now_ns, service_ns): (u64, u64),
    number: &mut u64,
    under_way: &mut BinaryHeap<Reverse<Service>>,
) {
    while station.idle > 0 && !station.queue.is_empty() {
        station.idle -= 1;
        let count = if system == System::Turns { station.queue.len() } else { 1 };
        let served: Vec<Asked> = station.queue.drain(..count).collect();
        *number += 1;
        let done_ns = now_ns + service_ns * count as u64;
        under_way.push(Reverse(Service { done_ns, number: *number, station: place, served }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Loop, Skew};

    const SERVICE: Duration = Duration::from_millis(1);

    /// So many clients that hardly any waits for itself.
    const MANY: u32 = 20_000;

    fn plan(load: f64, workers: usize) -> ArrivalPlan {
        ArrivalPlan { turn: Loop::Open, rate: load * workers as f64 * 1e3, skew: None, churn: 0.0, seed: 11 }
    }

    fn run(load: f64, workers: usize, system: System) -> Histogram<u64> {
        simulate(&plan(load, workers), MANY, workers, SERVICE, system, Duration::from_secs(1_600 / workers as u64))
    }

    /// The waiting time in means of the service time, without the service itself.
    fn wait(histogram: &Histogram<u64>) -> f64 {
        histogram.mean() / SERVICE.as_nanos() as f64 - 1.0
    }

    #[test]
    fn one_worker_makes_wait_as_long_as_pollaczek_and_khinchine_say() {
        // M/D/1: rho / (2 (1 - rho)).
        for (load, expected) in [(0.5, 0.5), (0.7, 1.166_7), (0.8, 2.0)] {
            let wait = wait(&run(load, 1, System::Shared));
            assert!((wait / expected - 1.0).abs() < 0.05, "{load}: {wait} for {expected}");
        }
    }

    /// Erlang's distribution of the waiting time of M/D/1, in service times (1909).
    fn erlang(load: f64, wait: f64) -> f64 {
        let terms = (0..=wait.floor() as u32).map(|count| {
            let reach = load * (f64::from(count) - wait);
            let factorial: f64 = (1..=count).map(f64::from).product();
            reach.powi(count as i32) / factorial * (-reach).exp()
        });
        (1.0 - load) * terms.sum::<f64>()
    }

    #[test]
    fn quantiles_of_one_worker_are_those_of_erlang() {
        assert!((erlang(0.8, 0.0) - 0.2).abs() < 1e-9);
        let histogram = run(0.8, 1, System::Shared);
        for wait in [0.5, 1.0, 2.0, 4.0, 8.0] {
            let latency_ns = ((1.0 + wait) * SERVICE.as_nanos() as f64) as u64;
            let (share, expected) = (histogram.quantile_below(latency_ns), erlang(0.8, wait));
            assert!((share - expected).abs() < 0.01, "{wait}: {share} for {expected}");
        }
    }

    /// The average number of requests in an M/D/n system. The number at times one service apart is a Markov chain,
    /// since exactly the requests that were in service have left (Crommelin, 1932).
    fn crommelin(load: f64, workers: usize) -> f64 {
        const STATES: usize = 400;
        let rate = load * workers as f64;
        let mut arrivals = vec![(-rate).exp()];
        (1..STATES).for_each(|count| arrivals.push(arrivals[count - 1] * rate / count as f64));
        let mut states = vec![0.0; STATES];
        states[0] = 1.0;
        for _ in 0..300 {
            let mut next = vec![0.0; STATES];
            for (count, share) in states.iter().enumerate().filter(|(_, share)| **share > 1e-15) {
                let left = count.saturating_sub(workers);
                (left..STATES).for_each(|count| next[count] += share * arrivals[count - left]);
            }
            states = next;
        }
        states.iter().enumerate().map(|(count, share)| count as f64 * share).sum()
    }

    #[test]
    fn many_workers_with_one_queue_make_wait_as_long_as_crommelin_says() {
        // One worker, to check this check: 0.8 in service, 0.8 * 2 waiting.
        assert!((crommelin(0.8, 1) - 2.4).abs() < 0.01);
        for (load, workers) in [(0.8, 2), (0.8, 8), (0.9, 8)] {
            let expected = crommelin(load, workers) / (load * workers as f64) - 1.0;
            let wait = wait(&run(load, workers, System::Shared));
            assert!((wait - expected).abs() < 0.02 + 0.05 * expected, "{load} {workers}: {wait} for {expected}");
        }
    }

    #[test]
    fn fair_parts_are_single_workers_and_turns_make_wait_longer() {
        let parts = run(0.8, 8, System::Parts);
        assert!((wait(&parts) / 2.0 - 1.0).abs() < 0.1, "{}", wait(&parts));
        let p99 = |histogram: &Histogram<u64>| histogram.value_at_quantile(0.99) as f64 / 1e6;
        let shared = p99(&run(0.8, 8, System::Shared));
        // The cost of a queue for each worker, however fair: no scheme that moves connections can be better.
        assert!((1.5..3.0).contains(&shared) && p99(&parts) > 3.0 * shared, "{shared} {}", p99(&parts));
        assert!(run(0.8, 8, System::Turns).mean() > parts.mean());
    }

    #[test]
    fn one_who_asks_much_bounds_what_sharing_out_can_do() {
        let skewed = ArrivalPlan { skew: Some(Skew { one_in: 20, times: 50 }), ..plan(0.8, 8) };
        assert!(best_ratio(&skewed, 1_000, 8) < 1.02);
        // 4 of 64 clients ask 50 times as often: they have three quarters of the load, and 8 workers cannot share 4 clients.
        assert!((best_ratio(&skewed, 64, 8) - 8.0 * 50.0 / 260.0).abs() < 1e-9);
    }

    #[test]
    fn clients_that_think_are_answered_by_all() {
        let closed = ArrivalPlan { turn: Loop::Closed, ..plan(4.0, 8) };
        let histogram = simulate(&closed, 64, 8, SERVICE, System::Shared, Duration::from_secs(10));
        // Clients ask for more than the workers can do, so they do all they can.
        let per_second = histogram.len() as f64 / 10.0;
        assert!((7_990.0..8_010.0).contains(&per_second), "{per_second}");
    }
}
