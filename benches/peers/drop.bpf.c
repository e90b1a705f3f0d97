// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The bound of what a refusal costs on a device: every frame is dropped without a look.

#include "bpf.h"

SEC("xdp.frags")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char licence_of_program[] SEC("license") = "Dual MIT/GPL";
