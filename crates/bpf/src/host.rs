//! What the engine asks of the kernel plane.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::maps::RingBuf;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_loop, bpf_ringbuf_output,
};
use keepstate_engine::answer::Answer;
use keepstate_engine::answer::segment::Heading;
use keepstate_engine::cookie::Check;
use keepstate_engine::event::Event;
use keepstate_engine::host::{Host, Local, NATIVE_HERTZ, Packet, Repeat, Route, Way};
use keepstate_engine::index::IndexLine;
use keepstate_engine::limits::{
    CONDITIONS_MAX, HELPER_BYTES_MAX, INDEX_LINES_MAX, NOTICE_BYTES_MAX, RULES_MAX,
};
use keepstate_engine::notice::{Notice, NoticeKind};
use keepstate_engine::policy::{Condition, PolicyHeader, Rule};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::{Address, Family};
use keepstate_engine::wire::PacketInfo;
use keepstate_plane::{
    InterfaceKey, LOCAL_KEY_BITS, PLANE_TEST_CLOCK, Plane, TICK_SHIFT, UNANNOUNCED_EVENTS_MAX, local_key,
};

use crate::cookie;
use crate::judge;
use crate::maps;
use crate::memory::MapMemory;
use crate::packet::{Excerpt, PacketHeader, PacketView, masked};
use crate::route;

/// What differs between XDP and TC.
pub trait Context: Copy {
    /// Whether [`Context::answer`] ever does anything.
    const CAN_ANSWER: bool = false;

    /// The context pointer, for helpers.
    fn raw(&self) -> *mut c_void;

    /// Index of the interface the packet is seen on.
    fn interface(&self) -> u32;

    /// VLAN identifier of the packet, zero without a tag.
    fn vlan(&self) -> u32;

    /// Mark of the packet, zero before it has one.
    fn mark(&self) -> u32;

    /// Puts an answer in the place of the packet, whose IP header is at `offset`. All packet pointers are of no use
    /// afterwards.
    #[inline(always)]
    fn answer(&self, _offset: u32, _answer: &Answer, _heading: Heading) -> bool {
        false
    }

    /// Puts a header in the place of the one at `offset`.
    #[inline(always)]
    fn store(&self, _offset: u32, _header: &Answer) -> bool {
        false
    }

    /// Gives the packet a mark, where it can have one.
    fn set_mark(&self, mark: u32);

    /// Copies `length` bytes of the packet; zero when they are all there.
    fn load_bytes(&self, offset: u32, to: *mut c_void, length: u32) -> i64;
}

/// The kernel plane, for one packet: its bytes, and everything else. In one piece, since it lies on
/// the stack while all steps of a packet's way are called.
pub struct KernelHost<C> {
    packet: PacketView,
    context: C,
    plane: &'static Plane,
    policy: &'static PolicyHeader,
    /// The slot of `policy`.
    slot: u32,
}

impl<C: Context> KernelHost<C> {
    /// A host with the policy in a slot; `None` cannot happen, but the verifier wants it said.
    #[inline(always)]
    pub fn new(
        packet: PacketView,
        context: C,
        plane: &'static Plane,
        slot: u32,
    ) -> Option<Self> {
        let slot = slot & 1;
        let policy = maps::POLICIES.get(slot)?;
        Some(Self {
            packet,
            context,
            plane,
            policy,
            slot,
        })
    }

    /// The context pointer, for helpers.
    #[inline(always)]
    pub fn raw_context(&self) -> *mut c_void {
        self.context.raw()
    }

    #[inline(always)]
    pub fn interface_key(&self) -> InterfaceKey {
        InterfaceKey {
            index: self.context.interface(),
            vlan: self.context.vlan(),
        }
    }

    #[inline(always)]
    pub fn policy_flags(&self) -> u32 {
        self.policy.flags
    }

    /// Interface patterns of the policy that an interface matches.
    #[inline(always)]
    pub fn patterns(&self, key: &InterfaceKey) -> u64 {
        // SAFETY: an element may be replaced while it is read; the two words of it that are read
        // are each read whole.
        match unsafe { maps::INTERFACES.get(key) } {
            Some(interface) if self.slot == 0 => interface.patterns[0],
            Some(interface) => interface.patterns[1],
            None => 0,
        }
    }
}

/// The slot of the policy in force.
#[inline(always)]
pub fn active_slot(plane: &Plane) -> u32 {
    // SAFETY: the word is in the map's value; the daemon may change it at any time, and a packet
    // keeps the slot it has read.
    unsafe { (&raw const plane.active).read_volatile() }
}

#[inline(always)]
pub fn plane() -> Option<&'static Plane> {
    maps::PLANE.get(0)
}

#[inline(always)]
pub fn now(plane: &Plane) -> Tick {
    if plane.flags & PLANE_TEST_CLOCK != 0 {
        return Tick(plane.test_tick);
    }
    // SAFETY: the helper has no preconditions.
    let jiffies = unsafe { bpf_jiffies64() };
    Tick((jiffies.wrapping_mul(plane.tick_multiplier) >> TICK_SHIFT) as u32)
}

/// The key by which a single address is looked for among addresses and routes of the host.
#[inline(always)]
fn key_of(family: Family, address: &Address) -> Key<[u32; 5]> {
    let bits = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    Key::new(LOCAL_KEY_BITS + bits, local_key(family, address))
}

/// The low bits of the kernel's monotonic clock in milliseconds.
#[inline(always)]
fn milliseconds(plane: &Plane, now: Tick) -> u32 {
    const NUMERATOR: u64 = 125;
    const DENOMINATOR_SHIFT: u32 = 1;
    const _: () = assert!(NUMERATOR * TICKS_PER_SECOND as u64 == 1000 << DENOMINATOR_SHIFT);
    // SAFETY: the helpers have no preconditions.
    let jiffies = unsafe { bpf_jiffies64() };
    // What overflows is above the bits that are wanted.
    let numerator = plane.tick_multiplier.wrapping_mul(NUMERATOR);
    let counted = (jiffies.wrapping_mul(numerator) >> (TICK_SHIFT + DENOMINATOR_SHIFT)) as u32;
    let Some(memory) = maps::SCRATCH.get_ptr_mut(0) else {
        return counted;
    };
    // SAFETY: this CPU's element, and a part of it that nothing else refers to.
    unsafe {
        let clock = &mut (*memory).clock;
        if clock.tick != now.0 {
            clock.tick = now.0;
            clock.ahead = ((bpf_ktime_get_coarse_ns() / 1_000_000) as u32).wrapping_sub(counted);
        }
        counted.wrapping_add(clock.ahead)
    }
}

impl<C: Context> Packet for KernelHost<C> {
    type Header = PacketHeader;
    type Payload = Excerpt;

    #[inline(always)]
    fn len(&self) -> u32 {
        self.packet.len()
    }

    #[inline(always)]
    fn header(&self, offset: u32, size: u32) -> Option<PacketHeader> {
        self.packet.header(offset, size)
    }

    #[inline(always)]
    fn payload(&self, offset: u32, length: u32) -> Option<Excerpt> {
        let buffer = maps::PAYLOAD.get_ptr_mut(0)?;
        // Changes nothing: callers ask for one to that many bytes. But the verifier believes it.
        let less_one = length.wrapping_sub(1) as u64;
        let length = masked::<{ HELPER_BYTES_MAX as u64 - 1 }>(less_one) as u32 + 1;
        let loaded = self.context.load_bytes(offset, buffer.cast(), length);
        (loaded == 0).then_some(Excerpt(buffer.cast()))
    }

    #[inline(always)]
    fn sum(&self, offset: u32, length: u32) -> Option<u16> {
        self.packet.sum(offset, length)
    }
}

impl<C: Context> Host for KernelHost<C> {
    type Flows = MapMemory;

    #[inline(always)]
    fn flows(&self) -> &MapMemory {
        &MapMemory
    }

    #[inline(always)]
    fn settings(&self) -> &Settings {
        &self.plane.settings
    }

    #[inline(always)]
    fn policy(&self) -> &PolicyHeader {
        self.policy
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&Rule> {
        if index >= RULES_MAX {
            return None;
        }
        maps::RULES.get(self.slot * RULES_MAX + index)
    }

    #[inline(always)]
    fn condition(&self, index: u32) -> Option<&Condition> {
        if index >= CONDITIONS_MAX {
            return None;
        }
        maps::CONDITIONS.get(self.slot * CONDITIONS_MAX + index)
    }

    #[inline(always)]
    fn index(&self, line: u32) -> Option<&IndexLine> {
        if line >= INDEX_LINES_MAX {
            return None;
        }
        maps::INDEX.get(self.slot * INDEX_LINES_MAX + line)
    }

    #[inline(always)]
    fn condition_base(&self) -> u32 {
        self.slot * CONDITIONS_MAX
    }

    #[inline(always)]
    fn jiffies(&self, now: Tick) -> u64 {
        if self.plane.flags & PLANE_TEST_CLOCK != 0 {
            return now.0 as u64 * NATIVE_HERTZ as u64 / TICKS_PER_SECOND as u64;
        }
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_jiffies64() }
    }

    #[inline(always)]
    fn hertz(&self) -> u32 {
        if self.plane.flags & PLANE_TEST_CLOCK != 0 {
            return NATIVE_HERTZ;
        }
        // The multiplier was rounded down, so the quotient is the rate and less than one more.
        let ticks = (TICKS_PER_SECOND as u64) << TICK_SHIFT;
        ticks.checked_div(self.plane.tick_multiplier).unwrap_or(0) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn cpu(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_smp_processor_id() }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        self.context.mark()
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        route::incoming(self)
    }

    #[inline(always)]
    fn local(&self, family: Family, address: &Address) -> Option<Local> {
        let value = *maps::LOCALS.get(&key_of(family, address))?;
        Some(Local {
            kind: value as u32,
            interface: (value >> 32) as u32,
        })
    }

    #[inline(always)]
    fn way(&self, family: Family, address: &Address) -> Option<&Way> {
        maps::ROUTES.get(&key_of(family, address))
    }

    #[inline(never)]
    fn notify<P: Packet>(&self, _packet: &P, notice: &Notice) {
        let Some(place) = maps::NOTICE.get_ptr_mut(0) else {
            return;
        };
        let captured = match notice.captured {
            0 => return,
            captured => captured,
        };
        // Changes nothing: no more than that many are asked for. But the verifier believes it.
        let less_one = masked::<{ NOTICE_BYTES_MAX as u64 - 1 }>((captured - 1) as u64);
        let length = less_one as u32 + 1;
        // SAFETY: this CPU's element, which nobody else uses while this packet is judged.
        let place = unsafe { &mut *place };
        place.notice = *notice;
        let bytes = place.bytes.as_mut_ptr();
        if self.context.load_bytes(0, bytes.cast(), length) != 0 {
            return count_lost_notice(notice.kind);
        }
        let ring: &RingBuf = if notice.kind == NoticeKind::Answer as u8 {
            &maps::ANSWERS
        } else {
            &maps::NOTICES
        };
        let size = size_of::<Notice>() as u64 + length as u64;
        // SAFETY: the ring is a map, and that many bytes of the element are filled.
        let result = unsafe {
            bpf_ringbuf_output(
                (&raw const *ring).cast_mut().cast(),
                (&raw mut *place).cast(),
                size,
                0,
            )
        };
        if result != 0 {
            count_lost_notice(notice.kind);
        }
    }

    #[inline(always)]
    fn count_rule(&self, index: u32, bytes: u32) {
        if index >= RULES_MAX {
            return;
        }
        let Some(counter) = maps::RULE_COUNTERS.get_ptr_mut(self.slot * RULES_MAX + index) else {
            return;
        };
        // SAFETY: this CPU's element; an interrupting program may count in between, and then one
        // packet is not counted.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }

    #[inline(always)]
    fn route(&self, packet: &PacketInfo) -> Route {
        route::route(self, packet)
    }

    #[inline(always)]
    fn can_answer(&self) -> bool {
        C::CAN_ANSWER
    }

    #[inline(always)]
    fn cookie(&self, syn: &PacketInfo, mss: u16, _now: Tick) -> Option<u32> {
        cookie::make(syn, mss)
    }

    #[inline(always)]
    fn check_cookie(&self, segment: &PacketInfo, _now: Tick) -> Check {
        cookie::check(self.context.raw(), segment)
    }

    #[inline(always)]
    fn milliseconds(&self, now: Tick) -> u32 {
        if self.plane.flags & PLANE_TEST_CLOCK != 0 {
            return (now.0 as u64 * 1000 / TICKS_PER_SECOND as u64) as u32;
        }
        milliseconds(self.plane, now)
    }

    #[inline(always)]
    fn answer(&self, packet: &PacketInfo, answer: &Answer) -> bool {
        self.context.answer(packet.ip_offset, answer, Heading::Back)
    }

    #[inline(always)]
    fn send_on(&self, packet: &PacketInfo, answer: &Answer) -> bool {
        self.context.answer(packet.ip_offset, answer, Heading::Onward)
    }

    #[inline(always)]
    fn rewrite(&self, packet: &PacketInfo, header: &Answer) -> bool {
        self.context.store(packet.transport_offset, header)
    }

    #[inline(always)]
    fn repeat<R: Repeat>(&self, limit: u32, body: &mut R) {
        repeat(limit, body);
    }

    #[inline(always)]
    fn emit(&self, event: &Event) {
        if maps::EVENTS.output::<Event>(event, waking()).is_err() {
            count_lost_event();
        }
    }

    #[inline(always)]
    fn wall_clock(&self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_coarse_ns() }.wrapping_add(self.plane.wall_offset)
    }
}

/// Runs a loop body through the kernel's own loop, whose body the verifier walks once.
#[inline(always)]
pub fn repeat<R: Repeat>(limit: u32, body: &mut R) {
    // SAFETY: the callback has the signature that the helper calls it by, and `body` outlives the
    // call.
    unsafe {
        bpf_loop(limit, step::<R> as *mut c_void, (&raw mut *body).cast(), 0);
    }
}

unsafe extern "C" fn step<R: Repeat>(_round: u64, body: *mut R) -> u64 {
    // SAFETY: `repeat` passes its own argument.
    let body = unsafe { &mut *body };
    // Where it is a byte of memory, the verifier wants to see that it is a bit.
    masked::<1>(!body.step() as u64)
}

/// Whether the next event wakes its reader: the first of a jiffy does, and one in so many of those that follow. To wake
/// somebody, a processor interrupts itself, which costs more than all the rest of a short answer where a hypervisor has to help. The reader comes
/// back by itself for those that wake nobody (`EVENT_PAUSE_MILLISECONDS`).
#[inline(never)]
fn waking() -> u64 {
    let Some(memory) = judge::memory() else {
        return BPF_RB_FORCE_WAKEUP as u64;
    };
    // SAFETY: the helper has no preconditions.
    let jiffies = unsafe { bpf_jiffies64() } as u32;
    let woken = &mut memory.woken;
    // A program that interrupts this one may wake once more.
    if woken.jiffies == jiffies && woken.unannounced < UNANNOUNCED_EVENTS_MAX {
        woken.unannounced += 1;
        return BPF_RB_NO_WAKEUP as u64;
    }
    woken.jiffies = jiffies;
    woken.unannounced = 0;
    BPF_RB_FORCE_WAKEUP as u64
}

#[inline(never)]
fn count_lost_event() {
    if let Some(counters) = maps::COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's element, see `count_rule`.
        unsafe { (*counters).events_lost += 1 };
    }
}

#[inline(never)]
fn count_lost_notice(kind: u8) {
    if let Some(counters) = maps::COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's element, see `count_rule`.
        unsafe {
            if kind == NoticeKind::Answer as u8 {
                (*counters).answers_lost += 1;
            } else {
                (*counters).notices_lost += 1;
            }
        }
    }
}
