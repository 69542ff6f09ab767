//! Patterns of names: `*` and `?`; any other byte stands for itself, in either case.

/// Whether the text can match more than itself.
pub(super) fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'*' | b'?'))
}

/// Takes at most time in proportion to the product of the lengths: it only ever goes back to the last star.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut with) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        if pattern.get(with) == Some(&b'*') {
            star = Some((with, at));
            with += 1;
        } else if pattern.get(with).is_some_and(|one| *one == b'?' || one.eq_ignore_ascii_case(&name[at])) {
            at += 1;
            with += 1;
        } else if let Some((star_with, star_at)) = star {
            star = Some((star_with, star_at + 1));
            at = star_at + 1;
            with = star_with + 1;
        } else {
            return false;
        }
    }
    pattern[with..].iter().all(|one| *one == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_questions() {
        for (pattern, name) in [("", ""), ("*", ""), ("*", "save"), ("SA?E", "save"), ("*a*e", "save"), ("**", "x")] {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("", "a"), ("?", ""), ("sav", "save"), ("*x", "save"), ("save?", "save")] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        assert!(!matches(&b"*a".repeat(2000), &b"a".repeat(1999)));
    }
}
