use keepstate_api::{
    ApplyMode, Client, Reply, Request, RuleFamily, SetChange, SetCommand, SetEntry, SetInfo,
};
use keepstate_engine::time::Tick;

use super::super::tests::Bench;

fn create(name: &str, kind: &str, timeout: Option<u32>) -> SetCommand {
    SetCommand::Create(SetInfo {
        name: name.into(),
        kind: kind.into(),
        hashsize: 100,
        maxelem: 3,
        timeout,
        ..SetInfo::default()
    })
}

fn change(set: &str, entry: &str) -> SetChange {
    SetChange {
        set: set.into(),
        entry: entry.into(),
        ..SetChange::default()
    }
}

/// What a command says: what a test found, or an error.
fn run_with(client: &mut Client, command: SetCommand, exist: bool) -> Result<bool, String> {
    let commands = vec![command];
    match client.ask(&Request::Sets { commands, exist }).unwrap() {
        Reply::SetsDone {
            failure: Some(failure),
            ..
        } => Err(failure),
        Reply::SetsDone { found, .. } => Ok(found.unwrap_or(false)),
        other => panic!("{other:?}"),
    }
}

fn run(client: &mut Client, command: SetCommand) -> Result<bool, String> {
    run_with(client, command, false)
}

fn entries(client: &mut Client, name: &str) -> Vec<SetEntry> {
    let name = Some(name.to_owned());
    client
        .send(&Request::ListSets { name, terse: false })
        .unwrap();
    let mut all = Vec::new();
    loop {
        match client.reply().unwrap() {
            Reply::Set(_) => {}
            Reply::SetEntries { entries } => all.extend(entries),
            Reply::FlowsEnd { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    all.sort_by(|a, b| a.entry.cmp(&b.entry));
    all
}

#[test]
fn sets_come_change_and_go() {
    use SetCommand::{Add, Del, Destroy, Rename, Swap, Test};
    let bench = Bench::new();
    let client = &mut bench.client();
    run(client, create("a", "hash:ip", Some(10))).unwrap();
    run(client, create("b", "hash:ip", None)).unwrap();
    let refused = run(client, create("a", "hash:ip", None)).unwrap_err();
    assert!(refused.contains("already exists"), "{refused}");
    run_with(client, create("a", "hash:ip", Some(10)), true).unwrap();
    run(client, Add(change("a", "10.0.0.1-10.0.0.2"))).unwrap();
    assert!(run(client, Add(change("a", "10.0.0.1"))).is_err());
    assert!(run(client, Del(change("a", "10.0.0.9"))).is_err());
    let forever = SetChange {
        timeout: Some(0),
        ..change("a", "10.0.0.3")
    };
    run(client, Add(forever)).unwrap();
    let full = run(client, Add(change("a", "10.0.0.4"))).unwrap_err();
    assert!(full.contains("full"), "{full}");
    assert_eq!(run(client, Test(change("a", "10.0.0.2"))), Ok(true));
    assert_eq!(run(client, Test(change("b", "10.0.0.2"))), Ok(false));
    // What is over makes room.
    bench.plane.set_clock(Tick(10 * 16));
    assert_eq!(run(client, Test(change("a", "10.0.0.2"))), Ok(false));
    run(client, Add(change("a", "10.0.0.4"))).unwrap();
    let left: Vec<_> = entries(client, "a")
        .into_iter()
        .map(|entry| (entry.entry, entry.timeout))
        .collect();
    let expected = [("10.0.0.3".into(), Some(0)), ("10.0.0.4".into(), Some(10))];
    assert_eq!(left, expected);
    let (from, to) = ("a".to_owned(), "b".to_owned());
    run(client, Swap { from, to }).unwrap();
    assert_eq!(run(client, Test(change("b", "10.0.0.4"))), Ok(true));
    let (from, to) = ("a".to_owned(), "c".to_owned());
    run(client, Rename { from, to }).unwrap();
    assert!(run(client, Test(change("a", "10.0.0.4"))).is_err());
    run(client, Destroy { set: None }).unwrap();
    assert!(run(client, Test(change("b", "10.0.0.4"))).is_err());
    // Contents went their own ways: a new set begins empty all the same.
    run(client, create("d", "hash:ip", None)).unwrap();
    assert_eq!(entries(client, "d"), []);
}

#[test]
fn a_set_that_is_named_stays() {
    use SetCommand::{Add, Destroy, Rename};
    const RULES: &str = "*filter\n:INPUT ACCEPT [0:0]\n\
                         -A INPUT -m set --match-set list src -j DROP\nCOMMIT\n";
    let bench = Bench::new();
    let refused = bench.apply(RULES, RuleFamily::V4, ApplyMode::Swap);
    let Reply::Refused { problems } = refused else {
        panic!("{refused:?}");
    };
    let problem = &problems[0];
    assert_eq!((problem.line, problem.column), (3, 29));
    assert_eq!(problem.message, "Set list doesn't exist.");
    let client = &mut bench.client();
    run(client, create("list", "list:set", None)).unwrap();
    run(client, create("member", "hash:net", None)).unwrap();
    run(client, Add(change("list", "member"))).unwrap();
    assert!(run(client, Add(change("list", "list"))).is_err());
    let applied = bench.apply(RULES, RuleFamily::V4, ApplyMode::Swap);
    assert!(matches!(applied, Reply::Applied(_)), "{applied:?}");
    for set in ["list", "member"] {
        let set = Some(set.to_owned());
        assert!(run(client, Destroy { set }).is_err());
    }
    assert!(run(client, Destroy { set: None }).is_err());
    let (from, to) = ("list".to_owned(), "other".to_owned());
    assert!(run(client, Rename { from, to }).is_err());
    let set = Some("list".to_owned());
    assert!(run(client, Destroy { set: set.clone() }).is_err());
    let none = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n";
    bench.apply(none, RuleFamily::V4, ApplyMode::Swap);
    run(client, Destroy { set }).unwrap();
}
