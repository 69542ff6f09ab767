//! Numbers on the command line: which ones a flag accepts, and what it says of others.

use std::error::Error;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::Command;

/// Most cores that Linux can be built for (`NR_CPUS`).
const CORES_MAX: usize = 8192;

/// Says which numbers a flag accepts; clap says before it which value was given for which flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NumberRefused(String);

impl Display for NumberRefused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "must be {}", self.0)
    }
}

impl Error for NumberRefused {}

/// Accepts the whole numbers of a range.
pub(crate) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, NumberRefused> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| NumberRefused(format!("a whole number between {} and {}", range.start(), range.end())))
    }
}

/// Accepts the numbers of a range, fractions among them. `what` is their unit, such as " of seconds", or nothing.
pub(crate) fn fraction(
    what: &'static str,
    range: RangeInclusive<f64>,
) -> impl Fn(&str) -> Result<f64, NumberRefused> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = range.clone().into_inner();
            NumberRefused(format!("a number{what} between {least} and {most}, such as 10 or 0.5"))
        })
    }
}

/// Accepts a time.
pub(crate) fn seconds(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, NumberRefused> + Clone {
    fraction(" of seconds", range)
}

/// Accepts a seed: any number of 64 bits.
pub(crate) fn seed(text: &str) -> Result<u64, NumberRefused> {
    whole(0..=u64::MAX)(text)
}

/// Accepts the number of a core, whether this machine has it or not.
pub(crate) fn core(text: &str) -> Result<usize, NumberRefused> {
    whole(0..=CORES_MAX - 1)(text)
}

/// Lets numbers below 0 reach the flag that refuses them: `--hours -1` is otherwise an unknown flag `-1`.
pub(crate) fn with_negative_numbers(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let takes_values = argument.get_action().takes_values();
        argument.allow_negative_numbers(takes_values)
    });
    command.mut_subcommands(with_negative_numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_both_their_ends_and_nothing_else() {
        let workers = whole(1..=64_u32);
        assert_eq!((workers("1"), workers("64")), (Ok(1), Ok(64)));
        let refused = NumberRefused("a whole number between 1 and 64".to_owned());
        for wrong in ["", "0", "65", "-1", "1.5", "1k", "99999999999999999999"] {
            assert_eq!(workers(wrong), Err(refused.clone()), "{wrong:?}");
        }
        let pause = seconds(0.1..=600.0);
        assert_eq!((pause("0.1"), pause("600"), pause("1e1")), (Ok(0.1), Ok(600.0), Ok(10.0)));
        for wrong in ["", "0", "600.1", "-1", "nan", "inf", "-inf", "10s"] {
            assert!(pause(wrong).is_err(), "{wrong:?}");
        }
    }
}
