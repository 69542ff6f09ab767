//! Clients that ask in their own time: when each one's next request is due, which clients ask more often than others,
//! and when one leaves and another arrives. Pure; a seed decides everything.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::random::Random;

/// Sequences of random numbers that do not belong to a client.
const ORDER: u32 = u32::MAX;
const LEAVERS: u32 = u32::MAX - 1;

/// When a client sends its next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loop {
    /// At the times of a Poisson process, whatever has been answered.
    Open,
    /// After the answer, and an exponentially distributed time to think.
    Closed,
}

/// Some clients ask more often than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skew {
    /// One in this many clients does.
    pub(crate) one_in: u32,
    /// This many times as often.
    pub(crate) times: u32,
}

/// The clients' behaviour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ArrivalPlan {
    pub(crate) turn: Loop,
    /// Requests per second of all clients together; in a closed loop, the rate if answers took no time.
    pub(crate) rate: f64,
    pub(crate) skew: Option<Skew>,
    /// Connections per second that are closed, each replaced by another one.
    pub(crate) churn: f64,
    pub(crate) seed: u64,
}

impl ArrivalPlan {
    /// Requests a second of each client.
    pub(crate) fn rates(&self, clients: u32) -> Vec<f64> {
        let mut weights = vec![1.0; clients as usize];
        if let Some(Skew { one_in, times }) = self.skew {
            let mut order: Vec<usize> = (0..weights.len()).collect();
            Random::nth(self.seed, ORDER).shuffle(&mut order);
            let often = clients.div_ceil(one_in.max(1)) as usize;
            order.iter().take(often).for_each(|client| weights[*client] = f64::from(times));
        }
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| self.rate * weight / sum).collect()
    }
}

/// The clients of one thread, by lane.
#[derive(Debug)]
pub(crate) struct Arrivals {
    turn: Loop,
    clients: Vec<Client>,
    next: BinaryHeap<Reverse<(u64, u32)>>,
    leavers: Option<Leavers>,
}

#[derive(Debug)]
struct Client {
    interval_ns: f64,
    random: Random,
    waiting: VecDeque<u64>,
    /// In a closed loop: its next request is already scheduled.
    thinks: bool,
}

#[derive(Debug)]
struct Leavers {
    interval_ns: f64,
    random: Random,
    next_ns: u64,
}

impl Arrivals {
    /// Every `threads`th client, from `thread` on. They arrive one by one; the last of them begins `ramp` after the
    /// first.
    pub(crate) fn new(
        plan: &ArrivalPlan,
        clients: u32,
        (thread, threads): (usize, usize),
        start_ns: u64,
        ramp: Duration,
    ) -> Self {
        let rates = plan.rates(clients);
        let own = rates.iter().enumerate().skip(thread).step_by(threads);
        let clients: Vec<Client> = own
            .map(|(client, rate)| Client {
                interval_ns: 1e9 / rate,
                random: Random::nth(plan.seed, client as u32),
                waiting: VecDeque::new(),
                thinks: true,
            })
            .collect();
        let share = clients.len() as f64 / rates.len().max(1) as f64;
        let leavers = (plan.churn > 0.0).then(|| Leavers {
            interval_ns: 1e9 / (plan.churn * share),
            random: Random::nth(plan.seed.wrapping_add(thread as u64), LEAVERS),
            next_ns: start_ns + ramp.as_nanos() as u64,
        });
        let mut this = Self { turn: plan.turn, next: BinaryHeap::with_capacity(clients.len()), clients, leavers };
        let count = this.clients.len() as f64;
        for lane in 0..this.clients.len() as u32 {
            let begins_ns = start_ns + (ramp.as_nanos() as f64 * f64::from(lane) / count) as u64;
            this.schedule(lane, begins_ns);
        }
        this
    }

    fn schedule(&mut self, lane: u32, from_ns: u64) {
        let client = &mut self.clients[lane as usize];
        let after_ns = client.random.exponential() * client.interval_ns;
        // Later than the end of any load.
        let after_ns = after_ns.min(1e18) as u64;
        self.next.push(Reverse((from_ns.saturating_add(after_ns), lane)));
    }

    /// The time of the next thing to do.
    pub(crate) fn next_ns(&self) -> u64 {
        let due_ns = self.next.peek().map_or(u64::MAX, |Reverse((due_ns, _))| *due_ns);
        self.leavers.as_ref().map_or(due_ns, |leavers| due_ns.min(leavers.next_ns))
    }

    /// The next lane whose request has become due. The request waits to be taken.
    pub(crate) fn due(&mut self, now_ns: u64) -> Option<u32> {
        let &Reverse((due_ns, lane)) = self.next.peek().filter(|Reverse((due_ns, _))| *due_ns <= now_ns)?;
        self.next.pop();
        let client = &mut self.clients[lane as usize];
        client.waiting.push_back(due_ns);
        client.thinks = false;
        if self.turn == Loop::Open {
            self.schedule(lane, due_ns);
        }
        Some(lane)
    }

    /// The next lane whose connection must be replaced.
    pub(crate) fn leaver(&mut self, now_ns: u64) -> Option<u32> {
        let leavers = self.leavers.as_mut().filter(|leavers| leavers.next_ns <= now_ns)?;
        leavers.next_ns += (leavers.random.exponential() * leavers.interval_ns) as u64;
        Some(leavers.random.below(self.clients.len() as u64) as u32)
    }

    /// When the request that this lane sends now was due, if it has one.
    pub(crate) fn take(&mut self, lane: u32) -> Option<u64> {
        self.clients[lane as usize].waiting.pop_front()
    }

    /// This lane's request was answered, or given up.
    pub(crate) fn answered(&mut self, lane: u32, now_ns: u64) {
        let client = &mut self.clients[lane as usize];
        if self.turn == Loop::Closed && !client.thinks && client.waiting.is_empty() {
            client.thinks = true;
            self.schedule(lane, now_ns);
        }
    }

    /// Nothing more will be sent: returns when the requests that were never sent were due.
    pub(crate) fn end(&mut self) -> impl Iterator<Item = u64> {
        self.next.clear();
        self.leavers = None;
        self.clients.iter_mut().flat_map(|client| client.waiting.drain(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: ArrivalPlan = ArrivalPlan { turn: Loop::Open, rate: 1_000.0, skew: None, churn: 0.0, seed: 3 };
    const SKEW: Skew = Skew { one_in: 20, times: 50 };

    fn arrivals(plan: ArrivalPlan, clients: u32) -> Arrivals {
        Arrivals::new(&plan, clients, (0, 1), 0, Duration::ZERO)
    }

    /// Times of all requests until then, and their number for each lane; each is taken at once.
    fn until(arrivals: &mut Arrivals, lanes: usize, now_ns: u64) -> (Vec<u64>, Vec<u32>) {
        let (mut times, mut counts) = (Vec::new(), vec![0; lanes]);
        while let Some(lane) = arrivals.due(now_ns) {
            times.push(arrivals.take(lane).expect("it waits"));
            counts[lane as usize] += 1;
        }
        (times, counts)
    }

    #[test]
    fn times_of_an_open_loop_are_those_of_a_poisson_process() {
        let (times, counts) = until(&mut arrivals(PLAN, 10), 10, 100_000_000_000);
        // Expected are 100,000 with a deviation of 316, and 10,000 for each client with a deviation of 100.
        assert!((98_500..101_500).contains(&times.len()), "{}", times.len());
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert!(times.is_sorted());
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let square = gaps.iter().map(|gap| gap * gap).sum::<f64>() / gaps.len() as f64;
        // The deviation of exponential gaps is their mean.
        let variation = (square - mean * mean).sqrt() / mean;
        assert!((0.97..1.03).contains(&variation), "{variation}");
    }

    #[test]
    fn one_in_twenty_asks_fifty_times_as_often_and_the_whole_rate_is_kept() {
        let rates = ArrivalPlan { skew: Some(SKEW), ..PLAN }.rates(1_000);
        let most = rates.iter().copied().fold(0.0, f64::max);
        let least = rates.iter().copied().fold(f64::MAX, f64::min);
        assert!((most / least - 50.0).abs() < 1e-9);
        assert_eq!(rates.iter().filter(|rate| **rate == most).count(), 50);
        assert!((rates.iter().sum::<f64>() - 1_000.0).abs() < 1e-6);
        // Not every twentieth: a server that distributes connections in turn would have them all on some workers.
        let places: Vec<usize> = (0..1_000).filter(|client| rates[*client] == most).map(|client| client % 20).collect();
        assert!(places.iter().any(|place| *place != places[0]));
    }

    #[test]
    fn a_seed_decides_and_threads_share_the_clients() {
        let whole = until(&mut arrivals(PLAN, 10), 10, 1_000_000_000);
        assert_eq!(whole, until(&mut arrivals(PLAN, 10), 10, 1_000_000_000));
        assert_ne!(whole, until(&mut arrivals(ArrivalPlan { seed: 4, ..PLAN }, 10), 10, 1_000_000_000));
        let part = |thread| Arrivals::new(&PLAN, 10, (thread, 3), 0, Duration::ZERO);
        let mut parts: Vec<u64> = (0..3).flat_map(|thread| until(&mut part(thread), 4, 1_000_000_000).0).collect();
        parts.sort_unstable();
        assert_eq!(parts, whole.0);
    }

    #[test]
    fn in_a_closed_loop_a_client_thinks_after_each_answer() {
        let mut arrivals = arrivals(ArrivalPlan { turn: Loop::Closed, ..PLAN }, 2);
        let mut asked = 0;
        while let Some(lane) = arrivals.due(u64::MAX) {
            asked += 1;
            assert!(arrivals.take(lane).is_some());
            assert_eq!(arrivals.take(lane), None);
        }
        assert_eq!(asked, 2);
        arrivals.answered(1, 5_000_000_000);
        // Once is enough.
        arrivals.answered(1, 6_000_000_000);
        assert!(arrivals.next_ns() >= 5_000_000_000);
        let due_ns = arrivals.next_ns();
        assert_eq!((arrivals.due(u64::MAX), arrivals.due(u64::MAX)), (Some(1), None));
        assert_eq!(arrivals.end().collect::<Vec<_>>(), [due_ns]);
    }

    #[test]
    fn connections_are_replaced_at_their_rate_and_clients_begin_one_after_the_other() {
        let plan = ArrivalPlan { churn: 100.0, ..PLAN };
        let mut arrivals = Arrivals::new(&plan, 100, (0, 1), 0, Duration::from_secs(10));
        let mut leavers = Vec::new();
        while let Some(lane) = arrivals.leaver(110_000_000_000) {
            leavers.push(lane);
        }
        assert!((9_500..10_500).contains(&leavers.len()), "{}", leavers.len());
        leavers.sort_unstable();
        leavers.dedup();
        assert_eq!(leavers.len(), 100);
        // Half of the time, half of the clients: a quarter of the requests.
        let (times, counts) = until(&mut arrivals, 100, 5_000_000_000);
        assert!((1_050..1_450).contains(&times.len()), "{}", times.len());
        assert!(counts[..40].iter().all(|count| *count > 0) && counts[51..].iter().all(|count| *count == 0));
    }
}
