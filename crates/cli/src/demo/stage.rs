//! The story on real networks: namespaces, sockets, and the programs in the kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use keepstate_api::{Event, EventKind};
use keepstate_sim::build::{ACK, Body, Checksum, FIN, PSH, Packet, RST, SYN, Tcp};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use super::keeper::{Keeper, Watch};
use super::party::Party;
use super::programs::{self, Conversation, PATIENCE};
use super::teller::{Pace, Teller, holds};

/// The tutorial's base template.
pub(super) const BASE: &str = include_str!("../../../../examples/base.sh");
const GATEWAY: &str = include_str!("../../../../examples/gateway.sh");

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The server's address on the side where the attacker is.
const SERVER_OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);

const SSH: u16 = 22;
const DNS: u16 = 53;
const HTTP: u16 = 80;
const CLOSED_PORTS: [u16; 7] = [21, 23, 25, 80, 443, 3306, 8080];

/// Gives this process a file system of its own: what is mounted here is gone with its last
/// process, and nobody outside sees it.
pub(super) fn set() -> anyhow::Result<()> {
    // SAFETY: the flag concerns mounts alone, no file descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .context("no mount namespace could be made")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("mounts could not be made private")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", "/run", "tmpfs", flags, c"mode=0755")
        .context("no file system could be mounted on /run")?;
    rustix::mount::mount("bpf", "/sys/fs/bpf", "bpf", flags, c"mode=0700")
        .context("bpffs could not be mounted")
}

/// What keeps the story from beginning, as opposed to what goes wrong in it.
pub(super) struct CannotBegin(pub(super) anyhow::Error);

/// Plays the story; returns what was not as expected.
pub(super) fn play(pace: Pace) -> Result<anyhow::Result<Vec<String>>, CannotBegin> {
    let teller = Arc::new(Teller::new(pace));
    let cast = Cast::new().map_err(CannotBegin)?;
    let keeper = Keeper::start(&cast.server, BASE).map_err(CannotBegin)?;
    println!(
        "Keepstate in the kernel. Three network namespaces of this demo's own:\n\
         client {CLIENT} -- server {SERVER} | {SERVER_OUTSIDE} -- attacker 203.0.113.66"
    );
    teller.scene("The server has started Keepstate with the base template (examples/base.sh)");
    let story = || -> anyhow::Result<Vec<String>> {
        server_story(&teller, &cast, keeper)?;
        gateway_story(&teller)?;
        Ok(teller.missed())
    };
    Ok(story())
}

/// Who takes part in the first story.
struct Cast {
    client: Party,
    server: Party,
    attacker: Party,
}

impl Cast {
    fn new() -> anyhow::Result<Self> {
        let cast = Self {
            client: Party::new("client")?,
            server: Party::new("server")?,
            attacker: Party::new("attacker")?,
        };
        let Self {
            client,
            server,
            attacker,
        } = &cast;
        client.connect(
            ("to-server", "10.0.0.5/24"),
            server,
            ("to-client", "10.0.0.1/24"),
        )?;
        let outside = ("to-attacker", "203.0.113.1/24");
        attacker.connect(("to-server", "203.0.113.66/24"), server, outside)?;
        attacker.route_by("203.0.113.1")?;
        Ok(cast)
    }
}

fn server_story(teller: &Arc<Teller>, cast: &Cast, mut keeper: Keeper<'_>) -> anyhow::Result<()> {
    for rule in BASE
        .lines()
        .filter(|line| line.starts_with("iptables -P") || line.starts_with("iptables -A"))
    {
        teller.faint(rule);
    }
    let status = keeper.status()?;
    for attachment in &status.interfaces {
        let (ingress, egress) = (&attachment.ingress, &attachment.egress);
        teller.say(&format!(
            "{}: in by {ingress}, out by {egress}",
            attachment.name
        ));
    }
    let both = status.interfaces.len() == 2;
    teller.expect("both interfaces are watched", holds(both, "they are not"));
    let watch = keeper.watch(teller)?;
    cast.server
        .run(|| programs::serve_echo(Ipv4Addr::UNSPECIFIED, SSH))??;
    cast.client
        .run(|| programs::serve_datagrams(CLIENT, DNS))??;

    teller.scene("A client opens a TCP connection to port 22: a rule lets the first packet in");
    let opened = cast.client.run(|| {
        let mut talk = Conversation::open(SERVER, SSH)?;
        talk.say("hello")?;
        let port = talk.port()?;
        Ok::<_, std::io::Error>((talk, port))
    })?;
    let (mut talk, port) = opened.context("the client cannot connect to port 22")?;
    teller.expect("the client and the server talk", Ok(()));

    what_the_server_asks(teller, cast, &watch)?;
    port_scan(teller, cast, &watch)?;
    forgeries(teller, cast, &watch, port)?;
    let still = talk.say("still there?").map_err(|error| error.to_string());
    teller.expect("the client's connection does not notice", still);

    teller.scene("The flow table, in the words of conntrack -L");
    print_flows(teller, &keeper)?;

    teller.scene("The daemon is killed (kill -9): the programs in the kernel go on");
    keeper.kill()?;
    let still = talk.say("and now?").map_err(|error| error.to_string());
    teller.expect("the client's connection does not notice", still);
    let scanned = cast
        .attacker
        .run(|| programs::scan(SERVER_OUTSIDE, &[HTTP]))?;
    teller.expect(
        "port 80 is still closed",
        holds(scanned.is_empty(), "it is open"),
    );
    keeper.start_again()?;
    let status = keeper.status()?;
    let has_rules = status
        .policy
        .as_ref()
        .is_some_and(|policy| policy.rules.is_some());
    let adopted = holds(
        status.adopted && has_rules,
        "it did not find programs and rules",
    );
    teller.expect("a new daemon takes over programs, rules and flows", adopted);
    let flows = keeper.flows()?;
    let is_kept = flows
        .iter()
        .any(|flow| flow.original.source_port == Some(port));
    teller.expect("the flow is the same one", holds(is_kept, "it is gone"));

    teller.scene("What became of the packets");
    for (reason, count) in &status.traffic.reasons {
        teller.say(&format!("{count:>5}  {reason}"));
    }
    Ok(())
}

fn what_the_server_asks(teller: &Arc<Teller>, cast: &Cast, watch: &Watch) -> anyhow::Result<()> {
    teller.scene("The server asks by UDP: the answer is let in because the question is remembered");
    let asked = cast
        .server
        .run(|| programs::ask_datagram(CLIENT, DNS, Duration::from_secs(5)))?;
    teller.expect(
        "the answer arrives",
        asked.map_err(|error| error.to_string()),
    );
    let mark = watch.mark();
    let unasked = cast
        .attacker
        .run(|| programs::ask_datagram(SERVER_OUTSIDE, 5353, PATIENCE))?;
    let dropped = drops(watch, mark, 1, "policy_drop");
    teller.expect("a datagram that nobody asked for is dropped", dropped);
    teller.expect(
        "and is not answered",
        holds(unasked.is_err(), "it is answered"),
    );

    teller.scene("The server pings the client, and the client the server");
    let answers = cast
        .server
        .run(|| programs::ping(CLIENT, 2, Duration::from_secs(5)))??;
    teller.expect(
        "the server gets its answers",
        holds(answers == 2, format!("{answers} of 2")),
    );
    let mark = watch.mark();
    let answers = cast.client.run(|| programs::ping(SERVER, 1, PATIENCE))??;
    let dropped = drops(watch, mark, 1, "policy_drop");
    teller.expect("the client's ping is dropped: no rule lets it in", dropped);
    teller.expect("and is not answered", holds(answers == 0, "it is answered"));
    Ok(())
}

fn port_scan(teller: &Arc<Teller>, cast: &Cast, watch: &Watch) -> anyhow::Result<()> {
    teller.scene("An attacker scans ports");
    let mark = watch.mark();
    let ports: Vec<u16> = CLOSED_PORTS.into_iter().chain([SSH]).collect();
    let open = cast
        .attacker
        .run(move || programs::scan(SERVER_OUTSIDE, &ports))?;
    let only_ssh = holds(open == [SSH], format!("open: {open:?}"));
    teller.expect("only port 22 answers", only_ssh);
    let dropped = drops(watch, mark, CLOSED_PORTS.len(), "policy_drop");
    teller.expect("each other port is dropped by the policy", dropped);
    Ok(())
}

fn forgeries(teller: &Arc<Teller>, cast: &Cast, watch: &Watch, port: u16) -> anyhow::Result<()> {
    // The connection's numbers are random, and a segment from far behind may pass as an old one:
    // of four numbers a quarter of the circle apart, one at least is far ahead.
    const FAR: u32 = 0x3000_0000;
    const QUARTERS: [u32; 4] = [0, 1 << 30, 2 << 30, 3 << 30];
    teller.scene("The attacker sends segments in the client's name");
    let forged = |flags, payload: &[u8]| Tcp {
        source_port: port,
        destination_port: SSH,
        sequence: FAR,
        acknowledgement: if flags & ACK == 0 { 0 } else { FAR },
        flags,
        window: 1024,
        payload: payload.to_vec(),
        ..Tcp::default()
    };
    let damaged = Tcp {
        source_port: port.wrapping_add(1),
        flags: SYN,
        acknowledgement: 0,
        ..forged(SYN, b"")
    };
    let attempts = [
        (
            "an ACK with wrong numbers is INVALID",
            forged(PSH | ACK, b"rm -rf /\n"),
            Checksum::Right,
        ),
        (
            "a RST with wrong numbers is INVALID",
            forged(RST, b""),
            Checksum::Right,
        ),
        (
            "a FIN with wrong numbers is INVALID",
            forged(FIN | ACK, b""),
            Checksum::Right,
        ),
        ("a damaged SYN is INVALID", damaged, Checksum::Wrong),
    ];
    for (what, segment, checksum) in attempts {
        let mark = watch.mark();
        for quarter in QUARTERS {
            let segment = Tcp {
                sequence: segment.sequence.wrapping_add(quarter),
                ..segment.clone()
            };
            let packet = Packet {
                checksum,
                ..Packet::new(IpAddr::V4(CLIENT), IpAddr::V4(SERVER), Body::Tcp(segment))
            };
            cast.attacker.run(move || programs::send_raw(&packet))??;
        }
        let is_wanted = |event: &Event| {
            let packet = event.packet.as_ref();
            event.kind == EventKind::Drop && packet.is_some_and(|packet| packet.state == "INVALID")
        };
        let dropped = watch.wait_for(mark, 1, is_wanted);
        teller.expect(&format!("{what}, and dropped"), dropped.map(drop));
    }
    Ok(())
}

fn gateway_story(teller: &Arc<Teller>) -> anyhow::Result<()> {
    teller
        .scene("A gateway (examples/gateway.sh): the inner network may ask, the outer may answer");
    let inside = Party::new("inside")?;
    let router = Party::new("router")?;
    let outside = Party::new("outside")?;
    inside.connect(
        ("to-router", "192.168.1.10/24"),
        &router,
        ("inner", "192.168.1.1/24"),
    )?;
    outside.connect(
        ("to-router", "198.51.100.80/24"),
        &router,
        ("outer", "198.51.100.1/24"),
    )?;
    inside.route_by("192.168.1.1")?;
    outside.route_by("198.51.100.1")?;
    router.sysctl("net/ipv4/ip_forward", "1")?;
    teller.say(&format!("inside {INSIDE} -- router -- {OUTSIDE} outside"));
    let keeper = Keeper::start(&router, GATEWAY)?;
    let watch = keeper.watch(teller)?;
    outside.run(|| programs::serve_echo(OUTSIDE, HTTP))??;
    inside.run(|| programs::serve_echo(INSIDE, SSH))??;

    let reached = inside.run(|| Conversation::open(OUTSIDE, HTTP)?.say("GET /"))?;
    let reached = reached.map_err(|error| error.to_string());
    teller.expect(
        "from inside to outside: a new connection passes, and its answers",
        reached,
    );
    let answers = inside.run(|| programs::ping(OUTSIDE, 2, Duration::from_secs(5)))??;
    teller.expect(
        "so does a ping",
        holds(answers == 2, format!("{answers} of 2 answers")),
    );
    let mark = watch.mark();
    let open = outside.run(|| programs::scan(INSIDE, &[SSH]))?;
    let closed = holds(open.is_empty(), "it is reached");
    teller.expect("from outside to inside: a new connection does not", closed);
    let dropped = watch.wait_for(mark, 1, |event| {
        let packet = event.packet.as_ref();
        packet.is_some_and(|packet| packet.chain.as_deref() == Some("FORWARD"))
    });
    teller.expect("the chain FORWARD dropped it", dropped.map(drop));
    print_flows(teller, &keeper)
}

fn print_flows(teller: &Teller, keeper: &Keeper<'_>) -> anyhow::Result<()> {
    let flows = keeper.flows()?;
    for flow in &flows {
        teller.say(&flow.to_listing().conntrack().to_string());
    }
    teller.expect(
        "there are flows",
        holds(!flows.is_empty(), "the table is empty"),
    );
    Ok(())
}

/// Waits for drops with a reason.
fn drops(watch: &Watch, mark: usize, count: usize, reason: &str) -> Result<(), String> {
    let is_wanted = |event: &Event| {
        let packet = event.packet.as_ref();
        let named = packet.and_then(|packet| packet.reason.as_deref());
        event.kind == EventKind::Drop && named == Some(reason)
    };
    watch.wait_for(mark, count, is_wanted).map(drop)
}
