//! The story without rights: packets that are made here, judged by the engine in this process.

use keepstate_engine::settings::SETTING_ACCOUNTING;
use keepstate_engine::verdict::Verdict;
use keepstate_policy::{FileKind, compile, parse_rules};
use keepstate_sim::capture::{Frame, LinkType};
use keepstate_sim::expression::describe;
use keepstate_sim::locals::Locals;
use keepstate_sim::replay::{Judged, Options, Replay};
use keepstate_sim::story::{self, Scene};

use super::stage::BASE;
use super::teller::{Pace, Teller, holds};
use crate::output::Paint;
use crate::rules::loaded;

/// Plays the story; returns what was not as expected.
pub(super) fn play(pace: Pace) -> anyhow::Result<Vec<String>> {
    let teller = Teller::new(pace);
    println!(
        "Keepstate in user space: the same engine, over a capture that comes with it.\n\
         The server is {}, and has the rules of examples/base.sh.",
        story::SERVER
    );
    let parsed = parse_rules(BASE, FileKind::Detect);
    let policy = parsed
        .into_policy()
        .map_err(|_| anyhow::anyhow!("the rules that come with the demo have errors"))?;
    let options = Options {
        policy: loaded(Some(&compile(&policy)?)),
        locals: Locals::new(vec![story::SERVER.to_string().parse()?]),
        ..Options::default()
    };
    let mut settings = options.settings();
    settings.flags |= SETTING_ACCOUNTING;
    let table = Options::table(&settings);
    let mut replay = Replay::new(&table, settings, options, ());
    let mut scene = None;
    let mut passed = Passed::default();
    let mut question_was_dropped = false;
    for (number, frame) in (1..).zip(story::frames()) {
        // A ping that did not arrive is not answered.
        if frame.scene == Scene::Ping && question_was_dropped {
            question_was_dropped = false;
            continue;
        }
        if scene != Some(frame.scene) {
            scene = Some(frame.scene);
            teller.scene(frame.scene.sentence());
        }
        let data = frame.packet.ethernet();
        let frame_in_story = frame.scene;
        let frame = Frame {
            number,
            time_ns: Some(frame.time_ns),
            link: LinkType::ETHERNET,
            data: &data,
            original_length: data.len() as u32,
        };
        let judged = replay.judge(&frame);
        passed.count(frame_in_story, &judged);
        question_was_dropped = judged.outcome.verdict != Verdict::Accept;
        tell(&teller, &judged, &describe(&frame));
    }
    teller.scene("The flow table, in the words of conntrack -L");
    for flow in replay.flows() {
        teller.say(&flow.conntrack().to_string());
    }
    teller.scene("What became of the packets");
    for (reason, count) in &replay.totals().reasons {
        teller.say(&format!("{count:>5}  {}", reason.name()));
    }
    passed.judge(&teller);
    Ok(teller.missed())
}

fn tell(teller: &Teller, judged: &Judged, packet: &str) {
    let outcome = &judged.outcome;
    let paint = match outcome.verdict {
        Verdict::Accept => Paint::Good,
        Verdict::Drop | Verdict::Reject => Paint::Bad,
    };
    let verdict = teller
        .colour()
        .paint(paint, format!("{:<6}", outcome.verdict.name()));
    let reason = outcome.reason.map_or("", |reason| reason.name());
    let state = outcome.state.name();
    teller.say(&format!("{verdict} {state:<11} {packet}  {reason}"));
}

/// Which scenes let a packet of theirs pass, and which lost one.
#[derive(Default)]
struct Passed {
    accepted: Vec<Scene>,
    dropped: Vec<Scene>,
}

impl Passed {
    fn count(&mut self, scene: Scene, judged: &Judged) {
        match judged.outcome.verdict {
            Verdict::Accept => self.accepted.push(scene),
            Verdict::Drop | Verdict::Reject => self.dropped.push(scene),
        }
    }

    fn judge(&self, teller: &Teller) {
        for scene in [Scene::Login, Scene::NameLookup] {
            let all = !self.dropped.contains(&scene);
            teller.expect(
                &format!("{scene:?}: every packet passes"),
                holds(all, "one was dropped"),
            );
        }
        for scene in [
            Scene::PortScan,
            Scene::ForgedSegments,
            Scene::DamagedPackets,
        ] {
            let none = !self.accepted.contains(&scene);
            teller.expect(
                &format!("{scene:?}: no packet passes"),
                holds(none, "one passed"),
            );
        }
    }
}
