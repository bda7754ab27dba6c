/* What a director of layer 4 costs that is written the usual way on DPDK: bursts of 32, rte_hash_lookup_with_hash_bulk_data over
 * the 5-tuple, an array of flows, and prefetch before use. `lcs perf stages --beside rte-hash` builds and runs it.
 *
 * It does a part of what the director does: NAT of established TCP over IPv4, both ways. It verifies no checksum, has no
 * other kind of frame, no connection states, time-outs, drop reasons, services, and no accounting of its cycles.
 *
 * Usage: rte_hash FLOWS PACKETS SERVERS [EAL arguments]. It says "ready", then answers each line on its input with the TSC cycles
 * a packet of one round over PACKETS frames, from both sides, of flows in random order. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <rte_byteorder.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ether.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_ip.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_memory.h>
#include <rte_prefetch.h>
#include <rte_tcp.h>

#define BURST 32
/* Frames that are written at a time, between the timed parts, as the director's bench does it: eight bursts. */
#define GROUP 256
/* Without FCS. */
#define FRAME 60

/* All in network byte order. */
struct key {
	uint32_t source, destination;
	uint16_t source_port, destination_port;
	uint8_t protocol, zero[3];
};

/* One connection: what its packets from either side are given. */
struct flow {
	struct {
		uint32_t source, destination;
		uint16_t source_port, destination_port;
		uint16_t hop, server;
	} to[2];
	/* What both checksums change by, as RFC 1624 adds it; side 1's is the complement. */
	uint16_t ip[2], tcp[2];
	uint32_t last_seen;
	uint32_t packets[2];
} __rte_cache_aligned;

struct hop {
	uint8_t addresses[12];
	uint16_t interface;
};

struct server {
	uint64_t packets[2], bytes[2];
};

static struct rte_hash *table;
static struct flow *flows;
static struct hop *hops;
static struct server *servers;
static struct rte_mbuf *wire[GROUP], *sent[GROUP];
static uint64_t state = 0x123456789abcdef1;

static uint64_t next_random(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1d;
}

static uint16_t folded(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)(sum + (sum >> 16));
}

/* RFC 1624, equation 3. */
static inline uint16_t changed(uint16_t checksum, uint16_t by)
{
	return (uint16_t)~folded((uint32_t)(uint16_t)~checksum + by);
}

static uint32_t halves(uint32_t v)
{
	return (v & 0xffff) + (v >> 16);
}

/* What rte_hash_crc makes of a key, without the call. */
static inline hash_sig_t signature(const struct key *k)
{
	uint64_t halves[2];

	memcpy(halves, k, sizeof halves);
	return rte_hash_crc_8byte(halves[1], rte_hash_crc_8byte(halves[0], 0));
}

/* One burst, run to completion. */
static inline unsigned burst(struct rte_mbuf **in, struct rte_mbuf **out, unsigned n, uint32_t now)
{
	struct key keys[BURST];
	const void *wanted[BURST];
	hash_sig_t signatures[BURST];
	void *found[BURST];
	uint64_t hits;
	unsigned i, done = 0;

	for (i = 0; i < n; i++)
		rte_prefetch0(rte_pktmbuf_mtod(in[i], void *));
	for (i = 0; i < n; i++) {
		const struct rte_ether_hdr *eth = rte_pktmbuf_mtod(in[i], const struct rte_ether_hdr *);
		const struct rte_ipv4_hdr *ip = (const struct rte_ipv4_hdr *)(eth + 1);
		const struct rte_tcp_hdr *tcp = (const struct rte_tcp_hdr *)(ip + 1);
		int plain = rte_pktmbuf_data_len(in[i]) >= 54 && eth->ether_type == RTE_BE16(RTE_ETHER_TYPE_IPV4) &&
			ip->version_ihl == 0x45 && (ip->fragment_offset & RTE_BE16(0x3fff)) == 0 && ip->next_proto_id == 6 &&
			rte_be_to_cpu_16(ip->total_length) <= rte_pktmbuf_data_len(in[i]) - 14 && ip->time_to_live > 1 &&
			(tcp->tcp_flags & 0x27) == 0;

		keys[i] = (struct key){ ip->src_addr, ip->dst_addr, tcp->src_port, tcp->dst_port, plain ? 6 : 0, { 0 } };
		wanted[i] = &keys[i];
		signatures[i] = signature(&keys[i]);
	}
	rte_hash_lookup_with_hash_bulk_data(table, wanted, signatures, n, &hits, found);
	for (i = 0; i < n; i++)
		if (hits >> i & 1)
			rte_prefetch0(&flows[(uintptr_t)found[i] >> 1]);
	for (i = 0; i < n; i++) {
		struct rte_ether_hdr *eth;
		struct rte_ipv4_hdr *ip;
		struct rte_tcp_hdr *tcp;
		struct flow *flow;
		const struct hop *hop;
		unsigned side;

		if (!(hits >> i & 1)) {
			rte_pktmbuf_free(in[i]);
			continue;
		}
		flow = &flows[(uintptr_t)found[i] >> 1];
		side = (uintptr_t)found[i] & 1;
		hop = &hops[flow->to[side].hop];
		eth = rte_pktmbuf_mtod(in[i], struct rte_ether_hdr *);
		ip = (struct rte_ipv4_hdr *)(eth + 1);
		tcp = (struct rte_tcp_hdr *)(ip + 1);
		memcpy(eth, hop->addresses, 12);
		ip->src_addr = flow->to[side].source;
		ip->dst_addr = flow->to[side].destination;
		ip->time_to_live--;
		/* The time to live is the high byte of its word. */
		ip->hdr_checksum = changed(ip->hdr_checksum, folded((uint32_t)flow->ip[side] + (uint16_t)~RTE_BE16(0x0100)));
		tcp->src_port = flow->to[side].source_port;
		tcp->dst_port = flow->to[side].destination_port;
		tcp->cksum = changed(tcp->cksum, flow->tcp[side]);
		flow->last_seen = now;
		flow->packets[side]++;
		servers[flow->to[side].server].packets[side]++;
		servers[flow->to[side].server].bytes[side] += rte_be_to_cpu_16(ip->total_length);
		in[i]->port = hop->interface;
		out[done++] = in[i];
	}
	return done;
}

static const uint32_t SERVICE = RTE_BE32(0xc6120000);

static struct key of_client(uint32_t n)
{
	return (struct key){ rte_cpu_to_be_32(0x0a000001 + n / 50000), SERVICE, rte_cpu_to_be_16(1024 + n % 50000), RTE_BE16(80), 6,
			     { 0 } };
}

static struct key of_server(uint32_t n, uint32_t count)
{
	struct key c = of_client(n);

	return (struct key){ rte_cpu_to_be_32(0xac100001 + n % count), c.source, RTE_BE16(8080), c.source_port, 6, { 0 } };
}

static int open_flow(uint32_t n, uint32_t count)
{
	struct key client = of_client(n), server = of_server(n, count);
	struct flow *f = &flows[n];
	uint32_t ip = halves(server.source) + halves((uint32_t)~SERVICE), tcp;

	f->to[0].source = client.source;
	f->to[0].destination = server.source;
	f->to[0].source_port = client.source_port;
	f->to[0].destination_port = server.source_port;
	f->to[1].source = SERVICE;
	f->to[1].destination = client.source;
	f->to[1].source_port = RTE_BE16(80);
	f->to[1].destination_port = client.source_port;
	f->to[0].server = f->to[1].server = n % count;
	f->to[0].hop = n % count;
	f->to[1].hop = count;
	tcp = ip + server.source_port + (uint16_t)~RTE_BE16(80);
	f->ip[0] = folded(ip);
	f->ip[1] = (uint16_t)~folded(ip);
	f->tcp[0] = folded(tcp);
	f->tcp[1] = (uint16_t)~folded(tcp);
	return rte_hash_add_key_data(table, &client, (void *)((uintptr_t)n << 1)) == 0 &&
	       rte_hash_add_key_data(table, &server, (void *)((uintptr_t)n << 1 | 1)) == 0;
}

/* A frame of the connection's side, with right checksums. */
static void write_frame(struct rte_mbuf *m, const struct key *k)
{
	struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, struct rte_ether_hdr *);
	struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)(eth + 1);
	struct rte_tcp_hdr *tcp = (struct rte_tcp_hdr *)(ip + 1);

	memset(eth, 0, FRAME);
	eth->ether_type = RTE_BE16(RTE_ETHER_TYPE_IPV4);
	ip->version_ihl = 0x45;
	ip->total_length = RTE_BE16(40);
	ip->time_to_live = 64;
	ip->next_proto_id = 6;
	ip->src_addr = k->source;
	ip->dst_addr = k->destination;
	ip->hdr_checksum = rte_ipv4_cksum(ip);
	tcp->src_port = k->source_port;
	tcp->dst_port = k->destination_port;
	tcp->data_off = 0x50;
	tcp->tcp_flags = 0x10;
	tcp->cksum = rte_ipv4_udptcp_cksum(ip, tcp);
	rte_pktmbuf_data_len(m) = FRAME;
	rte_pktmbuf_pkt_len(m) = FRAME;
}

static uint16_t transport_sum(const struct rte_ipv4_hdr *ip)
{
	return folded((uint32_t)rte_ipv4_phdr_cksum(ip, 0) + rte_raw_cksum(ip + 1, 20));
}

static int is_right(const struct rte_mbuf *m)
{
	const struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod_offset(m, const struct rte_ipv4_hdr *, 14);

	return rte_raw_cksum(ip, 20) == 0xffff && transport_sum(ip) == 0xffff && ip->time_to_live == 63;
}

#define HUGE (2ull << 20)

/* A heap of anonymous memory that the kernel is asked to back with huge pages, as the director's own tables are; DPDK's own memory without
 * reserved hugepages could not be. Returns its socket, or -1. */
static int heap(uint64_t bytes)
{
	uint8_t *memory;

	bytes = (bytes + HUGE - 1) / HUGE * HUGE;
	memory = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return -1;
	memory = (uint8_t *)(((uintptr_t)memory + HUGE - 1) / HUGE * HUGE);
	madvise(memory, bytes, MADV_HUGEPAGE);
	memset(memory, 0, bytes);
	if (rte_malloc_heap_create("tables") || rte_malloc_heap_memory_add("tables", memory, bytes, NULL, 0, HUGE))
		return -1;
	return rte_malloc_heap_get_socket("tables");
}

static double round_of(uint32_t count, uint64_t packets, uint32_t n_servers, int check)
{
	uint64_t cycles = 0, done = 0, out = 0;

	while (done < packets) {
		unsigned i;

		for (i = 0; i < GROUP; i++) {
			uint64_t r = next_random();
			uint32_t n = (uint32_t)(r >> 33) % count;
			struct key k = r & 1 ? of_server(n, n_servers) : of_client(n);

			write_frame(wire[i], &k);
		}
		for (i = 0; i < GROUP; i += BURST) {
			uint64_t begin = rte_rdtsc();

			out += burst(&wire[i], &sent[i], BURST, (uint32_t)(begin >> 30));
			cycles += rte_rdtsc() - begin;
		}
		if (check)
			for (i = 0; i < GROUP; i++)
				if (!is_right(sent[i]))
					rte_exit(1, "a checksum is wrong\n");
		done += GROUP;
	}
	if (out != done)
		rte_exit(1, "%" PRIu64 " of %" PRIu64 " frames were not forwarded\n", done - out, done);
	return (double)cycles / (double)done;
}

int main(int argc, char **argv)
{
	struct rte_hash_parameters parameters = { .name = "flows", .key_len = sizeof(struct key), .hash_func = rte_hash_crc };
	struct rte_mempool *pool;
	uint32_t count, n_servers, n;
	uint64_t packets;
	char line[16];

	if (argc < 4) {
		fprintf(stderr, "usage: %s FLOWS PACKETS SERVERS [EAL arguments]\n", argv[0]);
		return 2;
	}
	count = (uint32_t)strtoul(argv[1], NULL, 10);
	packets = strtoull(argv[2], NULL, 10);
	n_servers = (uint32_t)strtoul(argv[3], NULL, 10);
	argv[3] = argv[0];
	if (rte_eal_init(argc - 3, argv + 3) < 0)
		rte_exit(1, "DPDK's environment does not start\n");
	parameters.entries = count * 2 + count / 2 + 64;
	/* Keys with their data take 24 bytes and a slot's number 4; buckets of 64 bytes have 8 places, and their number is a power of two. */
	parameters.socket_id = heap((uint64_t)parameters.entries * 96 + (uint64_t)count * sizeof(*flows) + (uint64_t)n_servers * 64 + (32 << 20));
	table = rte_hash_create(&parameters);
	flows = rte_zmalloc_socket(NULL, sizeof(*flows) * count, RTE_CACHE_LINE_SIZE, parameters.socket_id);
	hops = rte_zmalloc_socket(NULL, sizeof(*hops) * (n_servers + 1), RTE_CACHE_LINE_SIZE, parameters.socket_id);
	servers = rte_zmalloc_socket(NULL, sizeof(*servers) * n_servers, RTE_CACHE_LINE_SIZE, parameters.socket_id);
	pool = rte_pktmbuf_pool_create("frames", GROUP * 2 - 1, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (!table || !flows || !hops || !servers || !pool || rte_pktmbuf_alloc_bulk(pool, wire, GROUP))
		rte_exit(1, "no memory for %u flows: %s\n", count, rte_strerror(rte_errno));
	for (n = 0; n <= n_servers; n++)
		hops[n] = (struct hop){ { 2, 0, 0, 1, n >> 8 & 255, n & 255, 2, 0, 0, 0, 0, 2 }, 0 };
	for (n = 0; n < count; n++)
		if (!open_flow(n, n_servers))
			rte_exit(1, "the table is full at %u flows\n", n);
	round_of(count, GROUP * 8, n_servers, 1);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%.3f\n", round_of(count, packets, n_servers, 0));
		fflush(stdout);
	}
	return 0;
}
