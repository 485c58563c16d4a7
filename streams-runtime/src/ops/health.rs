//! Whether an app lives and is ready, for probes: the facts, and the text that a person reads.

use std::fmt;

use super::status::Phase;

/// Whether an app lives and is ready, from [`Monitor::health`](crate::Monitor::health).
///
/// `Display` writes a first line that says whether it is ready, then a line for each thing that is not well or that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Whether the app's own tasks do their work: what a liveness probe asks. A server that is away is no reason to be
    /// restarted.
    pub live: bool,
    /// Whether the server can be used and every group is ready: what a readiness probe asks.
    pub ready: bool,
    /// The part that has stopped, if the app is not live. Only a restart of the program mends it.
    pub stopped: Option<String>,
    /// Why the broker cannot be used at the moment, by any part of the app; tried again until it can.
    pub trouble: Option<String>,
    /// Each group on each partition, sorted.
    pub groups: Vec<GroupHealth>,
}

/// Whether one group is ready on one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupHealth {
    /// The partition: the key of its stream in Redis.
    pub partition: String,
    /// The group.
    pub group: &'static str,
    /// The group's phase.
    pub phase: Phase,
}

impl GroupHealth {
    /// Whether the group handles events, or stands by while another process does.
    pub fn is_ready(&self) -> bool {
        self.phase.is_ready()
    }
}

impl fmt::Display for GroupHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, reason) = match &self.phase {
            Phase::Owning { .. } => ("owning", "it handles events"),
            Phase::StandingBy { .. } => ("waiting", "another process owns the partition"),
            Phase::Starting => ("starting", "nothing is known of its lease yet"),
            Phase::Retrying(reason) => ("retrying", reason.as_str()),
            Phase::Halted(halt) => ("halted", halt.reason()),
            Phase::Paused(pause) => return write!(f, "paused {} {}: {pause}", self.partition, self.group),
            Phase::Stopped => ("stopped", "the app has stopped"),
        };
        write!(f, "{state} {} {}: {}", self.partition, self.group, line(reason))
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ready {
            true => f.write_str("ready")?,
            false => {
                let unwell = self.groups.iter().filter(|group| !group.is_ready()).count();
                write!(f, "not ready: {unwell} of {} groups, counted by partition", self.groups.len())?;
            }
        }
        if let Some(stopped) = &self.stopped {
            write!(f, "\nnot live: {}", line(stopped))?;
        }
        if let Some(trouble) = &self.trouble {
            write!(f, "\nthe server cannot be used: {}", line(trouble))?;
        }
        let idle = self.groups.iter().filter(|group| !matches!(group.phase, Phase::Owning { .. }));
        idle.into_iter().try_for_each(|group| write!(f, "\n{group}"))
    }
}

/// One line, whatever a server said.
fn line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_for_people_has_a_line_for_each_thing_that_is_not_well_or_waits() {
        let group = |phase| GroupHealth { partition: "trades".to_owned(), group: "risk", phase };
        let owning = group(Phase::Owning { epoch: 1 });
        let mut health =
            Health { live: true, ready: true, stopped: None, trouble: None, groups: vec![owning.clone(), owning] };
        assert_eq!(health.to_string(), "ready");
        health.groups.push(group(Phase::StandingBy { owner: "a".to_owned() }));
        assert_eq!(health.to_string(), "ready\nwaiting trades risk: another process owns the partition");
        (health.live, health.ready, health.stopped) = (false, false, Some("the renewals stand still".to_owned()));
        health.trouble = Some("LOADING\r\nready".to_owned());
        health.groups = vec![group(Phase::Retrying("LOADING".to_owned())), group(Phase::Owning { epoch: 2 })];
        let lines = [
            "not ready: 1 of 2 groups, counted by partition",
            "not live: the renewals stand still",
            "the server cannot be used: LOADING  ready",
            "retrying trades risk: LOADING",
        ];
        assert_eq!(health.to_string(), lines.join("\n"));
    }
}
