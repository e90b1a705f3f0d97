//! The kernel programs: shells that hand packet and maps to the engine and apply its verdict.
//!
//! `unsafe` is allowed here alone (and in one module of the daemon): packet bytes and map memory
//! are raw pointers, whose bounds the verifier checks before anything runs.

#![no_std]
#![no_main]
#![allow(
    internal_features,
    reason = "core's atomics do not exist on this target, its intrinsics do"
)]
#![feature(asm_experimental_arch, core_intrinsics)]

mod clock;
mod cookie;
mod egress;
mod host;
mod ingress;
mod judge;
mod jump;
mod maps;
mod memory;
mod meter;
mod packet;
mod route;
mod witness;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in the engine panics; a program in which this loop could be reached would be
    // refused by the verifier.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
