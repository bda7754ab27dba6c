/* What of DPDK is bound: the functions that capsule and the port call. */
#include <rte_config.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

#include <numa.h>
#include <pcap.h>

/* Flags that DPDK writes with a function-like macro, which bindgen does not evaluate; under the names of DPDK 19.11. */
static const uint64_t ETH_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t ETH_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t ETH_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t ETH_RSS_SCTP = RTE_ETH_RSS_SCTP;
static const uint64_t DEV_TX_OFFLOAD_MBUF_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t LCS_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;

/* Inline functions of the headers, as functions of shim.c. */
int _rte_errno(void);
struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *mp);
void _rte_pktmbuf_free(struct rte_mbuf *m);
int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count);
void _rte_mempool_put_bulk(struct rte_mempool *mp, void *const *obj_table, unsigned int n);
uint16_t _rte_eth_rx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **rx_pkts, const uint16_t nb_pkts);
uint16_t _rte_eth_tx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **tx_pkts, uint16_t nb_pkts);

/* The port's own bursts. They know struct rte_mbuf, whose fields move from release to release; Rust sees views only. */

/* A packet as the port hands it about: the buffer behind the mbuf's header, and what of it is the frame. It is laid out as the port's
 * frames are; its second half is written and read at once, as they are moved. */
struct lcs_view {
    void *head;
    uint64_t rest; /* from the lowest 16 bits up: offset, length, capacity, 0 */
};

/* Packets that a burst brought and that were freed at once. */
struct lcs_refused {
    uint64_t checksum; /* the device found the IPv4 header checksum wrong */
    uint64_t shape;    /* in several buffers, or in a buffer that is not the mbuf's own */
};

/* Receives up to n (at most 64) packets; returns how many views it has filled. */
uint16_t lcs_rx_burst(uint16_t port, uint16_t queue, struct lcs_view *views, uint16_t n, struct lcs_refused *refused);
/* Gives up to n (at most 64) packets to the device; returns how many it took, from the first on. */
uint16_t lcs_tx_burst(uint16_t port, uint16_t queue, const struct lcs_view *views, uint16_t n);
/* Sends up to n (at most 64) packets as they are received, and frees what the device does not take; returns how many it received. */
uint16_t lcs_reflect(uint16_t port, uint16_t queue, uint16_t n);
/* Takes a buffer: an empty view behind the headroom. 0 when there is one. */
int lcs_alloc(struct rte_mempool *pool, struct lcs_view *view);
/* Gives a buffer back to its pool. */
void lcs_free(void *head);
/* The addresses that a pool's buffers lie in: the first, and the one behind the last. DPDK reserves what is between them. */
void lcs_pool_range(struct rte_mempool *pool, uintptr_t *first, uintptr_t *end);

/* Has a started device with several queues spread TCP and UDP by their source, or their destination, alone: by the Toeplitz hash under `pair`
 * over and over, its table naming the queues in turn. Returns the table's entries, or a negative error number where the device can't;
 * what was changed is put back then. */
int lcs_spread(uint16_t port, uint16_t queues, int by_destination, const uint8_t pair[2]);
/* The first bytes of the key that a device hashes with. 0, or a negative error number. */
int lcs_rss_key(uint16_t port, uint8_t *key, uint8_t length);
