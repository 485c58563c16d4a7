//! The imports of a Rust file, read from its text: `use` trees and paths, without tests.
//!
//! It reads tokens and does not parse, because it must know only where a path begins and ends. It skips strings,
//! comments and items under `#[cfg(test)]`.

use std::collections::{BTreeMap, BTreeSet};

/// The paths and re-exports of one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Imports {
    /// Each path that begins with `crate`, `super`, `self` or a name, by segments, with its depth in inline modules.
    pub(crate) paths: Vec<(Vec<String>, usize)>,
    /// The names that this file re-exports with `use`, and the path of each.
    pub(crate) names: BTreeMap<String, Vec<String>>,
}

/// Reads a file.
pub(crate) fn read(source: &str) -> Imports {
    let tokens = without_tests(&tokens(source));
    let (mut imports, mut handed_on) = (Imports::default(), BTreeMap::new());
    let (mut used, mut blocks) = (BTreeSet::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at].as_str();
        let depth = blocks.iter().filter(|is_module| **is_module).count();
        match token {
            "use" => {
                let is_public = at > 0 && (tokens[at - 1] == "pub" || tokens[at - 1] == ")");
                let mut leaves = Vec::new();
                at = tree(&tokens, at + 1, &[], &mut leaves);
                for (path, name) in leaves {
                    if depth == 0 {
                        imports.names.insert(name.clone(), path.clone());
                    }
                    if is_public {
                        handed_on.insert(name, path);
                    } else {
                        imports.paths.push((path, depth));
                    }
                }
                continue;
            }
            "{" => blocks.push(at >= 2 && tokens[at - 2] == "mod"),
            "}" => drop(blocks.pop()),
            _ if is_name(token) => {
                let before = at.checked_sub(1).map_or("", |before| tokens[before].as_str());
                let mut path = vec![token.to_owned()];
                while tokens.get(at + 1).is_some_and(|next| next == "::")
                    && tokens.get(at + 2).is_some_and(|next| is_name(next))
                {
                    path.push(tokens[at + 2].clone());
                    at += 2;
                }
                if path.len() > 1 && before != "::" {
                    imports.paths.push((path.clone(), depth));
                }
                if before != "mod" {
                    used.extend(path);
                }
            }
            _ => {}
        }
        at += 1;
    }
    // A `mod.rs` that also uses the names that it re-exports imports them.
    imports.paths.extend(handed_on.into_iter().filter(|(name, _)| used.contains(name)).map(|(_, path)| (path, 0)));
    imports
}

/// Reads a `use` tree from this token on; answers where the tree ends.
fn tree(tokens: &[String], mut at: usize, prefix: &[String], leaves: &mut Vec<(Vec<String>, String)>) -> usize {
    let mut path = prefix.to_vec();
    let mut alias = None;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.as_str() {
            "{" => {
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = tree(tokens, at, &path, leaves);
                }
                at += 1;
                // The leaves are inside the braces.
                path.clear();
            }
            "as" => {
                alias = tokens.get(at).cloned();
                at += 1;
            }
            "," | ";" => break,
            "}" => {
                at -= 1;
                break;
            }
            "self" if !path.is_empty() => {}
            name if is_name(name) => path.push(name.to_owned()),
            _ => {}
        }
    }
    if let Some(last) = path.last().cloned() {
        leaves.push((path, alias.unwrap_or(last)));
    }
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The tokens without the items under `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut left = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].iter().map(String::as_str).take(CFG_TEST.len()).eq(CFG_TEST) {
            at = end_of_item(tokens, at + CFG_TEST.len());
        } else {
            left.push(tokens[at].clone());
            at += 1;
        }
    }
    left
}

/// Where the item that begins here ends: behind its block, or its semicolon.
fn end_of_item(tokens: &[String], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token == "}" {
                    break;
                }
            }
            ";" if depth == 0 => break,
            _ => {}
        }
    }
    at
}

/// Names, `::` and single signs, without comments and the contents of literals.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        match c {
            '/' if next == '/' => at = skip_while(&chars, at, |c| c != '\n'),
            '/' if next == '*' => at = end_of_comment(&chars, at),
            '"' => at = end_of_string(&chars, at),
            '\'' => {
                // A lifetime has no second quote.
                let closes = if next == '\\' {
                    chars[at + 2..].iter().skip(1).position(|c| *c == '\'').map(|n| at + 3 + n)
                } else {
                    Some(at + 2)
                };
                at = closes.filter(|end| chars.get(*end) == Some(&'\'')).map_or(at + 1, |end| end + 1);
            }
            _ if c.is_alphabetic() || c == '_' => {
                let end = skip_while(&chars, at, |c| c.is_alphanumeric() || c == '_');
                let word: String = chars[at..end].iter().collect();
                let hashes = chars[end..].iter().take_while(|c| **c == '#').count();
                let is_raw = matches!(word.as_str(), "r" | "br" | "cr") && chars.get(end + hashes) == Some(&'"');
                if is_raw {
                    at = end_of_raw(&chars, end + hashes + 1, hashes);
                } else if matches!(word.as_str(), "b" | "c") && chars.get(end) == Some(&'"') {
                    at = end_of_string(&chars, end);
                } else {
                    tokens.push(word);
                    at = end;
                }
            }
            _ if c.is_numeric() => at = skip_while(&chars, at, |c| c.is_alphanumeric() || c == '_'),
            ':' if next == ':' => {
                tokens.push("::".to_owned());
                at += 2;
            }
            _ => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                at += 1;
            }
        }
    }
    tokens
}

fn skip_while(chars: &[char], from: usize, is_part: impl Fn(char) -> bool) -> usize {
    from + chars[from..].iter().take_while(|c| is_part(**c)).count()
}

fn end_of_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn end_of_string(chars: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while let Some(c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn end_of_raw(chars: &[char], mut at: usize, hashes: usize) -> usize {
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        read(source).paths.into_iter().map(|(path, _)| path.join("::")).collect()
    }

    #[test]
    fn a_tree_has_a_path_for_each_leaf() {
        assert_eq!(
            paths("use crate::group::{self, Ended, history::{Known as Seen}};\nuse super::lanes::*;"),
            ["crate::group", "crate::group::Ended", "crate::group::history::Known", "super::lanes"]
        );
    }

    #[test]
    fn a_path_in_the_code_counts_too_and_the_field_of_a_value_does_not() {
        let source = "fn f() -> crate::error::Error { self.lanes.len(); let g = Self::of(1); super::of::<u8>(g) }";
        assert_eq!(paths(source), ["crate::error::Error", "Self::of", "super::of"]);
    }

    #[test]
    fn neither_comments_nor_literals_nor_tests_count() {
        let source = r##"
            /* crate::a::A /* nested */ crate::b::B */
            // use crate::c::C;
            const TEXT: &str = "\" crate::d::D"; const RAW: &str = r#"" crate::e::E"#; const BYTES: &[u8] = b"crate::f::F";
            const QUOTE: char = '"'; const LINE: char = '\''; fn g<'a>(a: &'a str) {}
            #[cfg(test)]
            mod tests { use crate::h::H; fn i() { { crate::j::J; } } }
            #[cfg(test)]
            mod histories;
            #[cfg(feature = "http")]
            use crate::k::K;
        "##;
        assert_eq!(paths(source), ["crate::k::K"]);
    }

    #[test]
    fn who_hands_a_name_on_imports_it_only_where_it_uses_it() {
        let door = "mod run;\npub(crate) use self::ended::Ended;\npub use self::run::run;\nfn end() -> Ended { Ended }";
        assert_eq!(paths(door), ["self::ended::Ended"]);
        let names = read(door).names;
        assert_eq!(names["run"], ["self", "run", "run"]);
    }

    #[test]
    fn a_path_in_an_inline_module_stands_one_deeper() {
        let found = read("mod inner { use super::super::a::A; } use super::b::B;").paths;
        assert_eq!(found.iter().map(|(_, depth)| *depth).collect::<Vec<_>>(), [1, 0]);
    }
}
