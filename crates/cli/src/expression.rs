//! Filters on the command line: one word in quotes, or several as tcpdump takes them.

use anyhow::bail;
use keepstate_api::Expression;

/// What the words say; `None` where there are none.
pub(crate) fn given(words: &[String]) -> anyhow::Result<Option<Expression>> {
    if words.is_empty() {
        return Ok(None);
    }
    read(&words.join(" ")).map(Some)
}

/// As [`given`], for flows alone.
pub(crate) fn of_flows(words: &[String]) -> anyhow::Result<Option<Expression>> {
    let expression = given(words)?;
    let foreign = expression.as_ref().and_then(Expression::of_packets_alone);
    if let Some(term) = foreign {
        bail!(
            "`{term}` asks for a packet, and flows have no such thing: `keepstate events --follow` does"
        );
    }
    Ok(expression)
}

/// An error shows the place.
fn read(text: &str) -> anyhow::Result<Expression> {
    match text.parse::<Expression>() {
        Ok(expression) => Ok(expression),
        Err(error) => {
            let before = " ".repeat(error.column as usize - 1);
            bail!(
                "the filter is not understood\n  {text}\n  {before}^ {}",
                error.message
            )
        }
    }
}
