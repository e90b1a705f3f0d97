// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Makes each packet of a test run another one: writes the endpoints of a flow and a sequence number
// into the frame, with right checksums, and hands it to the program under test by a tail call.
// Compiled by clang when the benchmark runs; needs no headers but its own.

#include "bpf.h"

static long (*const tail_call)(void *ctx, void *map, u32 index) = (void *)12;

struct state {
	u64 random;
	u32 flows;	   // random flows are below this
	u32 next;	   // number of the next flow in sequence
	u32 in_sequence;   // zero: random flows
	u32 is_answer;	   // not zero: the flow's endpoint is the destination
	u32 is_tcp;	   // zero: UDP
	u32 advancing;	   // not zero: each packet's sequence number is one higher
	u32 sequence;	   // of the next packet
	u32 ip_sum;	   // of the rest of the header, as 16-bit numbers in the frame's byte order
	u32 transport_sum; // of the rest of pseudo-header, header and payload, likewise
	u32 reserved;
};

struct {
	__uint(type, MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct state);
} states SEC(".maps");

struct {
	__uint(type, MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 4);
} programs SEC(".maps");

INLINE u32 flow_number(struct state *s)
{
	u64 x;
	if (s->in_sequence)
		return s->next++;
	x = next_random(&s->random);
	return (u32)(((x >> 32) * s->flows) >> 32);
}

enum {
	IP_CHECKSUM_AT = 24,
	SOURCE_AT = 26,
	DESTINATION_AT = 30,
	SOURCE_PORT_AT = 34,
	DESTINATION_PORT_AT = 36,
	SEQUENCE_AT = 38,
	UDP_CHECKSUM_AT = 40,
	TCP_CHECKSUM_AT = 50,
	FRAME_BYTES = 60,
};

SEC("xdp.frags")
int generate(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data;
	u8 *end = (u8 *)(u64)ctx->data_end;
	u32 zero = 0, flow, address, sum;
	u16 port;
	struct state *s = map_lookup(&states, &zero);
	if (!s || data + FRAME_BYTES > end)
		return XDP_ABORTED;
	flow = flow_number(s);
	address = __builtin_bswap32(0x0a000000 + flow);
	port = __builtin_bswap16(1024 + ((flow * 2654435761u) >> 17));
	sum = s->transport_sum + halves(address) + port;
	if (s->is_answer) {
		FIELD(u32, DESTINATION_AT) = address;
		FIELD(u16, DESTINATION_PORT_AT) = port;
	} else {
		FIELD(u32, SOURCE_AT) = address;
		FIELD(u16, SOURCE_PORT_AT) = port;
	}
	if (s->is_tcp) {
		u32 sequence = __builtin_bswap32(s->sequence);
		if (s->advancing)
			s->sequence++;
		FIELD(u32, SEQUENCE_AT) = sequence;
		FIELD(u16, TCP_CHECKSUM_AT) = fold(sum + halves(sequence));
	} else {
		FIELD(u16, UDP_CHECKSUM_AT) = fold(sum);
	}
	FIELD(u16, IP_CHECKSUM_AT) = fold(s->ip_sum + halves(address));
	tail_call(ctx, &programs, 0);
	return XDP_ABORTED;
}

// What the rest is held against: a packet is made, and dropped.
SEC("xdp.frags")
int nothing(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char licence_of_program[] SEC("license") = "Dual MIT/GPL";
