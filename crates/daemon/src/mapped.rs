//! The one module of the daemon with `unsafe`: map memory, and the bytes of types that the kernel
//! programs share.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Pod;
use keepstate_engine::event::Event;
use keepstate_engine::host::Way;
use keepstate_engine::index::{IndexLine, KEYS};
use keepstate_engine::notice::Notice;
use keepstate_engine::policy::{Condition, PolicyHeader, Rule};
use keepstate_plane::{
    Counters, Interface, InterfaceKey, MeterOrder, Plane, Report, RuleCounter, Witness,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A type without padding, of which every pattern of bits is a value.
///
/// # Safety
///
/// Both must be true: values are read from and written to memory as bytes.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($name:ty)*) => {
        // SAFETY: `repr(C)` structures of unsigned integers, in an order that leaves no gaps.
        $(unsafe impl Plain for $name {})*
    };
}

plain! { Way Condition Counters Event IndexLine Interface InterfaceKey MeterOrder Notice Plane PolicyHeader Report Rule RuleCounter Witness }

// No gaps: the sizes are the sums of the sizes of the fields.
const _: () = assert!(size_of::<Plane>() == 64 + size_of::<keepstate_engine::settings::Settings>());
const _: () = assert!(
    size_of::<keepstate_engine::settings::Settings>()
        == 4 * (8 + 12 + 32 + 32 * 16 + 6 + 50 + 8 + 2 + 2 + 10 + 8 * 17)
);
const _: () =
    assert!(size_of::<PolicyHeader>() == 4 * (6 + 4 + 8) + 2 * 8 + 4 * 4 + 4 * KEYS + 4 * 4);
const _: () = assert!(size_of::<Rule>() == 128);
const _: () = assert!(size_of::<Condition>() == 32);
const _: () = assert!(size_of::<Interface>() == 24);
const _: () = assert!(size_of::<Counters>() == 8 * (128 + 8 + 4 + 1 + 3));
const _: () = assert!(size_of::<Report>() == 40);
const _: () = assert!(size_of::<Way>() == 32);
const _: () = assert!(size_of::<Event>() == 80);
const _: () = assert!(size_of::<MeterOrder>() == 8 + 4 * (4 + 5 + 3));
const _: () = assert!(size_of::<Notice>() == 44);
const _: () = assert!(size_of::<Witness>() == 4 * 14);

/// A [`Plain`] value for aya's typed maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Raw<T>(pub T);

// SAFETY: `Plain` asks for what `Pod` asks for.
unsafe impl<T: Plain> Pod for Raw<T> {}

/// The bytes of a value.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    let start = (&raw const *value).cast::<u8>();
    // SAFETY: the value has no padding, so all its bytes are initialised.
    unsafe { std::slice::from_raw_parts(start, size_of::<T>()) }
}

/// A value from its bytes; `None` when they are too few.
pub fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, any of them are a value, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The memory of a map, shared with the kernel programs. All access is by atomic words.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<AtomicU64>,
    bytes: NonZeroUsize,
    words: usize,
}

// SAFETY: the memory is reached through atomics alone.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the `bytes` of a map that was made with `BPF_F_MMAPABLE`.
    pub fn new(map: impl AsFd, bytes: usize) -> rustix::io::Result<Self> {
        let words = bytes / 8;
        let page = rustix::param::page_size();
        let length =
            NonZeroUsize::new(bytes.next_multiple_of(page)).ok_or(rustix::io::Errno::INVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length.get(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::FAULT)?;
        Ok(Self {
            start,
            bytes: length,
            words,
        })
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds that many aligned words and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and borrowed by nobody any more. It cannot fail with the
        // arguments that `mmap` accepted.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes.get()) };
    }
}

/// A value of as many words as these.
pub(crate) fn read_value<T: Plain>(words: &[AtomicU64]) -> T {
    let mut bytes = Vec::with_capacity(words.len() * 8);
    for word in words {
        bytes.extend_from_slice(&word.load(Ordering::SeqCst).to_ne_bytes());
    }
    from_bytes(&bytes).expect("callers pass as many words as the value has")
}

/// Writes values to words, as far as either reach.
pub(crate) fn store<'a, T: Plain>(words: impl Iterator<Item = &'a AtomicU64>, values: &[T]) {
    let bytes = values.iter().flat_map(|value| bytes_of(value));
    let mut bytes = bytes.copied();
    for word in words {
        let mut chunk = [0; 8];
        let mut filled = 0;
        for (place, byte) in chunk.iter_mut().zip(bytes.by_ref()) {
            *place = byte;
            filled += 1;
        }
        if filled == 0 {
            return;
        }
        word.store(u64::from_ne_bytes(chunk), Ordering::SeqCst);
    }
}
