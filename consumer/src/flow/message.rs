//! One message: its envelopes are opened, and each event in it is processed.
//!
//! A message that holds several events is settled once. What fails for now fails the whole
//! message, which is tried again, since repeating an event does no harm; what fails for
//! ever is parked alone, once nothing else of it has to be tried again.

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream;
use jiff::Timestamp;
use serde_json::Value;
use shared::Event;

use super::report::{count, note};
use super::seats::Seat;
use super::{FlowError, Pipeline};
use crate::fault::{Fault, Faulty};
use crate::lane::Lane;
use crate::source::envelope::{self, BODY_BYTES_MAX, Contents, EnvelopeError};
use crate::source::{DeadLetters, Line, Lines, Message, ObjectAt, Part, Place, PoisonEvent};
use crate::store::{ObjectProgress, WriteOutcome};

/// Events of one message in work at once. Those of a FIFO queue keep their order instead.
const EVENTS_IN_WORK_MAX: usize = 8;
/// Most events of one message before others have their turns. A chunk of an object's lines
/// is no longer.
const EVENTS_A_TURN_MAX: usize = 64;

/// A message to process, and what it takes besides the message.
pub struct Job<'a> {
    pub message: &'a Message,
    /// Times that it was received or tried.
    pub receive_count: u32,
    /// Name of its queue.
    pub queue: &'a str,
    /// What its events count to.
    pub lane: Lane,
    /// Whether its events must be processed one after the other.
    pub in_order: bool,
    /// Where events are parked that will never be labelled. None fails their whole message.
    pub dead_letters: Option<&'a DeadLetters>,
    /// What it gives up now and then where it holds many events, so that other messages have
    /// their turns. None where nobody waits for it.
    pub seat: Option<&'a Seat>,
    /// True once no other event should begin.
    pub stops: &'a (dyn Fn() -> bool + Sync),
}

impl Job<'_> {
    /// To be called with none of its events in work: they may keep others from theirs.
    async fn give_way(&self, events: usize) {
        if let Some(seat) = self.seat {
            seat.give_way(events).await;
        }
    }
}

/// How far a message came without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Each of its events is labelled, or parked.
    End,
    /// It was told to stop; what was done needs not be repeated, or repeats at no cost.
    Stop,
}

/// What is left of a message's events once each has been in work.
#[derive(Default)]
struct Left {
    /// The last fault that asks for another try.
    failed: Option<FlowError>,
    poison: Vec<PoisonEvent>,
    /// Some did not begin.
    stopped: bool,
}

/// One of a message's events.
struct Entry {
    part: Part,
    body: EntryBody,
}

enum EntryBody {
    Value(Value),
    Line(Line),
}

impl Pipeline {
    pub async fn process_message(&self, job: &Job<'_>) -> Result<Reached, FlowError> {
        let contents = match envelope::open(job.message.body.as_bytes())? {
            Contents::Payload(at) => envelope::open(&self.payload(&at).await?)?,
            contents => contents,
        };
        match contents {
            Contents::Nothing => Ok(Reached::End),
            Contents::Event(value) => {
                let event = Event::from_value(value, self.now(job.message))?;
                count(&self.process_event(event, job.receive_count).await?, job.lane, self.now(job.message));
                Ok(Reached::End)
            }
            Contents::Batch(values) => {
                let part = |index| Part { of: "list".to_owned(), index };
                let entries = (0..).map(part).zip(values).map(|(part, value)| Entry { part, body: value.into() });
                self.process_entries(entries.collect(), job).await
            }
            Contents::Objects(objects) => {
                for at in &objects {
                    if self.process_object(at, job).await? == Reached::Stop {
                        return Ok(Reached::Stop);
                    }
                }
                Ok(Reached::End)
            }
            Contents::Payload(_) => Err(EnvelopeError::TooDeep.into()),
        }
    }

    /// The later of the worker's clock and of when the queue took the message: where the
    /// worker's clock is behind, a good event must not look as if it came from the future.
    fn now(&self, message: &Message) -> Timestamp {
        let now = (self.clock)();
        message.sent_at.map_or(now, |sent_at| sent_at.max(now))
    }

    /// A body that was too large for its queue. It is left where it is: other queues may
    /// point to it too, so a lifecycle rule should remove it.
    async fn payload(&self, at: &ObjectAt) -> Result<Vec<u8>, FlowError> {
        let mut pieces = self.objects.read(at, 0).await?;
        let mut body = Vec::new();
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece?);
            if body.len() > BODY_BYTES_MAX {
                return Err(EnvelopeError::TooLong.into());
            }
        }
        Ok(body)
    }

    /// The lines of an object, chunk by chunk; a later delivery goes on after the last chunk
    /// that was done.
    async fn process_object(&self, at: &ObjectAt, job: &Job<'_>) -> Result<Reached, FlowError> {
        let mut progress = self.store.object_progress(ObjectProgress::start(&content(at))).await?;
        let place = Place { lines: progress.lines, bytes: progress.bytes, gzip: progress.gzip };
        let mut lines = Lines::open(self.objects.as_ref(), at, place).await?;
        let of = at.to_string();
        loop {
            let chunk = lines.next_chunk().await?;
            if chunk.is_empty() {
                self.store.forget_object(&progress).await?;
                return Ok(Reached::End);
            }
            let part = |line: &Line| Part { of: of.clone(), index: line.number };
            let entries = chunk.into_iter().map(|line| Entry { part: part(&line), body: EntryBody::Line(line) });
            if self.process_entries(entries.collect(), job).await? == Reached::Stop {
                return Ok(Reached::Stop);
            }
            let Place { lines, bytes, gzip } = lines.place();
            let next = ObjectProgress { lines, bytes, gzip, ..progress.clone() };
            if self.store.advance_object(&progress, &next).await? == WriteOutcome::Conflict {
                return Err(FlowError::ObjectContended { at: at.clone() });
            }
            job.give_way((next.lines - progress.lines) as usize).await;
            progress = next;
        }
    }

    /// Others have their turns between chunks of a long list; what is to be tried again or
    /// parked is known at its end.
    async fn process_entries(&self, entries: Vec<Entry>, job: &Job<'_>) -> Result<Reached, FlowError> {
        let mut left = Left::default();
        for (number, chunk) in entries.chunks(EVENTS_A_TURN_MAX).enumerate() {
            if number > 0 {
                job.give_way(EVENTS_A_TURN_MAX).await;
            }
            self.process_chunk(chunk, job, &mut left).await?;
        }
        match (left.failed, job.dead_letters) {
            (Some(error), _) => return Err(error),
            (None, _) if left.stopped => return Ok(Reached::Stop),
            (None, Some(dead_letters)) if !left.poison.is_empty() => {
                dead_letters.park(job.message, left.poison).await.map_err(FlowError::Park)?;
            }
            (None, _) => {}
        }
        Ok(Reached::End)
    }

    /// Returns with none of them in work, but for a fatal fault.
    async fn process_chunk(&self, entries: &[Entry], job: &Job<'_>, left: &mut Left) -> Result<(), FlowError> {
        let in_work = if job.in_order { 1 } else { EVENTS_IN_WORK_MAX };
        // Boxed, since the compiler cannot tell that a closure's future may change threads.
        let mut work: Vec<BoxFuture<'_, Option<Result<(), FlowError>>>> = Vec::with_capacity(entries.len());
        for entry in entries {
            work.push(Box::pin(self.process_entry(entry, job)));
        }
        let mut results = stream::iter(work).buffered(in_work);
        for entry in entries {
            let error = match results.next().await.flatten() {
                Some(Ok(())) => continue,
                Some(Err(error)) => error,
                None => {
                    left.stopped = true;
                    continue;
                }
            };
            let fault = error.fault();
            match &fault {
                Fault::Fatal { .. } => return Err(error),
                Fault::Poison { reason } if job.dead_letters.is_some() => {
                    note(&error, &fault, job, Some(&entry.part));
                    left.poison.push(entry.to_poison(reason.clone(), error.stage()));
                }
                Fault::Poison { .. } | Fault::Retry { .. } => left.failed = Some(error),
            }
        }
        Ok(())
    }

    /// None where it was told to stop before it began.
    async fn process_entry(&self, entry: &Entry, job: &Job<'_>) -> Option<Result<(), FlowError>> {
        if (job.stops)() {
            return None;
        }
        let processed = async {
            let now = self.now(job.message);
            let event = match &entry.body {
                EntryBody::Value(value) => Event::from_value(value.clone(), now)?,
                EntryBody::Line(line) if line.is_whole => Event::parse(&line.bytes, now)?,
                EntryBody::Line(_) => return Err(FlowError::LongLine),
            };
            count(&self.process_event(event, job.receive_count).await?, job.lane, self.now(job.message));
            Ok(())
        };
        Some(processed.await)
    }
}

impl From<Value> for EntryBody {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

impl Entry {
    fn to_poison(&self, reason: String, stage: &'static str) -> PoisonEvent {
        let body = match &self.body {
            EntryBody::Value(value) => value.to_string(),
            EntryBody::Line(line) => String::from_utf8_lossy(&line.bytes).into_owned(),
        };
        PoisonEvent { part: self.part.clone(), body, reason, stage }
    }
}

/// Tells this content of the object from another one under the same key.
fn content(at: &ObjectAt) -> String {
    let tag = at.etag.as_deref().or(at.version.as_deref()).unwrap_or_default();
    format!("{at}#{tag}")
}
