//! The text of the `Date` header, created again when the second has changed.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) struct Date {
    second: u64,
    text: String,
}

impl Date {
    pub(crate) fn new() -> Self {
        Self { second: 0, text: httpdate::fmt_http_date(UNIX_EPOCH) }
    }

    /// The present time.
    pub(crate) fn text(&mut self) -> &str {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second {
            self.second = second;
            self.text = httpdate::fmt_http_date(now);
        }
        &self.text
    }
}
