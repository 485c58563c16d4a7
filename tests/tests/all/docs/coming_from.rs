//! `docs/coming-from.md` against its sources: the code of the guides, and the figures of the benchmarks.

const GUIDE: &str = include_str!("../../../../docs/coming-from.md");

#[test]
fn the_code_is_that_of_the_guides() {
    let dedented: Vec<_> = GUIDE.lines().map(|line| line.strip_prefix("   ").unwrap_or(line)).collect();
    let text = dedented.join("\n");
    let blocks: Vec<_> = text.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 1);
    for block in blocks {
        assert!(include_str!("guides.rs").contains(block), "not in guides.rs:\n{block}");
    }
}

#[test]
fn the_figures_are_those_of_the_benchmarks() {
    let (_, copied) = GUIDE.split_once("<!-- from docs/benchmarks.md -->").unwrap();
    let (copied, _) = copied.split_once("<!-- end -->").unwrap();
    let rows: Vec<_> = copied.lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(rows.len(), 6, "two tables of two rows");
    for row in rows {
        let is_there = include_str!("../../../../docs/benchmarks.md").lines().any(|line| line == row);
        assert!(is_there, "not in docs/benchmarks.md; copy the rows of its last run:\n{row}");
    }
}
