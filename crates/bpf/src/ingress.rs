//! Packets that arrive.

use core::ffi::c_void;
use core::hint::black_box;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    bpf_xdp_store_bytes,
};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use keepstate_engine::answer::Answer;
use keepstate_engine::answer::segment::Heading;
use keepstate_engine::host::{Header as _, Packet as _};
use keepstate_engine::limits::{ANSWER_WORDS, LINK_HEADER_BYTES_MAX};
use keepstate_engine::process::{Checksums, Path, Stage};
use keepstate_engine::wire::Link;

use crate::egress::{self, SkbContext};
use crate::host::Context;
use crate::jump;
use crate::judge::{self, Fate, Way, begin, proceed};
use crate::maps;
use crate::packet::PacketView;
use crate::witness;

/// A packet whose first piece is shorter lies in one piece: drivers fill a first buffer, which
/// holds at least a full Ethernet frame with two tags, before they begin a second.
const FIRST_PIECE_BYTES_MIN: usize = 1536;

/// The headers of IPv4 and TCP; and as much as an answer holds.
const ANSWER_BYTES_MIN: u32 = 40;
const ANSWER_BYTES_MAX: u32 = ANSWER_WORDS as u32 * 4;

/// With all options that there are for a SYN-ACK by IPv4.
const ANSWER_BYTES_USUAL: u32 = 60;

const TCP_HEADER_BYTES_MIN: u32 = 20;
const TCP_HEADER_BYTES_MAX: u32 = 60;

/// Offset of the type in an Ethernet header, and of the tag after it.
const ETHERNET_TYPE: u32 = 12;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_VLAN_OUTER: u16 = 0x88a8;

#[xdp(frags)]
pub fn ingress_xdp(context: XdpContext) -> u32 {
    let way = Way {
        link: Link::Ethernet,
        path: Path::Ingress,
    };
    let stage = begin(
        Frame(context.ctx),
        &view(&context),
        way,
        Checksums::UnverifiedOrPartial,
    );
    go_on(&context, stage)
}

macro_rules! stages {
    ($($name:ident $stage:ident)*) => {
        $(
            #[xdp(frags)]
            pub fn $name(context: XdpContext) -> u32 {
                let stage = proceed(Frame(context.ctx), &view(&context), Stage::$stage);
                go_on(&context, stage)
            }
        )*
    };
}

stages! {
    xdp_look Look
    xdp_advance Advance
    xdp_write Write
    xdp_judge Judge
    xdp_insert Insert
    xdp_name Name
    xdp_parse Parse
    xdp_associate Associate
    xdp_fragment Fragment
    xdp_first First
    xdp_settle Settle
    xdp_conclude Conclude
    xdp_raw Raw
    xdp_foretold Foretold
    xdp_help Help
    xdp_expect Expect
    xdp_message Message
    xdp_elsewhere Elsewhere
    xdp_label Label
    xdp_weigh Weigh
    xdp_cookie Cookie
    xdp_prove Prove
    xdp_answer Answer
    xdp_synproxy Synproxy
    xdp_open Open
    xdp_translate Translate
    xdp_greet Greet
    xdp_rewrite Rewrite
    xdp_refuse Refuse
    xdp_foreseen Foreseen
}

/// Hands over a packet whose way has ended.
#[xdp(frags)]
pub fn xdp_witness(context: XdpContext) -> u32 {
    witness::hand_over(Frame(context.ctx), view(&context).len());
    fate(judge::end())
}

/// Jumps to the program of a stage, or ends.
#[inline(always)]
fn go_on(context: &XdpContext, stage: Option<Stage>) -> u32 {
    let fate = match stage {
        None => Fate::Pass,
        Some(Stage::Done) => {
            if witness::is_wanted() {
                // SAFETY: as below.
                unsafe { jump::to_witness(context.ctx.cast(), &maps::STAGES_XDP) };
            }
            judge::end()
        }
        Some(stage) => {
            // SAFETY: the array holds XDP programs alone.
            unsafe { jump::to_stage(context.ctx.cast(), &maps::STAGES_XDP, stage) };
            judge::lost()
        }
    };
    self::fate(fate)
}

#[inline(always)]
const fn fate(fate: Fate) -> u32 {
    match fate {
        Fate::Pass => XDP_PASS,
        Fate::Drop => XDP_DROP,
        Fate::SendBack => XDP_TX,
    }
}

#[inline(always)]
fn view(context: &XdpContext) -> PacketView {
    let (start, end) = (context.data(), context.data_end());
    let mut length = end.wrapping_sub(start) as u32;
    if length as usize >= FIRST_PIECE_BYTES_MIN {
        // SAFETY: the context is the program's own.
        length = unsafe { bpf_xdp_get_buff_len(context.ctx) } as u32;
    }
    PacketView::new(start, end, length)
}

#[classifier]
pub fn ingress_tc(context: TcContext) -> i32 {
    let Some(link) = egress::bare_link(&context) else {
        return egress::TC_NEXT;
    };
    let way = Way {
        link,
        path: Path::Ingress,
    };
    let packet = egress::reach_received(&context);
    let checksums = egress::checksums(&context);
    let stage = begin(SkbContext(context.skb.skb), &packet, way, checksums);
    egress::go_on(&context, stage)
}

/// Makes the receiver of a frame its sender.
#[inline(always)]
fn swap_addresses(context: &XdpContext) -> bool {
    let halves = context.data() as *mut u16;
    if context.data() + ETHERNET_TYPE as usize > context.data_end() {
        return false;
    }
    let mut half = 0;
    while half < 3 {
        // SAFETY: within the twelve bytes that were checked; this target reads at any address.
        unsafe {
            let (receiver, sender) = (halves.add(half), halves.add(half + 3));
            let address = receiver.read();
            receiver.write(sender.read());
            sender.write(address);
        }
        half += 1;
    }
    true
}

/// Writes an answer of [`ANSWER_BYTES_USUAL`]: at half the cost of the helper that writes any.
#[inline(always)]
fn put(context: &XdpContext, offset: u32, answer: &Answer) -> bool {
    let start = context.data() + offset as usize;
    if start + ANSWER_BYTES_USUAL as usize > context.data_end() {
        return false;
    }
    let place = start as *mut u32;
    let mut at = 0;
    // Word by word: in one piece it would lie on the stack first.
    while at < ANSWER_BYTES_USUAL as usize / 4 {
        // SAFETY: within the bytes that were checked; this target writes at any address.
        unsafe { place.add(at).write_unaligned(answer.words[at]) };
        at += 1;
    }
    true
}

/// Makes a frame longer in front, where drivers leave room, or shorter at its end; where that cannot be done it is not
/// zero. What is made longer keeps its link header alone. Packet pointers have to be read anew.
#[inline(never)]
fn resize(context: *mut xdp_md, by: i32) -> i64 {
    if by <= 0 {
        // SAFETY: the caller's context is the program's own.
        return unsafe { bpf_xdp_adjust_tail(context, by) };
    }
    let mut link = [0_u8; LINK_HEADER_BYTES_MAX as usize];
    let (bytes, length) = (link.as_mut_ptr().cast(), LINK_HEADER_BYTES_MAX);
    // SAFETY: likewise, and the array is that long.
    unsafe {
        bpf_xdp_adjust_head(context, -by)
            | bpf_xdp_load_bytes(context, by as u32, bytes, length)
            | bpf_xdp_store_bytes(context, 0, bytes, length)
    }
}

/// A frame as XDP sees it: VLAN tags are in the bytes.
#[derive(Clone, Copy)]
struct Frame(*mut xdp_md);

impl Context for Frame {
    const CAN_ANSWER: bool = true;

    #[inline(always)]
    fn raw(&self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        XdpContext::new(self.0).ingress_ifindex() as u32
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        0
    }

    /// XDP comes before marks.
    #[inline(always)]
    fn set_mark(&self, _mark: u32) {}

    #[inline(always)]
    fn load_bytes(&self, offset: u32, to: *mut c_void, length: u32) -> i64 {
        // SAFETY: the caller's memory is that long, as the verifier checks.
        unsafe { bpf_xdp_load_bytes(self.0, offset, to, length) as i64 }
    }

    #[inline(always)]
    fn answer(&self, offset: u32, answer: &Answer, heading: Heading) -> bool {
        // The verifier wants to see it checked.
        let length = black_box(answer.length);
        if length < ANSWER_BYTES_MIN || length > ANSWER_BYTES_MAX || offset > LINK_HEADER_BYTES_MAX
        {
            return false;
        }
        let frame = view(&XdpContext::new(self.0)).len();
        let by = (offset + length) as i32 - frame as i32;
        if by != 0 && resize(self.0, by) != 0 {
            return false;
        }
        if matches!(heading, Heading::Back) && !swap_addresses(&XdpContext::new(self.0)) {
            return false;
        }
        if length == ANSWER_BYTES_USUAL && put(&XdpContext::new(self.0), offset, answer) {
            return true;
        }
        let words = answer.words.as_ptr().cast_mut().cast();
        // SAFETY: the answer is that long.
        unsafe { bpf_xdp_store_bytes(self.0, offset, words, length) == 0 }
    }

    #[inline(always)]
    fn store(&self, offset: u32, header: &Answer) -> bool {
        // The verifier wants to see it checked.
        let length = black_box(header.length);
        if length < TCP_HEADER_BYTES_MIN || length > TCP_HEADER_BYTES_MAX {
            return false;
        }
        let words = header.words.as_ptr().cast_mut().cast();
        // SAFETY: the context is the program's own, and the header that long.
        unsafe { bpf_xdp_store_bytes(self.0, offset, words, length) == 0 }
    }

    #[inline(always)]
    fn vlan(&self) -> u32 {
        let context = XdpContext::new(self.0);
        let packet = PacketView::new(context.data(), context.data_end(), 0);
        let Some(header) = packet.header(ETHERNET_TYPE, 4) else {
            return 0;
        };
        match header.u16(0) {
            TYPE_VLAN | TYPE_VLAN_OUTER => header.u16(2) as u32 & 0xfff,
            _ => 0,
        }
    }
}
