//! The known name that an unknown one is most likely a mistake for.

/// How many letters may be wrong, missing or exchanged.
const TYPING_ERRORS: usize = 2;

/// `, perhaps .. is meant`, where one is near; otherwise the names that there are.
pub(crate) fn perhaps<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    let distances =
        known.iter().map(|known| (strsim::osa_distance(&name.to_lowercase(), &known.to_lowercase()), *known));
    let near =
        distances.filter(|(distance, known)| *distance <= TYPING_ERRORS && *distance < known.chars().count()).min();
    match near {
        Some((_, near)) => format!(", perhaps `{near}` is meant"),
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
