//! Where orders wait for the engine: one is in flight, the newest push waits, the rest queue. It decides only who is next.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::config::Settings;
use crate::cycle::Order;
use crate::guard::Guards;
use crate::lifeline::Lifelines;
use crate::policy::Right;
use crate::report::{Progress, Report, Verdict};

/// Something for the engine to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A pass of the pipeline.
    Order(Order),
    /// Let a held revision be tried again, and try it.
    Retry {
        /// The revision or the beginning of its id; the newest held one when empty.
        commit: String,
        /// Who asks.
        actor: String,
    },
    /// Apply nothing until further notice.
    Pause {
        /// Who asks.
        actor: String,
        /// Why.
        reason: String,
    },
    /// Go on.
    Resume {
        /// Who asks.
        actor: String,
    },
    /// End the part of a stuck transaction that is about this path.
    Resolve {
        /// Which path, or `all`.
        path: String,
        /// Put back what stood there (else: keep what stands there now).
        restore: bool,
        /// Who asks.
        actor: String,
    },
    /// How the host differs from a generation.
    Diff {
        /// Which; the live one when absent.
        generation: Option<u64>,
        /// Who asks.
        actor: String,
    },
    /// The host can be reached: a generation that waits for that is confirmed.
    Confirm {
        /// Who shows it.
        actor: String,
        /// The generation that waited when they did: what went live since is not shown to be reachable.
        generation: u64,
    },
    /// Nobody has confirmed this generation in time.
    Revert {
        /// Which.
        generation: u64,
    },
    /// Fetch the remotes, then heal.
    Sync {
        /// Who asks.
        actor: String,
    },
    /// Ask one remote.
    Poll {
        /// Its name.
        remote: String,
    },
    /// Work by these settings from now on.
    Reload(Box<Fresh>),
}

/// Settings and guards, read anew.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The settings.
    pub settings: Settings,
    /// The guards.
    pub guards: Guards,
    /// What the host is reached by.
    pub lifelines: Lifelines,
}

/// They are told apart by the moment they were read, not by what is in them.
impl PartialEq for Fresh {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Fresh {}

/// Those who follow a task.
#[derive(Clone, Debug, Default)]
pub struct Followers(Arc<Mutex<Vec<UnboundedSender<Progress>>>>);

impl Followers {
    /// Tells all of them. One that has gone away is forgotten.
    pub fn tell(&self, progress: &Progress) {
        lock(&self.0).retain(|follower| follower.send(progress.clone()).is_ok());
    }

    fn join(&self) -> UnboundedReceiver<Progress> {
        let (sender, receiver) = unbounded_channel();
        lock(&self.0).push(sender);
        receiver
    }
}

/// A task with its followers.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// What to do.
    pub task: Task,
    /// Who is told.
    pub followers: Followers,
}

#[derive(Debug, Default)]
struct Inner {
    in_flight: Option<Ticket>,
    waiting: Option<Ticket>,
    queue: VecDeque<Ticket>,
    stopping: bool,
}

/// The desk, shared by the main thread and the engine.
#[derive(Clone, Debug, Default)]
pub struct Desk(Arc<(Mutex<Inner>, Condvar)>);

/// How many other tasks may wait at once.
const QUEUE_LIMIT: usize = 64;
/// How many of them may be previews and differences: whoever may change nothing can ask for those.
const QUESTIONS_LIMIT: usize = 8;

impl Desk {
    /// Hands a task in and returns what is told about it. The last thing told is always `Done`.
    #[must_use]
    pub fn submit(&self, task: Task) -> UnboundedReceiver<Progress> {
        let ticket = Ticket { task, followers: Followers::default() };
        let receiver = ticket.followers.join();
        let mut inner = self.lock();
        if inner.stopping {
            reject(&ticket, Verdict::Failed, "the daemon is stopping: try again in a moment");
            return receiver;
        }
        let Some(commit) = deployed(&ticket.task) else {
            if inner.queue.len() >= QUEUE_LIMIT {
                reject(&ticket, Verdict::Failed, "too many orders are waiting: try again in a moment");
            } else if is_question(&ticket.task) && inner.queue.iter().filter(|t| is_question(&t.task)).count() >= QUESTIONS_LIMIT
            {
                reject(&ticket, Verdict::Failed, "too many previews are waiting: try again in a moment");
            } else if !is_superfluous(&inner.queue, &ticket.task) {
                if inner.in_flight.is_some() {
                    ticket.followers.tell(&note("something else is being carried out: waiting for it to end"));
                }
                inner.queue.push_back(ticket);
            } else {
                reject(&ticket, Verdict::Superseded, "the same order is waiting already");
            }
            self.0.1.notify_all();
            return receiver;
        };
        let same = |other: &&Ticket| deployed(&other.task) == Some(commit);
        if let Some(joined) = inner.in_flight.iter().chain(&inner.waiting).find(same) {
            let follower = joined.followers.join();
            joined.followers.tell(&note("another push of this revision has joined"));
            return follower;
        }
        if let Some(flying) = &inner.in_flight {
            let what = deployed(&flying.task).map_or("something else", crate::source::short);
            ticket.followers.tell(&note(&format!("{what} is being applied: waiting for it to end")));
        }
        if let Some(older) = inner.waiting.replace(ticket) {
            reject(&older, Verdict::Superseded, "a newer push took its place");
        }
        self.0.1.notify_all();
        receiver
    }

    /// The next task; waits for one at most so long. `None`: nothing came, or the daemon is stopping.
    #[must_use]
    pub fn take(&self, patience: Duration) -> Option<Ticket> {
        let mut inner = self.lock();
        inner.in_flight = None;
        if !inner.stopping && inner.waiting.is_none() && inner.queue.is_empty() {
            inner = self.0.1.wait_timeout(inner, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        if inner.stopping {
            return None;
        }
        let ticket = inner.waiting.take().or_else(|| {
            // Who only looks does not keep those waiting who have to act.
            let first = inner.queue.iter().position(|t| !is_question(&t.task)).unwrap_or(0);
            inner.queue.remove(first)
        });
        inner.in_flight.clone_from(&ticket);
        ticket
    }

    /// Ends the task in flight and tells its followers so; both at once, so that nobody joins what is over and waits for ever.
    pub fn finish(&self, ticket: &Ticket, report: Report) {
        let mut inner = self.lock();
        inner.in_flight = None;
        if report.verdict == Verdict::Live && deployed(&ticket.task).is_some() {
            // It has looked at all that is declared, and probed it: the timer that came meanwhile would find the same.
            inner.queue.retain(|waiting| {
                let is_late = is_timed_look(&waiting.task);
                if is_late {
                    reject(waiting, Verdict::Superseded, "a push has looked at everything");
                }
                !is_late
            });
        }
        ticket.followers.tell(&Progress::Done { report });
    }

    /// Takes nothing new from here on; what waits is told so.
    pub fn stop(&self) {
        let mut inner = self.lock();
        inner.stopping = true;
        let waiting = inner.waiting.take();
        for ticket in waiting.into_iter().chain(std::mem::take(&mut inner.queue)) {
            reject(&ticket, Verdict::Failed, "the daemon is stopping: try again in a moment");
        }
        self.0.1.notify_all();
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lock().in_flight.is_none()
    }

    /// Whether the daemon is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0.0)
    }
}

/// The revision that a task makes live. A push by a key that may only preview is none: it will be refused, takes no place from
/// another, and nobody joins it.
fn deployed(task: &Task) -> Option<&str> {
    match task {
        Task::Order(Order::Deploy { commit, right: Right::Deploy, .. }) => Some(commit),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A task that changes nothing.
fn is_question(task: &Task) -> bool {
    matches!(task, Task::Order(Order::Preview { .. }) | Task::Diff { .. })
}

/// The look that comes with the timer, and not because something has happened.
fn is_timed_look(task: &Task) -> bool {
    matches!(task, Task::Order(Order::Repair { actor, insist: false }) if actor == crate::tasks::TIMER)
}

/// The timer's tasks are worth one place each.
fn is_superfluous(queue: &VecDeque<Ticket>, task: &Task) -> bool {
    let timed = matches!(task, Task::Poll { .. } | Task::Order(Order::Repair { insist: false, .. }));
    timed && queue.iter().any(|t| t.task == *task)
}

fn note(text: &str) -> Progress {
    Progress::Note { text: text.to_owned() }
}

fn reject(ticket: &Ticket, verdict: Verdict, reason: &str) {
    ticket.followers.tell(&Progress::Done { report: Report::short(verdict, reason) });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Desk, Task};
    use crate::cycle::Order;
    use crate::policy::Right;
    use crate::report::{Progress, Verdict};

    fn push(commit: &str) -> Task {
        Task::Order(Order::Deploy { commit: commit.to_owned(), actor: "me".to_owned(), right: Right::Deploy })
    }

    fn end(receiver: &mut tokio::sync::mpsc::UnboundedReceiver<Progress>) -> Option<Verdict> {
        let mut last = None;
        while let Ok(progress) = receiver.try_recv() {
            if let Progress::Done { report } = progress {
                last = Some(report.verdict);
            }
        }
        last
    }

    #[test]
    fn nobody_joins_what_is_over() {
        let desk = Desk::default();
        let mut first = desk.submit(push("a"));
        let flying = desk.take(Duration::ZERO).unwrap();
        assert!(!desk.is_idle());
        desk.finish(&flying, crate::report::Report::short(Verdict::Live, ""));
        assert!(desk.is_idle());
        let mut late = desk.submit(push("a"));
        assert_eq!((end(&mut first), end(&mut late)), (Some(Verdict::Live), None));
        assert_eq!(desk.take(Duration::ZERO).unwrap().task, push("a"), "it is a push of its own");
    }

    #[test]
    fn a_push_that_is_live_has_looked_for_the_timer_too() {
        let look = |actor: &str| Task::Order(Order::Repair { actor: actor.to_owned(), insist: false });
        for (verdict, stays) in [(Verdict::Live, false), (Verdict::RolledBack, true), (Verdict::Refused, true)] {
            let desk = Desk::default();
            let _push = desk.submit(push("a"));
            let flying = desk.take(Duration::ZERO).unwrap();
            let mut timed = desk.submit(look(crate::tasks::TIMER));
            let _happened = desk.submit(look("drift:event"));
            desk.finish(&flying, crate::report::Report::short(verdict, ""));
            assert_eq!(end(&mut timed).is_none(), stays, "{verdict:?}");
            if stays {
                assert_eq!(desk.take(Duration::ZERO).unwrap().task, look(crate::tasks::TIMER));
            }
            assert_eq!(desk.take(Duration::ZERO).unwrap().task, look("drift:event"), "something has happened since it looked");
        }
    }

    #[test]
    fn timers_queue_once_and_the_queue_ends() {
        let desk = Desk::default();
        let tick = || Task::Order(Order::Repair { actor: "drift".to_owned(), insist: false });
        let poll = || Task::Poll { remote: "origin".to_owned() };
        let insist = || Task::Order(Order::Repair { actor: "root".to_owned(), insist: true });
        for (task, verdict) in
            [(tick(), None), (tick(), Some(Verdict::Superseded)), (poll(), None), (poll(), Some(Verdict::Superseded))]
        {
            assert_eq!(end(&mut desk.submit(task)), verdict);
        }
        assert_eq!(end(&mut desk.submit(insist())), None);
        assert_eq!(end(&mut desk.submit(insist())), None, "a person is answered each time");
        // A push goes before all that waits.
        let mut waits = desk.submit(push("a"));
        assert_eq!(desk.take(Duration::ZERO).unwrap().task, push("a"));
        let told: Vec<_> = std::iter::repeat_with(|| desk.submit(insist())).take(100).map(|mut r| end(&mut r)).collect();
        assert!(told.iter().filter(|t| **t == Some(Verdict::Failed)).count() > 30, "the queue has a limit");
        assert_eq!(desk.take(Duration::ZERO).unwrap().task, tick());
        assert_eq!(desk.take(Duration::ZERO).unwrap().task, poll());
        let mut left = desk.submit(push("b"));
        desk.stop();
        assert_eq!((end(&mut waits), end(&mut left)), (None, Some(Verdict::Failed)), "what waits is told that nothing comes");
        assert!(desk.is_stopping());
    }

    #[test]
    fn a_key_that_may_only_preview_takes_no_place() {
        let desk = Desk::default();
        let _flying = desk.submit(push("a"));
        let _ = desk.take(Duration::ZERO).unwrap();
        let mut waiting = desk.submit(push("b"));
        let Task::Order(Order::Deploy { commit, actor, .. }) = push("b") else { unreachable!() };
        let weak = Task::Order(Order::Deploy { commit, actor, right: Right::Preview });
        let _refused = desk.submit(weak.clone());
        assert_eq!(end(&mut waiting), None);
        assert_eq!(desk.take(Duration::ZERO).unwrap().task, push("b"));
        assert_eq!(desk.take(Duration::ZERO).unwrap().task, weak);
        let _joins_not = desk.submit(push("b"));
        assert_eq!(desk.take(Duration::ZERO).unwrap().task, push("b"));
    }

    #[test]
    fn newest_waiter_wins_and_same_revision_joins() {
        let desk = Desk::default();
        let mut first = desk.submit(push("a"));
        let flying = desk.take(Duration::ZERO).unwrap();
        let mut again = desk.submit(push("a"));
        let mut second = desk.submit(push("b"));
        let mut too = desk.submit(push("b"));
        assert_eq!(end(&mut second), None, "it is joined, not replaced");
        let mut third = desk.submit(push("c"));
        assert_eq!((end(&mut second), end(&mut too)), (Some(Verdict::Superseded), Some(Verdict::Superseded)));
        flying.followers.tell(&Progress::Done { report: crate::report::Report::short(Verdict::Live, "") });
        assert_eq!((end(&mut first), end(&mut again)), (Some(Verdict::Live), Some(Verdict::Live)));
        assert_eq!(desk.take(Duration::ZERO).unwrap().task, push("c"));
        assert_eq!(end(&mut third), None);
        desk.stop();
        assert!(desk.take(Duration::ZERO).is_none());
        assert_eq!(end(&mut desk.submit(push("d"))), Some(Verdict::Failed));
    }
}
