//! Commands on keys, whatever their values are.

use super::commands::{Call, cut};
use super::store::milliseconds;

pub(super) fn delete(call: &mut Call<'_, '_>) {
    let now = call.now();
    let count = call.arguments.from(1).filter(|key| call.state.store.remove(key, now).is_some()).count();
    call.reply.count(count);
}

pub(super) fn exists(call: &mut Call<'_, '_>) {
    let now = call.now();
    let count = call.arguments.from(1).filter(|key| call.state.store.contains(key, now)).count();
    call.reply.count(count);
}

pub(super) fn expire_seconds(call: &mut Call<'_, '_>) {
    expire(call, 1000);
}

pub(super) fn expire_milliseconds(call: &mut Call<'_, '_>) {
    expire(call, 1);
}

#[derive(Clone, Copy, Default)]
struct Conditions {
    /// Only if it does not expire.
    only_new: bool,
    /// Only if it does.
    only_known: bool,
    only_later: bool,
    only_earlier: bool,
}

fn expire(call: &mut Call<'_, '_>, unit_ms: i64) {
    let now = call.now();
    let now_ms = milliseconds(now);
    let Some(conditions) = conditions(call) else { return };
    let Some(given) = call.integer(2) else { return };
    let Some(at_ms) = given.checked_mul(unit_ms).and_then(|ms| call.deadline_after_ms(ms)) else {
        return call.invalid_expire_time();
    };
    let key = call.argument(1);
    let Some(known) = call.state.store.expiry_ms(key, now) else { return call.reply.integer(0) };
    let is_refused = conditions.only_new && known.is_some()
        || conditions.only_known && known.is_none()
        || conditions.only_later && known.is_none_or(|known| at_ms <= known)
        || conditions.only_earlier && known.is_some_and(|known| at_ms >= known);
    if is_refused {
        return call.reply.integer(0);
    }
    if at_ms <= now_ms {
        call.state.store.remove(key, now);
    } else {
        call.state.store.expire(key, Some(at_ms), now);
    }
    call.reply.integer(1);
}

/// `None` if they contradict each other; the client has got the error.
fn conditions(call: &mut Call<'_, '_>) -> Option<Conditions> {
    let mut conditions = Conditions::default();
    for option in call.arguments.from(3) {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        match () {
            () if is("nx") => conditions.only_new = true,
            () if is("xx") => conditions.only_known = true,
            () if is("gt") => conditions.only_later = true,
            () if is("lt") => conditions.only_earlier = true,
            () => {
                call.reply.error(&[b"ERR Unsupported option ", cut(option, usize::MAX)]);
                return None;
            }
        }
    }
    let Conditions { only_new, only_known, only_later, only_earlier } = conditions;
    if only_new && (only_known || only_later || only_earlier) {
        call.reply.encoded(b"-ERR NX and XX, GT or LT options at the same time are not compatible\r\n");
        None
    } else if only_later && only_earlier {
        call.reply.encoded(b"-ERR GT and LT options at the same time are not compatible\r\n");
        None
    } else {
        Some(conditions)
    }
}

pub(super) fn ttl_seconds(call: &mut Call<'_, '_>) {
    ttl(call, |ms| ms.saturating_add(500) / 1000);
}

pub(super) fn ttl_milliseconds(call: &mut Call<'_, '_>) {
    ttl(call, |ms| ms);
}

fn ttl(call: &mut Call<'_, '_>, shown: fn(i64) -> i64) {
    let now = call.now();
    call.reply.integer(match call.state.store.expiry_ms(call.argument(1), now) {
        None => -2,
        Some(None) => -1,
        Some(Some(at_ms)) => shown(at_ms - milliseconds(now)),
    });
}

pub(super) fn persist(call: &mut Call<'_, '_>) {
    let now = call.now();
    let key = call.argument(1);
    let expires = call.state.store.expiry_ms(key, now).is_some_and(|at_ms| at_ms.is_some());
    if expires {
        call.state.store.expire(key, None, now);
    }
    call.reply.integer(expires.into());
}

pub(super) fn kind(call: &mut Call<'_, '_>) {
    let now = call.now();
    let is_there = call.state.store.contains(call.argument(1), now);
    call.reply.encoded(if is_there { b"+string\r\n" } else { b"+none\r\n" });
}

pub(super) fn count(call: &mut Call<'_, '_>) {
    call.reply.count(call.state.store.count());
}

pub(super) fn flush(call: &mut Call<'_, '_>) {
    let is_understood = match call.arguments.count() {
        1 => true,
        2 => [&b"async"[..], b"sync"].iter().any(|one| call.argument(1).eq_ignore_ascii_case(one)),
        _ => false,
    };
    if !is_understood {
        return call.syntax_error();
    }
    call.state.store.clear();
    call.reply.ok();
}

pub(super) fn select(call: &mut Call<'_, '_>) {
    match call.integer(1) {
        None => {}
        Some(0) => call.reply.ok(),
        Some(index) if i32::try_from(index).is_err() => {
            call.reply.encoded(b"-ERR value is out of range, value must between -2147483648 and 2147483647\r\n");
        }
        Some(_) => call.reply.encoded(b"-ERR DB index is out of range\r\n"),
    }
}
