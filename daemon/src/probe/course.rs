//! The course of one probe: attempts, the pause between them, and staying green. Pure, the clock is the caller's.

use std::time::Duration;

use super::verdict::{NETWORK_TEXT_LIMIT, Verdict, clean};
use super::{Probe, TimeSpan};

/// Shortest pause between two questions, whatever the manifest says: a probe is no load test.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Where a probe stands between its first question and its verdict.
#[derive(Debug)]
pub(crate) struct Course<'p> {
    probe: &'p Probe,
    failed: u32,
    green_since: Option<Duration>,
    was_green_for: Option<Duration>,
}

/// What follows an answer.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask again after this pause.
    Wait(Duration),
    /// That was it.
    Done(Verdict),
}

impl<'p> Course<'p> {
    pub(crate) fn new(probe: &'p Probe) -> Self {
        Self { probe, failed: 0, green_since: None, was_green_for: None }
    }

    /// Takes an answer: what was got, or what was wanted and what was got instead. `now` is the time since the probe
    /// began, `took` how long this answer took.
    pub(crate) fn answer(&mut self, now: Duration, took: Duration, answer: Result<String, String>) -> Step {
        match answer {
            Ok(got) => self.green(now, took, &got),
            Err(why) => self.red(now, &why),
        }
    }

    fn green(&mut self, now: Duration, took: Duration, got: &str) -> Step {
        let since = *self.green_since.get_or_insert(now);
        match self.probe.stable_for.0.saturating_sub(now.saturating_sub(since)) {
            Duration::ZERO => Step::Done(self.verdict(now, true, &format!("{got} in {} ms", took.as_millis()), "")),
            rest => Step::Wait(self.probe.interval.0.min(rest).max(SHORTEST_PAUSE)),
        }
    }

    fn red(&mut self, now: Duration, why: &str) -> Step {
        self.failed += 1;
        self.was_green_for = self.green_since.take().map(|since| now.saturating_sub(since)).or(self.was_green_for);
        if self.failed < self.probe.attempts {
            return Step::Wait(self.probe.interval.0.max(SHORTEST_PAUSE));
        }
        let tail = self
            .was_green_for
            .map(|time| {
                let ms = TimeSpan::millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
                format!(", after {ms} of good answers; wanted {}", self.probe.stable_for)
            })
            .unwrap_or_default();
        Step::Done(self.verdict(now, false, why, &tail))
    }

    fn verdict(&self, now: Duration, passed: bool, finding: &str, tail: &str) -> Verdict {
        let name = clean(&self.probe.name, NETWORK_TEXT_LIMIT);
        Verdict {
            name: self.probe.name.clone(),
            passed,
            required: self.probe.required,
            attempts: self.failed + u32::from(passed),
            millis: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            text: format!("{name}: {finding} ({}){tail}", self.probe.subject()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Course, Step};
    use crate::probe::Probe;

    fn probe(attempts: u32, stable_for: &str) -> Probe {
        serde_json::from_value(serde_json::json!({
            "name": "site", "unit": "x.service", "attempts": attempts, "interval": "1s", "stable_for": stable_for,
        }))
        .unwrap()
    }

    /// Plays answers (`+` green, `-` red), each 1 ms after its question, and returns the pauses and the verdict's text.
    fn play(probe: &Probe, answers: &str) -> (Vec<u128>, Option<(bool, u32, String)>) {
        let (mut course, mut now, mut pauses) = (Course::new(probe), Duration::ZERO, Vec::new());
        for answer in answers.chars() {
            let took = Duration::from_millis(1);
            now += took;
            let answer = if answer == '+' { Ok("good".to_owned()) } else { Err("wanted good, got bad".to_owned()) };
            match course.answer(now, took, answer) {
                Step::Done(v) => return (pauses, Some((v.passed, v.attempts, v.text))),
                Step::Wait(pause) => {
                    pauses.push(pause.as_millis());
                    now += pause;
                }
            }
        }
        (pauses, None)
    }

    #[test]
    fn attempts_and_stability() {
        let (green, red) = ("site: good in 1 ms (unit x.service)", "site: wanted good, got bad (unit x.service)");
        for (attempts, stable_for, answers, pauses, passed, used, text) in [
            (3, "0s", "+", vec![], true, 1, green),
            (3, "0s", "--+", vec![1000, 1000], true, 3, green),
            (3, "0s", "---", vec![1000, 1000], false, 3, red),
            (0, "0s", "-", vec![], false, 1, red),
            (1, "1500ms", "+++", vec![1000, 499], true, 1, green),
            (2, "2s", "+-+++", vec![1000, 1000, 1000, 999], true, 2, green),
            (2, "200ms", "-++", vec![1000, 200], true, 2, green),
        ] {
            let probe = probe(attempts, stable_for);
            let (waited, verdict) = play(&probe, answers);
            let (got_passed, got_used, got_text) = verdict.unwrap();
            assert_eq!((got_passed, got_used), (passed, used), "{answers}");
            assert_eq!(got_text, text);
            assert_eq!(waited, pauses, "{answers}");
        }
    }

    #[test]
    fn a_flapping_service_says_how_long_it_was_green() {
        let probe = probe(1, "2s");
        let (_, verdict) = play(&probe, "+-");
        let text = "site: wanted good, got bad (unit x.service), after 1001ms of good answers; wanted 2s";
        assert_eq!(verdict.unwrap().2, text);
        // Also when it was asked again before it counted as failed.
        let (_, verdict) = play(&super::Probe { attempts: 3, ..probe }, "+---");
        assert_eq!(verdict.unwrap().2, text);
    }
}
