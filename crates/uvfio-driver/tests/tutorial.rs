//! The book's tutorial, word for word: its commands in a folder of their own, its pieces of code where it says.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that can't be set up has failed.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use page::{blocks, included};

#[path = "../../uvfio/tests/common/page.rs"]
mod page;

fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(Path::parent).unwrap().to_path_buf()
}

fn tutorial() -> String {
    std::fs::read_to_string(workspace().join("docs/src/tutorial.md")).unwrap()
}

#[test]
fn every_piece_of_code_on_the_page_is_a_piece_of_the_driver() {
    let book = workspace().join("docs/src");
    let mut pieces = 0;
    for (kind, text) in blocks(&tutorial()) {
        if !kind.starts_with("rust") {
            continue;
        }
        let target = included(&text).unwrap_or_else(|| panic!("code that no test compiles:\n{text}"));
        let (file, anchor) = target.split_once(':').unwrap_or((target, ""));
        let code = std::fs::read_to_string(book.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        if !anchor.is_empty() {
            for mark in ["ANCHOR", "ANCHOR_END"] {
                let mark = format!("// {mark}: {anchor}");
                assert!(
                    code.lines().any(|line| line.trim() == mark),
                    "{file}: no line {mark:?}"
                );
            }
        }
        pieces += 1;
    }
    assert!(pieces > 5, "only {pieces} pieces of code were found on the page");
}

/// A program that is ended with the test, and everything that it has started with it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// A shell that runs commands of the page in `folder`. They share this build's target folder and ask no network.
fn shell(folder: &Path, socket: &Path, commands: &str) -> Command {
    let mut shell = Command::new("sh");
    let commands = commands.replace("/tmp/edu.sock", &socket.display().to_string());
    shell
        .args(["-e", "-c", &commands])
        .current_dir(folder)
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_TARGET_DIR", workspace().join("target"));
    shell
}

/// An empty folder, but for the checkout. It is outside the workspace, as a reader's is, and the same whenever this is run:
/// cargo finds in the target folder what it has built for it before.
fn place() -> PathBuf {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    let mut hash = DefaultHasher::new();
    (workspace(), rustix::process::getuid().as_raw()).hash(&mut hash);
    let place = std::env::temp_dir().join(format!("uvfio-tutorial-{:016x}", hash.finish()));
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir(&place).unwrap();
    std::os::unix::fs::symlink(workspace(), place.join("uvfio")).unwrap();
    place
}

#[test]
fn the_commands_of_the_page_end_with_a_driver_that_works() {
    use std::os::unix::process::CommandExt as _;

    let place = place();
    let socket = place.join("edu.sock");
    let mut folder = place;
    let mut servers = Vec::new();
    let mut said = String::new();
    for (kind, commands) in blocks(&tutorial()) {
        match kind.as_str() {
            "sh" => {
                let output = shell(&folder, &socket, &commands).output().unwrap();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{commands}\n{errors}");
                said += &String::from_utf8_lossy(&output.stdout);
            }
            "sh,server" => {
                let mut server = shell(&folder, &socket, &commands)
                    .stderr(Stdio::piped())
                    .process_group(0)
                    .spawn()
                    .unwrap();
                let errors = BufReader::new(server.stderr.take().unwrap());
                servers.push(Ended(server));
                let mut lines = errors.lines().map_while(Result::ok);
                let ready = lines.find(|line| line.contains("listens on"));
                assert!(
                    ready.is_some(),
                    "{commands}\nthe server does not say that it listens"
                );
                // Somebody has to read on, so that the server never waits for it.
                std::thread::spawn(move || lines.for_each(drop));
            }
            _ => continue,
        }
        if let Some(line) = commands.lines().find_map(|line| line.strip_prefix("cd ")) {
            folder.push(line);
        }
    }
    assert!(said.contains("test result: ok. 5 passed"), "{said}");
    assert!(
        said.contains("10! = 3628800") && said.contains("the same: true"),
        "{said}"
    );
}
