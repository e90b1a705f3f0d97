//! SIP (RFC 3261): messages say where media is to be sent, and where a telephone can be called.
//!
//! What a packet says of its own sender is believed, and of nobody else: media and calls are
//! expected from the other end of the flow alone, towards the address that the packet came from (Linux:
//! `sip_direct_media=1`, `sip_direct_signalling=1`, the defaults).

use super::line::Line;
use super::message::{Message, Method};
use super::{SIP, SIP_TCP, state};
use crate::expect::{self, ANY_SOURCE_PORT, PERMANENT, Wanted};
use crate::host::{FlowMemory, Host, Packet, Payload, Repeat, Words};
use crate::limits::{HELPER_BYTES_MAX, SIP_REGISTRATION_SECONDS_MAX};
use crate::process::{Run, Scratch, Stage};
use crate::record::{CONTROL_WORD, Control, EXPECTED, SlotState};
use crate::tuple::{Address, Family};
use crate::verdict::State;
use crate::wire::Fragment;
use crate::wire::transport::{TCP, UDP};

const UDP_HEADER_BYTES: u32 = 8;

/// How long media is expected, in seconds.
pub(super) const MEDIA_SECONDS: u32 = 180;

// Words of a flow's state.
/// The last INVITE: that there was one (1), its sequence number (32).
const WORD_INVITE: u32 = state::WORD_OWN;
/// The last REGISTER: that there was one (1), protocol (8) and port (16) of its contact, sequence (32).
const WORD_REGISTER: u32 = state::WORD_OWN + 1;
const KNOWN: u64 = 1 << 63;

/// Reads a message.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn read<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    scratch.state = state::NOWHERE;
    scratch.message = Message::FRESH;
    let info = &scratch.info;
    let header = match info.protocol {
        UDP => UDP_HEADER_BYTES,
        TCP if matches!(scratch.tracked.state, State::Established) => info.tcp_header_length as u32,
        _ => return Stage::Conclude,
    };
    let length = info.transport_length.wrapping_sub(header);
    if info.transport_length <= header || scratch.tracked.direction().is_none() {
        return Stage::Conclude;
    }
    let reach = if length > HELPER_BYTES_MAX {
        HELPER_BYTES_MAX
    } else {
        length
    };
    let Some(payload) = run.packet.payload(info.transport_offset + header, reach) else {
        return Stage::Conclude;
    };
    let flows = run.host.flows();
    let is_whole = reach == length && matches!(info.fragment, Fragment::Whole);
    state::acquire(run.host, scratch);
    let Some(words) = flows.helper_state(scratch.state) else {
        return Stage::Conclude;
    };
    let registered = words.load(WORD_REGISTER);
    let message = &mut scratch.message;
    message.end = reach;
    message.is_measured = scratch.info.protocol == TCP;
    message.own_protocol = scratch.info.protocol;
    message.asked_port = (registered >> 32) as u16;
    message.asked_protocol = (registered >> 48) as u8;
    let mut reader = Reader {
        payload,
        is_whole,
        scratch,
    };
    // One round more, for the end.
    run.host.repeat(HELPER_BYTES_MAX + 1, &mut reader);
    scratch.message.finish(is_whole);
    let next = heed(run.host, words, scratch);
    state::release(words, scratch);
    last_as_registered(run.host, scratch);
    next
}

/// A flow lasts as long as the registration that was made in it.
#[inline(always)]
pub(crate) fn last_as_registered<H: Host>(host: &H, scratch: &Scratch) {
    let (flows, place) = (host.flows(), scratch.seen.place);
    let Some(deadline) = expect::deadline_of_lasting(flows, scratch.state, scratch.now) else {
        return;
    };
    let Some(words) = flows.slot(place.family, place.bucket, place.slot) else {
        return;
    };
    let control = Control(words.load(CONTROL_WORD));
    let is_at_rest = matches!(control.slot_state(), SlotState::Live) && !control.is_locked();
    let left = control.deadline().ticks_left(scratch.now);
    if is_at_rest && left < deadline.ticks_left(scratch.now) {
        // Lost against another packet, that one or the next will do it.
        words.compare_exchange(CONTROL_WORD, control.0, control.with_deadline(deadline).0);
    }
}

struct Reader<'a, B> {
    payload: B,
    is_whole: bool,
    scratch: &'a mut Scratch,
}

impl<B: Payload> Repeat for Reader<'_, B> {
    fn step(&mut self) -> bool {
        let Scratch {
            message,
            line,
            info,
            ..
        } = &mut *self.scratch;
        let at = message.at;
        let byte = if at < message.end {
            self.payload.byte(at)
        } else if at == message.end && self.is_whole {
            b'\n'
        } else {
            return false;
        };
        message.at = at + 1;
        let ends = [&info.source, &info.destination];
        message.take(byte, line, info.family, ends);
        true
    }
}

/// What follows from a message.
fn heed<H: Host, W: Words>(host: &H, words: W, scratch: &mut Scratch) -> Stage {
    let Message {
        method,
        code,
        sequence,
        ..
    } = scratch.message;
    let Some(sequence) = sequence else {
        return Stage::Conclude;
    };
    let known = KNOWN | sequence as u64;
    match (method, code) {
        (Method::Other, _) => Stage::Conclude,
        (Method::Register, 0) => {
            remember_contact(words, scratch, known);
            Stage::Conclude
        }
        (Method::Register, _) => registered(host, words, scratch, known),
        (Method::Invite, 0) => {
            expect::forget_noted(host, scratch);
            words.store(WORD_INVITE, known);
            media(scratch)
        }
        (Method::Bye, 0) => {
            expect::forget_noted(host, scratch);
            Stage::Conclude
        }
        (Method::Update | Method::Ack | Method::Prack, 0) => media(scratch),
        (Method::Ack | Method::Bye, _) => Stage::Conclude,
        (_, 100..=299) => media(scratch),
        // The call that was offered does not come about.
        (_, _) => {
            if words.load(WORD_INVITE) == known {
                expect::forget_noted(host, scratch);
            }
            Stage::Conclude
        }
    }
}

/// Expects the first of the ports of media.
fn media(scratch: &mut Scratch) -> Stage {
    scratch.message.wanted = scratch.message.media * 2;
    next(scratch)
}

/// Expects the next of the ports that a message told of.
#[inline(always)]
pub(crate) fn next(scratch: &mut Scratch) -> Stage {
    let message = &mut scratch.message;
    if message.wanted == 0 {
        return Stage::Conclude;
    }
    message.wanted -= 1;
    let done = message.media as u32 * 2 - 1 - message.wanted as u32;
    let shift = 16 * ((done >> 1) & 3);
    let even = (message.ports >> shift) as u16;
    let kind = (message.kinds >> shift) as u8;
    scratch.wanted = Wanted {
        source: scratch.info.destination,
        destination: scratch.info.source,
        port: even | (done & 1) as u16,
        protocol: UDP,
        flags: ANY_SOURCE_PORT | expect::class(kind),
        seconds: MEDIA_SECONDS,
    };
    Stage::Expect
}

/// A telephone asks to be called at its contact. Whoever was called so does not ask.
fn remember_contact<W: Words>(words: W, scratch: &Scratch, known: u64) {
    let message = &scratch.message;
    if scratch.record.has(EXPECTED) || !message.has_own_contact() || message.contact_protocol == 0 {
        return;
    }
    let port = match message.registered_for() {
        0 => 0,
        _ => message.contact_port,
    };
    let contact = (message.contact_protocol as u64) << 48 | (port as u64) << 32;
    words.store(WORD_REGISTER, known | contact);
}

/// It is told whether it will be.
fn registered<H: Host, W: Words>(host: &H, words: W, scratch: &mut Scratch, known: u64) -> Stage {
    const CONTACT: u64 = 0xff_ffff << 32;
    let message = &scratch.message;
    if words.load(WORD_REGISTER) & !CONTACT != known || matches!(message.code, 100..=199) {
        return Stage::Conclude;
    }
    let seconds = message.registered_for();
    let is_granted = matches!(message.code, 200..=299)
        && message.has_own_contact()
        && message.asked_port != 0
        && seconds != 0;
    if !is_granted {
        expect::forget_lasting(host, scratch);
        return Stage::Conclude;
    }
    scratch.wanted = Wanted {
        source: scratch.info.source,
        destination: scratch.info.destination,
        port: message.asked_port,
        protocol: message.asked_protocol,
        flags: ANY_SOURCE_PORT | PERMANENT,
        seconds: seconds.min(SIP_REGISTRATION_SECONDS_MAX),
    };
    Stage::Expect
}

/// The helper of a flow that was expected to bring calls.
pub(crate) const fn of_call(protocol: u8) -> u8 {
    match protocol {
        TCP => SIP_TCP,
        _ => SIP,
    }
}

/// Reads a message on its own: its media ports, and how many. For tests and fuzzing.
pub fn read_media(text: &[u8], family: Family, sender: &Address) -> ([u16; 3], usize) {
    let message = read_whole(text, family, [sender, &[0; 4]], UDP);
    let ports = [0, 16, 32].map(|shift| (message.ports >> shift) as u16);
    (ports, message.media as usize)
}

fn read_whole(text: &[u8], family: Family, ends: [&Address; 2], protocol: u8) -> Message {
    let mut message = Message::FRESH;
    message.end = text.len() as u32;
    message.is_measured = protocol == TCP;
    message.own_protocol = protocol;
    message.asked_port = super::message::DEFAULT_PORT;
    message.asked_protocol = protocol;
    let mut line = Line::FRESH;
    while message.at <= message.end {
        let byte = text
            .get(message.at as usize)
            .filter(|_| message.at < message.end);
        message.at += 1;
        message.take(byte.copied().unwrap_or(b'\n'), &mut line, family, ends);
    }
    message.finish(true);
    message
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;
    use std::string::String;

    use super::*;

    const PHONE: Address = [0xc000_020a, 0, 0, 0];
    const PHONE_V6: Address = [0x2001_0db8, 0, 0, 5];
    const OTHER: Address = [0xc633_6414, 0, 0, 0];

    fn invite(body: &str) -> String {
        let length = body.len();
        format!(
            "INVITE sip:v@198.51.100.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060\r\n\
             CSeq: 1 INVITE\r\nContact: <sip:u@192.0.2.10:5060>\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    fn media(body: &str) -> std::vec::Vec<u16> {
        let (ports, count) = read_media(invite(body).as_bytes(), Family::V4, &PHONE);
        ports[..count].to_vec()
    }

    #[test]
    fn ports_of_media_are_read() {
        let session = "v=0\r\no=u 1 1 IN IP4 1.1.1.1\r\nc=IN IP4 192.0.2.10\r\n";
        assert_eq!(media(&format!("{session}m=audio 16384 RTP/AVP 0")), [16384]);
        assert_eq!(
            media(&format!("{session}m=audio 16385 RTP/AVP 0\r\n")),
            [16384]
        );
        let two = format!("{session}m=audio 4000/2 x\r\na=x\r\nm=video 4002 x\r\n");
        assert_eq!(media(&two), [4000, 4002]);
        let own =
            "v=0\nm=audio 4000 x\nc=IN IP4 192.0.2.10/127\nm=image 5000 x\nc=IN IP4 1.1.1.1\n";
        assert_eq!(media(own), [4000]);
        let many = format!("{session}{}", "m=audio 4000 x\r\n".repeat(5));
        assert_eq!(media(&many), [4000; 3]);
        let text = invite("v=0\r\nc=IN IP6 2001:DB8::5\r\nm=audio 4000 x\r\n");
        let (ports, count) = read_media(text.as_bytes(), Family::V6, &PHONE_V6);
        assert_eq!(ports[..count], [4000]);
    }

    #[test]
    fn nothing_else_is_media() {
        for body in [
            // A third host, in the session or in the media; no address at all.
            "v=0\r\nc=IN IP4 192.0.2.11\r\nm=audio 4000 x\r\n",
            "v=0\r\nc=IN IP4 192.0.2.10\r\nm=audio 4000 x\r\nc=IN IP4 192.0.2.11\r\n",
            "v=0\r\nc=IN IP4 192.0.2.100\r\nm=audio 4000 x\r\n",
            "v=0\r\nc=IN IP4 192.0.2.10.1\r\nm=audio 4000 x\r\n",
            "v=0\r\nc=IN IP4 192.0.2.11\r\nc=IN IP4 192.0.2.10\r\nm=audio 4000 x\r\n",
            "v=0\r\nc=IN IP6 2001:db8::5\r\nm=audio 4000 x\r\n",
            "v=0\r\nm=audio 4000 x\r\n",
            // Ports that are none, or of services; other media.
            "v=0\r\nc=IN IP4 192.0.2.10\r\nm=audio 0 x\r\n",
            "v=0\r\nc=IN IP4 192.0.2.10\r\nm=audio 1023 x\r\n",
            "v=0\r\nc=IN IP4 192.0.2.10\r\nm=audio 65536 x\r\n",
            "v=0\r\nc=IN IP4 192.0.2.10\r\nm=audio 4294971296 x\r\n",
            "v=0\r\nc=IN IP4 192.0.2.10\r\nm=text 4000 x\r\n",
            // No description of a session.
            "c=IN IP4 192.0.2.10\r\nm=audio 4000 x\r\n",
        ] {
            assert_eq!(media(body), [], "{body}");
        }
        let header = "INVITE x SIP/2.0\r\nCSeq: 1 INVITE\r\nv=0\r\nc=IN IP4 192.0.2.10\r\nm=audio 4000 x\r\n";
        assert_eq!(read_media(header.as_bytes(), Family::V4, &PHONE).1, 0);
    }

    fn told(text: &str) -> Message {
        read_whole(text.as_bytes(), Family::V4, [&PHONE, &OTHER], UDP)
    }

    #[test]
    fn what_a_message_is_about() {
        let request = told("BYE sip:x SIP/2.0\r\nCSeq: 7 BYE\r\n\r\n");
        assert_eq!((request.method, request.code), (Method::Bye, 0));
        assert_eq!(request.sequence, Some(7));
        let response = told("SIP/2.0 183 Session Progress\r\ncseq : 8   INVITE\r\n\r\n");
        assert_eq!((response.method, response.code), (Method::Invite, 183));
        assert_eq!(response.sequence, Some(8));
        for text in [
            "",
            "\r\n\r\n",
            "OPTIONS sip:x SIP/2.0\r\nCSeq: 1 INVITE\r\n\r\n",
            "SIP/2.0 99 x\r\nCSeq: 1 INVITE\r\n\r\n",
            "SIP/2.0 200 x\r\nCSeq: 1 OPTIONS\r\n\r\n",
            "INVITE\r\nCSeq: 1 INVITE\r\n\r\n",
        ] {
            assert_eq!(told(text).method, Method::Other, "{text}");
        }
    }

    #[test]
    fn contacts_are_read() {
        let contact = |line: &str| {
            let message = told(&format!(
                "REGISTER sip:x SIP/2.0\r\n{line}\r\nExpires: 9\r\n\r\n"
            ));
            message.has_own_contact().then_some((
                message.contact_port,
                message.contact_protocol,
                message.registered_for(),
            ))
        };
        for (line, found) in [
            ("Contact: <sip:u@192.0.2.10:5062>", (5062, UDP, 9)),
            ("m: sip:192.0.2.10", (5060, UDP, 9)),
            (
                "Contact: x<sip:1:2@192.0.2.10>;q=0.5;expires=1200",
                (5060, UDP, 1200),
            ),
            (
                "Contact: <sip:u;a=1@192.0.2.10:6000;transport=TCP>;expires=0",
                (6000, TCP, 0),
            ),
            (
                "Contact: <sip:u@192.0.2.10>, <sip:u@1.1.1.1:6000>;expires=7",
                (5060, UDP, 9),
            ),
        ] {
            assert_eq!(contact(line), Some(found), "{line}");
        }
        for line in [
            "Contact: <sip:u@192.0.2.11:5062>",
            "Contact: <sip:192.0.2.10@192.0.2.11>",
            "Contact: <sip:192.0.2.10:5060@192.0.2.11>",
            "Contact: <sip:u@192.0.2.10.example.com>",
            "Contact: <sip:u@192.0.2.10:80>",
            "Contact: <sip:u@[192.0.2.10]>",
            "Contact: <sip:u@1.1.1.1>, <sip:u@192.0.2.10:6000>",
            "Contact: *",
            "X-Contact: <sip:u@192.0.2.10>",
        ] {
            assert_eq!(contact(line), None, "{line}");
        }
    }

    #[test]
    fn a_response_names_the_contact_that_was_asked_for() {
        let text = "SIP/2.0 200 OK\r\nCSeq: 2 REGISTER\r\n\
                    Contact: <sip:u@198.51.100.20:6000>;expires=5, <sip:u@198.51.100.20>;expires=6\r\n\
                    Contact: <sip:u@198.51.100.20>;expires=7\r\n\r\n";
        let message = told(text);
        assert!(message.has_own_contact());
        assert_eq!(message.registered_for(), 6);
    }

    #[test]
    fn over_tcp_a_message_must_be_whole() {
        let body = "v=0\r\nc=IN IP4 192.0.2.10\r\nm=audio 4000 x\r\nm=audio 5000 x\r\n";
        let whole = invite(body);
        let read = |text: &str| {
            let message = read_whole(text.as_bytes(), Family::V4, [&PHONE, &OTHER], TCP);
            (message.method != Method::Other).then_some(message.media)
        };
        assert_eq!(read(&whole), Some(2));
        assert_eq!(read(&whole[..whole.len() - 1]), None);
        assert_eq!(read(&whole[..150]), None);
        // What comes behind belongs to the next one.
        assert_eq!(read(&format!("{whole}m=audio 6000 x\r\n")), Some(2));
        assert_eq!(read(&whole.replace("Content-Length", "X")), None);
    }
}
