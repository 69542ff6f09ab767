//! Others on the same machine who mean harm: what they do costs nobody else anything. One file for each kind of attacker.

mod calls;
mod names;
mod orphan;
mod stranger;
mod visitor;
mod worker;
