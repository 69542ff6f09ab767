//! How to write a protocol on the engine, keep it running through new versions, and operate it.
//!
//! 1. [`first_protocol`]: parse, answer, run.
//! 2. [`time_and_back_pressure`]: timers, time-outs, slow readers, long answers.
//! 3. [`helpers`]: threads for long work.
//! 4. [`workers`]: what workers share, and what they do not share.
//! 5. [`outbound`]: connections to other servers, pairs, a proxy.
//! 6. [`state_across_versions`]: connections, and a worker's own state, move to the next binary.
//! 7. [`testing`]: the harness, in virtual time.
//! 8. [`tls`]: listeners with a layer between bytes and protocol.
//! 9. [`operating`]: logs, counters, reload, upgrade, proxies in front.
//! 10. [`glossary`]: the words that these pages use.
//!
//! You can read each page on its own. The tests of this crate compile its code, and run most of it. The examples in the
//! repository are whole programs: `echo`, `lines`, `proxy`, `jobs`, `pubsub`, `versions` and `resp`.

#[doc = include_str!("first_protocol.md")]
pub mod first_protocol {}

#[doc = include_str!("time_and_back_pressure.md")]
pub mod time_and_back_pressure {}

#[doc = include_str!("helpers.md")]
pub mod helpers {}

#[doc = include_str!("workers.md")]
pub mod workers {}

#[doc = include_str!("outbound.md")]
pub mod outbound {}

#[doc = include_str!("state_across_versions.md")]
pub mod state_across_versions {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("tls.md")]
pub mod tls {}

#[doc = include_str!("glossary.md")]
pub mod glossary {}

#[doc = include_str!("operating.md")]
pub mod operating {}
