//! A firewall in a namespace, and a peer at the other end of its wire.

use keepstate_testkit::{Namespace, workspace_root};

use super::program;

pub(crate) struct Bench {
    pub(crate) namespace: Namespace,
    pub(crate) peer: Namespace,
    pub(crate) instance: String,
}

impl Bench {
    /// With the base example's rules, and more arguments of `up`.
    #[track_caller]
    pub(crate) fn up(label: &str, more: &[&str]) -> Self {
        let namespace = Namespace::new(label);
        let peer = Namespace::new("peer");
        peer.connect("outer", &namespace, "inner");
        namespace.address("inner", "10.9.0.1/24");
        peer.address("outer", "10.9.0.2/24");
        let bench = Self {
            namespace,
            peer,
            instance: format!("test-{}-{label}", std::process::id()),
        };
        let rules = workspace_root().join("examples/base.sh");
        let rules = rules.display().to_string();
        let arguments = ["up", "-i", "inner", "--rules", &rules];
        bench.succeeds(&[&arguments[..], more].concat());
        bench
    }

    #[track_caller]
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.namespace, &self.instance, arguments)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        program::keepstate(&self.namespace, &self.instance, &["down"]);
    }
}
