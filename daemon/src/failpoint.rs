//! Numbered points at which the crash tests kill the daemon; nothing at all without the feature `failpoints`.

/// Dies here (SIGKILL to itself) when `/run/reconciled/failpoint` says `NAME COUNT` and this is the COUNTth time that the
/// point of this name is passed.
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
    use std::sync::Mutex;

    /// Where the tests say at which point to die.
    const ORDER: &str = "/run/reconciled/failpoint";

    static PASSED: Mutex<BTreeMap<&str, u32>> = Mutex::new(BTreeMap::new());

    /// Counts a pass, and dies where the order says so. The order is used up first: the next life is not killed by it.
    pub fn pass(name: &'static str) {
        let Ok(order) = std::fs::read_to_string(ORDER) else { return };
        let mut passed = PASSED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = passed.entry(name).or_insert(0);
        *count += 1;
        if order.trim() == format!("{name} {count}") {
            let _ = std::fs::remove_file(ORDER);
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
