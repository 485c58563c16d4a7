//! Adoption of the Redis group of a program that reads with XREADGROUP, where the group's consumers say `adopt = true`.
//!
//! Both deliveries come here when such a group stands where they would make a new one.

use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{Adopted, Adoption, BrokerError, BrokerErrorKind};

use super::ended::Ended;
use super::halt::Halt;
use super::task::GroupTask;

/// For how long the other program's consumers have to be silent. Nearly all clients that wait for entries ask again within a
/// minute, and a deploy can stand that long.
pub(super) const ADOPT_IDLE: Duration = Duration::from_secs(60);
/// How many entries the adoption reads to count those that come again, and how many per call.
const MOST_COUNTED: usize = 10_000;
const PAGE: usize = 64;

impl GroupTask {
    /// Makes the group's state from where the other program stands, or returns why not.
    pub(crate) async fn take_over(&self) -> Result<(), Ended> {
        if !self.options.adopt {
            return Err(self.halted(Halt::Foreign));
        }
        match self.services.broker.adopt(&self.key, ADOPT_IDLE).await? {
            Adopted::Done(adoption) => {
                self.log_adoption(&adoption).await;
                Ok(())
            }
            // The next look shows the state.
            Adopted::Exists | Adopted::Missing => Ok(()),
            // The group tries again by itself, as after any refusal of the server.
            Adopted::InUse { consumers } => {
                let consumers = consumers.iter().map(|(name, silent)| {
                    format!(
                        "`{name}`, silent for {}",
                        humantime::format_duration(Duration::from_secs(silent.as_secs()))
                    )
                });
                let message = format!(
                    "a program still reads with XREADGROUP ({}): stop it; `adopt = true` takes the group over once its consumers have been silent for {}",
                    consumers.collect::<Vec<_>>().join("; "),
                    humantime::format_duration(ADOPT_IDLE)
                );
                Err(Ended::Refused(BrokerError::new(BrokerErrorKind::Refused, message)))
            }
        }
    }

    /// Logs what was adopted: from where, how many entries were pending, and how many handled entries come again.
    async fn log_adoption(&self, adoption: &Adoption) {
        let Adoption { at, delivered, pending, oldest } = *adoption;
        let again = match self.count_between(at, delivered).await {
            Ok(entries) if entries >= MOST_COUNTED as u64 => format!("more than {}", entries.saturating_sub(pending)),
            Ok(entries) => entries.saturating_sub(pending).to_string(),
            Err(_) => "an unknown number".to_owned(),
        };
        tracing::warn!(
            group = self.key.group(),
            partition = self.key.partition().as_str(),
            %at,
            %delivered,
            pending,
            oldest = oldest.map(tracing::field::display),
            again,
            "adopted the group of a program that read with XREADGROUP: its pending entries are handled now, and with them come again those between them that it had handled; its pending list stays in Redis until its consumers are deleted (`XGROUP DELCONSUMER`)"
        );
    }

    /// How many entries lie above the first id, up to the second.
    async fn count_between(&self, mut above: EntryId, up_to: EntryId) -> Result<u64, BrokerError> {
        let mut count = 0;
        while above < up_to && count < MOST_COUNTED as u64 {
            let page = self.services.broker.read(self.key.partition(), above, PAGE).await?;
            count += page.iter().filter(|entry| entry.id <= up_to).count() as u64;
            match page.last() {
                Some(last) => above = last.id,
                None => break,
            }
        }
        Ok(count)
    }
}
