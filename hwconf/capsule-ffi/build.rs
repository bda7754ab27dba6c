//! Finds the installed DPDK and binds it.

use std::path::{Path, PathBuf};
use std::process::exit;

const INSTALL: &str = "apt-get install -y libdpdk-dev libclang-dev libpcap-dev libnuma-dev pkg-config";

/// Oldest release whose names these bindings use.
const OLDEST: &str = "21.11";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src");
    let dpdk = match pkg_config::Config::new().atleast_version(OLDEST).cargo_metadata(true).probe("libdpdk") {
        Ok(library) => library,
        Err(e) => fail(&format!("DPDK {OLDEST} or newer is not installed ({})", first_line(&e.to_string()))),
    };
    for header in ["pcap.h", "numa.h"] {
        if !Path::new("/usr/include").join(header).exists() {
            println!("cargo:warning=/usr/include/{header} is not there; if this build fails, run: {INSTALL}");
        }
    }
    for library in ["numa", "pcap"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    // The instruction set that the installed libraries were built for: inline functions must agree with them on the layout of vectors.
    let flags = flags();
    let mut c = cc::Build::new();
    c.file("src/shim.c").includes(&dpdk.include_paths).flag("-Wno-deprecated-declarations").define("_GNU_SOURCE", None);
    for flag in &flags {
        c.flag(flag);
    }
    if let Err(e) = c.try_compile("lcs_dpdk_shim") {
        fail(&format!("the C part does not compile ({})", first_line(&e.to_string())));
    }
    bind(&dpdk.include_paths, &flags);
}

/// What `pkg-config --cflags` says besides directories: `-march=…` and `-include rte_config.h`.
fn flags() -> Vec<String> {
    let output = std::process::Command::new("pkg-config").args(["--cflags-only-other", "libdpdk"]).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().filter(|f| f.starts_with("-m")).map(str::to_owned).collect()
}

fn bind(includes: &[PathBuf], flags: &[String]) {
    let bindings = bindgen::Builder::default()
        .header("src/bindings.h")
        .clang_args(includes.iter().map(|p| format!("-I{}", p.display())))
        .clang_args(flags)
        .clang_arg("-D_GNU_SOURCE")
        .generate_comments(false)
        .layout_tests(false)
        // rustc has no packed structure with an aligned one in it.
        .opaque_type("rte_arp_ipv4|rte_arp_hdr|rte_l2tpv2_.*|rte_gtp_.*|rte_ipv6_.*")
        .allowlist_type("rte_(mbuf|mempool|eth_conf|eth_dev_info|eth_stats|eth_rxconf|eth_txconf|ether_addr|cpuset_t)")
        .allowlist_type("rte_eth_rx_mq_mode|pcap_t|pcap_dumper_t|pcap_pkthdr|timeval|lcs_.*")
        .allowlist_function("_rte_.*|lcs_.*|rte_version|rte_strerror|rte_eal_cleanup")
        .allowlist_function("rte_eth_(macaddr_get|stats_get|promiscuous_(en|dis)able|allmulticast_(en|dis)able)")
        .allowlist_function(
            "rte_eth_dev_(adjust_nb_rx_tx_desc|close|get_port_by_name|get_mtu|info_get|socket_id|start|stop)",
        )
        .allowlist_function("rte_eth_(rx|tx)_queue_setup|rte_eth_add_(rx|tx)_callback|rte_eth_link_get_nowait")
        .allowlist_function("rte_mempool_(free|lookup|in_use_count|avail_count)|rte_pktmbuf_pool_create")
        .allowlist_function("rte_socket_(count|id|id_by_idx)|rte_thread_(set_affinity|register|unregister)")
        .allowlist_function("numa_node_of_cpu|pcap_(close|dump|dump_close|dump_flush|dump_open|dump_open_append)")
        .allowlist_function("pcap_(geterr|next_ex|open_dead|open_offline)")
        .allowlist_var("RTE_MBUF_DEFAULT_BUF_SIZE|RTE_PKTMBUF_HEADROOM|RTE_MEMPOOL_CACHE_MAX_SIZE")
        .allowlist_var("ETH_RSS_.*|DEV_TX_.*|LCS_.*")
        .derive_copy(true)
        .derive_debug(true)
        .derive_default(true)
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .formatter(bindgen::Formatter::None)
        .generate();
    let bindings = match bindings {
        Ok(bindings) => bindings,
        Err(e) => fail(&format!("DPDK's headers cannot be bound ({})", first_line(&e.to_string()))),
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    if let Err(e) = bindings.write_to_file(&out) {
        fail(&format!("{} cannot be written: {e}", out.display()));
    }
}

fn first_line(text: &str) -> &str {
    text.lines().find(|l| !l.trim().is_empty()).unwrap_or("no more is known").trim()
}

fn fail(what: &str) -> ! {
    eprintln!("the feature `dpdk` cannot be built: {what}\nrun: {INSTALL}");
    exit(1);
}
