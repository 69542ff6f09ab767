//! What a person reads of a history: when, who, what. Kept beside the world, so that worlds can be compared without it.

use std::cell::RefCell;
use std::fmt::Write;

use crate::master::core::{ProcessId, Time};

/// When, who, what.
type Line = (Time, Option<ProcessId>, String);

thread_local! {
    static LINES: RefCell<Option<Vec<Line>>> = const { RefCell::new(None) };
}

/// Keeps a line, where anybody wants one.
pub(super) fn say(now: Time, who: ProcessId, what: impl FnOnce() -> String) {
    tell(now, Some(who), what);
}

/// The same of the world outside of any process.
pub(super) fn tell(now: Time, who: Option<ProcessId>, what: impl FnOnce() -> String) {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            lines.push((now, who, what()));
        }
    });
}

/// Runs `run` and gives what happened, one line each.
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
