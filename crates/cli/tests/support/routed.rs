//! A client and a server, each on a wire of its own to the gateway between them.

use keepstate_testkit::Namespace;

/// Client, gateway and server. The client's wire is 10.NETWORK.1.0/24 and fdNETWORK:1::/64, the server's has a 2 in place
/// of the 1; the gateway has the first address of each, by these devices.
pub(crate) fn routed(network: u8, [outer, inner]: [&str; 2]) -> [Namespace; 3] {
    let [client, gateway, server] = ["client", "gateway", "server"].map(Namespace::new);
    for (wire, host, device) in [(1, &client, outer), (2, &server, inner)] {
        host.connect("eth0", &gateway, device);
        let (v4, v6) = (
            format!("10.{network}.{wire}"),
            format!("fd{network}:{wire}"),
        );
        for (host, device, number) in [(host, "eth0", 2), (&gateway, device, 1)] {
            host.address(device, &format!("{v4}.{number}/24"));
            host.address(device, &format!("{v6}::{number}/64"));
        }
        host.route(&["default", "via", &format!("{v4}.1")]);
        host.route(&["default", "via", &format!("{v6}::1")]);
    }
    gateway.sysctl("net.ipv4.ip_forward", "1");
    gateway.sysctl("net.ipv6.conf.all.forwarding", "1");
    [client, gateway, server]
}
