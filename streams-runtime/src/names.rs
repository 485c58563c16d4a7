//! Names that were perhaps meant, where one is not known: of variables, and of groups.

use streams_core::EntryId;
use streams_core::broker::{Broker, BrokerError, BrokerErrorKind};
use streams_core::keys::GroupKey;

/// How many groups of a stream are named.
const MOST_NAMED: usize = 20;

/// How many letters may be wrong, missing or exchanged: with more of them it is another name.
const TYPING_ERRORS: usize = 2;

/// The known name that this one is most likely a mistake for; capitals count as small letters. For tools of one's own.
///
/// ```
/// assert_eq!(streams_runtime::nearest("payuots", ["orders", "payouts"]), Some("payouts"));
/// assert_eq!(streams_runtime::nearest("mail", ["orders", "payouts"]), None);
/// ```
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let known = known.into_iter().map(|known| (strsim::osa_distance(&name, &known.to_lowercase()), known));
    known
        .filter(|(distance, known)| *distance <= TYPING_ERRORS && *distance < known.chars().count())
        .min()
        .map(|(_, known)| known)
}

/// That none of these partitions has the group: no state, no marker, no dead letter. `None` where one has, and where nobody may
/// look.
///
/// # Errors
/// When the broker cannot be asked.
pub(crate) async fn missing(broker: &dyn Broker, keys: &[GroupKey]) -> Result<Option<BrokerError>, BrokerError> {
    match found(broker, keys).await {
        Ok(None) => Ok(None),
        Ok(Some(groups)) => Ok(keys.first().map(|key| unknown(key, groups))),
        Err(error) if error.kind() == BrokerErrorKind::Refused => Ok(None),
        Err(error) => Err(error),
    }
}

/// The groups that the partitions have; where one is that group, nothing.
async fn found(broker: &dyn Broker, keys: &[GroupKey]) -> Result<Option<Option<Vec<String>>>, BrokerError> {
    for state in broker.states(keys).await? {
        if state?.is_some() {
            return Ok(None);
        }
    }
    let mut groups = None;
    for key in keys {
        if let Some(names) = broker.groups(key.partition()).await? {
            if names.iter().any(|name| name == key.group()) {
                return Ok(None);
            }
            groups.get_or_insert_with(Vec::new).extend(names);
        }
        let letters = broker.dead_letters(key, EntryId::ZERO, 1).await?.len();
        if letters + broker.replays(key, EntryId::ZERO, 1).await?.len() > 0 {
            return Ok(None);
        }
    }
    Ok(Some(groups))
}

fn unknown(key: &GroupKey, groups: Option<Vec<String>>) -> BrokerError {
    let Some(mut groups) = groups else {
        return BrokerError::new(
            BrokerErrorKind::Refused,
            format!(
                "there is neither a stream `{}` nor a state of {key}: check stream, group and namespace; where the server was emptied, start the program again",
                key.partition()
            ),
        );
    };
    groups.sort_unstable();
    groups.dedup();
    let near = nearest(key.group(), groups.iter().map(String::as_str));
    let near = near.map(|near| format!(", perhaps `{near}` is meant")).unwrap_or_default();
    let more = groups.len().saturating_sub(MOST_NAMED);
    groups.truncate(MOST_NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let there = if groups.is_empty() {
        "the stream has no group".to_owned()
    } else {
        format!("the stream has {}{more}", groups.join(", "))
    };
    BrokerError::new(
        BrokerErrorKind::Refused,
        format!("there is no state of {key}{near}: check stream, group and namespace; {there}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_found_and_another_name_is_none() {
        let known = ["risk", "audit", "a"];
        assert_eq!(nearest("rsik", known), Some("risk"));
        assert_eq!(nearest("adit", known), Some("audit"));
        assert_eq!(nearest("RISK", known), Some("risk"));
        assert_eq!(nearest("b", known), None);
        assert_eq!(nearest("billing", known), None);
    }
}
