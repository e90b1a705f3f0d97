//! What is refused before the rules: new flows beyond the rate of their sender's network, and packets of
//! some form.
//!
//! Packets of flows that there are never come here. What begins a flow by itself, a SYN, is asked before its flow is looked
//! up; of all else it is known only then whether it begins a flow or belongs to none.

use crate::ban::{self, NOWHERE};
use crate::foreseen;
use crate::host::{FlowMemory, Host, Packet, Repeat};
use crate::limits::FORMS_MAX;
use crate::process::{self, Outcome, Path, Run, Scratch, Stage};
use crate::rate;
use crate::settings::{SETTING_BANS, SETTING_FORMS, Settings, checked_index};
use crate::time::Tick;
use crate::trace::Step;
use crate::track::{Flow, Tracked};
use crate::tuple::Family;
use crate::verdict::{Reason, State};
use crate::wire::transport::{TCP, tcp_flag};
use crate::wire::{self, Fragment, PacketInfo};

/// How far a packet has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    ToBeAsked,
    /// Its flow was not looked up yet.
    First,
    Asked,
}

/// [`Form::flags`]: packets of this family.
pub const FORM_V4: u32 = 1 << 0;
pub const FORM_V6: u32 = 1 << 1;
/// Those of [`Form::protocol`] alone.
pub const FORM_PROTOCOL: u32 = 1 << 2;
/// Fragments alone.
pub const FORM_FRAGMENT: u32 = 1 << 3;

/// What packets look like that are refused. Ranges have their first value in the low half and their last in the high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Form {
    /// Bits `FORM_*`.
    pub flags: u32,
    /// It holds until this tick.
    pub until: u32,
    /// Whatever number its maker knows it by.
    pub number: u32,
    pub protocol: u32,
    /// Flags that are looked at in the low half, and what they must be in the high; of no effect for what has none.
    pub tcp_flags: u32,
    /// For ICMP the identifier and `type << 8 | code`.
    pub source_ports: u32,
    pub destination_ports: u32,
    /// Bytes of the IP packet, as rules count them.
    pub lengths: u32,
    /// TTL, hop limit.
    pub hop_limits: u32,
    /// Where they go, and which bits of that are looked at.
    pub destination: [u32; 4],
    pub destination_mask: [u32; 4],
}

/// What [`Form::words`] gives.
pub const FORM_WORDS: usize = 17;

/// All values that there are.
pub const FORM_ANY: u32 = 0xffff << 16;

/// A range of values.
pub const fn form_range(first: u16, last: u16) -> u32 {
    first as u32 | (last as u32) << 16
}

impl Form {
    /// Of no packet.
    pub const NONE: Self = Self {
        flags: 0,
        until: 0,
        number: 0,
        protocol: 0,
        tcp_flags: 0,
        source_ports: FORM_ANY,
        destination_ports: FORM_ANY,
        lengths: FORM_ANY,
        hop_limits: FORM_ANY,
        destination: [0; 4],
        destination_mask: [0; 4],
    };

    /// All of it, and back by [`Form::of_words`].
    pub const fn words(&self) -> [u32; FORM_WORDS] {
        let [a, b, c, d] = self.destination;
        let [w, x, y, z] = self.destination_mask;
        [
            self.flags,
            self.until,
            self.number,
            self.protocol,
            self.tcp_flags,
            self.source_ports,
            self.destination_ports,
            self.lengths,
            self.hop_limits,
            a,
            b,
            c,
            d,
            w,
            x,
            y,
            z,
        ]
    }

    pub const fn of_words(words: [u32; FORM_WORDS]) -> Self {
        let [
            flags,
            until,
            number,
            protocol,
            tcp_flags,
            source_ports,
            destination_ports,
            lengths,
            hop_limits,
            a,
            b,
            c,
            d,
            destination_mask @ ..,
        ] = words;
        Self {
            flags,
            until,
            number,
            protocol,
            tcp_flags,
            source_ports,
            destination_ports,
            lengths,
            hop_limits,
            destination: [a, b, c, d],
            destination_mask,
        }
    }

    /// Without a way that forks: the kernel's verifier would follow each.
    #[inline(always)]
    fn fits(&self, info: &PacketInfo, now: Tick) -> bool {
        let family = match info.family {
            Family::V4 => FORM_V4,
            Family::V6 => FORM_V6,
        };
        let is_part = !matches!(info.fragment, Fragment::Whole);
        let asks = |flag: u32| u32::from(self.flags & flag != 0);
        let mut differs = u32::from(self.flags & family == 0);
        differs |= u32::from(Tick(self.until).has_passed(now));
        differs |= asks(FORM_PROTOCOL) & u32::from(self.protocol != u32::from(info.protocol));
        differs |= asks(FORM_FRAGMENT) & u32::from(!is_part);
        let flags = u32::from(info.tcp_flags) & self.tcp_flags;
        differs |= flags ^ self.tcp_flags >> 16;
        differs |= beyond(self.source_ports, info.source_port.into());
        differs |= beyond(self.destination_ports, info.destination_port.into());
        differs |= beyond(self.lengths, info.ip_length);
        differs |= beyond(self.hop_limits, info.hop_limit.into());
        let ([a, b, c, d], [w, x, y, z]) = (self.destination, info.destination);
        let [i, j, k, l] = self.destination_mask;
        differs |= (a ^ w) & i | (b ^ x) & j | (c ^ y) & k | (d ^ z) & l;
        differs == 0
    }
}

/// Not zero where a value is in no range.
#[inline(always)]
const fn beyond(range: u32, value: u32) -> u32 {
    (value < range & 0xffff) as u32 | (value > range >> 16) as u32
}

/// Whether a packet begins a flow by itself, and something is in force against such.
#[inline(always)]
pub(crate) fn is_due_first(settings: &Settings, scratch: &mut Scratch) -> bool {
    use tcp_flag::{ACK, FIN, RST, SYN};
    let Scratch { info, sender, .. } = scratch;
    // Programs read extension headers later: these packets are asked when they come to the rules.
    if !cfg!(target_arch = "bpf") && info.has_extensions() {
        return false;
    }
    let is_syn = info.protocol == TCP && info.tcp_flags & (SYN | ACK | RST | FIN) == SYN;
    let is_due = is_syn && (sender.limit != NOWHERE || settings.has(SETTING_FORMS));
    if is_due {
        sender.refusal = Part::First;
    }
    is_due
}

/// Whether a packet that comes to the rules must be asked first.
#[inline(always)]
pub(crate) fn is_due<H: Host>(host: &H, path: Path, scratch: &Scratch) -> bool {
    let Scratch {
        sender, tracked, ..
    } = scratch;
    host.settings().has(SETTING_BANS | SETTING_FORMS)
        && matches!(path, Path::Ingress)
        && matches!(sender.refusal, Part::ToBeAsked)
        && matches!(tracked.state, State::New | State::Invalid)
        && matches!(tracked.flow, Flow::None | Flow::Begins)
        && (sender.limit != NOWHERE || host.settings().has(SETTING_FORMS))
}

/// Lets a packet go on to where it came from, or ends its way.
#[inline(always)]
pub(crate) fn ask<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let Run { host, .. } = *run;
    let is_first = matches!(scratch.sender.refusal, Part::First);
    scratch.sender.refusal = Part::Asked;
    let Some(reason) = reason(host, scratch) else {
        if !is_first {
            return Stage::Judge;
        }
        return name(run, scratch);
    };
    if is_first {
        // An earlier packet has left it.
        scratch.tracked = Tracked::NOTHING;
        scratch.tracked.state = State::New;
    }
    host.trace(Step::Refused(reason));
    scratch.outcome = Outcome {
        state: scratch.tracked.state,
        ..Outcome::refused(reason)
    };
    process::tell_refusal(host, scratch);
    if !is_first && matches!(scratch.info.fragment, Fragment::First) {
        return Stage::Settle;
    }
    Stage::Done
}

/// As the end of [`process::prepare`].
#[inline(always)]
fn name<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let Run {
        packet,
        arrival,
        host,
        ..
    } = *run;
    match wire::verify(packet, arrival, host.settings(), &mut scratch.info) {
        Ok(()) if foreseen::may_be(host, arrival.path, &scratch.info) => Stage::Foreseen,
        Ok(()) => Stage::Name,
        Err(unparsed) => process::refuse(host, scratch, unparsed),
    }
}

#[inline(always)]
fn reason<H: Host>(host: &H, scratch: &mut Scratch) -> Option<Reason> {
    let limit = scratch.sender.limit;
    if limit != NOWHERE
        && host.settings().has(SETTING_BANS)
        && let Some((words, at)) = ban::limit_of(host.flows(), limit)
        && !rate::take(words, at, scratch.info.protocol, scratch.now)
    {
        return Some(Reason::Limited);
    }
    if host.settings().has(SETTING_FORMS) && has_form(host, scratch) {
        return Some(Reason::FormRefused);
    }
    None
}

/// Whether a packet has a form that is refused, and its sender is not spared.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn has_form<H: Host>(host: &H, scratch: &mut Scratch) -> bool {
    let Scratch { info, sender, .. } = scratch;
    let mut trial = Trial {
        settings: host.settings(),
        info,
        now: sender.now,
        number: 0,
        fits: false,
    };
    host.flows().repeat(FORMS_MAX, &mut trial);
    trial.fits && !ban::is_spared(host.flows(), host.settings(), sender)
}

struct Trial<'a> {
    settings: &'a Settings,
    info: &'a PacketInfo,
    now: Tick,
    number: u32,
    fits: bool,
}

impl Repeat for Trial<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let form = self.settings.forms.get(checked_index(self.number as usize));
        self.number += 1;
        self.fits = form.is_some_and(|form| form.fits(self.info, self.now));
        !self.fits
    }
}
