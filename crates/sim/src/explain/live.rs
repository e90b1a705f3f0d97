//! Explaining packets that another plane has judged, one after the other, beside it.

use std::borrow::Cow;

use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_engine::trace::Step;
use keepstate_engine::tuple::Tuple;
use keepstate_flowmemory::{OwnedTable, SliceTable};

use super::{Explanation, KnownFlow, Narrator, know, line, words};
use crate::capture::{Frame, LinkType, NetworkPacket, network_packet};
use crate::naming;
use crate::plane::{LoadedPolicy, Plane, Recorder};
use crate::replay::Options;

/// A packet that another plane has judged.
#[derive(Clone, Debug)]
pub struct Live<'a> {
    bytes: Cow<'a, [u8]>,
    network: usize,
    arrival: Arrival,
    now: Tick,
}

impl<'a> Live<'a> {
    /// The packet of a frame; `None` for one that is not IP.
    pub fn new(
        link: LinkType,
        data: &'a [u8],
        original_length: u32,
        path: Path,
        now: Tick,
    ) -> Option<Self> {
        let frame = Frame {
            number: 1,
            time_ns: None,
            link,
            data,
            original_length,
        };
        let NetworkPacket::Packet {
            link,
            bytes,
            network,
        } = network_packet(&frame)
        else {
            return None;
        };
        // Bytes that were not handed over cannot be summed.
        let checksums = match (path, data.len() < original_length as usize) {
            (Path::Local, _) | (_, true) => Checksums::Trusted,
            (Path::Ingress, false) => Checksums::UnverifiedOrPartial,
        };
        let live = Self {
            bytes,
            network,
            arrival: Arrival {
                link,
                path,
                checksums,
                zone: 0,
                interfaces: 0,
            },
            now,
        };
        naming::Packet::read(live.ip())?;
        Some(live)
    }

    fn ip(&self) -> &[u8] {
        self.bytes.get(self.network..).unwrap_or_default()
    }

    /// Sender and receiver, told as far as the headers can be read; zone zero.
    pub fn tuple(&self) -> Option<Tuple> {
        let packet = naming::Packet::read(self.ip())?;
        let (source_port, destination_port) = packet.ports().unwrap_or_default();
        Some(Tuple {
            family: packet.endpoints.family,
            source: packet.endpoints.source,
            destination: packet.endpoints.destination,
            source_port,
            destination_port,
            protocol: packet.protocol,
            zone: 0,
        })
    }
}

/// A table beside another plane's: packets are explained in it with what it has learned of their flows.
pub struct Shadow<'t> {
    plane: Plane<SliceTable<'t>, Recorder>,
    /// Says what packets are called. Its flows are of no interest.
    names: Plane<SliceTable<'t>, Recorder>,
}

impl<'t> Shadow<'t> {
    /// In two tables that [`Options::table`] made for these settings.
    pub fn new([flows, other]: [&'t OwnedTable; 2], settings: Settings, options: Options) -> Self {
        let mut plane = Plane::new(
            flows.as_slices(),
            settings,
            options.policy,
            Recorder::default(),
        );
        plane.locals = options.locals;
        let names = Plane::new(
            other.as_slices(),
            settings,
            LoadedPolicy::NONE,
            Recorder::default(),
        );
        Self { plane, names }
    }

    /// The tuple by which the engine looks for the packet's flow, or for that of the packet that it quotes.
    pub fn sought(&self, packet: &Live<'_>) -> Option<Tuple> {
        self.names.judge(&packet.bytes, &packet.arrival, packet.now);
        let steps = self.names.observer.take();
        steps.iter().rev().find_map(|step| match step {
            Step::Quoted(tuple) | Step::Named(tuple, _) => Some(*tuple),
            _ => None,
        })
    }

    /// Takes a flow over, as it stands in the other plane.
    pub fn learn(&self, known: &KnownFlow, now: Tick) {
        know(&self.plane.flows, &self.plane.settings, known, now);
    }

    /// What becomes of the packet, and of its flow here. Interfaces are given as bits of patterns.
    pub fn explain(&mut self, packet: &Live<'_>, interfaces: [u64; 2]) -> Explanation {
        let [in_interfaces, out_interfaces] = interfaces;
        let arrival = Arrival {
            interfaces: in_interfaces,
            ..packet.arrival
        };
        self.plane.out_interfaces = out_interfaces;
        self.plane.observer.take();
        let outcome = self.plane.judge(&packet.bytes, &arrival, packet.now);
        let steps = self.plane.observer.take();
        let narrator = Narrator {
            policy: self.plane.policy(),
            now: packet.now,
        };
        let mut lines = vec![line("packet", words(packet.ip()))];
        lines.extend(narrator.lines(&steps, &outcome));
        Explanation { lines, outcome }
    }
}
