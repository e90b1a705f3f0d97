//! A daemon over a table of a million flows in plain memory, with counters and a clock that runs: what screens and
//! lists cost can be tried against it. Every fourth flow is half open. It runs until it is killed.
//!
//! ```text
//! cargo run --release -p keepstate-daemon --example crowd -- SOCKET [FLOWS]
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keepstate_daemon::server::memory::MemoryPlane;
use keepstate_daemon::server::{Access, Origin, Plane as _, Rules, Server};
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::record::{ASSURED, Record, SEEN_REPLY, Warm};
use keepstate_engine::settings::SETTING_ACCOUNTING;
use keepstate_engine::table::{self, Displaced, HalfOpen, NewFlow, Opening};
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::{Family, Tuple};

const DAY_SECONDS: u32 = 86_400;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().expect("the path of the socket to make");
    let flows = arguments.next();
    let flows = flows.map_or(1_000_000, |text| text.parse().expect("a number"));
    let plane = Arc::new(MemoryPlane::new(flows));
    let mut settings = plane.settings();
    settings.flags |= SETTING_ACCOUNTING;
    plane.store_settings(&settings);
    for flow in 0..flows {
        insert(&plane, flow);
    }
    let socket = PathBuf::from(socket);
    let directory = socket.parent().expect("a file lies in a directory");
    std::fs::create_dir_all(directory).expect("a directory can be made");
    let rules = Arc::new(Rules::new(directory.to_owned()));
    let instance = "crowd".parse().expect("it is a name");
    let shown: Arc<MemoryPlane> = Arc::clone(&plane);
    let _server = Server::start(instance, &socket, shown, rules, Origin::Fresh, Access::ROOT);
    let _server = _server.expect("the server starts");
    eprintln!("{flows} flows on {}", socket.display());
    let begun = Instant::now();
    loop {
        let ticks = begun.elapsed().as_millis() as u64 * u64::from(TICKS_PER_SECOND) / 1000;
        plane.set_clock(Tick(ticks as u32));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn insert(plane: &MemoryPlane, flow: u32) {
    let table = plane.table();
    let (memory, settings) = (table.flows(), plane.settings());
    let is_half_open = flow % 4 == 3;
    // A tenth of all flows has one source; the others are spread by squares modulo a prime.
    let spread = (u64::from(flow).pow(2) % 65_521) as u32;
    let source = 0x0a00_0000 + if flow.is_multiple_of(10) { 9 } else { spread };
    let tuple = Tuple {
        family: Family::V4,
        source: [source, 0, 0, 0],
        destination: [0xc000_0200 + flow % 7, 0, 0, 0],
        source_port: 1024 + (flow / 16) as u16 % 64_000,
        destination_port: [443, 80, 22, 53][flow as usize % 4],
        protocol: 6,
        zone: (flow % 16) as u16,
    };
    let oriented = tuple.orient();
    let record = Record {
        deadline: Tick((DAY_SECONDS + flow % DAY_SECONDS) * TICKS_PER_SECOND),
        status: if is_half_open {
            0
        } else {
            SEEN_REPLY | ASSURED
        },
        tcp_state: if is_half_open {
            TcpState::SynSent
        } else {
            TcpState::Established
        },
        ..Record::EMPTY
    };
    let half_open = if is_half_open {
        HalfOpen::Yes
    } else {
        HalfOpen::No
    };
    let new = NewFlow {
        key: &oriented.key,
        hash: &table.hash(&oriented.key, &settings),
        record: &record,
        warm: &Warm::default(),
        half_open,
        opening: Opening {
            packets: 1 + u64::from(flow % 1000),
            bytes: 60 + u64::from(flow).pow(2) % 10_000_019,
            start: 0,
        },
    };
    let mut displaced = Displaced::NOTHING;
    // Where two flows have one name, the second is none.
    let _ = table::insert(&memory, &new, &settings, Tick(0), &mut displaced);
}
