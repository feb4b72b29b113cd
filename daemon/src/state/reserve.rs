//! Disk space kept back: given up when the disk is full, so that an outcome can always be recorded.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Enough for the outcome of a large transaction and its audit record, in bytes.
const SIZE: u64 = 2 << 20;

/// The reserve file.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Keeps the space back, if it is not kept yet. On a disk that is full already there is nothing to keep.
    #[must_use]
    pub fn keep(path: PathBuf) -> Self {
        let reserve = Self { path };
        reserve.refill();
        reserve
    }

    /// Keeps the space back again, once there is some; whether it is kept.
    pub fn refill(&self) -> bool {
        if self.path.exists() {
            return true;
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path);
        let kept = made.and_then(|file| Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SIZE)?));
        if kept.is_err() {
            // Half a reserve is worse than none: it would not be made again.
            let _ = fs::remove_file(&self.path);
        }
        kept.is_ok()
    }

    /// Gives the space up; whether there was any.
    pub fn give_up(&self) -> bool {
        let given = fs::remove_file(&self.path).is_ok();
        if given {
            tracing::error!("the disk is full: the reserve was given up so that the outcome can be recorded");
        }
        given
    }
}
