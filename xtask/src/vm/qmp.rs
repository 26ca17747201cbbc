//! A client of the QEMU Machine Protocol (QEMU documentation, "QEMU Machine Protocol
//! Specification"): commands, their results, and events, as lines of JSON.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// A connection to one QEMU, ready for commands.
#[derive(Debug)]
pub(super) struct Qmp {
    from: BufReader<UnixStream>,
    to: UnixStream,
    events: VecDeque<Value>,
    partial: Vec<u8>,
}

impl Qmp {
    /// Takes the greeting and leaves negotiation mode.
    pub(super) fn connect(stream: UnixStream, patience: Duration) -> Result<Self> {
        let to = stream.try_clone()?;
        let mut qmp = Self {
            from: BufReader::new(stream),
            to,
            events: VecDeque::new(),
            partial: Vec::new(),
        };
        let greeting = qmp.message(Instant::now() + patience)?;
        if greeting.as_ref().and_then(|g| g.get("QMP")).is_none() {
            bail!("QEMU's first message is no QMP greeting: {greeting:?}");
        }
        qmp.execute("qmp_capabilities", &json!({}), patience)?;
        Ok(qmp)
    }

    /// Runs a command; `arguments` is a JSON object. Events that come meanwhile are kept.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value, patience: Duration) -> Result<Value> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.to
            .write_all(line.as_bytes())
            .with_context(|| format!("QMP {command}"))?;
        let deadline = Instant::now() + patience;
        while let Some(message) = self.message(deadline).with_context(|| format!("QMP {command}"))? {
            if let Some(result) = message.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = message.get("error") {
                bail!("QMP {command} {arguments}: {}", error["desc"]);
            }
            self.events.push_back(message);
        }
        bail!("QMP {command}: no answer in {patience:?}")
    }

    /// Waits for an event called `name` for which `matches` holds, and forgets those before it.
    /// `None`: it did not come in time.
    pub(super) fn event(
        &mut self,
        name: &str,
        patience: Duration,
        matches: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>> {
        let deadline = Instant::now() + patience;
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => match self.message(deadline)? {
                    Some(event) => event,
                    None => return Ok(None),
                },
            };
            if event["event"] == name && matches(&event["data"]) {
                return Ok(Some(event));
            }
        }
    }

    /// The next message; `None` when none has come at `deadline`.
    fn message(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.from.get_ref().set_read_timeout(Some(left))?;
            // What was read before a time-out stays in `partial`.
            match self.from.read_until(b'\n', &mut self.partial) {
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.partial);
                    return Ok(Some(serde_json::from_slice(&line)?));
                }
                Ok(_) => bail!("QEMU closed its QMP connection"),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A QEMU that greets and then answers each command by the next of `answers`.
    fn qemu(answers: &'static [&'static str]) -> Qmp {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut to = theirs.try_clone().unwrap();
            writeln!(to, r#"{{"QMP": {{"version": {{}}, "capabilities": []}}}}"#).unwrap();
            let mut commands = BufReader::new(theirs).lines();
            for answer in std::iter::once(&r#"{"return": {}}"#).chain(answers) {
                commands.next();
                writeln!(to, "{answer}").unwrap();
            }
        });
        Qmp::connect(ours, PATIENCE).unwrap()
    }

    #[test]
    fn an_event_before_an_answer_is_kept() {
        let mut qmp = qemu(&["{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n{\"return\": 7}"]);
        assert_eq!(qmp.execute("x", &json!({}), PATIENCE).unwrap(), 7);
        let event = qmp
            .event("RESET", PATIENCE, |data| data["guest"] == true)
            .unwrap();
        assert!(event.is_some(), "the event that came before the answer is lost");
    }

    #[test]
    fn an_error_answer_is_an_error_with_its_description() {
        let mut qmp = qemu(&[r#"{"error": {"class": "GenericError", "desc": "no such bus"}}"#]);
        let error = qmp
            .execute("device_add", &json!({}), PATIENCE)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such bus"), "error is {error:?}");
    }

    #[test]
    fn an_event_that_does_not_come_is_none() {
        let mut qmp = qemu(&["{\"return\": {}}", "{}"]);
        let event = qmp
            .event("SHUTDOWN", Duration::from_millis(20), |_| true)
            .unwrap();
        assert_eq!(event, None);
    }
}
