//! Settings of [`Http`](crate::Http).

/// Settings of [`Http`](crate::Http).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Value of the `Server` header, default `baton`; an empty value leaves out the header.
    pub server: String,
    /// Largest request head, default 16 KiB; a larger one is answered with 431.
    pub head_bytes_max: usize,
    /// Largest request target, default 8 KiB; a larger one is answered with 414.
    pub target_bytes_max: usize,
    /// Largest request body that is collected for a handler, or skipped, default 1 MiB; a larger one is answered with
    /// 413. A connection holds at most about twice as much, while the vector grows.
    pub body_bytes_max: usize,
    /// Largest body that goes to a [`Receive`](crate::Receive) in parts, default 1 GiB; a larger one is answered with 413. The
    /// library keeps none of it.
    pub streamed_bytes_max: u64,
    /// Longest time from a request's head to the end of a collected body, in milliseconds, default 30,000; 0 turns it off.
    /// A longer one is answered with 408. The engine's `message_ms` limits the head, and its `idle_ms` a body that goes to a
    /// [`Receive`](crate::Receive).
    pub body_ms: u64,
    /// The connection is closed after this many requests; 0, the default, for no limit.
    pub requests_max: u32,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            server: "baton".to_owned(),
            head_bytes_max: 16 * 1024,
            target_bytes_max: 8 * 1024,
            body_bytes_max: 1024 * 1024,
            streamed_bytes_max: 1 << 30,
            body_ms: 30_000,
            requests_max: 0,
        }
    }
}
