//! Settings of [`Http`](crate::Http).

/// Settings of [`Http`](crate::Http).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Value of the `Server` header, default `baton`; none where it is empty.
    pub server: String,
    /// Largest request head, default 16 KiB; then 431.
    pub head_bytes_max: usize,
    /// Largest request target, default 8 KiB; then 414.
    pub target_bytes_max: usize,
    /// Largest body of a request that is collected before its handler is called, or that nobody wants, default 1 MiB; then
    /// 413. So a connection holds at most about twice as much, for the time that the vector grows.
    pub body_bytes_max: usize,
    /// Largest body that goes to a [`Receive`](crate::Receive) in parts, default 1 GiB; then 413. None of it is kept by the
    /// library.
    pub streamed_bytes_max: u64,
    /// Longest time from a request's head to the end of a body that is collected, in milliseconds, default 30,000, 0 = off;
    /// then 408. The engine's own `message_ms` watches the head, and its `idle_ms` a body that goes to a
    /// [`Receive`](crate::Receive).
    pub body_ms: u64,
    /// Requests answered on one connection before it is closed, default 0 = any number.
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
