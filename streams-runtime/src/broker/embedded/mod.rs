//! The broker in the process: streams, groups and dead letters in memory, by the same contract as on Redis.

mod stream;
mod record;
mod store;

mod log;
mod groups;
mod dead_letters;
mod members;
mod queue;
mod inspect;
mod operator;

use streams_core::broker::{Broker, Reply};

pub use self::operator::Dump;
pub use self::store::Embedded;

impl Broker for Embedded {
    fn describe(&self) -> String {
        "embedded (in this process's memory)".to_owned()
    }

    fn connect(&self) -> Reply<'_, ()> {
        self.reply(|_, _| Ok(()))
    }

    fn now(&self) -> Reply<'_, u64> {
        self.reply(|_, now| Ok(now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use streams_core::EntryId;
    use streams_core::broker::Log;
    use streams_core::keys::StreamKey;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_is_that_of_the_executor() {
        let broker = Embedded::starting(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        assert_eq!(broker.now().await.ok(), Some(7_000));
        let mut tail = broker.tail().await.expect("the embedded broker has tails");
        let (wall, wait) = (std::time::Instant::now(), Duration::from_secs(3600));
        assert_eq!(tail.next(&[("trades".to_owned(), EntryId::ZERO)], 1, wait).await.ok(), Some(Vec::new()));
        assert!(wall.elapsed() < wait / 2);
        let now = broker.now().await.ok();
        assert!(now >= Some(3_607_000), "{now:?}");
        let partition = StreamKey::new(None, "trades", 1).partition(0);
        let ids = broker.append(&partition, vec![vec![(Vec::new(), Vec::new())]; 2], None).await.ok();
        assert_eq!(ids, now.map(|ms| vec![EntryId::new(ms, 0), EntryId::new(ms, 1)]));
    }
}
