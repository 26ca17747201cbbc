//! Which threads there are. Alone in its file, since the threads of other tests would be counted too.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

mod common;

use common::{Program, sys};
use rustix::io::Errno;

/// How many threads of this process wait for ioeventfds.
fn serving() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("the process has threads");
    let names = tasks
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("comm")));
    names.flatten().filter(|name| name == "ioeventfd\n").count()
}

#[test]
fn an_ioeventfd_that_is_refused_starts_no_thread() {
    let program = Program::edu();
    let (_, _, device) = program.opened();
    for (number, errno) in [(-1, Errno::NODEV), (99_999, Errno::BADF)] {
        let mut argument = sys::ioeventfd(4, 0, 1, number);
        assert_eq!(program.ioctl(device, sys::IOEVENTFD, &mut argument), Err(errno));
        assert_eq!(serving(), 0, "descriptor {number}");
    }
    let (_eventfd, number) = program.eventfd();
    let mut argument = sys::ioeventfd(4, 0, 1, number);
    assert_eq!(program.ioctl(device, sys::IOEVENTFD, &mut argument), Ok(0));
    common::until("a thread serves it", || serving() == 1);
}
