//! One packet's way through the engine.

use crate::account;
use crate::answer::Answer;
pub use crate::arrival::{Arrival, Checksums, Path};
use crate::asked::Asked;
use crate::associate;
use crate::ban::{self, Asked as AskedOfSender};
use crate::condition::{self, Scan};
use crate::conntrack::sctp::SctpState;
use crate::conntrack::sctp::chunks::Walk;
use crate::conntrack::tcp::Advance;
use crate::cookie;
use crate::event;
use crate::expect::{self, NOWHERE, Search, Wanted};
use crate::foreseen::{self, Trail};
use crate::fragment::{self, Datagram};
use crate::helper;
use crate::helper::line::Line;
use crate::helper::message::Message;
use crate::helper::state::Lease;
use crate::host::{Host, Packet};
use crate::judge::{self, Judgement};
use crate::labels::{self, Labels};
use crate::meter::Meter;
use crate::notice::Notice;
pub use crate::outcome::Outcome;
use crate::policy::{Assigned, DependsOn, Progress};
use crate::raw;
use crate::record::{FlowAssigned, Record, Warm};
use crate::refusal;
use crate::reject;
use crate::sample::{self, Noted};
use crate::set;
use crate::settings::SETTING_DROP_EVENTS;
pub use crate::stage::Stage;
use crate::steady;
use crate::synproxy::{self, Synproxy};
use crate::table::{self, Displaced, Hash, Place, Seen, gauges};
use crate::time::Tick;
use crate::trace::Step;
use crate::track::{self, Flow, Purpose, Sight, Tracked, WarmUse};
use crate::tuple::{Family, Oriented};
use crate::unseen;
use crate::verdict::{Reason, State, Verdict};
use crate::wire::{self, Extensions, Fragment, PacketInfo, Unparsed};

/// What stays the same while one packet is judged. In one piece, since a function of the kernel's
/// programs takes no more than five arguments.
pub(crate) struct Run<'a, P, H> {
    pub(crate) packet: &'a P,
    pub(crate) arrival: &'a Arrival,
    pub(crate) host: &'a H,
    pub(crate) now: Tick,
}

/// What the engine works with while it judges one packet. The plane provides the memory: in the
/// kernel the stack is too small for it, and the verifier forgets what it knows of a value that went
/// through this memory, so that it need not follow each way through one step into the next.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    pub(crate) oriented: Oriented,
    pub(crate) hash: Hash,
    /// Where the record may have been a moment ago, if a plane has looked, the likeliest place first.
    pub(crate) guesses: Option<[Place; 2]>,
    /// The record that was found.
    pub(crate) seen: Seen,
    /// The record as the packet leaves it.
    pub(crate) record: Record,
    pub(crate) warm: Warm,
    pub(crate) info: PacketInfo,
    /// Of a fragment.
    pub(crate) datagram: Datagram,
    /// Sequence number of the TCP segment that an error quotes.
    pub(crate) quoted_sequence: Option<u32>,
    pub(crate) now: Tick,
    /// Where the packet's flow is looked for.
    pub(crate) zone: u16,
    /// How often the packet was tracked again.
    pub(crate) rounds: u32,
    pub(crate) purpose: Purpose,
    pub(crate) sight: Sight,
    pub(crate) other_table: OtherTable,
    pub(crate) advance: Advance,
    pub(crate) uses_warm: WarmUse,
    pub(crate) tracked: Tracked,
    /// Where the packet's SCTP chunks are read.
    pub(crate) chunks: Walk,
    pub(crate) asked: Asked,
    pub(crate) walk: Progress,
    /// A search through the packet's bytes, for a condition.
    pub(crate) scan: Scan,
    /// A search in what rules remember of sources.
    pub(crate) meter: Meter,
    /// A search in a set.
    pub(crate) members: set::Search,
    /// Mark of the packet, see [`Host::mark`].
    pub(crate) mark: u32,
    /// What is told of the packet beside events.
    pub(crate) notice: Notice,
    /// What rules say of the flow that the packet may begin.
    pub(crate) assigned: Assigned,
    /// Whether another packet of the flow would meet the same fate in the table raw.
    pub(crate) raw_depends_on: DependsOn,
    /// What both walks have looked at and counted.
    pub(crate) trail: Trail,
    /// What comes after the table raw.
    pub(crate) next: Stage,
    /// What rules have assigned to the packet's flow.
    pub(crate) given: FlowAssigned,
    /// A search for an expectation.
    pub(crate) search: Search,
    /// What a helper wants to be expected.
    pub(crate) wanted: Wanted,
    /// A search for the helper's state, and where that is.
    pub(crate) lease: Lease,
    pub(crate) state: u32,
    /// Labels that rules have set, and a search for those that the flow has.
    pub(crate) labels: Labels,
    pub(crate) label_search: labels::Search,
    /// What is read of an FTP connection, and of a message of SIP.
    pub(crate) line: Line,
    pub(crate) message: Message,
    pub(crate) judgement: Judgement,
    /// What the record of a new flow took the place of.
    pub(crate) displaced: Displaced,
    /// The sender, and how far it was looked for among the banned.
    pub(crate) sender: ban::Sender,
    pub(crate) cookie: cookie::Part,
    /// The cookie that was sent.
    pub(crate) sent: u32,
    pub(crate) synproxy: Synproxy,
    /// What is sent back, where [`Scratch::is_answered`].
    pub(crate) answer: Answer,
    /// Why the flow got no record although the rules let it in.
    pub(crate) refusal: Option<Reason>,
    pub(crate) outcome: Outcome,
}

impl Scratch {
    /// Mark of the packet, as rules have left it.
    pub const fn mark(&self) -> u32 {
        self.mark
    }

    /// Index of the interface by which a packet leaves that was forwarded after the rules were asked; else of
    /// no meaning.
    pub const fn out_interface(&self) -> u32 {
        self.asked.out_index
    }

    /// What was decided, once [`Stage::Done`] is reached.
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Where work on what rules remember of sources is done between two packets.
    pub const fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }

    /// Whether something is sent back in the place of the packet, once [`Stage::Done`] is reached.
    pub const fn is_answered(&self) -> bool {
        matches!(self.cookie, cookie::Part::Answered)
    }

    /// Between [`prepare`] and [`finish`], for some packets one after the other: asks for the record where
    /// the tags of the flow's buckets say that it may be.
    #[inline(always)]
    pub fn prefetch<H: Host>(&mut self, host: &H) {
        self.guesses = table::likely_slots(host.flows(), self.info.family, &self.hash);
        // The first fits by chance alone in one lookup of ten.
        for place in self.guesses.into_iter().flatten() {
            table::prefetch_slot(host.flows(), place);
            account::prefetch(host, place);
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            oriented: Oriented::EMPTY,
            hash: Hash {
                buckets: [0; 2],
                tag: 0,
                id: 0,
            },
            guesses: None,
            seen: Seen::NOTHING,
            record: Record::EMPTY,
            warm: Warm::default(),
            info: PacketInfo::EMPTY,
            datagram: Datagram::EMPTY,
            quoted_sequence: None,
            now: Tick(0),
            zone: 0,
            rounds: 0,
            purpose: Purpose::Flow,
            sight: Sight::Missing,
            other_table: OtherTable::Unseen,
            advance: Advance::Pass,
            uses_warm: WarmUse::No,
            tracked: Tracked::NOTHING,
            chunks: Walk::NOTHING,
            asked: Asked::NOTHING,
            walk: Progress::START,
            scan: Scan::NOTHING,
            meter: Meter::NOTHING,
            members: set::Search::NOTHING,
            mark: 0,
            notice: Notice::NOTHING,
            assigned: Assigned::NOTHING,
            raw_depends_on: DependsOn::Flow,
            trail: Trail::LOST,
            next: Stage::Done,
            given: FlowAssigned::default(),
            search: Search::NOTHING,
            wanted: Wanted::NOTHING,
            lease: Lease::NOTHING,
            state: NOWHERE,
            labels: [0; 2],
            label_search: labels::Search::NOTHING,
            line: Line::FRESH,
            message: Message::FRESH,
            judgement: Judgement::NOTHING,
            displaced: Displaced::NOTHING,
            sender: ban::Sender::new(Family::V4, [0; 4], Tick(0)),
            cookie: cookie::Part::None,
            sent: 0,
            synproxy: Synproxy::NOTHING,
            answer: Answer::NOTHING,
            refusal: None,
            outcome: Outcome::NOT_JUDGED,
        }
    }
}

/// Whether the other table was looked into, where there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherTable {
    Unseen,
    Seen,
}

/// How often a packet is tracked again because another CPU made, changed or removed its record in
/// between. Each round means that another packet of the same flow got through.
pub(crate) const ROUNDS_MAX: u32 = 4;

/// Steps that a packet can take at most: all of them in each round, with two tables to look into, and
/// twice where a connection is opened again.
pub(crate) const STEPS_MAX: u32 = (ROUNDS_MAX + 1) * 21 + 2 + EXPECTATIONS_MADE_MAX + 1;

/// Expectations that one packet can ask for: three streams of media, two ports each.
const EXPECTATIONS_MADE_MAX: u32 = 6;

/// Judges one packet.
#[inline(always)]
pub fn process<P: Packet, H: Host>(
    packet: &P,
    arrival: &Arrival,
    host: &H,
    scratch: &mut Scratch,
    now: Tick,
) -> Outcome {
    let stage = prepare(packet, arrival, host, scratch, now);
    finish(packet, arrival, host, scratch, stage)
}

/// The first step of [`process`]: reads the headers and names the flow. Before the next, a plane
/// that has many packets at hand can have their records brought near, see
/// [`Scratch::prefetch`].
#[inline(always)]
pub fn prepare<P: Packet, H: Host>(
    packet: &P,
    arrival: &Arrival,
    host: &H,
    scratch: &mut Scratch,
    now: Tick,
) -> Stage {
    scratch.guesses = None;
    scratch.rounds = 0;
    scratch.refusal = None;
    scratch.cookie = cookie::Part::None;
    scratch.synproxy.part = synproxy::Part::None;
    scratch.now = now;
    // Programs have no stack left for the rest in the one that sees a packet first.
    let extensions = if cfg!(target_arch = "bpf") {
        Extensions::Report
    } else {
        Extensions::Read
    };
    let info = &mut scratch.info;
    let parsed = wire::parse_headers(packet, arrival, extensions, info);
    let is_ordinary =
        parsed.is_ok() && !host.is_traced() && steady::is_ordinary(packet, &mut scratch.info);
    let is_missing = !is_ordinary || steady::approach(arrival, host, scratch);
    if is_missing {
        match ban::ask(host, arrival.path, parsed, scratch) {
            AskedOfSender::Nothing => {}
            AskedOfSender::Banned => return ban::refuse(host, scratch),
            AskedOfSender::Begins => return Stage::Refuse,
        }
    }
    if let Err(unparsed) = parsed {
        return refuse(host, scratch, unparsed);
    }
    match wire::verify(packet, arrival, host.settings(), &mut scratch.info) {
        Ok(()) if is_ordinary && scratch.info.damage.is_none() => Stage::Steady,
        Ok(()) if !is_missing => ban::ask_late(host, arrival.path, scratch, Stage::Name),
        Ok(()) if foreseen::may_be(host, arrival.path, &scratch.info) => Stage::Foreseen,
        Ok(()) if cfg!(target_arch = "bpf") => Stage::Name,
        Ok(()) => step(packet, arrival, host, scratch, Stage::Name),
        Err(unparsed) => refuse(host, scratch, unparsed),
    }
}

/// As [`prepare`], for a packet that has extension headers.
#[inline(always)]
fn parse_extended<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let Run {
        packet,
        arrival,
        host,
        ..
    } = *run;
    let info = &mut scratch.info;
    let parsed = wire::parse_headers(packet, arrival, Extensions::Read, info)
        .and_then(|()| wire::verify(packet, arrival, host.settings(), info));
    match parsed {
        Ok(()) => Stage::Name,
        Err(unparsed) => refuse(host, scratch, unparsed),
    }
}

/// What becomes of a packet that was not parsed.
#[inline(always)]
pub(crate) fn refuse<H: Host>(host: &H, scratch: &mut Scratch, unparsed: Unparsed) -> Stage {
    let (reason, outcome) = match unparsed {
        Unparsed::Extended => return Stage::Parse,
        Unparsed::NotIp => (None, Outcome::NOT_JUDGED),
        Unparsed::Damaged(reason) => (Some(reason), Outcome::refused(reason)),
    };
    host.trace(Step::NotParsed(reason));
    scratch.outcome = outcome;
    Stage::Done
}

/// The other steps of [`process`].
#[inline(always)]
pub fn finish<P: Packet, H: Host>(
    packet: &P,
    arrival: &Arrival,
    host: &H,
    scratch: &mut Scratch,
    stage: Stage,
) -> Outcome {
    let stage = match stage {
        Stage::Steady => steady::advance(host, arrival.path, scratch),
        stage => stage,
    };
    if !matches!(stage, Stage::Done) {
        go_on(packet, arrival, host, scratch, stage);
    }
    scratch.outcome
}

/// All steps from a stage on. Apart from [`finish`], which nearly all packets leave by the short way: the
/// code for that is better where it is not one with the rest.
#[inline(never)]
fn go_on<P: Packet, H: Host>(
    packet: &P,
    arrival: &Arrival,
    host: &H,
    scratch: &mut Scratch,
    mut stage: Stage,
) {
    for _ in 0..STEPS_MAX {
        if matches!(stage, Stage::Done) {
            break;
        }
        stage = step(packet, arrival, host, scratch, stage);
    }
}

/// One step of [`process`]; the stage that comes next.
#[inline(always)]
pub fn step<P: Packet, H: Host>(
    packet: &P,
    arrival: &Arrival,
    host: &H,
    scratch: &mut Scratch,
    stage: Stage,
) -> Stage {
    let run = Run {
        packet,
        arrival,
        host,
        now: scratch.now,
    };
    match stage {
        Stage::Look => {
            scratch.other_table = OtherTable::Unseen;
            track::look(host, scratch)
        }
        Stage::Elsewhere => track::look_elsewhere(host, scratch),
        Stage::Advance => track::advance(&run, scratch),
        Stage::Associate => associate::advance(&run, scratch),
        Stage::Write => match track::write(host, scratch) {
            Some(stage) => stage,
            None => unwritten(host, scratch),
        },
        Stage::Judge => judge(host, arrival.path, scratch),
        Stage::Insert => insert(host, scratch),
        Stage::Conclude => conclude(host, scratch),
        Stage::Name => {
            wire::read_options(packet, host, &mut scratch.info);
            if matches!(scratch.info.fragment, Fragment::Whole) {
                host.trace(Step::Parsed(scratch.info));
            }
            match track::name(&run, scratch) {
                // A datagram meets these rules with its first fragment.
                Stage::Fragment => Stage::Fragment,
                stage => raw::before(host, scratch, stage),
            }
        }
        Stage::Parse => parse_extended(&run, scratch),
        Stage::Fragment => fragment::enter(&run, scratch),
        Stage::First => fragment::begin(&run, scratch),
        Stage::Settle => fragment::settle(host, scratch),
        Stage::Done => Stage::Done,
        Stage::Raw => raw::ask(host, arrival.path, scratch),
        Stage::Foretold => expect::seek(host, scratch),
        Stage::Help => helper::read(&run, scratch),
        Stage::Expect => expect::make(&run, scratch),
        Stage::Message => helper::sip::read(&run, scratch),
        Stage::Label => labels::write(host, scratch),
        Stage::Weigh => condition::weigh(&run, scratch),
        Stage::Cookie => cookie::answer(host, scratch),
        Stage::Prove => cookie::prove(&run, scratch),
        Stage::Answer => reject::ask(&run, scratch),
        Stage::Synproxy => synproxy::ask(&run, scratch),
        Stage::Open => synproxy::open(host, scratch),
        Stage::Translate => synproxy::translate(&run, scratch),
        Stage::Greet => synproxy::greet(&run, scratch),
        Stage::Foreseen => foreseen::ask(&run, scratch),
        Stage::Rewrite => synproxy::rewrite(&run, scratch),
        Stage::Refuse => refusal::ask(&run, scratch),
        Stage::Steady => steady::advance(host, arrival.path, scratch),
    }
}

#[inline(always)]
fn judge<H: Host>(host: &H, path: Path, scratch: &mut Scratch) -> Stage {
    if refusal::is_due(host, path, scratch) {
        return Stage::Refuse;
    }
    host.trace(Step::State(scratch.tracked.state, scratch.tracked.reason));
    judge::judge(host, path, scratch)
}

/// What comes after a packet of a flow was let through.
#[inline(always)]
pub(crate) fn helped(scratch: &Scratch) -> Stage {
    helper::stage_of(scratch.given.helper())
}

#[inline(always)]
fn insert<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    match track::insert(host, scratch) {
        Some(result) => {
            scratch.refusal = result.err();
            match scratch.refusal {
                None => {
                    let next = helped(scratch);
                    labels::before(scratch, next)
                }
                Some(_) => Stage::Conclude,
            }
        }
        // What the packet said is gone: the client says it again.
        None if matches!(scratch.synproxy.part, synproxy::Part::Open) => {
            give_up(host, scratch, Reason::InsertContended)
        }
        None => again(host, scratch, Reason::InsertContended),
    }
}

/// Another CPU came in between: track the packet again. Rules that matched before that are then
/// counted twice.
#[inline(always)]
fn again<H: Host>(host: &H, scratch: &mut Scratch, reason: Reason) -> Stage {
    scratch.rounds += 1;
    if scratch.rounds < ROUNDS_MAX {
        return Stage::Look;
    }
    give_up(host, scratch, reason)
}

fn give_up<H: Host>(host: &H, scratch: &mut Scratch, reason: Reason) -> Stage {
    track::count(host.flows(), gauges::CONTENDED);
    scratch.outcome = Outcome::refused(reason);
    host.trace(Step::Verdict(Verdict::Drop));
    emit_refusal(host, scratch);
    Stage::Done
}

/// As [`again`], for a packet whose record was changed by others. It need not be dropped.
#[inline(always)]
fn unwritten<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    if scratch.rounds + 1 >= ROUNDS_MAX
        && let Some(stage) = unseen::pass(host, scratch)
    {
        return stage;
    }
    again(host, scratch, Reason::RecordBusy)
}

#[inline(always)]
fn conclude<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    if let Some(stage) = synproxy::before_concluding(scratch) {
        return stage;
    }
    if let (Some(outcome), Flow::Known(direction)) =
        (scratch.judgement.cacheable, scratch.tracked.flow)
    {
        track::remember(host, scratch, direction, outcome);
    }
    scratch.outcome = outcome_of(scratch);
    if scratch.refusal.is_some() {
        scratch.outcome.verdict = Verdict::Drop;
        scratch.outcome.reason = scratch.refusal;
        scratch.outcome.flow = None;
        scratch.outcome.tcp_state = None;
        scratch.outcome.sctp_state = None;
    }
    host.trace(Step::Verdict(scratch.outcome.verdict));
    emit_refusal(host, scratch);
    sample::note_passed(host, scratch);
    if matches!(scratch.info.fragment, Fragment::First) {
        return Stage::Settle;
    }
    Stage::Done
}

/// The end of a packet that [`Outcome::refused`] before the rules.
#[inline(always)]
pub(crate) fn tell_refusal<H: Host>(host: &H, scratch: &Scratch) {
    host.trace(Step::Verdict(scratch.outcome.verdict));
    emit_refusal(host, scratch);
}

fn outcome_of(scratch: &Scratch) -> Outcome {
    let Scratch {
        tracked, judgement, ..
    } = scratch;
    let has_record = match tracked.flow {
        Flow::None => false,
        Flow::Begins => matches!(judgement.verdict, Verdict::Accept),
        Flow::Known(_) | Flow::Ended(_) | Flow::Passing(_) => true,
    };
    let shows_state = has_record && !matches!(tracked.flow, Flow::Passing(_));
    let protocol = scratch.info.protocol;
    Outcome {
        state: tracked.state,
        verdict: judgement.verdict,
        reason: if tracked.reason.is_some() {
            tracked.reason
        } else {
            judgement.reason
        },
        hook: Some(judgement.hook),
        rule: judgement.rule,
        flow: has_record.then_some(scratch.hash.id),
        direction: tracked.direction(),
        tcp_state: (shows_state && protocol == wire::transport::TCP)
            .then_some(scratch.record.tcp_state),
        sctp_state: (shows_state && protocol == wire::transport::SCTP)
            .then_some(SctpState::of(&scratch.record)),
    }
}

/// Tells of a packet that was dropped or is INVALID, if somebody listens.
#[inline(always)]
fn emit_refusal<H: Host>(host: &H, scratch: &Scratch) {
    let Some(reason) = scratch.outcome.reason else {
        return;
    };
    match scratch.cookie {
        cookie::Part::Answered => sample::note_answered(host, scratch, scratch.sent),
        _ => sample::note(host, scratch, Noted::Refused),
    }
    let settings = host.settings();
    let is_logged = matches!(scratch.outcome.state, State::Invalid)
        && settings.logs_invalid(scratch.info.protocol);
    if settings.has(SETTING_DROP_EVENTS) || is_logged {
        event::tell_refusal(host, scratch, reason);
    }
}
