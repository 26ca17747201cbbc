//! Processes that must not stay behind.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

/// Kills this process's children, and as long as those leave children to it (it must be a subreaper), those, too.
pub(crate) fn kill_all() {
    loop {
        for child in children() {
            // It may be gone already.
            let _ = kill_process(child, Signal::KILL);
        }
        // One at a time: it may have left others.
        if let Err(Errno::CHILD) = wait(WaitOptions::empty()) {
            return;
        }
    }
}

fn children() -> impl Iterator<Item = Pid> {
    let own = getpid().as_raw_pid();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name, in parentheses: state, parent.
        let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?;
        (parent.parse() == Ok(own)).then(|| Pid::from_raw(number))?
    })
}
