//! A worker and its users, over real sockets.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use uvfio_core::region_index::CONFIG;
use uvfio_core::{Device, DeviceError, Host, Policy, Width};
use uvfio_pci::{Bar, Blueprint, Identity, ResetKind};
use uvfio_proto::Client;
use uvfio_worker::{Control, DeviceSpec, Ended, SocketFile, Source, WorkerError, run};

struct Worker {
    socket: PathBuf,
    control: Arc<Control>,
    thread: JoinHandle<Result<Ended, WorkerError>>,
    _folder: tempfile::TempDir,
}

impl Worker {
    fn new(device: Arc<dyn Device>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("s");
        let file = SocketFile::listen(&socket).expect("listens");
        let control = Control::new().expect("a control");
        let for_thread = Arc::clone(&control);
        let thread = std::thread::spawn(move || {
            run(
                Source::Listener(file.listener()),
                device,
                &Policy::default(),
                &for_thread,
            )
        });
        Self {
            socket,
            control,
            thread,
            _folder: folder,
        }
    }

    fn edu() -> Self {
        Self::new(device("edu"))
    }

    fn user(&self) -> Client {
        Client::connect(&self.socket).expect("attached")
    }

    fn end(self) -> Result<Ended, WorkerError> {
        self.thread.join().expect("the worker does not panic")
    }
}

fn device(spec: &str) -> Arc<dyn Device> {
    spec.parse::<DeviceSpec>()
        .expect("a good specification")
        .build()
        .expect("a device")
}

fn switch_on(user: &mut Client) {
    user.write(CONFIG, 0x10, &0xfea0_0000_u32.to_le_bytes())
        .expect("BAR 0 is placed");
    user.write(CONFIG, 0x04, &[0x06, 0])
        .expect("memory and bus master are switched on");
}

fn liveness(user: &mut Client) -> u32 {
    let mut data = [0; 4];
    user.read(0, 4, &mut data).expect("BAR 0 is read");
    u32::from_le_bytes(data)
}

#[test]
fn users_are_served_one_after_another_and_each_finds_a_fresh_device() {
    let worker = Worker::edu();
    for user_number in 0..5 {
        let mut user = worker.user();
        let mut command = [0; 2];
        user.read(CONFIG, 0x04, &mut command).expect("COMMAND is read");
        assert_eq!(command, [0, 0], "COMMAND as user {user_number} finds it");
        switch_on(&mut user);
        assert_eq!(liveness(&mut user), 0, "liveness as user {user_number} finds it");
        user.write(0, 4, &[1, 2, 3, 4]).expect("BAR 0 is written");
        assert_eq!(liveness(&mut user), !0x0403_0201);
    }
    worker.control.stop();
    assert_eq!(worker.end().expect("it ends in order"), Ended::Stopped);
}

#[test]
fn a_second_user_waits_until_the_first_has_left() {
    let worker = Worker::edu();
    let first = worker.user();
    let socket = worker.socket.clone();
    let second = std::thread::spawn(move || {
        let mut user = Client::connect(&socket).expect("attached in the end");
        switch_on(&mut user);
        liveness(&mut user)
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!second.is_finished(), "a second user was served beside the first");
    drop(first);
    assert_eq!(second.join().expect("the second user is served"), 0);
}

#[test]
fn a_stop_ends_a_worker_that_waits_and_one_that_serves() {
    let waiting = Worker::edu();
    waiting.control.stop();
    assert_eq!(waiting.end().expect("it ends in order"), Ended::Stopped);

    let serving = Worker::edu();
    let mut user = serving.user();
    switch_on(&mut user);
    serving.control.stop();
    assert_eq!(serving.end().expect("it ends in order"), Ended::Stopped);
    assert!(
        user.read(CONFIG, 0, &mut [0; 4]).is_err(),
        "the user is still served"
    );
}

#[test]
fn a_device_taken_away_reads_ones_and_its_worker_ends_when_the_user_leaves() {
    let worker = Worker::edu();
    let mut user = worker.user();
    switch_on(&mut user);
    worker.control.take_away();
    assert_eq!(
        liveness(&mut user),
        u32::MAX,
        "a register of the device that is gone"
    );
    let mut config = [0; 4];
    user.read(CONFIG, 0, &mut config).expect("accesses are answered");
    assert_eq!(
        config, [0xff; 4],
        "configuration space of the device that is gone"
    );
    user.reset().expect("a reset is acknowledged");
    drop(user);
    assert_eq!(worker.end().expect("it ends in order"), Ended::Gone);
}

#[test]
fn what_a_user_sends_ends_its_own_connection_only() {
    let worker = Worker::edu();
    for garbage in [&[0xff; 64][..], &[0; 16], b"GET / HTTP/1.1\r\n\r\n", &[1]] {
        let mut stream = UnixStream::connect(&worker.socket).expect("connected");
        stream.write_all(garbage).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("sent all");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        let mut answer = Vec::new();
        // However it ends: what counts is that the next user is served.
        let _ = stream.read_to_end(&mut answer);
    }
    let mut user = worker.user();
    switch_on(&mut user);
    assert_eq!(liveness(&mut user), 0);
}

#[test]
fn a_connected_socket_serves_its_one_user() {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let control = Control::new().expect("a control");
    let worker = std::thread::spawn(move || {
        run(
            Source::Connected(theirs),
            device("edu"),
            &Policy::default(),
            &control,
        )
    });
    let mut user = Client::new(ours).expect("attached");
    switch_on(&mut user);
    assert_eq!(liveness(&mut user), 0);
    drop(user);
    assert_eq!(
        worker.join().expect("no panic").expect("it ends in order"),
        Ended::UserLeft
    );
}

/// A device that never comes back from a reset.
struct Stuck;

impl Device for Stuck {
    fn name(&self) -> &'static str {
        "stuck"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        let identity = Identity {
            vendor: 1,
            device: 1,
            revision: 0,
            class: [0xff, 0, 0],
            subsystem_vendor: 0,
            subsystem: 0,
            interrupt_pin: 0,
        };
        Blueprint {
            identity,
            bars: [Bar::None; 6],
            rom_bytes: 0,
            capabilities: &[],
            extended: &[],
        }
    }

    fn attach(&self, _host: Host) {}

    fn detach(&self) {}

    fn read(&self, _bar: u8, _offset: u64, _width: Width) -> u64 {
        0
    }

    fn write(&self, _bar: u8, _offset: u64, _width: Width, _value: u64) {}

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        Err(DeviceError {
            device: "stuck",
            what: "it does not answer".into(),
        })
    }
}

#[test]
fn a_device_that_does_not_come_back_gets_no_other_user() {
    let worker = Worker::new(Arc::new(Stuck));
    drop(worker.user());
    let error = worker.end().expect_err("it ends with a reason").to_string();
    assert!(error.contains("stuck: it does not answer"), "{error}");
}

/// NVMe is served as edu is: its registers answer over the socket.
#[test]
fn an_nvme_controller_answers_over_the_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("disk.img");
    let spec = format!("nvme,file={},size=1M,msix=off", image.display());
    let worker = Worker::new(device(&spec));
    assert_eq!(
        std::fs::metadata(&image).expect("the image was made").len(),
        1 << 20
    );
    let mut user = worker.user();
    switch_on(&mut user);
    let mut version = [0; 4];
    user.read(0, 8, &mut version).expect("VS is read");
    assert_eq!(u32::from_le_bytes(version), 0x0001_0400, "NVMe version");
    let locked = format!("nvme,file={}", image.display())
        .parse::<DeviceSpec>()
        .expect("a good specification")
        .build();
    let error = locked.err().expect("an image has one user").to_string();
    assert!(error.contains("in use by another process"), "{error}");
    drop(user);
    worker.control.stop();
    assert_eq!(worker.end().expect("it ends in order"), Ended::Stopped);
    until_free(&spec, &image);
}

/// Once the worker has ended, the image can be served again.
fn until_free(spec: &str, image: &Path) {
    let late = Instant::now() + Duration::from_secs(10);
    while let Err(error) = spec.parse::<DeviceSpec>().expect("a good specification").build() {
        assert!(Instant::now() < late, "{image:?} is still in use: {error}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
