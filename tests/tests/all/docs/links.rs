//! The way through the guides: every page is in the index and in the book, and no relative link leads nowhere.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every page that a link is looked for in: those of the root, of `docs/` and below, and of the other folders with a README.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/decisions", "deploy"];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(repository().join(folder)).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.sort();
    pages
}

/// The text without blocks and words of code, in which brackets are no links.
fn without_code(text: &str) -> String {
    let (mut kept, mut in_block) = (String::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            kept.extend(line.split('`').step_by(2));
            kept.push('\n');
        }
    }
    kept
}

/// The targets of the links in a page, in order.
fn targets(text: &str) -> Vec<String> {
    let text = without_code(text);
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> HashSet<String> {
    let mut in_block = false;
    let headings = text.lines().filter(|line| {
        in_block ^= line.trim_start().starts_with("```");
        !in_block && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn no_relative_link_leads_nowhere() {
    let (mut seen, mut broken) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in targets(&text).into_iter().filter(|target| !target.contains("://")) {
            seen += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let is_there =
                to.exists() && (anchor.is_empty() || anchors(&fs::read_to_string(&to).unwrap()).contains(anchor));
            if !is_there {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(seen > 100, "{seen}");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_guide_is_in_the_index_and_in_the_book() {
    let docs = repository().join("docs");
    let guides: BTreeSet<_> = pages()
        .iter()
        .filter_map(|page| page.strip_prefix(&docs).ok())
        .map(|page| page.display().to_string())
        .filter(|page| !["README.md", "SUMMARY.md"].contains(&page.as_str()))
        .collect();
    assert!(guides.len() > 15, "{guides:?}");
    let linked = |index: &str| -> BTreeSet<String> {
        let targets = targets(&fs::read_to_string(docs.join(index)).unwrap());
        targets.into_iter().filter_map(|target| target.split('#').next().map(str::to_owned)).collect()
    };
    let (index, book) = (linked("README.md"), linked("SUMMARY.md"));
    let decisions = linked("decisions/README.md");
    for guide in guides {
        match guide.strip_prefix("decisions/") {
            // The folder has an index of its own, and the book its chapters.
            Some(decision) if decision != "README.md" => assert!(decisions.contains(decision), "{guide}"),
            _ => assert!(index.contains(&guide), "docs/README.md has no link to {guide}"),
        }
        assert!(book.contains(&guide), "docs/SUMMARY.md has no link to {guide}");
    }
}
