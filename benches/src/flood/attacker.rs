//! SYNs of forged senders, made by test runs of a program whose frames leave by a device.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use keepstate_sim::build::{Body, Packet, SYN, Tcp};

use super::network::{Network, PORT};
use crate::peers::{self, RANDOM, program};
use crate::template::sum;

/// Frames go out in bursts: a veth's queue holds 256, and of the numbers that each test run takes there are 65,534,
/// which come back in a second or so.
pub(crate) const BURST_FRAMES: u32 = 192;
const BURST_MAX: Duration = Duration::from_millis(1);
const BATCH: u32 = 64;
/// What was missed is made up for, up to so many frames: by bursts one after the other, between which a queue empties.
const MISSED_MAX: u64 = 1024;
pub(crate) const LOOPBACK: u32 = 1;
/// `struct state` of the program, with a frame of 74 bytes.
pub(crate) const STATE_BYTES: usize = 104;

pub(super) struct Attacker<'a> {
    network: &'a Network,
    object: Ebpf,
    frame: Vec<u8>,
}

impl<'a> Attacker<'a> {
    /// Loads the attack, and puts the wire behind it.
    pub(super) fn new(network: &'a Network) -> anyhow::Result<Self> {
        let mut object = peers::load("flood", &["flood", "wire"])?;
        let frame = frame(network.server_link()?, network.service);
        let state = state(&frame, network.client_index()?);
        let states = object.map_mut("states").context("the map of the attack")?;
        Array::<_, [u8; STATE_BYTES]>::try_from(states)?.set(0, state, 0)?;
        let index = network.client_index()?;
        let wire = program(&mut object, "wire")?;
        network.at_client(|| wire.attach_to_if_index(index, XdpMode::Driver))??;
        // A test run of a program that is attached nowhere changes the kernel's code and waits for all processors.
        // Nothing comes by the loopback.
        let flood = program(&mut object, "flood")?;
        network.at_client(|| flood.attach_to_if_index(LOOPBACK, XdpMode::Skb))??;
        Ok(Self {
            network,
            object,
            frame,
        })
    }

    /// Sends so many frames a second for so long; how many a second they were.
    pub(super) fn flood(&mut self, rate: u32, lasts: Duration) -> anyhow::Result<f64> {
        let Self {
            network,
            object,
            frame,
        } = self;
        let program = program(object, "flood")?;
        network.at_client(|| {
            let begun = Instant::now();
            if rate == 0 {
                std::thread::sleep(lasts);
                return Ok(0.0);
            }
            let pause = BURST_MAX.min(Duration::from_secs(1) * BURST_FRAMES / rate);
            let (mut sent, mut accounted) = (0_u64, 0);
            while begun.elapsed() < lasts {
                let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                accounted = accounted.max(due.saturating_sub(MISSED_MAX));
                if due - accounted < u64::from(BURST_FRAMES) {
                    std::thread::sleep(pause);
                    continue;
                }
                if !burst(program, frame)? {
                    std::thread::sleep(BURST_MAX);
                    continue;
                }
                sent += u64::from(BURST_FRAMES);
                accounted += u64::from(BURST_FRAMES);
                std::thread::yield_now();
            }
            Ok(sent as f64 / begun.elapsed().as_secs_f64())
        })?
    }
}

/// Sends [`BURST_FRAMES`]; `false` where all numbers of test runs are taken, for a moment.
pub(crate) fn burst(program: &Xdp, frame: &[u8]) -> Result<bool, ProgramError> {
    let ran = program.test_run(TestRunOptions {
        data_in: Some(frame),
        repeat: BURST_FRAMES,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    });
    if is_out_of_numbers(&ran) {
        return Ok(false);
    }
    ran.map(|_| true)
}

/// Whether all numbers of test runs are taken.
fn is_out_of_numbers<T>(ran: &Result<T, ProgramError>) -> bool {
    matches!(ran, Err(ProgramError::SyscallError(error))
        if error.io_error.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()))
}

/// A SYN with the options of Linux, without sender, number and checksums.
pub(crate) fn frame(server: [u8; 6], service: Ipv4Addr) -> Vec<u8> {
    let segment = Tcp {
        source_port: 0,
        destination_port: PORT,
        sequence: 0,
        flags: SYN,
        window: 64_240,
        options: vec![
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7,
        ],
        ..Tcp::default()
    };
    let nobody = Ipv4Addr::UNSPECIFIED.into();
    let mut frame = Packet::new(nobody, service.into(), Body::Tcp(segment)).ethernet();
    frame[..6].copy_from_slice(&server);
    for checksum in [24, 50] {
        frame[checksum..checksum + 2].fill(0);
    }
    frame
}

/// `struct state` of the program.
pub(crate) fn state(frame: &[u8], device: u32) -> [u8; STATE_BYTES] {
    let (ip, transport) = (&frame[14..34], &frame[34..]);
    let pseudo = [0, 6, 0, transport.len() as u8];
    let transport_sum = sum(&ip[12..]) + sum(&pseudo) + sum(transport);
    let mut state = [0; STATE_BYTES];
    state[..8].copy_from_slice(&RANDOM.to_ne_bytes());
    for (place, word) in state[8..20]
        .chunks_mut(4)
        .zip([device, sum(ip), transport_sum])
    {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    state[24..][..frame.len()].copy_from_slice(frame);
    state
}
