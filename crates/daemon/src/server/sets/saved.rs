//! Sets that were saved, made again.

use keepstate_api::SetCommand;

use super::super::plane::Plane;
use super::super::rules::Rules;
use super::{Sets, carry_out};

/// Carries out what was saved, before there is a server. The error is what ipset says of the command with that number,
/// counted from zero.
pub(crate) fn restore<'a>(
    plane: &dyn Plane,
    rules: &Rules,
    commands: impl Iterator<Item = &'a SetCommand>,
) -> Result<(), (u64, String)> {
    let sets = Sets::default();
    match carry_out((plane, &sets, rules), commands, false) {
        (_, _, None) => Ok(()),
        (done, _, Some(message)) => Err((done, message)),
    }
}
