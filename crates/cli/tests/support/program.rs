//! The program under test, in a namespace and for an instance of its own.

use std::process::Output;

use keepstate_testkit::Namespace;

pub(crate) const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");

/// Runs a command of the program to its end.
pub(crate) fn keepstate(namespace: &Namespace, instance: &str, arguments: &[&str]) -> Output {
    let mut command = namespace.command(KEEPSTATE);
    command.args(arguments).args(["--instance", instance]);
    command.output().expect("the program can be started")
}

/// What a command prints that has to succeed.
#[track_caller]
pub(crate) fn succeeds(namespace: &Namespace, instance: &str, arguments: &[&str]) -> String {
    let output = keepstate(namespace, instance, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}{wrong}");
    said
}
