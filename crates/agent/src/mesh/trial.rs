//! A version of the kernel programs on trial, and the rule that ends it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alize_datapath::{Error, Instead, Scope, Upgraded};
use alize_model::api::{Trial, TrialHook, TrialInstead, TrialLane, TrialReason, TrialRule};

use super::Mesh;
use super::programs::{bundle_of, keeping};
use crate::events::Kind;

/// Calls of each version at a hook before their times are compared.
const ENOUGH: u64 = 1_000;
/// Messages of HTTP that the version on trial has seen before what it left to the proxy is judged.
const ENOUGH_HTTP: u64 = 100;

/// What is known of a trial beside what the kernel counts.
pub(super) struct UnderTrial {
    rule: TrialRule,
    begun: Instant,
    begun_at: f64,
    anomalies: u64,
}

/// What the rule says.
#[derive(Debug, PartialEq)]
enum Verdict {
    GoOn,
    Promote,
    Abort(String),
}

impl Mesh {
    /// Puts the bundle in `bytes` (without any that of this binary) to work for `scope`.
    pub(crate) fn try_out(&mut self, bytes: &[u8], scope: &Scope, rule: TrialRule) -> Result<Trial, Error> {
        let bundle = bundle_of(bytes, &self.options)?;
        self.datapath.try_out(&bundle, scope, keeping(&self.options).as_ref())?;
        let begun_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let anomalies = self.count_anomalies();
        self.trial = Some(UnderTrial { rule, begun: Instant::now(), begun_at, anomalies });
        let who = match (&scope.cgroup, scope.share) {
            (Some(cgroup), 0) => cgroup.display().to_string(),
            (Some(cgroup), share) => format!("{} and {share} % of the addresses", cgroup.display()),
            (None, share) => format!("{share} % of the addresses"),
        };
        self.events
            .tell(Kind::Agent, format!("kernel programs of {} are on trial for {who}", bundle.title()));
        self.trial_now()?.ok_or(Error::NoTrial)
    }

    /// All get the version on trial.
    pub(crate) fn promote(&mut self) -> Result<Upgraded, Error> {
        let upgraded = self.datapath.promote()?;
        self.trial = None;
        let (from, to) = (upgraded.from.join(" and "), &upgraded.version);
        self.events
            .tell(Kind::Agent, format!("kernel programs of {to} are in force for all, in place of {from}"));
        Ok(upgraded)
    }

    /// None gets it; `why` is told.
    pub(crate) fn abort_trial(&mut self, why: &str) -> Result<String, Error> {
        let title = self.datapath.abort()?;
        self.trial = None;
        self.events.tell(Kind::Agent, format!("the trial of {title} was given up: {why}"));
        Ok(title)
    }

    /// The trial under way.
    pub(crate) fn trial_now(&self) -> Result<Option<Trial>, Error> {
        let (Some(seen), Some(known)) = (self.datapath.trial()?, &self.trial) else { return Ok(None) };
        let lane = |lane: alize_datapath::LaneCounts| TrialLane {
            calls: lane.calls,
            refused: lane.refused,
            timed: lane.timed,
            time_ns: lane.time_ns,
        };
        let refused: u64 = seen.hooks.iter().map(|hook| hook.new.refused).sum();
        let hooks = seen.hooks.into_iter().map(|hook| TrialHook {
            program: hook.program.into(),
            old: lane(hook.old),
            new: lane(hook.new),
        });
        let reasons = seen.reasons.into_iter().map(|counts| TrialReason {
            instead: match counts.instead {
                Instead::Refused => TrialInstead::Refused,
                Instead::FellBack => TrialInstead::FellBack,
            },
            reason: counts.reason.into(),
            old: counts.old,
            new: counts.new,
        });
        Ok(Some(Trial {
            version: seen.version,
            digest: seen.digest.map(|digest| digest.to_string()),
            cgroup: seen.cgroup.map(|cgroup| cgroup.display().to_string()),
            share: seen.share,
            begun: known.begun_at,
            rule: known.rule,
            errors: refused + self.count_anomalies().saturating_sub(known.anomalies),
            hooks: hooks.collect(),
            reasons: reasons.collect(),
        }))
    }

    /// To be called about once a second.
    pub(crate) fn judge_trial(&mut self) {
        let Some(known) = &self.trial else { return };
        let lasted = known.begun.elapsed();
        let verdict = match self.trial_now() {
            Ok(Some(trial)) => judge(&trial, lasted),
            // An upgrade has ended it.
            Ok(None) => {
                self.trial = None;
                return;
            }
            Err(error) => Verdict::Abort(format!("its counters cannot be read: {error}")),
        };
        let done = match verdict {
            Verdict::GoOn => return,
            Verdict::Promote => self.promote().map(drop),
            Verdict::Abort(why) => self.abort_trial(&why).map(drop),
        };
        if let Err(error) = done {
            self.events.tell(Kind::Agent, format!("the trial goes on: {error}"));
        }
    }

    fn count_anomalies(&self) -> u64 {
        self.datapath.anomalies().map_or(0, |anomalies| anomalies.iter().map(|(_, count)| count).sum())
    }
}

fn judge(trial: &Trial, lasted: Duration) -> Verdict {
    let TrialRule { promote_after, max_errors, max_slower, max_fallbacks } = trial.rule;
    if let Some(most) = max_errors
        && trial.errors > most
    {
        return Verdict::Abort(format!("{} errors, more than {most}", trial.errors));
    }
    if let Some(most) = max_slower
        && let Some((program, slower)) = slowest(&trial.hooks)
        && slower > f64::from(most)
    {
        return Verdict::Abort(format!("{program} takes {slower:.0} % longer, more than {most} %"));
    }
    if let Some(most) = max_fallbacks
        && let (old, Some(new)) = trial.fell_back()
        && trial.http_seen() >= ENOUGH_HTTP
    {
        // Who has seen nothing has left nothing to others.
        let old = old.unwrap_or(0.0);
        if new - old > f64::from(most) {
            return Verdict::Abort(format!(
                "it left {new:.0} % of HTTP to the proxy and the other {old:.0} %, more than {most} % apart"
            ));
        }
    }
    let ran = trial.hooks.iter().any(|hook| hook.new.calls > 0);
    match promote_after {
        Some(after) if ran && lasted.as_secs_f64() >= after => Verdict::Promote,
        _ => Verdict::GoOn,
    }
}

/// The hook that has become slower by most, and by how many per cent.
fn slowest(hooks: &[TrialHook]) -> Option<(&str, f64)> {
    let compared = hooks.iter().filter(|hook| hook.old.timed >= ENOUGH && hook.new.timed >= ENOUGH);
    let slower = compared.filter_map(|hook| {
        let (old, new) = (hook.old.mean_ns()?, hook.new.mean_ns()?);
        Some((hook.program.as_str(), (new / old - 1.0) * 100.0))
    });
    slower.max_by(|a, b| a.1.total_cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(rule: TrialRule, errors: u64, new: TrialLane) -> Trial {
        let old = TrialLane { calls: 5_000, refused: 0, timed: 5_000, time_ns: 5_000_000 };
        Trial {
            version: None,
            digest: None,
            cgroup: None,
            share: 10,
            begun: 0.0,
            rule,
            errors,
            hooks: vec![TrialHook { program: "alize_connect4".into(), old, new }],
            reasons: Vec::new(),
        }
    }

    #[test]
    fn who_falls_back_more_is_given_up() {
        let rule = TrialRule { max_fallbacks: Some(5), promote_after: Some(1.0), ..TrialRule::default() };
        let late = Duration::from_secs(2);
        let judged = |(old_calls, old): (u64, Option<u64>), (new_calls, new): (u64, Option<u64>), instead| {
            let lane = |calls| TrialLane { calls, refused: 0, timed: 0, time_ns: 0 };
            let mut trial = trial(rule, 0, lane(1));
            let program = "alize_http_client".to_owned();
            trial.hooks.push(TrialHook { program, old: lane(old_calls), new: lane(new_calls) });
            trial.reasons.push(TrialReason { instead, reason: "split-head".into(), old, new });
            judge(&trial, late)
        };
        use TrialInstead::{FellBack, Refused};
        assert_eq!(judged((1000, Some(100)), (200, Some(30)), FellBack), Verdict::Promote);
        let given_up = judged((1000, Some(100)), (200, Some(32)), FellBack);
        assert!(matches!(given_up, Verdict::Abort(why) if why.contains("16 %") && why.contains("10 %")));
        assert_eq!(judged((1000, Some(0)), (99, Some(99)), FellBack), Verdict::Promote, "too few to tell");
        assert_eq!(judged((1000, Some(0)), (200, Some(200)), Refused), Verdict::Promote, "that is an error");
        assert_eq!(judged((1000, Some(0)), (200, None), FellBack), Verdict::Promote, "nobody counts that");
        assert!(matches!(judged((0, Some(0)), (200, Some(200)), FellBack), Verdict::Abort(_)));
    }

    #[test]
    fn the_rule_is_kept() {
        let rule = TrialRule {
            promote_after: Some(60.0),
            max_errors: Some(2),
            max_slower: Some(20),
            ..TrialRule::default()
        };
        let calls = |calls, time_ns| TrialLane { calls, refused: 0, timed: calls, time_ns };
        let (early, late) = (Duration::from_secs(59), Duration::from_secs(60));
        let well = calls(1_000, 1_100_000);
        assert_eq!(judge(&trial(rule, 2, well), early), Verdict::GoOn);
        assert_eq!(judge(&trial(rule, 2, well), late), Verdict::Promote);
        assert!(
            matches!(judge(&trial(rule, 3, well), late), Verdict::Abort(why) if why.contains("3 errors"))
        );
        let slow = calls(1_000, 1_300_000);
        assert!(matches!(judge(&trial(rule, 0, slow), late), Verdict::Abort(why) if why.contains("30 %")));
        // Too few to tell; none at all, which proves nothing.
        assert_eq!(judge(&trial(rule, 0, calls(999, 1_300_000)), late), Verdict::Promote);
        assert_eq!(judge(&trial(rule, 0, calls(0, 0)), late), Verdict::GoOn);
        assert_eq!(judge(&trial(TrialRule::default(), 9, slow), late), Verdict::GoOn);
    }
}
