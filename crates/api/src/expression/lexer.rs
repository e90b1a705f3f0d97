//! From text to words and signs, each with its column.

use super::{EXPRESSION_BYTES_MAX, ExpressionError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Word(&'a str),
    /// `(`, `)`, `!`, `&&`, `||` or a comparison.
    Sign(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) column: u32,
    pub(super) kind: Kind<'a>,
}

const SIGNS: [&str; 12] = [
    "&&", "||", "==", "!=", "<=", ">=", "(", ")", "!", "<", ">", "=",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ExpressionError> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(ExpressionError {
            column: 1,
            message: format!(
                "{} bytes, and a filter may have {EXPRESSION_BYTES_MAX}",
                text.len()
            ),
        });
    }
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start();
        let before = &text[..text.len() - trimmed.len()];
        // At most EXPRESSION_BYTES_MAX.
        let column = before.chars().count() as u32 + 1;
        let Some(first) = trimmed.chars().next() else {
            return Ok(tokens);
        };
        let sign = SIGNS.into_iter().find(|sign| trimmed.starts_with(sign));
        let word = trimmed
            .find(|next| !is_of_word(next))
            .unwrap_or(trimmed.len());
        let (kind, length) = match sign {
            Some(sign) => (Kind::Sign(sign), sign.len()),
            None if word > 0 => (Kind::Word(&trimmed[..word]), word),
            None => {
                return Err(ExpressionError {
                    column,
                    message: format!("`{}` has no meaning here", first.escape_debug()),
                });
            }
        };
        tokens.push(Token { column, kind });
        rest = &trimmed[length..];
    }
}

const fn is_of_word(next: char) -> bool {
    next.is_ascii_alphanumeric() || matches!(next, '.' | ':' | '/' | '-' | '_' | '*' | ',')
}
