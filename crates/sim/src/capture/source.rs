//! A window over a stream of bytes that knows how far it is.

use std::io::{ErrorKind, Read};

use super::CaptureError;

/// Bytes asked of the reader at once.
const CHUNK_BYTES: usize = 64 << 10;

pub(super) struct Source<R> {
    input: R,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were consumed.
    start: usize,
    /// Bytes of `buffer` that are filled.
    end: usize,
    /// Bytes consumed since the beginning.
    offset: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset: 0,
        }
    }

    /// Bytes consumed since the beginning.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next `size` bytes, without consuming them. Callers bound `size`.
    pub(super) fn peek(&mut self, size: usize) -> Result<&[u8], CaptureError> {
        let available = self.fill(size)?;
        if available < size {
            return Err(CaptureError::Truncated {
                offset: self.offset + available as u64,
                missing: size - available,
            });
        }
        Ok(&self.buffer[self.start..self.start + size])
    }

    /// Whether nothing is left.
    pub(super) fn is_at_end(&mut self) -> Result<bool, CaptureError> {
        Ok(self.fill(1)? == 0)
    }

    /// Consumes the next `size` bytes and returns them.
    pub(super) fn take(&mut self, size: usize) -> Result<&[u8], CaptureError> {
        self.peek(size)?;
        let from = self.start;
        self.start += size;
        self.offset += size as u64;
        Ok(&self.buffer[from..from + size])
    }

    /// Consumes `size` bytes without holding them.
    pub(super) fn skip(&mut self, mut size: u64) -> Result<(), CaptureError> {
        while size > 0 {
            let step = size.min(CHUNK_BYTES as u64) as usize;
            self.take(step)?;
            size -= step as u64;
        }
        Ok(())
    }

    /// Reads until `size` bytes are there or the stream ends; how many are there.
    fn fill(&mut self, size: usize) -> Result<usize, CaptureError> {
        while self.end - self.start < size {
            if self.buffer.len() - self.start < size.max(CHUNK_BYTES) {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
                let wanted = self.end + size.max(CHUNK_BYTES);
                if self.buffer.len() < wanted {
                    self.buffer.resize(wanted, 0);
                }
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset + (self.end - self.start) as u64;
                    return Err(CaptureError::Read { offset, source });
                }
            }
        }
        Ok(self.end - self.start)
    }
}
