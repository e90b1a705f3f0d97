//! Lines of JSON with a bound on their length.

use std::io::{self, BufRead, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest request: the largest ruleset there may be, with 500 bytes a rule.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// Longest reply that a client reads: the same ruleset with counters and quoting.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("a line is longer than {max} bytes")]
    TooLong { max: usize },
    #[error("the connection ended within a line")]
    Cut,
    #[error("not a message: {0}")]
    Malformed(serde_json::Error),
}

/// Reads one message; `None` when the other side has hung up.
///
/// After [`FrameError::Malformed`] the next message can be read; after the others it cannot.
pub fn read<T: DeserializeOwned>(
    input: &mut impl BufRead,
    bytes_max: usize,
) -> Result<Option<T>, FrameError> {
    let mut line = Vec::new();
    loop {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        if available.is_empty() {
            return if line.is_empty() {
                Ok(None)
            } else {
                Err(FrameError::Cut)
            };
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let take = end.unwrap_or(available.len());
        if line.len() + take > bytes_max {
            return Err(FrameError::TooLong { max: bytes_max });
        }
        line.extend_from_slice(&available[..take]);
        input.consume(take + usize::from(end.is_some()));
        if end.is_some() {
            return serde_json::from_slice(&line)
                .map(Some)
                .map_err(FrameError::Malformed);
        }
    }
}

/// Writes one message. The caller flushes.
pub fn write<T: Serialize>(output: &mut impl Write, message: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *output, message)?;
    output.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_beyond_the_bound_is_refused_before_it_is_kept() {
        let endless = vec![b'['; 100];
        let error = read::<u32>(&mut endless.as_slice(), 10).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { max: 10 }), "{error}");
    }

    #[test]
    fn garbage_costs_one_line() {
        let mut input: &[u8] = b"\xff{}\n7\n8";
        assert!(matches!(
            read::<u32>(&mut input, 10),
            Err(FrameError::Malformed(_))
        ));
        assert_eq!(read::<u32>(&mut input, 10).unwrap(), Some(7));
        assert!(matches!(read::<u32>(&mut input, 10), Err(FrameError::Cut)));
        assert_eq!(read::<u32>(&mut input, 10).unwrap(), None);
    }

    #[test]
    fn depth_is_bounded() {
        let mut deep = vec![b'['; 100_000];
        deep.push(b'\n');
        let error = read::<serde_json::Value>(&mut deep.as_slice(), 1 << 20).unwrap_err();
        assert!(matches!(error, FrameError::Malformed(_)), "{error}");
    }
}
