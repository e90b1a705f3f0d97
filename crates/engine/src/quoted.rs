//! ICMP errors: the flow that one quotes, and whether it may speak of it.

use crate::conntrack;
use crate::conntrack::tcp;
use crate::host::{Host, Packet};
use crate::process::{Run, Scratch};
use crate::table::Hash;
use crate::trace::Step;
use crate::track::{Flow, Sight, Tracked, direction_of};
use crate::tuple::Tuple;
use crate::verdict::{Reason, State};
use crate::wire;

/// Names the flow that an ICMP error quotes.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn name_quoted<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    const ICMP_HEADER_BYTES: u32 = 8;
    let at = scratch.info.transport_offset + ICMP_HEADER_BYTES;
    let Some(quoted) = wire::quoted(run.packet, scratch.info.family, at) else {
        return Err(Reason::IcmpErrorTruncated);
    };
    scratch.quoted_sequence = quoted.sequence;
    let tuple = Tuple {
        family: scratch.info.family,
        source: quoted.source,
        destination: quoted.destination,
        source_port: quoted.source_port,
        destination_port: quoted.destination_port,
        protocol: quoted.protocol,
        zone: scratch.zone,
    };
    run.host.trace(Step::Quoted(tuple));
    let Some(oriented) = conntrack::orient(tuple) else {
        return Err(Reason::IcmpErrorNoFlow);
    };
    scratch.oriented = oriented;
    scratch.hash = Hash::of(&scratch.oriented.key, run.host.settings());
    Ok(())
}

/// An ICMP error is RELATED to the flow that it quotes, if that is known and the error goes to
/// the sender of the packet it quotes.
pub(crate) fn judge_error<H: Host>(host: &H, scratch: &Scratch) -> Tracked {
    if !matches!(scratch.sight, Sight::Found) {
        return Tracked::invalid(Reason::IcmpErrorNoFlow);
    }
    if scratch.info.destination != scratch.oriented.sender() {
        return Tracked::invalid(Reason::IcmpErrorWrongAddress);
    }
    let sent = direction_of(scratch);
    let direction = sent.other();
    host.trace(Step::Found(scratch.record, direction));
    if let Some(sequence) = scratch.quoted_sequence
        && !tcp::may_have_sent(host.settings(), &scratch.record, sent, sequence)
    {
        return Tracked::invalid(Reason::IcmpErrorBadSequence);
    }
    Tracked {
        state: State::Related,
        reason: None,
        flow: Flow::Passing(direction),
    }
}
