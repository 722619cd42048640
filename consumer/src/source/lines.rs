//! The lines of an object, in chunks, from any place on. Objects may be gzip.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::object::{ObjectAt, ObjectError, Objects};
use super::queue::with_causes;
use crate::fault::{Fault, Faulty};

/// Longest line, in bytes: what a queue carries. A longer one is cut, and marked.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Longest object after decompression, in bytes.
pub const OBJECT_BYTES_MAX: u64 = 8 << 30;
/// What is kept of a line that is too long, to find it by.
const CUT_BYTES: usize = 4 << 10;
/// Most lines of a chunk, and bytes after which it is complete.
const CHUNK_LINES_MAX: usize = 64;
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Compressed bytes decoded at a time. Gzip grows by 1,032 at most, so this bounds what a
/// bomb occupies to 17 MB.
const GZIP_STEP_BYTES: usize = 16 << 10;

/// A place in an object, in decoded terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Lines before it.
    pub lines: u64,
    /// Bytes before it.
    pub bytes: u64,
    /// The object is gzip, which can only be read from its start.
    pub gzip: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    /// Without its end.
    pub bytes: Vec<u8>,
    /// False where the line was longer than [`LINE_BYTES_MAX`] and is cut.
    pub is_whole: bool,
}

/// Why there are no more lines.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("{at} begins as gzip and is broken after line {line}; write it again")]
    NotGzip { at: ObjectAt, line: u64, source: io::Error },
    #[error("{at} has more than {OBJECT_BYTES_MAX} bytes; write several objects")]
    TooLong { at: ObjectAt },
}

impl Faulty for LinesError {
    fn fault(&self) -> Fault {
        match self {
            Self::Object(error) => error.fault(),
            Self::NotGzip { .. } | Self::TooLong { .. } => Fault::Poison { reason: with_causes(self) },
        }
    }
}

/// An object being read.
pub struct Lines {
    at: ObjectAt,
    pieces: BoxStream<'static, Result<Bytes, ObjectError>>,
    /// Came and was not decoded yet.
    piece: Bytes,
    /// None until the first bytes have shown what the object is.
    decoder: Option<Decoder>,
    place: Place,
    /// Decoded bytes to leave out before `place` is reached.
    skip: u64,
    /// Decoded and not yet given out, from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// Where the search for the next line end goes on.
    searched: usize,
    /// Beginning of a line that has turned out too long.
    cut: Option<Vec<u8>>,
    ended: bool,
}

enum Decoder {
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
}

impl Lines {
    /// Begins at `place`, which an earlier [`Lines::place`] of the same object gave.
    pub async fn open(objects: &dyn Objects, at: &ObjectAt, place: Place) -> Result<Self, LinesError> {
        let is_plain = place.bytes > 0 && !place.gzip;
        let pieces = objects.read(at, if is_plain { place.bytes } else { 0 }).await?;
        Ok(Self {
            at: at.clone(),
            pieces,
            piece: Bytes::new(),
            decoder: is_plain.then_some(Decoder::Plain),
            place,
            skip: if is_plain { 0 } else { place.bytes },
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            cut: None,
            ended: false,
        })
    }

    /// Where the next chunk begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The next lines, empty ones left out; none at the end of the object.
    pub async fn next_chunk(&mut self) -> Result<Vec<Line>, LinesError> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while lines.len() < CHUNK_LINES_MAX && bytes < CHUNK_BYTES_MAX {
            let Some(line) = self.next_line().await? else { break };
            bytes += line.bytes.len();
            if !line.bytes.trim_ascii().is_empty() {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    async fn next_line(&mut self) -> Result<Option<Line>, LinesError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + end;
                return Ok(Some(self.take_line(end, end + 1)));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() - self.start > LINE_BYTES_MAX {
                self.drop_start();
            }
            if self.ended {
                let is_rest = self.start < self.buffer.len() || self.cut.is_some();
                return Ok(is_rest.then(|| self.take_line(self.buffer.len(), self.buffer.len())));
            }
            self.refill().await?;
        }
    }

    /// The line up to `end`; the next one begins at `next`.
    fn take_line(&mut self, end: usize, next: usize) -> Line {
        let bytes = &self.buffer[self.start..end];
        let is_whole = self.cut.is_none() && bytes.len() <= LINE_BYTES_MAX;
        let bytes = match self.cut.take() {
            Some(cut) => cut,
            None if is_whole => bytes.strip_suffix(b"\r").unwrap_or(bytes).to_vec(),
            None => bytes[..CUT_BYTES].to_vec(),
        };
        self.place.lines += 1;
        self.place.bytes += (next - self.start) as u64;
        (self.start, self.searched) = (next, next);
        Line { number: self.place.lines, bytes, is_whole }
    }

    /// Forgets what has come of a line that is too long, but for its beginning.
    fn drop_start(&mut self) {
        let dropped = self.buffer.len() - self.start;
        self.cut.get_or_insert_with(|| self.buffer[self.start..self.start + CUT_BYTES].to_vec());
        self.place.bytes += dropped as u64;
        self.buffer.clear();
        (self.start, self.searched) = (0, 0);
    }

    async fn refill(&mut self) -> Result<(), LinesError> {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.piece.is_empty() {
            match self.pieces.next().await {
                Some(piece) => self.piece = piece?,
                None => {
                    self.gunzip(MultiGzDecoder::try_finish)?;
                    self.ended = true;
                }
            }
        }
        self.decode()?;
        if self.place.bytes + self.buffer.len() as u64 > OBJECT_BYTES_MAX {
            return Err(LinesError::TooLong { at: self.at.clone() });
        }
        Ok(())
    }

    /// A step of the piece in hand.
    fn decode(&mut self) -> Result<(), LinesError> {
        let Some(first) = self.piece.first() else { return Ok(()) };
        let decoder = self.decoder.get_or_insert_with(|| {
            // No JSON begins with the first byte of gzip's magic number.
            self.place.gzip = *first == 0x1f;
            if self.place.gzip { Decoder::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))) } else { Decoder::Plain }
        });
        match decoder {
            Decoder::Plain => {
                let piece = std::mem::take(&mut self.piece);
                self.keep(&piece);
                Ok(())
            }
            Decoder::Gzip(_) => {
                let step = self.piece.split_to(self.piece.len().min(GZIP_STEP_BYTES));
                self.gunzip(|decoder| decoder.write_all(&step))
            }
        }
    }

    /// Lets the decoder of a gzip object take a step, and keeps what it gives.
    fn gunzip(&mut self, step: impl FnOnce(&mut MultiGzDecoder<Vec<u8>>) -> io::Result<()>) -> Result<(), LinesError> {
        let Some(Decoder::Gzip(decoder)) = &mut self.decoder else { return Ok(()) };
        step(decoder).map_err(|source| LinesError::NotGzip { at: self.at.clone(), line: self.place.lines, source })?;
        let decoded = std::mem::take(decoder.get_mut());
        self.keep(&decoded);
        Ok(())
    }

    fn keep(&mut self, decoded: &[u8]) {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(decoded.len());
        self.skip -= skipped as u64;
        self.buffer.extend_from_slice(&decoded[skipped..]);
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
