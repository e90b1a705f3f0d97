//! `-h`.

use std::io::{self, Write};

use super::invocation::Invocation;
use super::protocol::Kind;
use crate::output::stdout;

const COMMANDS: &str = "\
Lists and edits the connections that Keepstate tracks, with the command line of conntrack 1.4.7.
Usage: conntrack COMMAND [TABLE] [OPTIONS]

Commands:
  -L, --dump       list flows                  -F, --flush    remove all flows
  -G, --get        show one flow               -E, --event    tell what happens
  -D, --delete     remove flows                -C, --counter  number of flows
  -I, --create     make a flow                 -S, --stats    counters of the tracker
  -A, --add        make a flow if there is none
  -U, --update     change flows                -R, --load-file FILE  commands of a file

Tables: conntrack, expect, dying, unconfirmed

Options that say which flows, or what a new one is like:
  -s, --src ADDRESS[/PREFIX]     -d, --dst ADDRESS[/PREFIX]    of the original direction
  --mask-src MASK                --mask-dst MASK
  -r, --reply-src ADDRESS        -q, --reply-dst ADDRESS       of the reply direction
  -p, --protonum PROTOCOL        -f, --family ipv4|ipv6
  -u, --status STATUS[,...]      ASSURED, SEEN_REPLY, FIXED_TIMEOUT, UNREPLIED, !STATUS
  -m, --mark MARK[/MASK]         -w, --zone ZONE
  -l, --label LABEL[,...]        by the names of /etc/xtables/connlabel.conf
  -t, --timeout SECONDS          -i, --id ID
  -n, --src-nat, -g, --dst-nat, -j, --any-nat, -c, --secmark, --orig-zone, --reply-zone

Other options:
  -o, --output FORM[,...]        extended, id, ktimestamp, labels, timestamp, userspace, xml, save, json
  --label-add LABEL[,...]        with -I, -A, -U: set labels
  --label-del [LABEL[,...]]      with -U: clear these, or all
  -z, --zero                     with -L: set counters to zero
  -e, --event-mask EVENT[,...]   with -E: ALL, NEW, UPDATES, DESTROY
  -b, --buffer-size BYTES        with -E: for events that wait to be printed

Options of -I expect, beside -s, -d, -p and -t, which name the flow that expects:
  --tuple-src ADDRESS[/PREFIX]   --tuple-dst ADDRESS           the packet that is expected
  --mask-src MASK                --mask-dst MASK

The daemon is the one called $KEEPSTATE_INSTANCE, or default.
";

pub(super) fn print(invocation: &Invocation) -> io::Result<()> {
    let mut out = stdout();
    out.write_all(COMMANDS.as_bytes())?;
    let Some(protocol) = invocation.protocol else {
        return out.flush();
    };
    writeln!(out, "\nOptions of the protocol:")?;
    let names: Vec<&str> = Kind::of(protocol).longs().map(|long| long.name).collect();
    if names.is_empty() {
        writeln!(out, "  none")?;
    }
    for name in names {
        writeln!(out, "  --{name}")?;
    }
    out.flush()
}
