//! Rules back into text.

pub(crate) mod list;
pub(crate) mod save;
