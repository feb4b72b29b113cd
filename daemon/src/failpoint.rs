//! Numbered points at which the crash tests kill or stop the daemon; nothing at all without the feature `failpoints`.

/// Dies or stops here when the orders in `/var/lib/reconciled/failpoint` say so: one line each, `NAME COUNT` or
/// `NAME COUNT stop`, for the COUNTth time that this process passes the point of this name. The first line is the order for
/// this life of the daemon, the next one for the life after that. `count` only writes down which points are passed.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

#[cfg(feature = "failpoints")]
pub use armed::pass;

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::sync::Mutex;

    use rustix::process::{Signal, getpid, kill_process};

    /// Where the tests say at which point to die. On disk, so that an order reaches the recovery in early boot.
    const ORDERS: &str = "/var/lib/reconciled/failpoint";
    /// Where `count` writes the names of the points that are passed.
    const PASSES: &str = "/var/lib/reconciled/failpoint.passed";

    static PASSED: Mutex<BTreeMap<&str, u32>> = Mutex::new(BTreeMap::new());

    /// Counts a pass, and dies or stops where the order says so. The order is used up first: it meets one life only.
    pub fn pass(name: &'static str) {
        let mut passed = PASSED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Ok(orders) = std::fs::read_to_string(ORDERS) else { return passed.clear() };
        let count = passed.entry(name).or_insert(0);
        *count += 1;
        let (order, later) = orders.split_once('\n').unwrap_or((&orders, ""));
        if order == "count" {
            if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(PASSES) {
                let _ = writeln!(file, "{name} {count}");
            }
        } else if order == format!("{name} {count}") {
            use_up(later);
            let _ = kill_process(getpid(), Signal::KILL);
        } else if order == format!("{name} {count} stop") {
            use_up(later);
            passed.clear();
            let _ = kill_process(getpid(), Signal::STOP);
            // The signal may be taken by another thread first; this one must not get any further meanwhile.
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }

    fn use_up(later: &str) {
        let _ = match later {
            "" => std::fs::remove_file(ORDERS),
            later => std::fs::write(ORDERS, later),
        };
    }
}
