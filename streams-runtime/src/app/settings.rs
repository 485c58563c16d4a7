//! The options of every handler with their origin, for the console: the attribute, the configuration or the environment.

use humantime::format_duration;
use streams_core::{ConsumerInfo, ConsumerOptions, Delivery, OnDataLoss, Start};

use super::config::Config;
use super::plan::GroupPlan;
use crate::console::Setting;
use crate::group::Policy;

/// Where options are said, by rising precedence.
struct Layers<'a> {
    /// The options of the handler itself.
    own: ConsumerOptions,
    /// The options of every handler of the group.
    group: ConsumerOptions,
    config: &'a Config,
    name: &'static str,
    environment: ConsumerOptions,
}

impl Layers<'_> {
    /// The one that counts, for an option of the handler or of the group.
    fn origin<T>(&self, is_of_group: bool, get: impl Fn(&ConsumerOptions) -> Option<T>) -> &'static str {
        let said = |options: &ConsumerOptions| get(options).is_some();
        if said(&self.environment) {
            "environment"
        } else if self.config.groups.get(self.name).is_some_and(said) {
            "Config::group"
        } else if said(&self.config.consumers) {
            "Config::consumers"
        } else if said(if is_of_group { &self.group } else { &self.own }) {
            "attribute"
        } else {
            "default"
        }
    }
}

/// The options of a handler.
pub(super) fn settings(
    group: &GroupPlan,
    info: &ConsumerInfo,
    policy: &Policy,
    config: &Config,
    environment: ConsumerOptions,
) -> Vec<Setting> {
    let members = group.consumers.iter().map(|(consumer, _)| consumer.info.options);
    let layers = Layers {
        own: info.options,
        group: members.fold(ConsumerOptions::DEFAULT, ConsumerOptions::over),
        config,
        name: group.group,
        environment,
    };
    let mut settings = Vec::new();
    let mut add = |name, value: String, origin| settings.push(Setting { name, value, origin });
    add("max_attempts", policy.max_attempts.to_string(), layers.origin(false, |it| it.max_attempts));
    add("max_crashes", policy.max_crashes.to_string(), layers.origin(false, |it| it.max_crashes));
    add("backoff", policy.backoff.to_string(), layers.origin(false, |it| it.backoff));
    add("timeout", format_duration(policy.timeout).to_string(), layers.origin(false, |it| it.timeout));
    if let Some(batch) = &policy.batch {
        add("batch", batch.events.to_string(), layers.origin(false, |it| it.batch));
        add("batch_wait", format_duration(batch.wait).to_string(), layers.origin(false, |it| it.batch_wait));
    }
    add("delivery", group.delivery.to_string(), layers.origin(true, |it| it.delivery));
    add("concurrency", group.concurrency.to_string(), layers.origin(true, |it| it.concurrency));
    let start = match group.options.start {
        Start::Earliest => "earliest".to_owned(),
        Start::Latest => "latest".to_owned(),
        Start::At(id) => id.to_string(),
        Start::Ago(age) => format!("{} ago", format_duration(age)),
    };
    add("start", start, layers.origin(true, |it| it.start));
    if group.delivery == Delivery::Ordered {
        let checkpoint = &group.options.checkpoint;
        let interval = format_duration(checkpoint.interval);
        add("checkpoint events", checkpoint.events.to_string(), layers.origin(true, |it| it.checkpoint_events));
        add("checkpoint interval", interval.to_string(), layers.origin(true, |it| it.checkpoint_interval));
    }
    let on_data_loss = match group.options.on_data_loss {
        OnDataLoss::Halt => "halt",
        OnDataLoss::Continue => "continue",
    };
    add("on_data_loss", on_data_loss.to_owned(), layers.origin(true, |it| it.on_data_loss));
    settings
}

#[cfg(test)]
mod tests {
    use streams_core::{consumer, consumers, stream_event};

    use super::super::App;
    use super::*;

    #[stream_event(stream = "uploads", lock = false)]
    struct Uploaded {
        n: u64,
    }

    #[consumer(group = "thumbnails", max_attempts = 7, backoff = "1s..2s", timeout = "3s")]
    async fn make(_upload: Uploaded) {}

    #[test]
    fn each_option_says_where_its_value_is_from() {
        let all = ConsumerOptions::DEFAULT;
        let config = Config::new()
            .consumers(all.with_timeout(std::time::Duration::from_secs(4)).with_max_crashes(9))
            .group("thumbnails", all.with_max_crashes(8));
        let mut app = App::with(consumers![make]);
        app.environment.consumers = all.with_max_attempts(6);
        let plan = app.plan_groups(&config, None).unwrap();
        let group = &plan.groups[0];
        let (consumer, policy) = &group.consumers[0];
        let found = settings(group, consumer.info, policy, &config, app.environment.consumers);
        let of = |name| found.iter().find(|it| it.name == name).map(|it| (it.value.as_str(), it.origin)).unwrap();
        assert_eq!(of("max_attempts"), ("6", "environment"));
        assert_eq!(of("max_crashes"), ("8", "Config::group"));
        assert_eq!(of("timeout"), ("4s", "Config::consumers"));
        assert_eq!(of("backoff"), ("1s..2s", "attribute"));
        assert_eq!(of("concurrency"), ("1", "default"));
    }
}
