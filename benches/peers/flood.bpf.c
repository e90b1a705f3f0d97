// SPDX-License-Identifier: MIT OR Apache-2.0
//
// An attacker, and the wire that its victim's answers go back over. `flood` makes each frame of a test run one of
// another sender and sends it out; `wire` throws away what goes to senders that are not there.
// Compiled by clang when the benchmark runs; needs no headers but its own.

#include "bpf.h"

static long (*const redirect)(u32 device, u64 flags) = (void *)23;

// Senders are of 10.128.0.0/9.
enum { SENDERS = 0x0a800000, SENDERS_MASK = 0xff800000 };

enum {
	FRAME_BYTES = 74,
	TYPE_AT = 12,
	IP_CHECKSUM_AT = 24,
	SOURCE_AT = 26,
	DESTINATION_AT = 30,
	SOURCE_PORT_AT = 34,
	SEQUENCE_AT = 38,
	TCP_CHECKSUM_AT = 50,
	IP_HEADERS_BYTES = 34,
};

struct state {
	u64 random;
	u32 device;	   // frames leave by it
	u32 ip_sum;	   // of the rest of the header, as 16-bit numbers in the frame's byte order
	u32 transport_sum; // of the rest of pseudo-header and header, likewise
	u32 reserved;
	u8 frame[FRAME_BYTES];
	u8 padding[6];
};

struct {
	__uint(type, MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct state);
} states SEC(".maps");

SEC("xdp")
int flood(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data;
	u8 *end = (u8 *)(u64)ctx->data_end;
	u32 zero = 0, source, sequence;
	struct state *s = map_lookup(&states, &zero);
	u16 port;
	u64 x;
	if (!s || data + FRAME_BYTES > end)
		return XDP_ABORTED;
	// A frame that comes back from where it was dropped is as it was there.
	__builtin_memcpy(data, s->frame, FRAME_BYTES);
	x = next_random(&s->random);
	source = __builtin_bswap32(SENDERS | ((u32)x & ~SENDERS_MASK));
	sequence = (u32)(x >> 32);
	port = (u16)(x >> 24) | 0x0004;
	FIELD(u32, SOURCE_AT) = source;
	FIELD(u16, SOURCE_PORT_AT) = port;
	FIELD(u32, SEQUENCE_AT) = sequence;
	FIELD(u16, IP_CHECKSUM_AT) = fold(s->ip_sum + halves(source));
	FIELD(u16, TCP_CHECKSUM_AT) = fold(s->transport_sum + halves(source) + port + halves(sequence));
	return redirect(s->device, 0);
}

SEC("xdp")
int wire(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data;
	u8 *end = (u8 *)(u64)ctx->data_end;
	if (data + IP_HEADERS_BYTES > end || FIELD(u16, TYPE_AT) != __builtin_bswap16(0x0800))
		return XDP_PASS;
	if ((__builtin_bswap32(FIELD(u32, DESTINATION_AT)) & SENDERS_MASK) == SENDERS)
		return XDP_DROP;
	return XDP_PASS;
}

// The bound: frames of such senders are sent back as SYN-ACKs whose number is none and whose checksums are wrong.
SEC("xdp.frags")
int reflect(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data;
	u8 *end = (u8 *)(u64)ctx->data_end;
	u8 address[6];
	u32 source;
	if (data + FRAME_BYTES > end || FIELD(u16, TYPE_AT) != __builtin_bswap16(0x0800))
		return XDP_PASS;
	source = FIELD(u32, SOURCE_AT);
	if ((__builtin_bswap32(source) & SENDERS_MASK) != SENDERS)
		return XDP_PASS;
	FIELD(u32, SOURCE_AT) = FIELD(u32, DESTINATION_AT);
	FIELD(u32, DESTINATION_AT) = source;
	__builtin_memcpy(address, data, 6);
	__builtin_memcpy(data, data + 6, 6);
	__builtin_memcpy(data + 6, address, 6);
	return XDP_TX;
}

char licence_of_program[] SEC("license") = "Dual MIT/GPL";
