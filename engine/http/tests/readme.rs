//! The README shows the example `notes` as it is.

#[test]
fn the_readme_shows_the_example() {
    let (_, example) = include_str!("../examples/notes.rs").split_once("\n\n").expect("a head");
    assert!(include_str!("../../../README.md").contains(&format!("```rust\n{example}```\n")), "show this:\n{example}");
}
