//! Commands on values.

use super::commands::Call;
use super::store::{AddError, Lifetime};
use super::{BULK_BYTES_MAX, REPLY_BYTES_MAX, number};

pub(super) fn get(call: &mut Call<'_, '_>) {
    let now = call.now();
    call.reply.bulk_or_null(call.state.store.get(call.arguments.get(1), now));
}

pub(super) fn set(call: &mut Call<'_, '_>) {
    let now = call.now();
    let (key, value) = (call.argument(1), call.argument(2));
    if call.arguments.count() == 3 {
        call.state.store.set(key, value, Lifetime::Unlimited, now);
        return call.reply.ok();
    }
    let Some(options) = set_options(call) else { return };
    let old = call.state.store.get(key, now);
    let is_refused = (options.only_new && old.is_some()) || (options.only_known && old.is_none());
    if options.get {
        call.reply.bulk_or_null(old);
    }
    if !is_refused {
        call.state.store.set(key, value, options.lifetime, now);
    }
    match (options.get, is_refused) {
        (true, _) => {}
        (false, true) => call.reply.null(),
        (false, false) => call.reply.ok(),
    }
}

struct SetOptions {
    only_new: bool,
    only_known: bool,
    get: bool,
    lifetime: Lifetime,
}

/// The form of a time in a request.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TimeFormat {
    is_seconds: bool,
    /// Since 1970, not from now on.
    is_absolute: bool,
}

const SECONDS: TimeFormat = TimeFormat { is_seconds: true, is_absolute: false };
const MILLISECONDS: TimeFormat = TimeFormat { is_seconds: false, is_absolute: false };

/// `None` if an option is wrong; the client has got the error.
fn set_options(call: &mut Call<'_, '_>) -> Option<SetOptions> {
    let mut options = SetOptions { only_new: false, only_known: false, get: false, lifetime: Lifetime::Unlimited };
    let mut time: Option<(TimeFormat, &[u8])> = None;
    let mut arguments = call.arguments.from(3);
    while let Some(option) = arguments.next() {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        let format = if is("ex") {
            SECONDS
        } else if is("px") {
            MILLISECONDS
        } else if is("exat") {
            TimeFormat { is_seconds: true, is_absolute: true }
        } else if is("pxat") {
            TimeFormat { is_seconds: false, is_absolute: true }
        } else {
            let is_allowed = if is("nx") {
                options.only_new = true;
                !options.only_known
            } else if is("xx") {
                options.only_known = true;
                !options.only_new
            } else if is("get") {
                options.get = true;
                true
            } else if is("keepttl") {
                options.lifetime = Lifetime::Kept;
                time.is_none()
            } else {
                false
            };
            if is_allowed {
                continue;
            }
            call.syntax_error();
            return None;
        };
        let is_same = time.is_none_or(|(other, _)| other == format) && options.lifetime == Lifetime::Unlimited;
        let Some(number) = arguments.next().filter(|_| is_same) else {
            call.syntax_error();
            return None;
        };
        time = Some((format, number));
    }
    if let Some((format, text)) = time {
        options.lifetime = Lifetime::UntilMs(until_ms(call, format, text)?);
    }
    Some(options)
}

/// The time of the loop's clock at which something ends. `None` if the text is not a time; the client has got the
/// error.
fn until_ms(call: &mut Call<'_, '_>, format: TimeFormat, text: &[u8]) -> Option<i64> {
    let Some(given) = number::parse(text) else {
        call.not_an_integer();
        return None;
    };
    let ms = given.checked_mul(if format.is_seconds { 1000 } else { 1 }).filter(|_| given > 0);
    let at_ms = ms.and_then(|ms| call.deadline_after_ms(if format.is_absolute { ms - call.wall_ms() } else { ms }));
    if at_ms.is_none() {
        call.invalid_expire_time();
    }
    at_ms
}

pub(super) fn set_seconds(call: &mut Call<'_, '_>) {
    set_with_time(call, SECONDS);
}

pub(super) fn set_milliseconds(call: &mut Call<'_, '_>) {
    set_with_time(call, MILLISECONDS);
}

fn set_with_time(call: &mut Call<'_, '_>, format: TimeFormat) {
    let now = call.now();
    let Some(at_ms) = until_ms(call, format, call.argument(2)) else { return };
    call.state.store.set(call.argument(1), call.argument(3), Lifetime::UntilMs(at_ms), now);
    call.reply.ok();
}

pub(super) fn set_new(call: &mut Call<'_, '_>) {
    let now = call.now();
    let is_new = !call.state.store.contains(call.argument(1), now);
    if is_new {
        call.state.store.set(call.argument(1), call.argument(2), Lifetime::Unlimited, now);
    }
    call.reply.integer(is_new.into());
}

pub(super) fn exchange(call: &mut Call<'_, '_>) {
    let now = call.now();
    call.reply.bulk_or_null(call.state.store.get(call.arguments.get(1), now));
    call.state.store.set(call.argument(1), call.argument(2), Lifetime::Unlimited, now);
}

pub(super) fn take(call: &mut Call<'_, '_>) {
    let now = call.now();
    let value = call.state.store.remove(call.argument(1), now);
    call.reply.bulk_or_null(value.as_ref().map(|value| value.bytes()));
}

pub(super) fn set_many(call: &mut Call<'_, '_>) {
    if call.arguments.count().is_multiple_of(2) {
        return call.wrong_number_of_arguments();
    }
    let now = call.now();
    let mut arguments = call.arguments.from(1);
    while let (Some(key), Some(value)) = (arguments.next(), arguments.next()) {
        call.state.store.set(key, value, Lifetime::Unlimited, now);
    }
    call.reply.ok();
}

pub(super) fn get_many(call: &mut Call<'_, '_>) {
    let now = call.now();
    let keys = call.arguments.from(1);
    let bytes: usize = keys.map(|key| call.state.store.get(key, now).map_or(0, <[u8]>::len)).sum();
    if bytes > REPLY_BYTES_MAX {
        return call.reply.error(&[b"ERR the answer would be longer than 64 MiB; ask for fewer keys at a time"]);
    }
    call.reply.array(call.arguments.count() - 1);
    for key in call.arguments.from(1) {
        call.reply.bulk_or_null(call.state.store.get(key, now));
    }
}

pub(super) fn append(call: &mut Call<'_, '_>) {
    let now = call.now();
    match call.state.store.append(call.argument(1), call.argument(2), BULK_BYTES_MAX, now) {
        Some(length) => call.reply.count(length),
        None => call.reply.encoded(b"-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n"),
    }
}

pub(super) fn length(call: &mut Call<'_, '_>) {
    let now = call.now();
    call.reply.count(call.state.store.get(call.argument(1), now).map_or(0, <[u8]>::len));
}

pub(super) fn increment(call: &mut Call<'_, '_>) {
    add(call, 1);
}

pub(super) fn decrement(call: &mut Call<'_, '_>) {
    add(call, -1);
}

pub(super) fn increment_by(call: &mut Call<'_, '_>) {
    if let Some(addend) = call.integer(2) {
        add(call, addend);
    }
}

pub(super) fn decrement_by(call: &mut Call<'_, '_>) {
    let Some(subtrahend) = call.integer(2) else { return };
    match subtrahend.checked_neg() {
        Some(addend) => add(call, addend),
        None => call.reply.encoded(b"-ERR decrement would overflow\r\n"),
    }
}

#[inline]
fn add(call: &mut Call<'_, '_>, addend: i64) {
    let now = call.now();
    match call.state.store.add(call.argument(1), addend, now) {
        Ok(sum) => call.reply.integer(sum),
        Err(AddError::NotAnInteger) => call.not_an_integer(),
        Err(AddError::Overflow) => call.reply.encoded(b"-ERR increment or decrement would overflow\r\n"),
    }
}
