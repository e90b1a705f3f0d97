//! `keepstate trace`: the ways of live packets.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use keepstate_api::{
    Client, Expression, JudgedPacket, PacketEvent, Packets, Reply, Request, Running, Subject, Way,
};
use keepstate_engine::process::{Outcome, Path};
use keepstate_engine::time::Tick;
use keepstate_engine::verdict::State;
use keepstate_policy::Compiled;
use keepstate_sim::capture::LinkType;
use keepstate_sim::explain::{Explanation, Live, Shadow};
use keepstate_sim::locals::Locals;
use keepstate_sim::replay::Options;
use keepstate_sim::sysctl::Sysctl;
use serde_json::json;

use super::explain::{print, running, steps};
use crate::expression;
use crate::output::{Colour, Paint, stdout};
use crate::rules::{interface_bits, loaded};
use crate::running::{InstanceArgument, unexpected};

/// Flows that are followed at a time; of others the way is told as if their records were not there.
const FLOWS_MAX: u32 = 65_536;

/// Show the way of live packets, step by step, as `keepstate explain` tells it.
///
/// The last line of each is what the kernel's programs did. The steps before it are the same engine's, under the rules
/// in force, beside them: see docs/operating.md for when the two differ.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which packets, such as `dst port 22 and reason tcp_*`: see docs/filters.md.
    #[arg(long = "match", value_name = "FILTER")]
    filter: Option<String>,

    /// End after so many packets.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// Print a JSON object for each packet.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let filter = expression::given(arguments.filter.as_slice())?;
    let mut packets = listen(&arguments.instance, Packets::All)?;
    let mut client = arguments.instance.connect()?;
    let Reply::Running(now) = client.ask(&Request::Running {
        query: None,
        sender: None,
    })?
    else {
        return Err(unexpected());
    };
    let compiled = running::compiled(&now)?;
    let mut options = Options {
        policy: loaded(Some(&compiled)),
        sysctls: vec![Sysctl::FlowsMax(FLOWS_MAX)],
        ..Options::default()
    };
    options.locals = Locals::new(running::addresses_of_this_host()?);
    let settings = running::settings(&now, options.settings());
    let tables = [Options::table(&settings), Options::table(&settings)];
    let [flows, other] = &tables;
    let mut tracer = Tracer {
        client,
        shadow: Shadow::new([flows, other], settings, options),
        compiled,
        followed: std::collections::HashSet::new(),
    };
    let colour = Colour::of_stdout();
    let mut left = arguments.count.unwrap_or(u64::MAX);
    while left > 0 {
        let packet = match next(&mut packets)? {
            Next::Packet(packet) => packet,
            Next::Lost(count) => {
                eprintln!("keepstate: {count} packets came too fast, and are not shown");
                continue;
            }
        };
        let Some(explanation) = tracer.explain(&packet, filter.as_ref())? else {
            continue;
        };
        left -= 1;
        let mut out = stdout();
        if arguments.json {
            serde_json::to_writer(&mut out, &as_json(&packet, &explanation))?;
            writeln!(out)?;
        } else {
            show(&mut out, &packet, &explanation, colour)?;
        }
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A connection that packets come by.
pub(super) fn listen(instance: &InstanceArgument, which: Packets) -> anyhow::Result<Client> {
    let mut client = instance.connect()?;
    match client.ask(&Request::Packets { which })? {
        Reply::Listening => Ok(client),
        _ => Err(unexpected()),
    }
}

/// What comes by it.
pub(super) enum Next {
    Packet(Box<JudgedPacket>),
    Lost(u64),
}

pub(super) fn next(client: &mut Client) -> anyhow::Result<Next> {
    match client.reply()? {
        Reply::Packet(packet) => Ok(Next::Packet(packet)),
        Reply::EventsLost { count } => Ok(Next::Lost(count)),
        _ => Err(unexpected()),
    }
}

/// The packet for the engine; `None` for what is not IP.
pub(super) fn live(packet: &JudgedPacket) -> Option<Live<'_>> {
    let link = match packet.has_link_header {
        true => LinkType::ETHERNET,
        false => LinkType::RAW,
    };
    let path = match packet.way {
        Way::In => Path::Ingress,
        Way::Out => Path::Local,
    };
    Live::new(link, &packet.bytes, packet.length, path, Tick(packet.tick))
}

/// Whether a filter lets the packet through. What is not IP fits none.
pub(super) fn fits(
    filter: Option<&Expression>,
    live: Option<&Live<'_>>,
    packet: &PacketEvent,
) -> bool {
    let Some(filter) = filter else {
        return true;
    };
    let tuple = live.and_then(Live::tuple);
    tuple.is_some_and(|tuple| filter.matches(&Subject::of_packet(&tuple, packet)))
}

struct Tracer<'t> {
    client: Client,
    shadow: Shadow<'t>,
    compiled: Compiled,
    /// Flows that the shadow has met, by the addresses and ports of both directions.
    followed: std::collections::HashSet<keepstate_api::Query>,
}

impl Tracer<'_> {
    /// The packet's way, if it is to be shown.
    fn explain(
        &mut self,
        packet: &JudgedPacket,
        filter: Option<&Expression>,
    ) -> anyhow::Result<Option<Explanation>> {
        let Some(live) = live(packet) else {
            return Ok(None);
        };
        let is_shown = fits(filter, Some(&live), &packet.packet);
        let query = self
            .shadow
            .sought(&live)
            .map(|tuple| running::query(&tuple));
        let is_followed = query.is_some_and(|query| self.followed.contains(&query));
        if !is_shown && !is_followed {
            return Ok(None);
        }
        if let Some(query) = query.filter(|_| !is_followed) {
            self.meet(query, packet)?;
        }
        let bits = |name| interface_bits(Some(&self.compiled), name);
        let out_interface = packet.out_interface.as_deref();
        let interfaces = [bits(Some(&packet.interface)), bits(out_interface)];
        let explanation = self.shadow.explain(&live, interfaces);
        Ok(is_shown.then_some(explanation))
    }

    /// Before the first packet of a flow: its record, unless the packet is one that begins it.
    fn meet(&mut self, query: keepstate_api::Query, packet: &JudgedPacket) -> anyhow::Result<()> {
        if self.followed.len() >= FLOWS_MAX as usize {
            return Ok(());
        }
        self.followed.extend([query, answered(query)]);
        if packet.packet.state == State::New.name() {
            return Ok(());
        }
        let query = Some(query);
        let Reply::Running(now) = self.client.ask(&Request::Running {
            query,
            sender: None,
        })?
        else {
            return Err(unexpected());
        };
        let Running { record, .. } = *now;
        if let Some(record) = record {
            self.shadow
                .learn(&running::known(&record), Tick(packet.tick));
        }
        Ok(())
    }
}

/// By what the other direction is looked for, where ports are.
fn answered(query: keepstate_api::Query) -> keepstate_api::Query {
    keepstate_api::Query {
        source: query.destination,
        destination: query.source,
        source_port: query.destination_port,
        destination_port: query.source_port,
        ..query
    }
}

/// Whether the steps come to what the kernel's programs did.
fn agrees(packet: &PacketEvent, outcome: &Outcome) -> bool {
    let reason = outcome.reason.map(|reason| reason.name());
    packet.state == outcome.state.name()
        && packet.verdict == outcome.verdict.name()
        && packet.reason.as_deref() == reason
}

fn show(
    out: &mut impl Write,
    packet: &JudgedPacket,
    explanation: &Explanation,
    colour: Colour,
) -> std::io::Result<()> {
    print(out, explanation, colour)?;
    let way = match packet.way {
        Way::In => "in by",
        Way::Out => "out by",
    };
    let told = &packet.packet;
    let mut text = format!("{}, {way} {}, {told}", told.verdict, packet.interface);
    let paint = match agrees(told, &explanation.outcome) {
        true => Paint::Plain,
        false => {
            text.push_str("; the steps above are not those that it took");
            Paint::Doubtful
        }
    };
    writeln!(out, "{:<8} {}\n", "kernel", colour.paint(paint, text))
}

fn as_json(packet: &JudgedPacket, explanation: &Explanation) -> serde_json::Value {
    json!({
        "time_ns": packet.time_ns,
        "interface": packet.interface,
        "way": packet.way,
        "steps": steps(explanation),
        "kernel": packet.packet,
        "agrees": agrees(&packet.packet, &explanation.outcome),
    })
}
