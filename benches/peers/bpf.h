// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What the programs here need of BPF and of packets.

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;

// The loader compares kinds of types, not their members: a definition must be there.
struct xdp_md {
	u32 data, data_end;
};

enum { MAP_TYPE_ARRAY = 2, MAP_TYPE_PROG_ARRAY = 3 };
enum { XDP_ABORTED = 0, XDP_DROP = 1, XDP_PASS = 2, XDP_TX = 3 };

// A field of the packet that `data` points to.
#define FIELD(type, offset) (*(type *)(data + (offset)))

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;

#define INLINE static inline __attribute__((always_inline))

// The next random number (xorshift).
INLINE u64 next_random(u64 *state)
{
	u64 x = *state;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	*state = x;
	return x;
}

// The checksum of what has this sum of 16-bit numbers.
INLINE u16 fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

// What a word adds to such a sum.
INLINE u32 halves(u32 word)
{
	return (word & 0xffff) + (word >> 16);
}
