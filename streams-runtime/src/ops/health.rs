//! Whether an app lives and is ready, for probes: the facts, and the text that a person reads.

use std::collections::BTreeSet;
use std::fmt;

use super::status::Phase;
use crate::names::nearest;

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

impl Health {
    /// The health of these groups alone: what they say decides whether the app is ready, and with no group the server alone.
    ///
    /// For a service that is probed for each of its duties. One that also answers requests says `&[]`, so that no group that
    /// is halted takes it out of traffic.
    ///
    /// # Errors
    /// When this process does not run one of them: the probe would never see it.
    pub fn of(mut self, groups: &[&str]) -> Result<Self, UnknownGroup> {
        let known: BTreeSet<_> = self.groups.iter().map(|health| health.group).collect();
        if let Some(unknown) = groups.iter().find(|group| !known.contains(*group)) {
            let perhaps = nearest(unknown, known.iter().copied());
            return Err(UnknownGroup { group: (*unknown).to_owned(), perhaps, known: known.into_iter().collect() });
        }
        self.groups.retain(|health| groups.contains(&health.group));
        self.ready = self.trouble.is_none() && self.groups.iter().all(GroupHealth::is_ready);
        Ok(self)
    }
}

/// A group that this process does not run, from [`Health::of`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownGroup {
    group: String,
    perhaps: Option<&'static str>,
    known: Vec<&'static str>,
}

impl std::error::Error for UnknownGroup {}

impl fmt::Display for UnknownGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this process does not run the group `{}`", line(&self.group))?;
        if let Some(near) = self.perhaps {
            write!(f, ", perhaps `{near}` is meant")?;
        }
        match self.known.as_slice() {
            [] => f.write_str("; it runs none"),
            known => write!(f, "; it runs {}", known.join(", ")),
        }
    }
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
            Phase::Following => ("following", "it handles events as they are added"),
            Phase::CatchingUp => ("catching up", "it handles what was there before this process began"),
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
        let idle = self.groups.iter().filter(|group| !matches!(group.phase, Phase::Owning { .. } | Phase::Following));
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
    #[test]
    fn a_probe_of_some_groups_goes_by_them_and_by_the_server() {
        let group = |group, phase| GroupHealth { partition: "trades".to_owned(), group, phase };
        let owning = Phase::Owning { epoch: 1 };
        let groups = vec![group("audit", owning), group("risk", Phase::Retrying("LOADING".to_owned()))];
        let mut health = Health { live: true, ready: false, stopped: None, trouble: None, groups };
        let ready = |health: &Health, groups: &[&str]| health.clone().of(groups).map(|health| health.ready);
        assert_eq!(ready(&health, &["audit"]), Ok(true));
        assert_eq!(ready(&health, &["audit", "risk"]), Ok(false));
        assert_eq!(ready(&health, &[]), Ok(true));
        assert_eq!(health.clone().of(&["audit"]).unwrap().to_string(), "ready");
        health.trouble = Some("LOADING".to_owned());
        assert_eq!((ready(&health, &["audit"]), ready(&health, &[])), (Ok(false), Ok(false)));
    }

    #[test]
    fn a_group_that_is_not_run_is_refused_with_those_that_are() {
        let group = |group| GroupHealth { partition: "trades".to_owned(), group, phase: Phase::Starting };
        let groups = vec![group("risk"), group("audit"), group("risk")];
        let health = Health { live: true, ready: false, stopped: None, trouble: None, groups };
        let said = |groups: &[&str]| health.clone().of(groups).unwrap_err().to_string();
        assert_eq!(
            said(&["audit", "rsik"]),
            "this process does not run the group `rsik`, perhaps `risk` is meant; it runs audit, risk"
        );
        assert_eq!(said(&["bill\ning"]), "this process does not run the group `bill ing`; it runs audit, risk");
        let nobody = Health { groups: Vec::new(), ..health.clone() };
        assert_eq!(
            nobody.of(&["risk"]).unwrap_err().to_string(),
            "this process does not run the group `risk`; it runs none"
        );
    }
}
