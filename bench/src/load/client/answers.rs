//! What answers and ends of connections mean for a lane.

use std::sync::atomic::Ordering;

use baton::{Io, Step};

use super::Client;
use super::lane::Sent;
use crate::load::tally::{Answered, Failure};

impl Client {
    pub(super) fn count_answers(&mut self, index: u32, mut answers: u32, now_ns: u64) {
        let phase = self.phase();
        let lane = &mut self.lanes[index as usize];
        lane.outstanding -= answers;
        lane.answered += answers;
        self.outstanding -= u64::from(answers);
        self.shared.requests.fetch_add(u64::from(answers), Ordering::Relaxed);
        while answers > 0 {
            let sent = lane.pending.front_mut().expect("as many are pending as are outstanding");
            let count = sent.count.min(answers);
            answers -= count;
            let answer = Answered {
                count: u64::from(count),
                latency_ns: now_ns.saturating_sub(sent.at_ns),
                corrected_ns: now_ns.saturating_sub(sent.due_ns),
                is_paced: self.pace.is_some() || self.arrivals.is_some(),
            };
            // A request that began or ended during an action belongs to it.
            let phase = if phase == 0 { sent.phase } else { phase };
            self.outcome.answered(phase, now_ns.saturating_sub(self.start_ns), answer);
            sent.count -= count;
            if sent.count == 0 {
                lane.pending.pop_front();
            }
        }
        if self.plan.is_idle && !lane.has_been_held {
            lane.has_been_held = true;
            self.shared.held.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.answered(index, now_ns);
        }
    }

    /// The connection has ended with unanswered requests.
    pub(super) fn drop_pending(&mut self, index: u32) -> u32 {
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.answered(index, self.now_ns);
        }
        let lane = &mut self.lanes[index as usize];
        lane.pending.clear();
        self.outstanding -= u64::from(lane.outstanding);
        std::mem::take(&mut lane.outstanding)
    }

    /// Reads answers, and sends the next requests.
    #[inline]
    pub(super) fn read_answers(&mut self, index: u32, input: &[u8], io: &mut Io<'_>) -> Step {
        let now_ns = io.now().as_nanos() as u64;
        let salt = self.salt(index);
        let lane = &mut self.lanes[index as usize];
        let read = match self.exchange.read(&mut lane.progress, salt, lane.outstanding, input) {
            Ok(read) => read,
            Err(problem) => {
                lane.has_failed = true;
                self.drop_pending(index);
                self.fail(now_ns, Failure::Wrong, || problem);
                return Step::abort();
            }
        };
        if read.is_upgraded {
            self.write_deferred(index, io);
        }
        if read.answers > 0 {
            self.count_answers(index, read.answers, now_ns);
        }
        let lane = &mut self.lanes[index as usize];
        let is_last =
            lane.leaves || self.plan.requests_per_connection > 0 && lane.sent >= self.plan.requests_per_connection;
        if lane.outstanding == 0 && (read.closes || is_last) {
            lane.server_closes = read.closes;
            return Step::finish(read.consumed);
        }
        if read.answers > 0 && !read.closes && !is_last {
            self.send_next(index, io);
        }
        Step::at_least(read.consumed, read.at_least)
    }

    /// The server has sent its last byte. `has_rest`: some earlier input is not consumed. `is_cut`: it is not known
    /// whether that was all.
    pub(super) fn read_end(&mut self, index: u32, has_rest: bool, is_cut: bool, now_ns: u64) {
        let lane = &mut self.lanes[index as usize];
        if lane.outstanding > 0 && !is_cut && self.exchange.read_end(&mut lane.progress) {
            self.count_answers(index, 1, now_ns);
        }
        let lane = &mut self.lanes[index as usize];
        if lane.outstanding > 0 {
            let failure = if lane.progress.is_within() || has_rest {
                Failure::Short
            } else if lane.answered > 0 {
                let oldest = lane.pending.front().copied();
                lane.repeated = oldest.map(|sent| Sent { count: lane.outstanding, ..sent });
                Failure::Stale
            } else {
                Failure::Empty
            };
            lane.has_failed = failure != Failure::Stale;
            self.drop_pending(index);
            self.fail(now_ns, failure, String::new);
        } else if self.plan.is_idle && self.stop_at_ns.is_none() {
            lane.has_failed = true;
            self.fail(now_ns, Failure::Other, || "the server closed a connection that was held".to_owned());
        }
    }
}
