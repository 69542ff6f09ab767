//! The loads of one generation's workers. Each place has a page. The steering program reads it and counts in it, and
//! only the worker of that place maps it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::WORKERS_MAX;
use crate::sys::bpf;
use crate::sys::shared_memory::{Shared, shareable};

/// The smallest number of places to make room for. A generation that outgrows it gets a second map, with all possible
/// places.
const PLACES_MIN: u32 = 64;

shareable! {
    /// The page of a place. Its load is `assigned - settled`, as a signed number.
    #[repr(C)]
    pub(crate) struct LoadPage {
        /// The program adds to this for each attempt to give this place a connection.
        assigned: AtomicU64,
        /// Keeps the fields that the program and the worker write out of one cache line, and out of two that are
        /// fetched together.
        _gap: [AtomicU64; 15],
        /// The worker writes this.
        settled: AtomicU64,
    }
}

/// The offset of `assigned` in a page.
pub(super) const ASSIGNED_OFFSET: i16 = std::mem::offset_of!(LoadPage, assigned) as i16;

/// The offset of `settled` in a page.
pub(super) const SETTLED_OFFSET: i16 = std::mem::offset_of!(LoadPage, settled) as i16;

impl LoadPage {
    pub(crate) fn assigned(&self) -> u64 {
        self.assigned.load(Ordering::Relaxed)
    }

    pub(crate) fn settle(&self, settled: u64) {
        self.settled.store(settled, Ordering::Relaxed);
    }
}

/// A map of pages for consecutive places.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) places: u32,
    pub(crate) map: Arc<OwnedFd>,
}

/// See the module's head. Clones have the same pages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loads {
    /// In the order of their places.
    spans: Vec<Span>,
}

impl Loads {
    pub(crate) fn new(spans: Vec<Span>) -> Self {
        Self { spans }
    }

    /// Makes room for this many places. Existing places keep their pages.
    ///
    /// # Errors
    /// As bpf(2).
    pub(crate) fn grow(&mut self, places: u32) -> io::Result<()> {
        let present = self.places();
        if places > present {
            let rest = (WORKERS_MAX as u32).saturating_sub(present).max(places - present);
            let places = if present == 0 { places.next_power_of_two().max(PLACES_MIN) } else { rest };
            self.spans.push(Span { places, map: Arc::new(bpf::create_pages(places)?) });
        }
        Ok(())
    }

    pub(super) fn places(&self) -> u32 {
        self.spans.iter().fold(0, |sum, span| sum.saturating_add(span.places))
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The maps that have the first `places` places, each with how many of them.
    pub(super) fn first(&self, places: u32) -> impl Iterator<Item = (BorrowedFd<'_>, u32)> {
        self.spans.iter().scan(places, |left, span| {
            let taken = span.places.min(*left);
            *left -= taken;
            (taken > 0).then(|| (span.map.as_fd(), taken))
        })
    }

    /// Maps the page of one place.
    ///
    /// # Errors
    /// As mmap(2), and `NotFound` if there is no such place.
    pub(crate) fn page(&self, place: u32) -> io::Result<Shared<LoadPage>> {
        let mut index = place;
        for span in &self.spans {
            match index.checked_sub(span.places) {
                None => return Shared::of_pages(span.map.as_fd(), index),
                Some(rest) => index = rest,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}
