//! Asynchronous events: the commands that wait for them, and the events that wait for a command (section 5.2).

use crate::spec::log::EventType;

/// Asynchronous Event Request commands that may wait at once (AERL + 1).
pub(crate) const REQUESTS: usize = 4;

/// An event to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its type.
    pub(crate) kind: EventType,
    /// Which of that type.
    pub(crate) info: u8,
    /// The log page that tells more, and that has to be read before the next event of this type.
    pub(crate) log: u8,
}

impl Event {
    /// DW0 of the completion.
    pub(crate) fn result(self) -> u32 {
        u32::from(self.kind as u8) | u32::from(self.info) << 8 | u32::from(self.log) << 16
    }
}

/// Commands and events, both waiting. An event that already waits is not put in twice, so both lists are short.
#[derive(Debug, Default)]
pub(crate) struct Events {
    requests: Vec<u16>,
    waiting: Vec<Event>,
    /// Types of which an event was reported and the log page not yet read, a bit each.
    reported: u8,
}

impl Events {
    /// A command waits; false where there are enough.
    pub(crate) fn request(&mut self, cid: u16) -> bool {
        let room = self.requests.len() < REQUESTS;
        if room {
            self.requests.push(cid);
        }
        room
    }

    /// Takes a waiting command back; false where it does not wait.
    pub(crate) fn abort(&mut self, cid: u16) -> bool {
        let place = self.requests.iter().position(|waiting| *waiting == cid);
        place.is_some_and(|place| self.requests.remove(place) == cid)
    }

    /// Something happened.
    pub(crate) fn raise(&mut self, event: Event) {
        if !self.waiting.contains(&event) {
            self.waiting.push(event);
        }
    }

    /// The host has read the log page of a type.
    pub(crate) fn read(&mut self, kind: EventType) {
        self.reported &= !(1 << kind as u8);
        self.waiting.retain(|event| event.kind != kind);
    }

    /// A command to complete, and the event to tell it.
    pub(crate) fn next(&mut self) -> Option<(u16, Event)> {
        let place = self
            .waiting
            .iter()
            .position(|event| self.reported & 1 << event.kind as u8 == 0)?;
        if self.requests.is_empty() {
            return None;
        }
        let event = self.waiting.remove(place);
        self.reported |= 1 << event.kind as u8;
        Some((self.requests.remove(0), event))
    }

    /// As after a reset: nothing waits.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
