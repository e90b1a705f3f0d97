//! A firewall with the same rules for both families.

use std::path::PathBuf;

use keepstate_testkit::Namespace;

use super::program;

/// Starts it on these interfaces. `ICMP` in the rules is each family's own protocol. Returns the directory of
/// its files, which is the caller's to remove.
#[track_caller]
pub(crate) fn up(host: &Namespace, instance: &str, interfaces: &[&str], rules: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(instance);
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let files = [("v4", "icmp"), ("v6", "ipv6-icmp")].map(|(name, protocol)| {
        let file = directory.join(name);
        std::fs::write(&file, rules.replace("ICMP", protocol)).expect("rules can be written");
        file.display().to_string()
    });
    let mut arguments = vec!["up", "--rules", &files[0], "--rules6", &files[1]];
    for interface in interfaces {
        arguments.extend(["--interface", interface]);
    }
    program::succeeds(host, instance, &arguments);
    directory
}
