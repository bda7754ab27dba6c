/* Functions for what DPDK's headers only have inline. */
#include "bindings.h"

int _rte_errno(void) { return rte_errno; }

struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *mp) { return rte_pktmbuf_alloc(mp); }

void _rte_pktmbuf_free(struct rte_mbuf *m) { rte_pktmbuf_free(m); }

int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count) {
    return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void _rte_mempool_put_bulk(struct rte_mempool *mp, void *const *obj_table, unsigned int n) {
    rte_mempool_put_bulk(mp, obj_table, n);
}

uint16_t _rte_eth_rx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **rx_pkts, const uint16_t nb_pkts) {
    return rte_eth_rx_burst(port_id, queue_id, rx_pkts, nb_pkts);
}

uint16_t _rte_eth_tx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **tx_pkts, uint16_t nb_pkts) {
    return rte_eth_tx_burst(port_id, queue_id, tx_pkts, nb_pkts);
}

#define LCS_BURST 64
#define LCS_AHEAD 8

/* The pools have no private area, so the buffer follows the mbuf's header; lcs_rx_burst lets no other packet through. */
static inline struct rte_mbuf *mbuf_of(void *head) { return (struct rte_mbuf *)((char *)head - sizeof(struct rte_mbuf)); }

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "views are laid out for little-endian machines");

static inline void view_of(const struct rte_mbuf *m, struct lcs_view *view) {
    view->head = m->buf_addr;
    view->rest = m->data_off | (uint64_t)m->data_len << 16 | (uint64_t)m->buf_len << 32;
}

static inline int is_plain(const struct rte_mbuf *m) {
    return m->nb_segs == 1 && (m->ol_flags & (RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL)) == 0 &&
           (const char *)m->buf_addr == (const char *)m + sizeof(struct rte_mbuf) && rte_mbuf_refcnt_read(m) == 1 &&
           (uint32_t)m->data_off + m->data_len <= m->buf_len;
}

uint16_t lcs_rx_burst(uint16_t port, uint16_t queue, struct lcs_view *views, uint16_t n, struct lcs_refused *refused) {
    struct rte_mbuf *packets[LCS_BURST];
    uint16_t got = rte_eth_rx_burst(port, queue, packets, n < LCS_BURST ? n : LCS_BURST);
    uint16_t filled = 0;
    for (uint16_t i = 0; i < got && i < LCS_AHEAD; i++) rte_prefetch0(packets[i]);
    for (uint16_t i = 0; i < got; i++) {
        struct rte_mbuf *m = packets[i];
        if (i + LCS_AHEAD < got) rte_prefetch0(packets[i + LCS_AHEAD]);
        int bad = (m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) == RTE_MBUF_F_RX_IP_CKSUM_BAD;
        if (unlikely(bad || !is_plain(m))) {
            if (bad) refused->checksum++;
            else refused->shape++;
            rte_pktmbuf_free(m);
            continue;
        }
        view_of(m, &views[filled++]);
    }
    return filled;
}

uint16_t lcs_tx_burst(uint16_t port, uint16_t queue, const struct lcs_view *views, uint16_t n) {
    struct rte_mbuf *packets[LCS_BURST];
    if (n > LCS_BURST) n = LCS_BURST;
    for (uint16_t i = 0; i < n; i++) {
        struct rte_mbuf *m = mbuf_of(views[i].head);
        uint64_t rest = views[i].rest;
        m->data_off = (uint16_t)rest;
        m->data_len = (uint16_t)(rest >> 16);
        m->pkt_len = (uint16_t)(rest >> 16);
        m->ol_flags = 0;
        packets[i] = m;
    }
    return rte_eth_tx_burst(port, queue, packets, n);
}

uint16_t lcs_reflect(uint16_t port, uint16_t queue, uint16_t n) {
    struct rte_mbuf *packets[LCS_BURST];
    uint16_t got = rte_eth_rx_burst(port, queue, packets, n < LCS_BURST ? n : LCS_BURST);
    uint16_t sent = got > 0 ? rte_eth_tx_burst(port, queue, packets, got) : 0;
    for (uint16_t i = sent; i < got; i++) rte_pktmbuf_free(packets[i]);
    return got;
}

int lcs_alloc(struct rte_mempool *pool, struct lcs_view *view) {
    struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
    if (m == NULL) return -1;
    view_of(m, view);
    return 0;
}

void lcs_free(void *head) { rte_pktmbuf_free(mbuf_of(head)); }

struct lcs_range {
    uintptr_t first, end;
};

static void widen(struct rte_mempool *pool, void *opaque, struct rte_mempool_memhdr *chunk, unsigned index) {
    struct lcs_range *range = opaque;
    uintptr_t first = (uintptr_t)chunk->addr, end = first + chunk->len;
    (void)pool;
    (void)index;
    if (first < range->first) range->first = first;
    if (end > range->end) range->end = end;
}

void lcs_pool_range(struct rte_mempool *pool, uintptr_t *first, uintptr_t *end) {
    struct lcs_range range = {UINTPTR_MAX, 0};
    rte_mempool_mem_iter(pool, widen, &range);
    *first = range.first;
    *end = range.end;
}

/* Longest hash key of a driver (mlx5 has 40 bytes, ice and i40e 52), and most entries of a table. */
#define LCS_KEY 128
#define LCS_TABLE RTE_ETH_RSS_RETA_SIZE_512
#define LCS_GROUPS (LCS_TABLE / RTE_ETH_RETA_GROUP_SIZE)

/* One rule a kind of packet: by fields of one side. 0 when the driver takes it. */
static int lcs_spread_kind(uint16_t port, enum rte_flow_item_type ip, enum rte_flow_item_type l4, uint64_t types) {
    struct rte_flow_attr attributes = {.ingress = 1};
    struct rte_flow_item pattern[] = {
        {.type = RTE_FLOW_ITEM_TYPE_ETH}, {.type = ip}, {.type = l4}, {.type = RTE_FLOW_ITEM_TYPE_END}};
    /* No key and no queues: those that the device has. */
    struct rte_flow_action_rss rss = {.func = RTE_ETH_HASH_FUNCTION_TOEPLITZ, .types = types};
    struct rte_flow_action actions[] = {{.type = RTE_FLOW_ACTION_TYPE_RSS, .conf = &rss}, {.type = RTE_FLOW_ACTION_TYPE_END}};
    struct rte_flow_error error;
    int result = rte_flow_validate(port, &attributes, pattern, actions, &error);
    if (result == 0 && !rte_flow_create(port, &attributes, pattern, actions, &error)) result = -rte_errno;
    return result;
}

/* Rules for TCP and UDP of both families. */
static int lcs_spread_kinds(uint16_t port, uint64_t side) {
    const struct {
        enum rte_flow_item_type ip, l4;
        uint64_t types;
    } kinds[] = {
        {RTE_FLOW_ITEM_TYPE_IPV4, RTE_FLOW_ITEM_TYPE_TCP, RTE_ETH_RSS_NONFRAG_IPV4_TCP},
        {RTE_FLOW_ITEM_TYPE_IPV4, RTE_FLOW_ITEM_TYPE_UDP, RTE_ETH_RSS_NONFRAG_IPV4_UDP},
        {RTE_FLOW_ITEM_TYPE_IPV6, RTE_FLOW_ITEM_TYPE_TCP, RTE_ETH_RSS_NONFRAG_IPV6_TCP},
        {RTE_FLOW_ITEM_TYPE_IPV6, RTE_FLOW_ITEM_TYPE_UDP, RTE_ETH_RSS_NONFRAG_IPV6_UDP},
    };
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        int result = lcs_spread_kind(port, kinds[i].ip, kinds[i].l4, kinds[i].types | side);
        if (result != 0) return result;
    }
    return 0;
}

int lcs_spread(uint16_t port, uint16_t queues, int by_destination, const uint8_t pair[2]) {
    const uint64_t side = by_destination ? RTE_ETH_RSS_L3_DST_ONLY | RTE_ETH_RSS_L4_DST_ONLY
                                         : RTE_ETH_RSS_L3_SRC_ONLY | RTE_ETH_RSS_L4_SRC_ONLY;
    struct rte_eth_rss_reta_entry64 table[LCS_GROUPS] = {0}, table_before[LCS_GROUPS] = {0};
    struct rte_eth_dev_info info;
    struct rte_flow_error error;
    uint8_t key[LCS_KEY], key_before[LCS_KEY];
    int result = rte_eth_dev_info_get(port, &info);
    if (result != 0) return result;
    const uint16_t entries = info.reta_size;
    const uint8_t length = info.hash_key_size ? info.hash_key_size : 40;
    /* The table's index is the hash's low bits. */
    if (queues == 0 || entries < queues || entries > LCS_TABLE || (entries & (entries - 1)) != 0 || length > LCS_KEY)
        return -ENOTSUP;
    for (unsigned i = 0; i < LCS_KEY; i++) key[i] = pair[i & 1];
    for (unsigned i = 0; i < entries; i++) {
        table_before[i / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
        table[i / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
        table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE] = i % queues;
    }
    struct rte_eth_rss_conf before = {.rss_key = key_before, .rss_key_len = length};
    /* What can't be read can't be put back: such a device is left alone. */
    if ((result = rte_eth_dev_rss_hash_conf_get(port, &before)) != 0) return result;
    if ((result = rte_eth_dev_rss_reta_query(port, table_before, entries)) != 0) return result;
    /* Other IP packets and fragments are spread as before, by what the device does with them. */
    struct rte_eth_rss_conf conf = {
        .rss_key = key,
        .rss_key_len = length,
        .rss_hf = (before.rss_hf | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP) & info.flow_type_rss_offloads};
    /* Some drivers hash one side for all frames when they are told (mlx5), others by rules (ice, i40e). */
    if ((info.flow_type_rss_offloads & side) == side) {
        conf.rss_hf |= side;
        result = rte_eth_dev_rss_hash_update(port, &conf);
    } else {
        result = rte_eth_dev_rss_hash_update(port, &conf);
        if (result == 0) result = lcs_spread_kinds(port, side);
    }
    if (result == 0) result = rte_eth_dev_rss_reta_update(port, table, entries);
    if (result == 0) return entries;
    rte_flow_flush(port, &error);
    rte_eth_dev_rss_hash_update(port, &before);
    rte_eth_dev_rss_reta_update(port, table_before, entries);
    return result;
}

int lcs_rss_key(uint16_t port, uint8_t *key, uint8_t length) {
    struct rte_eth_rss_conf conf = {.rss_key = key, .rss_key_len = length};
    return rte_eth_dev_rss_hash_conf_get(port, &conf);
}
