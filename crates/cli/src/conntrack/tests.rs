use keepstate_api::{FlowStatus, Foreign, Unable};

use super::invocation::Invocation;
use super::options::Command;
use super::problem::{Problem, refusal};

fn parse(line: &str) -> Result<Invocation, Problem> {
    let words = std::iter::once("conntrack").chain(line.split_ascii_whitespace());
    let words: Vec<String> = words.map(str::to_owned).collect();
    Invocation::parse(&words, &mut |_| {})
}

#[track_caller]
fn complaint(line: &str) -> String {
    match parse(line) {
        Err(Problem::Usage(message)) => message,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn options_may_be_cut_short_joined_and_mixed() {
    for line in [
        "-L -p tcp --dport 80 -s 10.1",
        "--dump --protonum=tcp --dpor 80 --src 10.0.0.1",
        "-s10.1 -ptcp --orig-port-dst=80 -L",
        "x -s 0x0a000001 -p 6 --dport 80 -L conntrack y",
    ] {
        let invocation = parse(line).expect(line);
        assert_eq!(invocation.command, Some(Command::List), "{line}");
        assert_eq!(invocation.original.destination_port, Some(80), "{line}");
        let source = invocation
            .original
            .source
            .map(|address| address.to_string());
        assert_eq!(source.as_deref(), Some("10.0.0.1"), "{line}");
    }
}

#[test]
fn wrong_lines_are_complained_about_in_conntracks_words() {
    for (line, said) in [
        ("-L -Q", "unknown option `-Q'"),
        ("-QL", "unknown option `conntrack'"),
        ("-L --s 1", "unknown option `--s'"),
        ("-L --zero=1", "unknown option `--zero=1'"),
        ("-L -s", "option `-s' requires an argument"),
        ("-L -L", "Invalid commands combination"),
        ("-L foo", "unknown type `foo'"),
        ("-U expect", "Can't do --update on expectations"),
        ("-L -t 4", "Illegal option `--timeout' with this command"),
        ("-I -p udp -t 4", "you have to specify `--src' and `--dst'"),
        (
            "-G -s 1.1.1.1 -d 2.2.2.2",
            "You need to supply the `--protonum' option for this command",
        ),
        ("-L -s 1.2.3.4/40", "Invalid netmask"),
        (
            "-L -r 1.2.3.4/4",
            "CIDR notation unavailable for `--reply-src'",
        ),
        ("-L -s 1.2.3.4 -d ::1", "mismatched address family"),
        ("-L -o xml,", "Bad parameter `'"),
        ("-L -u ASSURED,x", "Bad parameter `x'"),
        ("-L -l x,y", "unknown label 'x'"),
        ("-L -p tcp --state up", "unknown TCP state `up'"),
    ] {
        assert_eq!(complaint(line), said, "{line}");
    }
}

#[test]
fn what_records_do_not_hold_fits_no_flow_or_is_refused() {
    for (line, foreign) in [
        ("-L -n", Foreign::Nat),
        ("-L -j 1.2.3.4", Foreign::Nat),
        ("-L --orig-zone 3", Foreign::DirectionZone),
        ("-L -c 3", Foreign::SecurityMark),
        ("-L -p dccp --state OPEN", Foreign::ProtocolDetail),
    ] {
        let filter = parse(line).and_then(|invocation| invocation.filter());
        assert_eq!(filter.expect(line).foreign, [foreign], "{line}");
    }
    let flow = "-I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 3";
    assert!(parse(flow).and_then(|made| made.new_flow()).is_ok());
    for more in [
        "-n 3.3.3.3",
        "--reply-zone 4",
        "-r 2.2.2.2 -q 3.3.3.3 --reply-port-src 2 --reply-port-dst 1",
    ] {
        let line = format!("{flow} {more}");
        match parse(&line).and_then(|made| made.new_flow()) {
            Err(Problem::Other(said)) => {
                assert!(said.ends_with(refusal(Unable::Unsupported)), "{said}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn statuses() {
    let status = parse("-L -u ass,!seen,UNSET,FIXED")
        .expect("it is right")
        .status;
    assert_eq!(status.set, [FlowStatus::Assured, FlowStatus::FixedTimeout]);
    assert_eq!(status.unset, [FlowStatus::SeenReply]);
    let status = parse("-L -u UNREPLIED").expect("it is right").status;
    assert_eq!((status.set.len(), status.unset.len()), (0, 1));
}
