// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What Linux's own connection tracker costs: its lookup and its insert, called as kernel functions
// and nothing around them. Compiled by clang when the benchmark runs; needs no headers but its own.
//
// Flows are numbered; the number gives the tuple. Records are spread over several network
// namespaces, since one may hold no more than nf_conntrack_max; all share one hash table.

#include "bpf.h"

enum { IPPROTO_UDP = 17 };

struct tuple {
	u32 source, destination;
	u16 source_port, destination_port;
};

// The first twelve bytes of the kernel's structure; it accepts this size.
struct bpf_ct_opts {
	s32 netns_id;
	s32 error;
	u8 l4proto;
	u8 dir;
	u8 reserved[2];
};

struct nf_conn {
	u64 opaque;
};

struct nf_conn___init {
	struct nf_conn inner;
};

extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *, struct tuple *, u32, struct bpf_ct_opts *,
					 u32) __attribute__((section(".ksyms")));
extern struct nf_conn___init *bpf_xdp_ct_alloc(struct xdp_md *, struct tuple *, u32,
					       struct bpf_ct_opts *, u32)
	__attribute__((section(".ksyms")));
extern struct nf_conn *bpf_ct_insert_entry(struct nf_conn___init *)
	__attribute__((section(".ksyms")));
extern void bpf_ct_set_timeout(struct nf_conn___init *, u32) __attribute__((section(".ksyms")));
extern void bpf_ct_release(struct nf_conn *) __attribute__((section(".ksyms")));

struct state {
	u64 random;
	u32 flows;		 // lookups pick one of these
	u32 next;		 // number of the next flow to insert
	u32 flows_per_namespace; // zero: all in the namespace of the caller
	u32 failures;
};

struct {
	__uint(type, MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct state);
} states SEC(".maps");

INLINE struct state *state(void)
{
	u32 zero = 0;
	return map_lookup(&states, &zero);
}

INLINE u32 random_flow(struct state *s)
{
	u64 x = next_random(&s->random);
	return (u32)(((x >> 32) * s->flows) >> 32);
}

INLINE void describe(const struct state *s, u32 flow,
						    struct tuple *tuple, struct bpf_ct_opts *opts)
{
	tuple->source = __builtin_bswap32(0x0a000000 + flow);
	tuple->destination = __builtin_bswap32(0xc0000201);
	tuple->source_port = __builtin_bswap16(1024 + ((flow * 2654435761u) >> 17));
	tuple->destination_port = __builtin_bswap16(53);
	opts->netns_id = s->flows_per_namespace ? (s32)(flow / s->flows_per_namespace) : -1;
	opts->error = 0;
	opts->l4proto = IPPROTO_UDP;
	opts->dir = 0;
	opts->reserved[0] = 0;
	opts->reserved[1] = 0;
}

// All that the others do, without the tracker.
SEC("xdp")
int nothing(struct xdp_md *ctx)
{
	struct tuple tuple;
	struct bpf_ct_opts opts;
	struct state *s = state();
	if (!s)
		return XDP_ABORTED;
	describe(s, random_flow(s), &tuple, &opts);
	asm volatile("" : : "r"(&tuple), "r"(&opts) : "memory");
	return XDP_DROP;
}

SEC("xdp")
int lookup(struct xdp_md *ctx)
{
	struct tuple tuple;
	struct bpf_ct_opts opts;
	struct nf_conn *found;
	struct state *s = state();
	if (!s)
		return XDP_ABORTED;
	describe(s, random_flow(s), &tuple, &opts);
	found = bpf_xdp_ct_lookup(ctx, &tuple, sizeof(tuple), &opts, sizeof(opts));
	if (found)
		bpf_ct_release(found);
	else
		s->failures++;
	return XDP_DROP;
}

SEC("xdp")
int insert(struct xdp_md *ctx)
{
	struct tuple tuple;
	struct bpf_ct_opts opts;
	struct nf_conn___init *made;
	struct nf_conn *inserted;
	struct state *s = state();
	if (!s)
		return XDP_ABORTED;
	describe(s, s->next++, &tuple, &opts);
	made = bpf_xdp_ct_alloc(ctx, &tuple, sizeof(tuple), &opts, sizeof(opts));
	if (!made) {
		s->failures++;
		return XDP_DROP;
	}
	bpf_ct_set_timeout(made, 3600 * 1000);
	inserted = bpf_ct_insert_entry(made);
	if (inserted)
		bpf_ct_release(inserted);
	else
		s->failures++;
	return XDP_DROP;
}

char licence_of_program[] SEC("license") = "Dual MIT/GPL";
