//! The compiler's messages for a user's mistakes: one file per mistake in `tests/ui`, its message reviewed as prose.

use std::fs;
use std::path::Path;

#[test]
fn mistakes_are_explained_where_they_stand() {
    // trybuild builds in a tree of its own, where the locks of the cases have to be.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a directory in `target`");
    let schemas = built.join("tests/trybuild/streams-tests/schemas");
    fs::create_dir_all(&schemas).unwrap();
    for lock in fs::read_dir("ui/locked/schemas").unwrap() {
        let lock = lock.unwrap();
        fs::copy(lock.path(), schemas.join(lock.file_name())).unwrap();
    }
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/event/*.rs");
    cases.compile_fail("ui/versions/*.rs");
    cases.compile_fail("ui/locked/*.rs");
    cases.compile_fail("ui/consumer/*.rs");
}
