use super::options::{Options, Show, Task, parse};

fn task(words: &[&str]) -> Task {
    let program = std::iter::once("sysctl");
    let arguments: Vec<String> = program
        .chain(words.iter().copied())
        .map(str::to_owned)
        .collect();
    parse(&arguments)
}

#[track_caller]
fn options(words: &[&str]) -> Options {
    match task(words) {
        Task::Run(options) => options,
        _ => panic!("{words:?} does something else"),
    }
}

#[test]
fn options_are_found_as_the_c_library_does() {
    let found = options(&["a=1", "-nq", "b", "--", "-c"]);
    assert_eq!(found.words, ["a=1", "b", "-c"]);
    assert!(found.quiet && found.show == Show::Values);
    assert_eq!(options(&["-N", "-n"]).show, Show::Names);
    assert_eq!(options(&["-pfile"]).load, Some(Some("file".to_owned())));
    let found = options(&["-p", "file"]);
    assert_eq!(
        (found.load, found.words),
        (Some(None), vec!["file".to_owned()])
    );
    assert!(options(&["--dry", "--pat", "x"]).pattern.is_some());
    assert!(matches!(task(&["--sys", "--nonsense"]), Task::System(_)));
    assert!(matches!(task(&["-qV"]), Task::Version));
}

#[test]
fn wrong_options_are_named_as_the_c_library_does() {
    for (words, message) in [
        (&["-Z"][..], "invalid option -- 'Z'"),
        (&["-r"], "option requires an argument -- 'r'"),
        (&["--nonsense"], "unrecognized option '--nonsense'"),
        (&["--pattern"], "option '--pattern' requires an argument"),
        (&["--all=3"], "option '--all' doesn't allow an argument"),
        (
            &["--v"],
            "option '--v' is ambiguous; possibilities: '--values' '--version'",
        ),
    ] {
        match task(words) {
            Task::Wrong(said) => assert_eq!(said, message),
            _ => panic!("{words:?} is taken"),
        }
    }
}
