//! The readable log of a history: when, who, what. It is kept beside the world, so that worlds can be compared without
//! it.

use std::cell::RefCell;
use std::fmt::Write;

use crate::master::core::{ProcessId, Time};

/// When, who, what.
type Line = (Time, Option<ProcessId>, String);

thread_local! {
    static LINES: RefCell<Option<Vec<Line>>> = const { RefCell::new(None) };
}

/// Adds a line, if a log is being kept.
pub(super) fn say(now: Time, who: ProcessId, what: impl FnOnce() -> String) {
    tell(now, Some(who), what);
}

/// The same for events outside of any process.
pub(super) fn tell(now: Time, who: Option<ProcessId>, what: impl FnOnce() -> String) {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            lines.push((now, who, what()));
        }
    });
}

/// Runs `run` and returns its result and the log, one line for each event.
pub(super) fn recorded<T>(run: impl FnOnce() -> T) -> (T, String) {
    LINES.set(Some(Vec::new()));
    let result = run();
    let lines = LINES.take().unwrap_or_default();
    let mut text = String::new();
    let first = lines.first().map_or(Time::default(), |(time, ..)| *time);
    for (time, who, what) in lines {
        let who = who.map_or("---".to_owned(), |who| format!("pid {}", who.0));
        let _ = writeln!(text, "{:>10} ms  {who:<8} {what}", time.ms_since(first));
    }
    (result, text)
}
