//! Threads: one for the admin queue, a few for each I/O queue, two for doorbells that are mapped; all of them made
//! with the controller.
//!
//! A queue's threads serve that queue alone, so one that waits for its backend holds up nobody else's commands.
//! A thread that sleeps costs its stack's first pages; it has no buffer before its first command.

use std::io;
use std::sync::Arc;
use std::thread;

use crate::admin;
use crate::doorbell_page::WATCHERS;
use crate::io::{Buffer, serve};
use crate::shared::Shared;
use crate::spec::log;
use crate::submission::Work;

/// Bytes of a thread's stack; only what is used is there.
const STACK: usize = 256 * 1024;
/// Threads for all I/O queues together, about.
const THREADS: usize = 64;
/// The most threads of one I/O queue.
const MOST_OF_A_QUEUE: usize = 4;

/// Threads of each I/O queue of a controller that has so many.
pub(crate) fn threads_of_a_queue(queues: u16) -> usize {
    (THREADS / usize::from(queues.max(1))).clamp(2, MOST_OF_A_QUEUE)
}

/// Starts the threads. They end at [`stop`].
pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let started = start_all(shared);
    if started.is_err() {
        stop(shared);
    }
    started
}

fn start_all(shared: &Arc<Shared>) -> io::Result<()> {
    let threads = threads_of_a_queue(shared.queues());
    for queue in 0..=shared.queues() {
        for _ in 0..if queue == 0 { 1 } else { threads } {
            let shared = Arc::clone(shared);
            let name = if queue == 0 {
                "nvme-admin".to_owned()
            } else {
                format!("nvme-io-{queue}")
            };
            thread::Builder::new()
                .name(name)
                .stack_size(STACK)
                .spawn(move || run(&shared, queue))?;
        }
    }
    for _ in 0..if shared.page.is_some() { WATCHERS } else { 0 } {
        let shared = Arc::clone(shared);
        thread::Builder::new()
            .name("nvme-doorbells".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                if let Some(page) = &shared.page {
                    page.watch(&shared);
                }
            })?;
    }
    Ok(())
}

/// Ends the threads, each when it has done what it is at.
pub(crate) fn stop(shared: &Shared) {
    for queue in &shared.submission {
        queue.stop();
    }
    if let Some(page) = &shared.page {
        page.stop();
    }
}

fn run(shared: &Shared, id: u16) {
    let Some(queue) = shared.submission.get(usize::from(id)) else {
        return;
    };
    let mut buffer = Buffer::default();
    loop {
        let work = queue.next(&shared.session, &shared.poller, &shared.counters);
        if !carry_out(shared, id, work, &mut buffer) {
            return;
        }
    }
}

/// Executes what there is to do on queue `id`. False where the thread is to end.
pub(crate) fn carry_out(shared: &Shared, id: u16, work: Work<'_>, buffer: &mut Buffer) -> bool {
    match work {
        Work::Command(fetched) if id == 0 => admin::serve(shared, &fetched),
        Work::Command(fetched) => serve(shared, id, &fetched, buffer),
        Work::Attention => shared.attend(),
        Work::BadShadow => shared.raise_doorbell_error(log::EVENT_INVALID_DOORBELL_VALUE),
        Work::Broken(ticket, fault) => shared.break_down(ticket, &fault),
        Work::Stop => return false,
    }
    true
}
