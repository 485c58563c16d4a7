//! The known name that an unknown one is most likely a mistake for, in the words of an error.

use streams_runtime::nearest;

/// `, perhaps .. is meant`, where one is near; otherwise the names that there are.
pub(crate) fn perhaps<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!(", perhaps `{near}` is meant"),
        None if known.is_empty() => String::new(),
        None => format!("; there are: {}", known.iter().take(20).copied().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::perhaps;

    #[test]
    fn a_typing_error_is_found_and_otherwise_the_names_are_told() {
        let known = || ["risk", "audit"].into_iter();
        assert_eq!(perhaps("rsik", known()), ", perhaps `risk` is meant");
        assert_eq!(perhaps("billing", known()), "; there are: risk, audit");
        assert_eq!(perhaps("x", [].into_iter()), "");
    }
}
