//! Inline requests, as a person types them: words, `"quoted \r\n \x41"` and `'quoted'`.

/// Splits `line` into arguments, whose bytes are appended to `bytes`; each argument's length goes to `argument`. `None`
/// if a quote is not closed, or if more text follows directly after it.
pub(super) fn split(line: &[u8], bytes: &mut Vec<u8>, mut argument: impl FnMut(usize)) -> Option<()> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start_with_vertical_tab();
        if rest.is_empty() {
            return Some(());
        }
        let start = bytes.len();
        rest = word(rest, bytes)?;
        argument(bytes.len() - start);
    }
}

/// Reads one argument, and returns the rest.
fn word<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return Some(rest),
            [b' ' | b'\t' | b'\r' | b'\n', ..] => return Some(rest),
            // A quote may begin inside a word, but nothing may follow its end.
            [b'"', quoted @ ..] => return double_quoted(quoted, bytes),
            [b'\'', quoted @ ..] => return single_quoted(quoted, bytes),
            [first, others @ ..] => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'"', others @ ..] => return ends_word(others),
            [b'\\', b'x', high, low, others @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                others
            }
            [b'\\', escaped, others @ ..] => {
                bytes.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                others
            }
            [first, others @ ..] => {
                bytes.push(*first);
                others
            }
            [] => return None,
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'\'', others @ ..] => {
                bytes.push(b'\'');
                others
            }
            [b'\'', others @ ..] => return ends_word(others),
            [first, others @ ..] => {
                bytes.push(*first);
                others
            }
            [] => return None,
        }
    }
}

fn ends_word(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(|first| is_space(*first)).then_some(rest)
}

/// Whether the byte separates arguments. Inside an argument, as in Redis, form feed and vertical tab are letters.
fn is_space(byte: u8) -> bool {
    // Includes the vertical tab, which C's `isspace` has and `is_ascii_whitespace` does not.
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

trait TrimStart {
    fn trim_ascii_start_with_vertical_tab(&self) -> &Self;
}

impl TrimStart for [u8] {
    fn trim_ascii_start_with_vertical_tab(&self) -> &Self {
        let start = self.iter().position(|byte| !is_space(*byte)).unwrap_or(self.len());
        &self[start..]
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    fn arguments(line: &str) -> Option<Vec<String>> {
        let (mut bytes, mut lengths) = (Vec::new(), Vec::new());
        split(line.as_bytes(), &mut bytes, |length| lengths.push(length))?;
        let mut rest = bytes.as_slice();
        let mut take = |length| {
            let (argument, others) = rest.split_at(length);
            rest = others;
            argument.escape_ascii().to_string()
        };
        Some(lengths.into_iter().map(&mut take).collect())
    }

    #[test]
    fn words_and_quotes() {
        let is =
            |line, expected: &[&str]| assert_eq!(arguments(line).as_deref(), Some(expected_of(expected)).as_deref());
        fn expected_of(expected: &[&str]) -> Vec<String> {
            expected.iter().map(|one| (*one).to_owned()).collect()
        }
        is("", &[]);
        is(" \t ", &[]);
        is("PING", &["PING"]);
        is("\x0b SET\ta  b\r", &["SET", "a", "b"]);
        is("\x0cSET\x0c a\x0bb", &["SET\\x0c", "a\\x0bb"]);
        is(r#"SET "a b" """#, &["SET", "a b", ""]);
        is(r#""\x41\n\q\xzz" '\n\'x'"#, &[r"A\nqxzz", r"\\n\'x"]);
        is(r#"a"b c" d'e f'"#, &["ab c", "de f"]);
    }

    #[test]
    fn unbalanced() {
        for line in ["\"", "'", "\"a", "'a", "\"a\"b", "'a'b", "a\"b", "\"a\\\"", "'a\\'"] {
            assert_eq!(arguments(line), None, "{line}");
        }
    }
}
