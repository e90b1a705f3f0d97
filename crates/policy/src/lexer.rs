//! Lines into words, each with its place: as the shell does it, and as iptables-restore does it.

use crate::diagnostic::{Span, WrittenAt};
use crate::problem::Problem;

/// A word and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// From a word of a command to the end of its line.
pub(crate) fn written_at(from: &Word, words: &[Word]) -> WrittenAt {
    let start = from.span;
    let same_line = words.iter().map(|word| word.span);
    let end = same_line
        .filter(|span| span.line == start.line)
        .map(|span| span.column + span.length)
        .max();
    WrittenAt(Some(Span {
        length: end.map_or(start.length, |end| end.saturating_sub(start.column)),
        ..start
    }))
}

/// Why a text cannot be divided into words.
pub(crate) type LexError = (Problem, Span);

/// Splits one line as iptables-restore does: blanks separate, double quotes join, a backslash
/// within them protects the next character, and nothing else is special. `line` is its number,
/// `column` the one of the first character.
pub(crate) fn restore_words(text: &str, line: u32, column: u32) -> Result<Vec<Word>, LexError> {
    let mut cursor = Cursor::new(text, line, column);
    let mut words = Vec::new();
    loop {
        cursor.skip_while(|c| c.is_ascii_whitespace());
        if cursor.peek().is_none() {
            return Ok(words);
        }
        words.push(restore_word(&mut cursor)?);
    }
}

fn restore_word(cursor: &mut Cursor<'_>) -> Result<Word, LexError> {
    let start = cursor.place;
    let mut text = String::new();
    while let Some(character) = cursor.peek() {
        if character.is_ascii_whitespace() {
            break;
        }
        let at = cursor.place;
        cursor.bump();
        if character != '"' {
            text.push(character);
            continue;
        }
        loop {
            match cursor.bump() {
                None => return Err((Problem::QuoteOpen, at.span_of(1))),
                // Unlike in a shell, the word ends here even without a blank.
                Some('"') => {
                    return Ok(Word {
                        text,
                        span: start.span_to(cursor.place),
                    });
                }
                Some('\\') => text.extend(cursor.bump()),
                Some(other) => text.push(other),
            }
        }
    }
    Ok(Word {
        text,
        span: start.span_to(cursor.place),
    })
}

/// The commands of a shell script, each a list of words. Comments and empty lines are left out.
/// Whatever only a shell could do (variables, pipes, loops) is an error; the rest of its line is
/// skipped then.
pub(crate) fn script_commands(text: &str) -> (Vec<Vec<Word>>, Vec<LexError>) {
    let mut cursor = Cursor::new(text, 1, 1);
    let (mut commands, mut errors) = (Vec::new(), Vec::new());
    while cursor.peek().is_some() {
        match script_command(&mut cursor) {
            Ok(words) if words.is_empty() => {}
            Ok(words) => commands.push(words),
            Err(error) => {
                errors.push(error);
                cursor.skip_while(|c| c != '\n');
            }
        }
    }
    (commands, errors)
}

/// Reads up to the end of a line or a `;`, which it takes as well.
fn script_command(cursor: &mut Cursor<'_>) -> Result<Vec<Word>, LexError> {
    let mut words = Vec::new();
    loop {
        match cursor.peek() {
            None => return Ok(words),
            Some('\n' | ';') => {
                cursor.bump();
                return Ok(words);
            }
            Some(' ' | '\t' | '\r') => {
                cursor.bump();
            }
            Some('#') => cursor.skip_while(|c| c != '\n'),
            Some('\\') if cursor.continues_line() => {}
            Some(_) => words.push(script_word(cursor)?),
        }
    }
}

fn script_word(cursor: &mut Cursor<'_>) -> Result<Word, LexError> {
    let start = cursor.place;
    let mut text = String::new();
    while let Some(character) = cursor.peek() {
        let at = cursor.place;
        match character {
            ' ' | '\t' | '\r' | '\n' | ';' => break,
            '|' | '&' | '<' | '>' | '(' | ')' | '$' | '`' => {
                return Err((Problem::ScriptSyntax(character), at.span_of(1)));
            }
            '\\' if cursor.continues_line() => {}
            '\\' => {
                cursor.bump();
                text.extend(cursor.bump());
            }
            '\'' | '"' => {
                cursor.bump();
                quoted(cursor, character, at, &mut text)?;
            }
            _ => {
                cursor.bump();
                text.push(character);
            }
        }
    }
    Ok(Word {
        text,
        span: start.span_to(cursor.place),
    })
}

/// Reads to the closing `quote`; the opening one, at `opened`, has been taken.
fn quoted(
    cursor: &mut Cursor<'_>,
    quote: char,
    opened: Place,
    text: &mut String,
) -> Result<(), LexError> {
    loop {
        let at = cursor.place;
        match cursor.bump() {
            None => return Err((Problem::QuoteOpen, opened.span_of(1))),
            Some(character) if character == quote => return Ok(()),
            Some(character @ ('$' | '`')) if quote == '"' => {
                return Err((Problem::ScriptSyntax(character), at.span_of(1)));
            }
            Some('\\') if quote == '"' => match cursor.bump() {
                Some('\n') | None => {}
                Some(character @ ('"' | '\\' | '$' | '`')) => text.push(character),
                Some(other) => text.extend(['\\', other]),
            },
            Some(character) => text.push(character),
        }
    }
}

/// The words of a command line that has been split already, placed as if it were one line, and
/// that line.
pub(crate) fn argument_words<S: AsRef<str>>(arguments: &[S]) -> (Vec<Word>, String) {
    let mut line = String::new();
    let mut words = Vec::new();
    let mut column = 1;
    for argument in arguments {
        let text = argument.as_ref();
        let shown = if text.is_empty() || text.contains(char::is_whitespace) {
            format!("'{text}'")
        } else {
            text.into()
        };
        let length = shown.chars().count() as u32;
        words.push(Word {
            text: text.into(),
            span: Span {
                line: 1,
                column,
                length,
            },
        });
        column += length + 1;
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&shown);
    }
    (words, line)
}

#[derive(Clone, Copy)]
struct Place {
    line: u32,
    column: u32,
}

impl Place {
    fn span_of(self, length: u32) -> Span {
        Span {
            line: self.line,
            column: self.column,
            length,
        }
    }

    /// Up to `end`, if that is on the same line.
    fn span_to(self, end: Self) -> Span {
        if end.line == self.line {
            self.span_of(end.column - self.column)
        } else {
            self.span_of(1)
        }
    }
}

struct Cursor<'a> {
    rest: std::str::Chars<'a>,
    place: Place,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str, line: u32, column: u32) -> Self {
        Self {
            rest: text.chars(),
            place: Place { line, column },
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn bump(&mut self) -> Option<char> {
        let character = self.rest.next()?;
        if character == '\n' {
            self.place.line += 1;
            self.place.column = 1;
        } else {
            self.place.column += 1;
        }
        Some(character)
    }

    fn skip_while(&mut self, condition: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&condition) {
            self.bump();
        }
    }

    /// Takes a backslash and the line break after it, if they are next.
    fn continues_line(&mut self) -> bool {
        let rest = self.rest.as_str();
        for (ending, characters) in [("\\\n", 2), ("\\\r\n", 3)] {
            if rest.starts_with(ending) {
                for _ in 0..characters {
                    self.bump();
                }
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[Word]) -> Vec<&str> {
        words.iter().map(|word| word.text.as_str()).collect()
    }

    #[test]
    fn restore_words_know_double_quotes_only() {
        let words = restore_words("-A x --comment \"a \\\"b\\\\c\" it's d\"e f\"", 3, 1).unwrap();
        let expected = ["-A", "x", "--comment", "a \"b\\c", "it's", "de f"];
        assert_eq!(texts(&words), expected);
        assert_eq!(words[3].span.column, 16);
        assert_eq!(words[3].span.length, 10);
        let error = restore_words("-A \"x", 3, 1).unwrap_err();
        assert_eq!(error.0, Problem::QuoteOpen);
        assert_eq!(error.1.column, 4);
    }

    #[test]
    fn script_commands_end_at_lines_and_semicolons() {
        let text = "#!/bin/bash\n\niptables -F; iptables -X # all\niptables -A INPUT \\\n  -j 'A B'\"c\\\"\"";
        let (commands, errors) = script_commands(text);
        assert!(errors.is_empty());
        assert_eq!(commands.len(), 3);
        assert_eq!(texts(&commands[1]), ["iptables", "-X"]);
        let last = &commands[2];
        assert_eq!(texts(last), ["iptables", "-A", "INPUT", "-j", "A Bc\""]);
        assert_eq!((last[3].span.line, last[3].span.column), (5, 3));
    }

    #[test]
    fn what_only_a_shell_can_do_is_an_error_at_its_place() {
        let text = "iptables -s $NET\niptables -F\niptables -s \"$NET\" | cat\n";
        let (commands, errors) = script_commands(text);
        assert_eq!(commands.len(), 1);
        let places: Vec<_> = errors
            .iter()
            .map(|(_, span)| (span.line, span.column))
            .collect();
        assert_eq!(places, [(1, 13), (3, 14)]);
    }
}
