//! Lines that kernels wrote for such packets, taken apart by nf_log_syslog's own rules.

use super::*;

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal
        .bytes()
        .filter(|byte| byte.is_ascii_hexdigit())
        .collect();
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).unwrap();
        u8::from_str_radix(text, 16).unwrap()
    };
    digits.chunks(2).map(pair).collect()
}

const LINK: &str = "001122334455 66778899aabb 0800";
const SYN: &str = "4510 003c 1234 4000 4006 0000 0a000005 0a000001 c350 0016 01020304 00000000 \
                   a002 faf0 0000 0000 0204 05b4 0402 080a 0000 0001 0000 0000 0103 0307";

fn line(family: Family, link: &str, packet: &str, flags: u8, mark: u32) -> String {
    let (link, packet) = (bytes(link), bytes(packet));
    let logged = LoggedPacket {
        prefix: "drop: ",
        incoming: "eth0",
        outgoing: "",
        flags,
        mark,
        family,
        link: &link,
        packet: &packet,
        length: packet.len(),
    };
    logged.to_string()
}

#[test]
fn a_segment_is_told_of_as_the_kernel_does() {
    assert_eq!(
        line(Family::V4, LINK, SYN, 0, 0),
        "drop: IN=eth0 OUT= MAC=00:11:22:33:44:55:66:77:88:99:aa:bb:08:00 SRC=10.0.0.5 DST=10.0.0.1 \
         LEN=60 TOS=0x10 PREC=0x00 TTL=64 ID=4660 DF PROTO=TCP SPT=50000 DPT=22 WINDOW=64240 \
         RES=0x00 SYN URGP=0 "
    );
    assert_eq!(
        line(Family::V4, LINK, SYN, 0x2f, 5),
        "drop: IN=eth0 OUT= MACSRC=66:77:88:99:aa:bb MACDST=00:11:22:33:44:55 MACPROTO=0800 \
         SRC=10.0.0.5 DST=10.0.0.1 LEN=60 TOS=0x10 PREC=0x00 TTL=64 ID=4660 DF PROTO=TCP SPT=50000 \
         DPT=22 SEQ=16909060 ACK=0 WINDOW=64240 RES=0x00 SYN URGP=0 \
         OPT (020405B40402080A000000010000000001030307) MARK=0x5 "
    );
}

#[test]
fn an_error_shows_what_it_quotes() {
    let error = "45c0 0038 0001 0000 4001 0000 0a000001 0a000005 0303 0000 0000 0000 \
                 4500 001d 0002 0000 4011 0000 0a000005 0a000001 0400 0035 0009 0000";
    assert_eq!(
        line(Family::V4, "", error, 0, 0),
        "drop: IN=eth0 OUT= MAC= SRC=10.0.0.1 DST=10.0.0.5 LEN=56 TOS=0x00 PREC=0xC0 TTL=64 ID=1 \
         PROTO=ICMP TYPE=3 CODE=3 [SRC=10.0.0.5 DST=10.0.0.1 LEN=29 TOS=0x00 PREC=0x00 TTL=64 ID=2 \
         PROTO=UDP SPT=1024 DPT=53 LEN=9 ] "
    );
}

#[test]
fn later_fragments_have_no_ports() {
    let later = "4500 0020 0007 2003 4011 0000 0a000005 0a000001 0400 0035 0009 0000 00000000";
    assert!(line(Family::V4, "", later, 0, 0).ends_with("ID=7 MF FRAG:3 PROTO=UDP "));
}

#[test]
fn addresses_of_ipv6_have_all_their_zeros() {
    let ping = "60012345 0010 3a ff 20010db8000000000000000000000005 \
                20010db8000000000000000000000001 8000 0000 0007 0001 0000000000000000";
    assert_eq!(
        line(Family::V6, LINK, ping, 0, 0),
        "drop: IN=eth0 OUT= MAC=00:11:22:33:44:55:66:77:88:99:aa:bb:08:00 \
         SRC=2001:0db8:0000:0000:0000:0000:0000:0005 DST=2001:0db8:0000:0000:0000:0000:0000:0001 \
         LEN=56 TC=0 HOPLIMIT=255 FLOWLBL=74565 PROTO=ICMPv6 TYPE=128 CODE=0 ID=7 SEQ=1 "
    );
}

#[test]
fn what_is_cut_says_so_and_never_panics() {
    let whole = bytes(SYN);
    for end in 0..whole.len() {
        let logged = LoggedPacket {
            prefix: "",
            incoming: "",
            outgoing: "eth1",
            flags: 0x2f,
            mark: 1,
            family: Family::V4,
            link: &[],
            packet: &whole[..end],
            length: end,
        };
        let text = logged.to_string();
        assert!(text.starts_with("IN= OUT=eth1 "), "{text}");
        let is_cut = text.ends_with("bytes] ") || text.contains("TRUNCATED");
        assert!(is_cut, "{text}");
    }
}
