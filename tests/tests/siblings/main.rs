//! Workers send each other messages: each message is heard by the others once and in order, whatever happens to workers
//! and masters.

mod basics;
mod handover;
mod load;
mod server;
