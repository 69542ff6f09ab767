//! Operators' requests and their outcomes: outcomes are true, and a request that would lose something is refused.

mod losses;
mod outcomes;
