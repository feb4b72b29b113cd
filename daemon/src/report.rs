//! What is told while it happens and at the end; the text on the pusher's terminal and the JSON of `reconcilectl` come from
//! the same values. Pure.

use serde::{Deserialize, Serialize};

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The revision is live and healthy.
    Live,
    /// The host was as wanted already.
    NothingToDo,
    /// A preview that would be accepted.
    Accepted,
    /// Nothing live was touched.
    Refused,
    /// It was live for a moment, failed, and the host is back where it was.
    RolledBack,
    /// The host is not as it should be; nothing was asked to mend it.
    Differs,
    /// A newer push took its place while it waited.
    Superseded,
    /// Undo failed: a person is needed.
    Stuck,
    /// The daemon could not carry the order out.
    Failed,
}

impl Verdict {
    /// The exit code of `reconcilectl`; what each means stands in `ctl::EXIT_CODES`.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Live | Self::NothingToDo | Self::Accepted => 0,
            Self::Refused | Self::RolledBack | Self::Differs | Self::Superseded | Self::Failed => 1,
            Self::Stuck => 5,
        }
    }

    /// Whether what was asked for is so.
    #[must_use]
    pub fn is_good(self) -> bool {
        self.exit_code() == 0
    }
}

/// The end of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// The revision it was about.
    pub commit: Option<String>,
    /// The live generation now.
    pub generation: Option<u64>,
    /// Why, in one line; git shows it beside the ref.
    pub reason: String,
    /// Milliseconds of each stage, in order.
    pub stages: Vec<(String, u64)>,
    /// The audit log's head: keep it, and a cut log shows.
    pub audit_head: Option<String>,
}

/// One thing told to whoever follows an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "kebab-case")]
pub enum Progress {
    /// A line of the plan or a remark of a stage.
    Line {
        /// The text, without a line break, safe to show.
        text: String,
    },
    /// Something passed.
    Good {
        /// The text.
        text: String,
    },
    /// Something failed.
    Bad {
        /// The text.
        text: String,
    },
    /// Why something failed, and what to do about it.
    Because {
        /// The text.
        text: String,
    },
    /// A remark that fails nothing.
    Note {
        /// The text.
        text: String,
    },
    /// The end.
    Done {
        /// The result.
        report: Report,
    },
}

impl Progress {
    /// The text for a terminal. The leading words are those that git itself colours in what a remote says
    /// (`color.remote`, git-config(1)).
    #[must_use]
    pub fn text(&self) -> String {
        let text = match self {
            Self::Line { text } => text.clone(),
            Self::Good { text } => format!("ok    {text}"),
            Self::Bad { text } => format!("error: {text}"),
            Self::Because { text } => format!("because: {text}"),
            Self::Note { text } => format!("hint: {text}"),
            Self::Done { report } => return report.text(),
        };
        harmless(&text)
    }
}

/// Names of files, texts of links and words of programs are in it: none of them may steer a terminal.
fn harmless(text: &str) -> String {
    text.split('\n').map(crate::path::escape).collect::<Vec<_>>().join("\n")
}

impl Report {
    /// A report with only a verdict and a reason.
    #[must_use]
    pub fn short(verdict: Verdict, reason: &str) -> Self {
        Self { verdict, commit: None, generation: None, reason: reason.to_owned(), stages: Vec::new(), audit_head: None }
    }

    /// The summary line with the stage times.
    #[must_use]
    pub fn text(&self) -> String {
        // What failed was told in full when it happened; what was refused is told here.
        let first = self.reason.lines().next().unwrap_or_default();
        let what = match (self.verdict, self.generation) {
            (Verdict::Live, Some(n)) => format!("success: live and healthy: generation {n}"),
            (Verdict::Live, None) => "success: live and healthy".to_owned(),
            (Verdict::NothingToDo, _) if !self.reason.is_empty() => format!("success: {}", self.reason),
            (Verdict::NothingToDo, Some(n)) => format!("success: nothing to do: generation {n} is live"),
            (Verdict::NothingToDo, None) => "success: nothing to do".to_owned(),
            (Verdict::Accepted, _) => "success: preview: this would be accepted; nothing was applied".to_owned(),
            (Verdict::Refused, _) => format!("error: refused, nothing was touched: {}", self.reason),
            (Verdict::RolledBack, Some(n)) => format!("error: rolled back to generation {n}: {first}"),
            (Verdict::RolledBack, None) => format!("error: rolled back to what stood here before: {first}"),
            (Verdict::Differs, _) => self.reason.clone(),
            (Verdict::Superseded, _) => format!("error: not tried: {}", self.reason),
            (Verdict::Stuck, _) => format!("error: STUCK, a person is needed: {}", self.reason),
            (Verdict::Failed, _) => format!("error: not carried out: {}", self.reason),
        };
        let what = harmless(&what);
        if self.stages.is_empty() {
            return what;
        }
        let total: u64 = self.stages.iter().map(|(_, ms)| ms).sum();
        let times: Vec<String> = self.stages.iter().map(|(name, ms)| format!("{name} {ms}")).collect();
        format!("{what} ({total} ms: {})", times.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, Report, Verdict};

    #[test]
    fn every_end_reads_like_this_and_has_its_exit_code() {
        for (verdict, generation, reason, text, code) in [
            (Verdict::Live, Some(2), "", "success: live and healthy: generation 2", 0),
            (Verdict::Live, None, "", "success: live and healthy", 0),
            (Verdict::NothingToDo, Some(2), "", "success: nothing to do: generation 2 is live", 0),
            (Verdict::NothingToDo, None, "", "success: nothing to do", 0),
            (Verdict::Accepted, Some(2), "", "success: preview: this would be accepted; nothing was applied", 0),
            (Verdict::Refused, Some(2), "a\nb", "error: refused, nothing was touched: a\nb", 1),
            (Verdict::RolledBack, Some(2), "a\nb", "error: rolled back to generation 2: a", 1),
            (Verdict::RolledBack, None, "a", "error: rolled back to what stood here before: a", 1),
            (Verdict::Differs, Some(2), "the host differs in 1 places", "the host differs in 1 places", 1),
            (Verdict::Superseded, None, "a", "error: not tried: a", 1),
            (Verdict::Failed, None, "a", "error: not carried out: a", 1),
            (Verdict::Stuck, Some(2), "a", "error: STUCK, a person is needed: a", 5),
        ] {
            let report = Report { generation, ..Report::short(verdict, reason) };
            assert_eq!(report.text(), text);
            assert_eq!((verdict.exit_code(), verdict.is_good()), (code, code == 0), "{verdict:?}");
            let told = Progress::Done { report };
            assert_eq!(told.text(), text);
            let line = serde_json::to_string(&told).unwrap();
            assert_eq!(serde_json::from_str::<Progress>(&line).unwrap(), told, "the client reads what the daemon writes");
        }
    }

    #[test]
    fn stages_and_lines() {
        let stages = vec![("read".to_owned(), 12), ("apply".to_owned(), 30)];
        let report = Report { stages, ..Report::short(Verdict::Live, "") };
        assert_eq!(report.text(), "success: live and healthy (42 ms: read 12, apply 30)");
        let text = || "x".to_owned();
        for (progress, line) in [
            (Progress::Line { text: text() }, "x"),
            (Progress::Good { text: text() }, "ok    x"),
            (Progress::Bad { text: text() }, "error: x"),
            (Progress::Because { text: text() }, "because: x"),
            (Progress::Note { text: text() }, "hint: x"),
        ] {
            assert_eq!(progress.text(), line);
        }
    }
}
