//! When each sender is heard while connections move, so that each connection hears each message once and in order.
//!
//! A worker that leaves (O) gives all its connections to one heir (N). At some moment each sender marks its place, in one step,
//! in its channel to O and in its channel to N. What stands before the mark, O's connections hear at O, and N's at N. Both read up to it and
//! no further: then O's connections are frozen and brought to N, and N reads on, for all of them. So neither is anything
//! missed, nor heard twice, whatever the two had read before.
//!
//! 1. O asks (`Gather`); N answers whom it hears (`Gathers`), and reads nobody who comes from then on.
//! 2. O asks each sender, itself and N too, for a mark ([`Word::Mark`]), and says to N who gave one (`Senders`), and who has ended
//!    instead: a sender's end is as good as a mark, and O and N see it at different times.
//! 3. N has read all of these marks and ends (`Gathered`).
//! 4. O's connections move. O goes on with what stays there, and N with everything (`AllGiven`).
//!
//! A connection may speak at O, and then at N. Others read O and N apart, so they must not read what N says before they have read
//! what O had said: N begins with [`Word::Began`], O ends with [`Word::Moved`], and whoever reads the first waits for the second.
//! One worker at a time moves: otherwise two could wait for each other.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Word;
use super::mutation::{Mutation, is_put_back};

/// Names of senders that have ended, the last ones: an heir may not have seen it.
const PAST_MAX: usize = 1024;

/// How a sender is heard.
#[derive(Debug, Default)]
struct Stand {
    /// Its mark for this worker, which leaves, was read.
    is_marked_here: bool,
    /// Its mark for the worker that brings its connections was read.
    is_marked: bool,
    /// The last attempt whose end it has told, as a worker that leaves.
    moved: u32,
    /// It speaks for connections of another one, of which the last words are awaited.
    awaits: Option<(String, u32)>,
}

/// This worker leaves, and all that it hears is to be marked.
#[derive(Debug)]
struct Departing {
    attempt: u32,
    awaited: BTreeSet<String>,
    marked: BTreeSet<String>,
    /// Those that have ended instead.
    ended: BTreeSet<String>,
    /// Those that are asked; who comes later is read when connections have moved.
    asked: BTreeSet<String>,
}

/// Another worker brings its connections.
#[derive(Debug)]
struct Arriving {
    of: String,
    attempt: u32,
    /// Senders that are read, up to their marks.
    read: BTreeSet<String>,
    /// Those that have marked their place, once that is known.
    senders: Option<BTreeSet<String>>,
    /// Those of which the worker that leaves has seen the end.
    gone: BTreeSet<String>,
    /// Those of which this one has, which is as good as a mark.
    ended: BTreeSet<String>,
}

/// See the module's head. Senders are named as their doors are.
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

    /// Messages of a sender are read from now on.
    pub(crate) fn came(&mut self, name: &str) {
        self.senders.insert(name.to_owned(), Stand::default());
    }

    /// A sender has ended; all its messages were read.
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

    /// A sender's word was read, in its place.
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

    /// The same of this worker, which hears what it says.
    pub(crate) fn holds_own(&self) -> bool {
        self.holds(&self.own)
    }

    /// A word of this worker's own was read.
    pub(crate) fn read_own(&mut self, word: &Word) {
        let own = self.own.clone();
        self.read(&own, word);
    }

    /// Whether anybody may be held.
    pub(crate) fn is_active(&self) -> bool {
        self.departing.is_some() || self.arriving.is_some() || self.senders.values().any(|one| one.awaits.is_some())
    }

    /// This worker leaves: it, whoever it hears, and these, whom its heir hears, are to mark their places.
    pub(crate) fn depart(&mut self, attempt: u32, others: impl IntoIterator<Item = String>) {
        let asked: BTreeSet<String> = self.senders.keys().cloned().chain(others).collect();
        let has_ended = |name: &String| self.past.contains(name) && !is_put_back(Mutation::PastIsForgotten);
        let (ended, awaited) = asked.iter().cloned().partition(has_ended);
        self.departing = Some(Departing { attempt, awaited, marked: BTreeSet::new(), ended, asked });
    }

    /// Whether all have marked their places or ended: gives those that have marked, and those that have ended.
    pub(crate) fn departed(&self) -> Option<(Vec<String>, Vec<String>)> {
        let departing = self.departing.as_ref().filter(|departing| departing.awaited.is_empty())?;
        let names = |all: &BTreeSet<String>| all.iter().cloned().collect();
        Some((names(&departing.marked), names(&departing.ended)))
    }

    /// Who is waited for.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &String> {
        self.departing.iter().flat_map(|departing| &departing.awaited)
    }

    /// What stays here hears on.
    pub(crate) fn end_departing(&mut self) {
        self.departing = None;
        self.senders.values_mut().for_each(|stand| stand.is_marked_here = false);
    }

    /// A worker will bring its connections: gives whom this one hears. `None` where another one does so already.
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

    /// These have marked their places, and those have ended.
    pub(crate) fn expect(&mut self, senders: impl Iterator<Item = String>, gone: impl Iterator<Item = String>) {
        if let Some(arriving) = &mut self.arriving {
            (arriving.senders, arriving.gone) = (Some(senders.collect()), gone.collect());
            arriving.read.extend(arriving.senders.iter().flatten().chain(&arriving.gone).cloned());
        }
    }

    /// Whether all marks were read that are expected.
    pub(crate) fn has_gathered(&self) -> bool {
        let Some(arriving) = &self.arriving else { return false };
        let is_read = |name: &String| {
            arriving.ended.contains(name) || self.senders.get(name).is_some_and(|stand| stand.is_marked)
        };
        let is_enough = is_put_back(Mutation::HeirIsNotAwaited);
        let are_gone = || arriving.gone.iter().all(|name| !self.senders.contains_key(name));
        arriving.senders.as_ref().is_some_and(|senders| is_enough || (senders.iter().all(is_read) && are_gone()))
    }

    /// All have come that come.
    pub(crate) fn end_arriving(&mut self) {
        self.arriving = None;
        self.senders.values_mut().for_each(|stand| stand.is_marked = false);
    }
}
