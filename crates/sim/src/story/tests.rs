use keepstate_engine::verdict::{Reason, State};

use super::*;
use crate::capture::Reader;
use crate::replay::{Options, Replay};

/// State and reason of each frame of the story, replayed without rules.
fn played() -> Vec<(Scene, State, Option<Reason>)> {
    let options = Options::default();
    let settings = options.settings();
    let table = Options::table(&settings);
    let mut replay = Replay::new(&table, settings, options, ());
    let file = capture();
    let mut reader = Reader::new(file.as_slice()).expect("a capture");
    let mut played = Vec::new();
    for story in frames() {
        let frame = reader.next_frame().expect("it is whole").expect("a frame");
        let outcome = replay.judge(&frame).outcome;
        played.push((story.scene, outcome.state, outcome.reason));
    }
    played
}

#[track_caller]
fn check(scene: Scene, expected: &[(State, usize)]) {
    for (state, count) in expected {
        let played = played();
        let of_scene = played
            .iter()
            .filter(|(of, is, _)| *of == scene && is == state);
        assert_eq!(of_scene.count(), *count, "{scene:?} {state:?}: {played:?}");
    }
}

#[test]
fn what_belongs_to_a_connection_is_established() {
    check(
        Scene::Login,
        &[
            (State::New, 1),
            (State::Established, 16),
            (State::Invalid, 0),
        ],
    );
    check(
        Scene::NameLookup,
        &[(State::New, 1), (State::Established, 1)],
    );
    check(Scene::Ping, &[(State::New, 1), (State::Established, 3)]);
}

#[test]
fn what_is_forged_or_damaged_is_not() {
    check(Scene::PortScan, &[(State::New, 8), (State::Invalid, 3)]);
    // The unasked answer begins a flow of its own, which rules do not let in.
    check(
        Scene::ForgedSegments,
        &[
            (State::New, 1),
            (State::Invalid, 5),
            (State::Established, 0),
        ],
    );
    check(Scene::DamagedPackets, &[(State::Invalid, 2)]);
}

#[test]
fn times_only_go_forward() {
    let frames = frames();
    assert!(frames.is_sorted_by_key(|frame| frame.time_ns));
    assert!(
        Scene::ALL
            .iter()
            .all(|scene| frames.iter().any(|frame| frame.scene == *scene))
    );
}
