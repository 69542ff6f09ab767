//! The layers of the engine: which module may import which, how long a file may be, and where `unsafe` may be.
//!
//! A room is a folder or a file at the top of `engine/src`. The room `lib.rs` only names the others, so it is exempt.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Longer files must be split.
const LINES_MAX: usize = 600;

/// Exceptions; this list must stay empty.
const LONG_FILES: [&str; 0] = [];

/// The file that parses HTTP with vector instructions, which need `unsafe`.
const VECTORS: &str = "engine/http/src/head/scan.rs";

/// By room: the rooms that it imports, each with the first file that does.
type Imports = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn no_import_runs_in_a_circle() {
    let sources = workspace().join("engine/src");
    let mut imports = Imports::new();
    for path in files_below(&sources) {
        let inside = relative(&path, &sources);
        let room = room_of(&inside);
        if room != "lib" {
            let own = imports.entry(room).or_default();
            for target in references(tokens_of(&path), modules_above(&inside)) {
                own.entry(target).or_insert_with(|| inside.clone());
            }
        }
    }
    for (room, targets) in &mut imports {
        targets.remove(room);
    }
    let unknown = imports.values().flatten().find(|(target, _)| !imports.contains_key(*target));
    if let Some((target, file)) = unknown {
        panic!("{file} imports `crate::{target}`, which is no room: import it from the room that it lives in");
    }
    if let Some(circle) = circle_in(&imports) {
        let step = |pair: &[String]| format!("{} imports {} ({})", pair[0], pair[1], imports[&pair[0]][&pair[1]]);
        panic!("imports run in a circle:\n{}", circle.windows(2).map(step).collect::<Vec<_>>().join("\n"));
    }
}

#[test]
fn no_file_is_too_long() {
    for path in source_files() {
        let (name, text) = (relative(&path, &workspace()), fs::read_to_string(&path).expect("readable"));
        let (count, is_listed) = (text.lines().count(), LONG_FILES.contains(&name.as_str()));
        assert!(count <= LINES_MAX || is_listed, "{name} has {count} lines, and {LINES_MAX} are allowed: split it");
        assert!(count > LINES_MAX || !is_listed, "{name} has {count} lines: take it off the list LONG_FILES");
    }
}

#[test]
fn unsafe_stays_in_sys() {
    for path in source_files() {
        let name = relative(&path, &workspace());
        let is_allowed = name.starts_with("engine/src/sys/") || name == VECTORS;
        let has_unsafe = has_unsafe(tokens_of(&path));
        assert!(is_allowed || !has_unsafe, "{name} has `unsafe`, which only engine/src/sys and {VECTORS} may have");
    }
}

#[test]
fn references_are_found_and_those_of_tests_are_not() {
    let found = |code: &str, depth| references(code.parse().expect("tokens"), depth);
    assert_eq!(found("use crate::{a::{self, X}, b::Y}; fn f(_: crate::c::Z) {}", 1), ["a", "b", "c"]);
    assert_eq!(found("use super::{a::X, b}; pub(crate) mod c;", 1), ["a", "b"]);
    assert_eq!(found("use super::a; use super::super::{b, c};", 2), ["b", "c"]);
    assert!(found("// crate::a\n/// [`crate::b`]\n#[cfg(test)] mod tests { use crate::c; }", 1).is_empty());
}

#[test]
fn a_circle_is_found() {
    let imports = |pairs: &[(&str, &str)]| {
        let mut imports = Imports::new();
        for (from, to) in pairs {
            imports.entry((*to).to_owned()).or_default();
            imports.entry((*from).to_owned()).or_default().insert((*to).to_owned(), String::new());
        }
        imports
    };
    assert_eq!(circle_in(&imports(&[("a", "b"), ("a", "c"), ("b", "c")])), None);
    let circle = circle_in(&imports(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")])).expect("a circle");
    assert_eq!(circle, ["b", "c", "d", "b"]);
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in the workspace").to_owned()
}

/// Every Rust file in a folder `src` of a member of the workspace.
fn source_files() -> Vec<PathBuf> {
    let mut files = files_below(&workspace());
    files.retain(|path| relative(path, &workspace()).split('/').any(|part| part == "src"));
    files
}

/// Every Rust file below `folder`, except build output and packages that are not members.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        if path.is_dir() && !name.starts_with('.') && !["target", "fuzz", "peers"].contains(&name) {
            files.extend(files_below(&path));
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn relative(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).expect("below the folder").to_string_lossy().into_owned()
}

/// The first folder of a path inside `engine/src`, or its file without the ending.
fn room_of(inside: &str) -> String {
    inside.split('/').next().expect("a name").trim_end_matches(".rs").to_owned()
}

/// How many times `super` leads from a file to the top of the crate.
fn modules_above(inside: &str) -> usize {
    inside.trim_end_matches("/mod.rs").split('/').count()
}

fn tokens_of(path: &Path) -> TokenStream {
    let text = fs::read_to_string(path).expect("readable");
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rooms that code names, by `crate::` or by as many `super::` as lead to the top. Code of tests is left out.
fn references(code: TokenStream, modules_above: usize) -> Vec<String> {
    let tokens: Vec<TokenTree> = code.into_iter().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            // The item ends with its body, or with a semicolon.
            at += 2;
            while at < tokens.len() && !is_body(&tokens[at]) && !is_punctuation(&tokens[at], ';') {
                at += 1;
            }
        } else if let Some(length) = top_of_crate(&tokens[at..], modules_above) {
            at += length;
            found.extend(first_names(&tokens[at..]));
            continue;
        } else if let TokenTree::Group(group) = &tokens[at] {
            found.extend(references(group.stream(), modules_above));
        }
        at += 1;
    }
    found
}

/// The number of tokens of a path to the top of the crate, if one begins here.
fn top_of_crate(tokens: &[TokenTree], modules_above: usize) -> Option<usize> {
    let is_step = |at: usize, name: &str| {
        let step = tokens.get(at..at + 3);
        step.is_some_and(|step| is_ident(&step[0], name) && step[1..].iter().all(|one| is_punctuation(one, ':')))
    };
    if is_step(0, "crate") {
        return Some(3);
    }
    (0..modules_above).all(|index| is_step(3 * index, "super")).then_some(3 * modules_above)
}

/// The first name of a path, or of each path of a list in braces.
fn first_names(tokens: &[TokenTree]) -> Vec<String> {
    match tokens.first() {
        Some(TokenTree::Ident(name)) => vec![name.to_string()],
        Some(TokenTree::Group(list)) => {
            let tokens: Vec<TokenTree> = list.stream().into_iter().collect();
            tokens.split(|token| is_punctuation(token, ',')).flat_map(first_names).collect()
        }
        _ => Vec::new(),
    }
}

fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    match tokens {
        [hash, TokenTree::Group(attribute), ..] if is_punctuation(hash, '#') => {
            attribute.stream().to_string().replace(' ', "") == "cfg(test)"
        }
        _ => false,
    }
}

fn has_unsafe(code: TokenStream) -> bool {
    code.into_iter().any(|token| match token {
        TokenTree::Group(group) => has_unsafe(group.stream()),
        token => is_ident(&token, "unsafe"),
    })
}

fn is_ident(token: &TokenTree, name: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == name)
}

fn is_punctuation(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punctuation) if punctuation.as_char() == character)
}

fn is_body(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

/// A chain of imports that leads back to its beginning, if there is one.
fn circle_in(imports: &Imports) -> Option<Vec<String>> {
    fn visit(room: &str, imports: &Imports, way: &mut Vec<String>, done: &mut Vec<String>) -> Option<Vec<String>> {
        let start = way.iter().position(|one| one == room);
        way.push(room.to_owned());
        if let Some(start) = start {
            return Some(way[start..].to_vec());
        }
        if !done.iter().any(|one| one == room) {
            for target in imports[room].keys() {
                let circle = visit(target, imports, way, done);
                if circle.is_some() {
                    return circle;
                }
            }
            done.push(room.to_owned());
        }
        way.pop();
        None
    }
    let mut done = Vec::new();
    imports.keys().find_map(|room| visit(room, imports, &mut Vec::new(), &mut done))
}
