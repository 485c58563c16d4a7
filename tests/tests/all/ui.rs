//! What the compiler says to a user's mistakes: one file a mistake in `tests/ui`, its message reviewed as prose.

#[test]
fn mistakes_are_explained_where_they_stand() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/event/*.rs");
    cases.compile_fail("ui/versions/*.rs");
    cases.compile_fail("ui/consumer/*.rs");
}
