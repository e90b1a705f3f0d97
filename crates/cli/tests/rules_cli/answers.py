"""Sends packets of fixed bytes and prints what answers them, but for what the kernel chooses at random."""

import socket
import struct
import sys
import time

OWN4, PEER4 = "10.9.0.2", "10.9.0.1"
OWN6, PEER6 = "fd00::2", "fd00::1"


def total(data):
    if len(data) % 2:
        data += b"\0"
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return ~value & 0xFFFF


def pseudo(family, protocol, length):
    if family == 4:
        ends = socket.inet_aton(OWN4) + socket.inet_aton(PEER4)
        return ends + struct.pack("!BBH", 0, protocol, length)
    ends = socket.inet_pton(socket.AF_INET6, OWN6) + socket.inet_pton(socket.AF_INET6, PEER6)
    return ends + struct.pack("!II", length, protocol)


def tcp(family, port, flags, data=b"", spoil=0):
    head = struct.pack("!HHIIBBHHH", 40001, port, 0x01020304, 0x0A0B0C0D, 0x50, flags, 512, 0, 0)
    value = total(pseudo(family, 6, 20 + len(data)) + head + data) ^ spoil
    return 6, head[:16] + struct.pack("!H", value) + head[18:] + data


def udp(family, port, data):
    head = struct.pack("!HHHH", 40002, port, 8 + len(data), 0)
    value = total(pseudo(family, 17, 8 + len(data)) + head + data)
    return 17, head[:6] + struct.pack("!H", value) + data


def packet(family, protocol, body):
    if family == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0x10, 20 + len(body), 77, 0, 60, protocol, 0)
        return head + socket.inet_aton(OWN4) + socket.inet_aton(PEER4) + body
    head = struct.pack("!IHBB", 0x60000000, len(body), protocol, 60)
    ends = socket.inet_pton(socket.AF_INET6, OWN6) + socket.inet_pton(socket.AF_INET6, PEER6)
    return head + ends + body


def settle_checksum(answer):
    """A reset's checksum is right, or left to hardware as the kernel leaves it between namespaces."""
    family = answer[0] >> 4
    protocol, at = (answer[9], 20) if family == 4 else (answer[6], 40)
    if protocol != 6:
        return
    given = struct.unpack("!H", answer[at + 16 : at + 18])[0]
    answer[at + 16 : at + 18] = b"\0\0"
    begin = pseudo(family, 6, len(answer) - at)
    assert given in (total(begin + answer[at:]), total(begin) ^ 0xFFFF), hex(given)


def shown(answer):
    answer = bytearray(answer)
    if answer[0] >> 4 == 4:
        answer[4:6] = answer[10:12] = b"\0\0"
    else:
        answer[1:4] = b"\0\0\0"
    settle_checksum(answer)
    return bytes(answer).hex()


def main():
    listen = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    listen.bind(("outer", 0))
    raw = {
        4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
    }
    SYN, ACK, RST, FIN, PUSH = 2, 16, 4, 1, 8
    for family in (4, 6):
        cases = [
            ("syn to a reset", tcp(family, 81, SYN)),
            ("data to a reset", tcp(family, 81, ACK | PUSH, b"hello")),
            ("fin with data to a reset", tcp(family, 81, FIN | SYN, b"abc")),
            ("reset to a reset", tcp(family, 81, RST | ACK)),
            ("bad checksum to a reset", tcp(family, 81, SYN, b"", 0x55)),
            ("syn to an error", tcp(family, 82, SYN)),
            ("datagram", udp(family, 53, b"x" * 33)),
            ("long datagram", udp(family, 53, bytes(range(250)) * 5 + b"odd")),
        ]
        own = socket.inet_aton(PEER4) if family == 4 else socket.inet_pton(socket.AF_INET6, PEER6)
        for name, (protocol, body) in cases:
            listen.settimeout(0.01)
            try:
                while True:
                    listen.recv(4096)
            except OSError:
                pass
            peer = PEER4 if family == 4 else PEER6
            raw[family].sendto(packet(family, protocol, body), (peer, 0))
            answer, end = None, time.time() + float(sys.argv[1])
            while answer is None and time.time() < end:
                listen.settimeout(max(0.01, end - time.time()))
                try:
                    got = listen.recv(4096)
                except OSError:
                    break
                kind = got[9] if got[0] >> 4 == 4 else got[6]
                place = got[12:16] if got[0] >> 4 == 4 else got[8:24]
                neighbour = got[0] >> 4 == 6 and kind == 58 and got[40] >= 128
                if got[0] >> 4 == family and place == own and kind in (1, 6, 58) and not neighbour:
                    answer = shown(got)
            print(f"IPv{family} {name}: {answer}", flush=True)


main()
