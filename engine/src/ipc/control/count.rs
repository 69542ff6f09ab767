//! Numbers of things, in words.

use std::fmt;

/// A number of things, with the plural that fits: "1 connection", "2 connections".
///
/// ```
/// assert_eq!(baton::control::Count(1, "worker").to_string(), "1 worker");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Count<'a>(
    /// How many.
    pub u64,
    /// One of them; its plural takes an `s`.
    pub &'a str,
);

impl fmt::Display for Count<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, thing) = self;
        write!(formatter, "{count} {thing}{}", if *count == 1 { "" } else { "s" })
    }
}

/// [`Count`] of workers.
pub(super) fn workers(count: usize) -> Count<'static> {
    Count(count as u64, "worker")
}
