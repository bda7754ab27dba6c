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

/* The pools have no private area, so the buffer follows the mbuf's header; lcs_rx_burst lets no other packet through. */
static inline struct rte_mbuf *mbuf_of(void *head) { return (struct rte_mbuf *)((char *)head - sizeof(struct rte_mbuf)); }

static inline void view_of(struct rte_mbuf *m, struct lcs_view *view) {
    view->head = m->buf_addr;
    view->offset = m->data_off;
    view->len = m->data_len;
    view->capacity = m->buf_len;
    view->spare = 0;
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
    for (uint16_t i = 0; i < got; i++) {
        struct rte_mbuf *m = packets[i];
        if (i + 4 < got) rte_prefetch0(packets[i + 4]);
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
        m->data_off = views[i].offset;
        m->data_len = views[i].len;
        m->pkt_len = views[i].len;
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
