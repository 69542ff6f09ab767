//! Decides when each sender's messages are read while connections move, so that each connection hears each message once
//! and in order.
//!
//! A leaving worker (O) gives all its connections to one heir (N). At some moment each sender marks its place, in one
//! step, in its channel to O and in its channel to N. O's connections hear the messages before the mark at O, and N's
//! connections at N. Both read up to the mark and no further. Then O's connections are frozen and brought to N, and N
//! continues to read, for all of them. So no message is missed or heard twice, whatever the two had read before.
//!
//! 1. O asks (`Gather`). N answers from which senders it hears (`Gathers`), and reads no sender that comes from then on.
//! 2. O asks each sender, including itself and N, for a mark ([`Word::Mark`]). It tells N which senders gave one
//!    (`Senders`), and which have ended instead: a sender's end counts as a mark, and O and N see it at different times.
//! 3. N has read all of these marks and ends (`Gathered`).
//! 4. O's connections move. O continues with what stays there, and N with everything (`AllGiven`).
//!
//! A connection may send messages at O, and then at N. Other workers read O and N separately, so they must not read N's
//! messages before they have read those of O. N begins with [`Word::Began`], O ends with [`Word::Moved`], and a worker
//! that reads the first waits for the second. Only one worker moves at a time: otherwise two could wait for each other.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Word;
use super::mutation::{Mutation, is_put_back};

/// The most names of ended senders that are kept, the latest ones: an heir may not have seen the end.
const PAST_MAX: usize = 1024;

/// The state of a sender.
#[derive(Debug, Default)]
struct Stand {
    /// Its mark for this worker, which is leaving, was read.
    is_marked_here: bool,
    /// Its mark for the worker that brings its connections was read.
    is_marked: bool,
    /// The last attempt whose end it has reported as a leaving worker.
    moved: u32,
    /// It sends messages for connections of another worker, whose last messages have not come yet.
    awaits: Option<(String, u32)>,
}

/// This worker is leaving, and all its senders must mark their places.
#[derive(Debug)]
struct Departing {
    attempt: u32,
    awaited: BTreeSet<String>,
    marked: BTreeSet<String>,
    /// Senders that have ended instead.
    ended: BTreeSet<String>,
    /// Senders that were asked. Those that come later are read when connections have moved.
    asked: BTreeSet<String>,
}

/// Another worker brings its connections.
#[derive(Debug)]
struct Arriving {
    of: String,
    attempt: u32,
    /// Senders that are read, up to their marks.
    read: BTreeSet<String>,
    /// Senders that have marked their places, once that is known.
    senders: Option<BTreeSet<String>>,
    /// Senders whose end the leaving worker has seen.
    gone: BTreeSet<String>,
    /// Senders whose end this worker has seen, which counts as a mark.
    ended: BTreeSet<String>,
}

/// The gate of one worker. The names of senders are those of their doors.
#[derive(Debug)]
pub(crate) struct Gate {
    own: String,
    senders: BTreeMap<String, Stand>,
    past: VecDeque<String>,
    departing: Option<Departing>,
    arriving: Option<Arriving>,
}

impl Gate {
    pub(crate) fn new(own: String) -> Self {
        let senders = BTreeMap::from([(own.clone(), Stand::default())]);
        Self { own, senders, past: VecDeque::new(), departing: None, arriving: None }
    }

    /// Messages of this sender are read from now on.
    pub(crate) fn came(&mut self, name: &str) {
        self.senders.insert(name.to_owned(), Stand::default());
    }

    /// This sender has ended, and all its messages were read.
    pub(crate) fn ended(&mut self, name: &str) {
        self.senders.remove(name);
        self.past.push_back(name.to_owned());
        self.past.drain(..self.past.len().saturating_sub(PAST_MAX));
        if let Some(departing) = &mut self.departing
            && departing.awaited.remove(name)
            && !is_put_back(Mutation::EndsAreForgotten)
        {
            departing.ended.insert(name.to_owned());
        }
        if let Some(arriving) = &mut self.arriving {
            arriving.ended.insert(name.to_owned());
        }
        self.let_go(|of, _| of == name);
    }

    fn let_go(&mut self, is_heard: impl Fn(&str, u32) -> bool) {
        for stand in self.senders.values_mut() {
            stand.awaits.take_if(|(of, attempt)| is_heard(of, *attempt));
        }
    }

    /// Takes a word of a sender, read in its place among the messages.
    pub(crate) fn read(&mut self, from: &str, word: &Word) {
        match word {
            Word::Mark { of, attempt } => self.marked(from, of, *attempt),
            Word::Moved { attempt } => {
                self.senders.get_mut(from).into_iter().for_each(|stand| stand.moved = stand.moved.max(*attempt));
                self.let_go(|of, awaited| of == from && awaited <= *attempt);
            }
            Word::Began { of, attempt } => {
                let is_over = is_put_back(Mutation::BeganIsIgnored)
                    || self.senders.get(of).is_none_or(|stand| stand.moved >= *attempt);
                if let Some(stand) = self.senders.get_mut(from).filter(|_| !is_over && of != from) {
                    stand.awaits = Some((of.clone(), *attempt));
                }
            }
            Word::Hello { .. } | Word::Unknown => {}
        }
    }

    fn marked(&mut self, from: &str, of: &str, attempt: u32) {
        let Some(stand) = self.senders.get_mut(from) else { return };
        if let Some(departing) = self.departing.as_mut().filter(|one| of == self.own && one.attempt == attempt) {
            stand.is_marked_here = !is_put_back(Mutation::LeaverReadsOn);
            departing.awaited.remove(from);
            departing.marked.insert(from.to_owned());
        } else if self.arriving.as_ref().is_some_and(|one| one.of == of && one.attempt == attempt) {
            stand.is_marked = true;
        }
    }

    /// Whether nothing more of this sender may be read now.
    pub(crate) fn holds(&self, name: &str) -> bool {
        let Some(stand) = self.senders.get(name) else { return false };
        let is_late = self.arriving.as_ref().is_some_and(|arriving| !arriving.read.contains(name))
            || self.departing.as_ref().is_some_and(|departing| !departing.asked.contains(name));
        let is_marked = stand.is_marked && !is_put_back(Mutation::HeirReadsOn);
        stand.awaits.is_some() || stand.is_marked_here || is_marked || is_late
    }

    /// The same for this worker, which hears its own messages.
    pub(crate) fn holds_own(&self) -> bool {
        self.holds(&self.own)
    }

    /// Takes a word of this worker's own.
    pub(crate) fn read_own(&mut self, word: &Word) {
        let own = self.own.clone();
        self.read(&own, word);
    }

    /// Whether a sender may be held.
    pub(crate) fn is_active(&self) -> bool {
        self.departing.is_some() || self.arriving.is_some() || self.senders.values().any(|one| one.awaits.is_some())
    }

    /// This worker is leaving: it, its senders, and `others`, from which its heir hears, must mark their places.
    pub(crate) fn depart(&mut self, attempt: u32, others: impl IntoIterator<Item = String>) {
        let asked: BTreeSet<String> = self.senders.keys().cloned().chain(others).collect();
        let has_ended = |name: &String| self.past.contains(name) && !is_put_back(Mutation::PastIsForgotten);
        let (ended, awaited) = asked.iter().cloned().partition(has_ended);
        self.departing = Some(Departing { attempt, awaited, marked: BTreeSet::new(), ended, asked });
    }

    /// Once all have marked their places or ended: returns those that have marked, and those that have ended.
    pub(crate) fn departed(&self) -> Option<(Vec<String>, Vec<String>)> {
        let departing = self.departing.as_ref().filter(|departing| departing.awaited.is_empty())?;
        let names = |all: &BTreeSet<String>| all.iter().cloned().collect();
        Some((names(&departing.marked), names(&departing.ended)))
    }

    /// Senders whose mark is missing.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &String> {
        self.departing.iter().flat_map(|departing| &departing.awaited)
    }

    /// Ends a departure: connections that stay here continue to hear messages.
    pub(crate) fn end_departing(&mut self) {
        self.departing = None;
        self.senders.values_mut().for_each(|stand| stand.is_marked_here = false);
    }

    /// A worker will bring its connections: returns from which senders this one hears. `None` if another worker is
    /// bringing some already.
    pub(crate) fn arrive(&mut self, of: String, attempt: u32) -> Option<Vec<String>> {
        if self.arriving.is_some() {
            return None;
        }
        let read: BTreeSet<String> = self.senders.keys().cloned().collect();
        let names = read.iter().cloned().collect();
        self.arriving =
            Some(Arriving { of, attempt, read, senders: None, gone: BTreeSet::new(), ended: BTreeSet::new() });
        Some(names)
    }

    /// `senders` have marked their places, and `gone` have ended.
    pub(crate) fn expect(&mut self, senders: impl Iterator<Item = String>, gone: impl Iterator<Item = String>) {
        if let Some(arriving) = &mut self.arriving {
            (arriving.senders, arriving.gone) = (Some(senders.collect()), gone.collect());
            arriving.read.extend(arriving.senders.iter().flatten().chain(&arriving.gone).cloned());
        }
    }

    /// Whether all expected marks were read.
    pub(crate) fn has_gathered(&self) -> bool {
        let Some(arriving) = &self.arriving else { return false };
        let is_read = |name: &String| {
            arriving.ended.contains(name) || self.senders.get(name).is_some_and(|stand| stand.is_marked)
        };
        let is_enough = is_put_back(Mutation::HeirIsNotAwaited);
        let are_gone = || arriving.gone.iter().all(|name| !self.senders.contains_key(name));
        arriving.senders.as_ref().is_some_and(|senders| is_enough || (senders.iter().all(is_read) && are_gone()))
    }

    /// Ends an arrival: all connections that come have come.
    pub(crate) fn end_arriving(&mut self) {
        self.arriving = None;
        self.senders.values_mut().for_each(|stand| stand.is_marked = false);
    }
}
