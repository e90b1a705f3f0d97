//! Packets made on this host, and what TC programs share.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, BPF_CSUM_LEVEL_QUERY, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_csum_level, bpf_get_socket_cookie, bpf_skb_load_bytes, bpf_skb_pull_data,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keepstate_engine::process::{Checksums, Path, Stage};
use keepstate_engine::wire::Link;
use keepstate_plane::{
    ANSWER_PRIORITY, BEFORE_EGRESS_BARE, BEFORE_EGRESS_ETHERNET, BEFORE_INGRESS, WITNESS_STAGE,
};

use crate::host::{self, Context};
use crate::judge::{self, Fate, Way, begin, proceed};
use crate::maps;
use crate::packet::PacketView;
use crate::witness;

/// On to the next program, or to the device.
pub const TC_NEXT: i32 = TC_ACT_UNSPEC;
pub const TC_SHOT: i32 = TC_ACT_SHOT;

/// Bytes that headers take at most: Ethernet, IPv6 with extensions, and the quoted packet of an
/// ICMP error.
const HEADER_BYTES: u32 = 256;

/// Bytes of headers that this host's own TCP and UDP put in one piece at least.
const OWN_HEADER_BYTES: u32 = 42;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;

#[classifier]
pub fn egress_ethernet(context: TcContext) -> i32 {
    egress(&context, Link::Ethernet)
}

#[classifier]
pub fn egress_bare(context: TcContext) -> i32 {
    match bare_link(&context) {
        Some(link) => egress(&context, link),
        None => TC_NEXT,
    }
}

#[inline(always)]
fn egress(context: &TcContext, link: Link) -> i32 {
    // SAFETY: a field of the program's own context.
    let came_by = unsafe { (*context.skb.skb).ingress_ifindex };
    if came_by != 0 {
        // Forwarded: judged when it came in.
        return TC_NEXT;
    }
    if is_answer(context) {
        return TC_NEXT;
    }
    let way = Way {
        link,
        path: Path::Local,
    };
    let packet = reach(context, OWN_HEADER_BYTES);
    let stage = begin(
        SkbContext(context.skb.skb),
        &packet,
        way,
        Checksums::Trusted,
    );
    go_on(context, stage)
}

/// Whether the daemon sends this to answer a packet that was rejected: rules have caused it and do not judge
/// it. It says so itself by its priority, and the number of its socket, which nobody else has, bears it out.
#[inline(always)]
fn is_answer(context: &TcContext) -> bool {
    // SAFETY: a field of the program's own context.
    let priority = unsafe { (*context.skb.skb).priority };
    if priority != ANSWER_PRIORITY {
        return false;
    }
    // SAFETY: the context is the program's own.
    let cookie = unsafe { bpf_get_socket_cookie(context.skb.skb.cast()) };
    host::plane().is_some_and(|plane| {
        let [v4, v6] = plane.answerers;
        cookie != 0 && (cookie == v4 || cookie == v6)
    })
}

macro_rules! stages {
    ($($name:ident $stage:ident)*) => {
        $(
            #[classifier]
            pub fn $name(context: TcContext) -> i32 {
                // Headers were brought into one piece when the packet came.
                let packet = view(&context);
                let stage = proceed(SkbContext(context.skb.skb), &packet, Stage::$stage);
                go_on(&context, stage)
            }
        )*
    };
}

stages! {
    tc_look Look
    tc_advance Advance
    tc_write Write
    tc_judge Judge
    tc_insert Insert
    tc_name Name
    tc_parse Parse
    tc_associate Associate
    tc_fragment Fragment
    tc_first First
    tc_settle Settle
    tc_conclude Conclude
    tc_raw Raw
    tc_foretold Foretold
    tc_help Help
    tc_expect Expect
    tc_message Message
    tc_elsewhere Elsewhere
    tc_label Label
    tc_weigh Weigh
    tc_answer Answer
    tc_synproxy Synproxy
    tc_translate Translate
    tc_refuse Refuse
}

/// In the place of *elsewhere* while flows are handed over from a load of another layout: the packet begins anew with
/// the program of that load that hangs where it came.
#[classifier]
pub fn tc_before(context: TcContext) -> i32 {
    let before = match judge::memory() {
        Some(memory) => match (memory.arrival.path, memory.arrival.link) {
            (Path::Ingress, _) => BEFORE_INGRESS,
            (Path::Local, Link::Ethernet) => BEFORE_EGRESS_ETHERNET,
            (Path::Local, _) => BEFORE_EGRESS_BARE,
        },
        None => return TC_NEXT,
    };
    // SAFETY: the array holds TC programs alone.
    unsafe { maps::STAGES_TC.tail_call(&context, before) };
    fate(judge::lost())
}

/// Hands over a packet whose way has ended.
#[classifier]
pub fn tc_witness(context: TcContext) -> i32 {
    witness::hand_over(SkbContext(context.skb.skb), context.len());
    fate(judge::end())
}

/// Jumps to the program of a stage, or ends.
#[inline(always)]
pub fn go_on(context: &TcContext, stage: Option<Stage>) -> i32 {
    let fate = match stage {
        None => Fate::Pass,
        Some(Stage::Done) => {
            if witness::is_wanted() {
                // SAFETY: as below.
                unsafe { maps::STAGES_TC.tail_call(context, WITNESS_STAGE) };
            }
            judge::end()
        }
        Some(stage) => {
            // SAFETY: the array holds TC programs alone.
            unsafe { maps::STAGES_TC.tail_call(context, stage as u32) };
            judge::lost()
        }
    };
    self::fate(fate)
}

#[inline(always)]
const fn fate(fate: Fate) -> i32 {
    match fate {
        Fate::Pass => TC_NEXT,
        // Nothing is sent back from here, see `Context::CAN_ANSWER`.
        Fate::Drop | Fate::SendBack => TC_SHOT,
    }
}

/// What a packet without link-layer header starts with; `None` for what is not IP.
#[inline(always)]
pub fn bare_link(context: &TcContext) -> Option<Link> {
    // SAFETY: a field of the program's own context.
    let protocol = unsafe { (*context.skb.skb).protocol };
    match u16::from_be(protocol as u16) {
        TYPE_IPV4 => Some(Link::Ipv4),
        TYPE_IPV6 => Some(Link::Ipv6),
        _ => None,
    }
}

/// The packet, with its headers in one piece. Nothing is pulled in where the first `least` bytes
/// lie in one piece already: that would copy payload for each segment that this host sends.
#[inline(always)]
fn reach(context: &TcContext, least: u32) -> PacketView {
    let length = context.len();
    let linear = (context.data_end() as u32).wrapping_sub(context.data() as u32);
    if linear < length.min(least) {
        // SAFETY: the context is the program's own; all packet pointers are read again below.
        let _ = unsafe { bpf_skb_pull_data(context.skb.skb, length.min(HEADER_BYTES)) };
    }
    PacketView::new(context.data(), context.data_end(), length)
}

/// The packet as [`reach`] has left it.
#[inline(always)]
fn view(context: &TcContext) -> PacketView {
    PacketView::new(context.data(), context.data_end(), context.len())
}

/// A packet that arrived.
#[inline(always)]
pub fn reach_received(context: &TcContext) -> PacketView {
    reach(context, HEADER_BYTES)
}

/// What the kernel knows of the transport checksum of a packet that arrived.
#[inline(always)]
pub fn checksums(context: &TcContext) -> Checksums {
    // SAFETY: the context is the program's own.
    let level = unsafe { bpf_csum_level(context.skb.skb, BPF_CSUM_LEVEL_QUERY as u64) };
    if level >= 0 {
        Checksums::Trusted
    } else {
        Checksums::UnverifiedOrPartial
    }
}

/// A packet as TC sees it: the VLAN tag lies beside the bytes.
#[derive(Clone, Copy)]
pub struct SkbContext(pub *mut __sk_buff);

impl Context for SkbContext {
    #[inline(always)]
    fn raw(&self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: a field of the program's own context.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    fn set_mark(&self, mark: u32) {
        // SAFETY: as above; programs may write this field.
        unsafe { (*self.0).mark = mark }
    }

    #[inline(always)]
    fn load_bytes(&self, offset: u32, to: *mut c_void, length: u32) -> i64 {
        // SAFETY: the caller's memory is that long, as the verifier checks.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to, length) as i64 }
    }

    #[inline(always)]
    fn vlan(&self) -> u32 {
        // SAFETY: as above.
        let (present, tag) = unsafe { ((*self.0).vlan_present, (*self.0).vlan_tci) };
        if present == 0 { 0 } else { tag & 0xfff }
    }
}
