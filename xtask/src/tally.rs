//! Adds up the `test result:` lines of all test programs of one `cargo test`.

use std::fmt;

/// The beginning of a test program's last line.
const RESULT: &str = "test result: ";

/// How many tests passed, failed and were skipped, over all test programs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests marked `#[ignore]`. Tests that the caller filtered out are not counted, because the caller wanted that.
    pub(crate) skipped: u64,
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
}

impl Tally {
    /// Counts the results in a piece of output, which may begin and end anywhere in a line.
    pub(crate) fn feed(&mut self, output: &[u8]) {
        for part in output.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.count(&String::from_utf8_lossy(&line));
            }
        }
    }

    /// Counts one line: `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out`.
    fn count(&mut self, line: &str) {
        let Some(result) = line.strip_prefix(RESULT) else { return };
        for part in result.split(';') {
            // The verdict is before the first number, perhaps in colour.
            let mut words = part.split_whitespace().rev();
            let (what, number) = (words.next(), words.next().and_then(|word| word.parse::<u64>().ok()));
            match (number, what) {
                (Some(number), Some("passed")) => self.passed += number,
                (Some(number), Some("failed")) => self.failed += number,
                (Some(number), Some("ignored")) => self.skipped += number,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, expected: &str) {
        let mut whole = Tally::default();
        whole.feed(output.as_bytes());
        assert_eq!(whole.to_string(), expected);
        // However the pipe cuts the output.
        let mut bytewise = Tally::default();
        output.as_bytes().chunks(1).for_each(|byte| bytewise.feed(byte));
        assert_eq!(bytewise.to_string(), expected);
    }

    #[test]
    fn results_of_all_programs_are_summed() {
        check(
            "running 5 tests\ntest a ... ok\n\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s\n\n\
             test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n",
            "7 passed, 1 failed",
        );
    }

    #[test]
    fn ignored_tests_are_skipped_and_filtered_ones_are_not() {
        check(
            "test result: ok. 0 passed; 0 failed; 2 ignored; 0 measured; 9 filtered out\n",
            "0 passed, 0 failed, 2 skipped",
        );
    }

    #[test]
    fn a_coloured_verdict_does_not_matter() {
        check("test result: \u{1b}[32mok\u{1b}[m. 12 passed; 0 failed; 0 ignored; 0 measured\n", "12 passed, 0 failed");
    }

    #[test]
    fn other_lines_do_not_count() {
        check(
            "expected `test result: ok. 9 passed; 9 failed`\ntest result: \n3 passed; 4 failed\n",
            "0 passed, 0 failed",
        );
    }
}
