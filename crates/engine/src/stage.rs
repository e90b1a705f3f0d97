//! The steps of a packet's way.

/// What is to be done next with a packet. All that one step hands to the next is in the scratch
/// memory, so that a plane may run each of them on its own: the kernel's verifier has no
/// patience for all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Find the record of the flow.
    Look = 0,
    /// Advance it by the packet, or begin one.
    Advance = 1,
    /// Write the record back.
    Write = 2,
    /// Ask the rules.
    Judge = 3,
    /// Put the record of a new flow into the table.
    Insert = 4,
    /// Read TCP options and name the flow; the first, for packets that cannot go the short way.
    Name = 5,
    /// Read the headers of a packet that has IPv6 extension headers.
    Parse = 6,
    /// In place of [`Stage::Advance`] for SCTP: read the packet's chunks, and advance the association
    /// by them or begin one.
    Associate = 7,
    /// Find the datagram of a fragment.
    Fragment = 8,
    /// Read the transport header of a first fragment, and name its flow.
    First = 9,
    /// Remember what became of a first fragment.
    Settle = 10,
    /// Put the outcome together.
    Conclude = 11,
    /// Nothing: [`crate::process::Scratch::outcome`] is the outcome.
    Done = 12,
    /// Try the short way of an established packet; the first, for packets that may go it.
    Steady = 13,
    /// Walk the rules that come before the lookup.
    Raw = 14,
    /// Look whether the flow that begins was foretold.
    Foretold = 15,
    /// Let the flow's helper read the packet.
    Help = 16,
    /// Put down what it foretells.
    Expect = 17,
    /// Go on with the other table, where there are two: the only stage that runs on another than the one
    /// that named it. See [`crate::table::transfer`].
    Elsewhere = 18,
    /// In place of [`Stage::Help`] for SIP: read a message.
    Message = 20,
    /// Write down the labels that rules have set.
    Label = 21,
    /// Go on through the rules from one that has conditions.
    Weigh = 24,
    /// Have a rejected packet answered.
    Answer = 30,
    /// Answer a SYN with a cookie.
    Cookie = 36,
    /// Look at the cookie that a segment brings back.
    Prove = 37,
    /// Answer a SYN for SYNPROXY, or look at the cookie that a segment brings back to it.
    Synproxy = 38,
    /// Find room for what must be known of a connection that SYNPROXY opens.
    Open = 39,
    /// Before [`Stage::Advance`], for such a connection: translate what a packet says.
    Translate = 40,
    /// Put the translated header into the packet.
    Rewrite = 41,
    /// Put a segment of SYNPROXY's own in the place of one of the handshake.
    Greet = 46,
    /// Ask limits of senders and forms of packets, see [`crate::refusal`].
    Refuse = 50,
    /// See what is known of a SYN's destination; the first, for a SYN that may be answered with a cookie.
    Foreseen = 56,
}
