//! What operators ask for, and how it ends: outcomes are true, and what would lose something is refused.

mod losses;
mod outcomes;
