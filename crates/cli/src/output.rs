//! Standard output: buffered, and coloured where somebody looks at it.

use std::fmt::{self, Display, Formatter};
use std::io::{BufWriter, IsTerminal, StdoutLock};

/// Standard output, buffered. Errors are the caller's, so that a broken pipe is seen.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(1 << 16, std::io::stdout().lock())
}

/// Whether to colour what goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    On,
    Off,
}

impl Colour {
    /// On a terminal, unless `NO_COLOR` is set (no-color.org).
    pub(crate) fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !refused {
            Self::On
        } else {
            Self::Off
        }
    }

    pub(crate) const fn paint<T>(self, paint: Paint, content: T) -> Painted<T> {
        Painted {
            colour: self,
            paint,
            content,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Good,
    Bad,
    Doubtful,
    Faint,
}

/// Something with a colour around it. Width and alignment are those of the content.
pub(crate) struct Painted<T> {
    colour: Colour,
    paint: Paint,
    content: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.colour == Colour::Off {
            return self.content.fmt(f);
        }
        let code = match self.paint {
            Paint::Plain => return self.content.fmt(f),
            Paint::Good => 32,
            Paint::Bad => 31,
            Paint::Doubtful => 33,
            Paint::Faint => 2,
        };
        write!(f, "\x1b[{code}m")?;
        self.content.fmt(f)?;
        f.write_str("\x1b[0m")
    }
}
