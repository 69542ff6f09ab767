//! HTTP dates (RFC 9110 section 5.6.7), which count whole seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;

/// The year 10000, which an HTTP date cannot express.
const END: Duration = Duration::from_secs(253_402_300_800);

/// A header's value, such as for `Last-Modified`, rounded down to a whole second. `None` before 1970 and after 9999:
/// leave out the header then, since a file may have any date.
pub fn format(time: SystemTime) -> Option<HttpDate> {
    time.duration_since(UNIX_EPOCH).is_ok_and(|since| since < END).then(|| HttpDate::from(time))
}

/// The date in a header's value, in any of the three formats. `None` if it is malformed, or before 1970.
pub fn parse(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()
}

/// Whole seconds since 1970, as in a header.
pub(crate) fn seconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    (since < END).then_some(since.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_three_formats_are_one_date() {
        let expected = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for value in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(value.as_bytes()), Some(expected), "{value}");
        }
        let fraction = expected + Duration::from_millis(999);
        assert_eq!(format(fraction).map(|date| date.to_string()).as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        for value in
            ["", "yesterday", "Sun, 06 Nov 1994 08:49:37", "Sun, 31 Feb 1994 08:49:37 GMT", "784111777", "\u{e9}"]
        {
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(parse(b"\xff"), None);
    }

    #[test]
    fn times_that_no_date_can_name_are_none() {
        assert_eq!(format(UNIX_EPOCH - Duration::from_nanos(1)), None);
        assert_eq!(format(UNIX_EPOCH + END), None);
        assert!(format(UNIX_EPOCH + END - Duration::from_nanos(1)).is_some());
        assert_eq!(seconds(UNIX_EPOCH - Duration::from_secs(1)), None);
    }

    proptest! {
        #[test]
        fn what_is_formatted_is_parsed_back(count in 0..END.as_secs(), nanoseconds in 0..1_000_000_000u64) {
            let time = UNIX_EPOCH + Duration::from_secs(count);
            let date = format(time + Duration::from_nanos(nanoseconds)).expect("in range").to_string();
            prop_assert_eq!(parse(date.as_bytes()), Some(time));
        }

        #[test]
        fn no_value_panics(value: Vec<u8>, text in "[A-Za-z]{3,9},? {1,2}[0-9]{1,2}[ -][A-Za-z]{3}[ -][0-9]{2,4} [0-9:]{8} ?[GMT]{0,3}") {
            let _ = (parse(&value), parse(text.as_bytes()));
        }
    }
}
