//! The same rules in each subject's own words.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::subject::Variant;
use super::workload::{GROUPS, LARGE, Rules, Traffic};

/// Where a subject stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// What clients connect to.
    pub service: SocketAddr,
    /// The servers, one a group.
    pub servers: Vec<SocketAddr>,
}

/// A file of a configuration: its name in the folder and its text.
pub type File = (&'static str, String);

/// Our rule file.
pub fn rules(rules: &Rules) -> String {
    let mut text = String::new();
    match rules {
        Rules::Prefixes(prefixes) => {
            for (prefix, group) in prefixes {
                let _ = writeln!(text, "if (prefix(url, \"{prefix}\")) routeTo({})", GROUPS[*group]);
            }
        }
        Rules::Amount => {
            let _ = writeln!(text, "if (xml.purchase/totalAmount > {LARGE}) routeTo({})", GROUPS[1]);
        }
    }
    let _ = writeln!(text, "default: routeTo({})", GROUPS[rules.fallback()]);
    text
}

/// Our configuration, on `interface`, with a worker on `core`.
pub fn director(site: &Site, own: IpAddr, interface: &str, core: usize, rules: &Path, socket: &str) -> String {
    let mut text = format!(
        "[director]\nsocket = \"{socket}\"\naddresses = [\"{own}\"]\n\n\
         [workers]\ncores = [{core}]\nflows = 262144\nidle = \"adaptive\"\n\n\
         [port]\nkind = \"af-xdp\"\ninterfaces = [\"{interface}\"]\n\n\
         [[services]]\nname = \"peers\"\naddress = \"{}\"\nport = {}\nforward = \"nat\"\nrules = {:?}\n\
         body-limit = 1048576\nservers = [\n",
        site.service.ip(),
        site.service.port(),
        rules.to_string_lossy(),
    );
    for (at, server) in site.servers.iter().enumerate() {
        let _ = writeln!(
            text,
            "  {{ name = \"server{}\", address = \"{}\", port = {} }},",
            at + 1,
            server.ip(),
            server.port()
        );
    }
    text.push_str("]\n[services.groups]\n");
    for (at, group) in GROUPS.iter().enumerate() {
        let _ = writeln!(text, "{group} = [\"server{}\"]", at + 1);
    }
    text
}

/// HAProxy's configuration, whose files will stand in `folder`: one thread, no checks, no log.
pub fn haproxy(site: &Site, traffic: &Traffic, variant: Variant, connections: usize, folder: &Path) -> Vec<File> {
    // A body that is to be searched must fit as a whole, head included; 16 KB is its default. With less it would go by
    // the part that fits, silently.
    let buffer = (traffic.longest() + 8192).max(16_384);
    // Clients' connections. It asks for twice as many descriptors, and keeps a server's idle connection only while a
    // quarter of them is free (`tune.pool-high-fd-ratio`): with just enough it would open one for every request.
    let most = connections * 4 + 2000;
    let reuse = if variant == Variant::Reuse { "always" } else { "safe" };
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {most}\n  tune.bufsize {buffer}\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  http-reuse {reuse}\n\
         frontend peers\n  bind {}\n",
        site.service
    );
    let mut files = vec![];
    let fallback = traffic.rules.fallback();
    match &traffic.rules {
        Rules::Prefixes(prefixes) if variant == Variant::Map => {
            let map = folder.join("prefixes.map");
            let _ = writeln!(text, "  use_backend %[path,map_beg({},{})]", map.display(), GROUPS[fallback]);
            files.push(("prefixes.map", prefixes.iter().map(|(p, g)| format!("{p} {}\n", GROUPS[*g])).collect()));
        }
        Rules::Prefixes(prefixes) => {
            for (prefix, group) in prefixes {
                let _ = writeln!(text, "  use_backend {} if {{ path_beg {prefix} }}", GROUPS[*group]);
            }
        }
        Rules::Amount => {
            let _ = writeln!(
                text,
                "  option http-buffer-request\n  use_backend {} if {{ req.body -m reg {} }}",
                GROUPS[1],
                larger("<totalAmount>")
            );
        }
    }
    let _ = writeln!(text, "  default_backend {}", GROUPS[fallback]);
    for (at, (group, server)) in GROUPS.iter().zip(&site.servers).enumerate() {
        let _ = writeln!(text, "backend {group}\n  server server{} {server}", at + 1);
    }
    files.insert(0, ("haproxy.cfg", text));
    files
}

/// "Larger than [`LARGE`]" as the text that whole numbers of up to nine digits have.
fn larger(before: &str) -> String {
    const { assert!(LARGE == 5000, "the expression is for this number") };
    format!("{before}(5[0-9]{{2}}[1-9]|5[0-9][1-9]0|5[1-9]00|[6-9][0-9]{{3}}|[1-9][0-9]{{4,8}})<")
}

/// nginx's configuration, whose files will stand in `folder`: one process, connections to servers kept, no log.
/// `None` where it can't do it by itself.
pub fn nginx(site: &Site, traffic: &Traffic, folder: &Path) -> Option<Vec<File>> {
    let Rules::Prefixes(prefixes) = &traffic.rules else { return None };
    let folder = folder.display();
    let mut text = format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\naccess_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 75s;\nclient_max_body_size 0;\n\
         variables_hash_max_size 4096;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {folder}/{kind};");
    }
    for (group, server) in GROUPS.iter().zip(&site.servers) {
        let _ = writeln!(text, "upstream {group} {{ server {server}; keepalive 256; keepalive_requests 1000000000; }}");
    }
    let _ = writeln!(
        text,
        "server {{\nlisten {};\nproxy_http_version 1.1;\nproxy_set_header Connection \"\";",
        site.service
    );
    for (prefix, group) in prefixes {
        let _ = writeln!(text, "location ^~ {prefix} {{ proxy_pass http://{}; }}", GROUPS[*group]);
    }
    let _ = writeln!(text, "location / {{ proxy_pass http://{}; }}\n}}\n}}", GROUPS[traffic.rules.fallback()]);
    Some(vec![("nginx.conf", text)])
}

/// The table of nftables that [`nftables`] makes.
pub const TABLE: &str = "lcs_peers";

/// What makes nftables give each connection a server, by a hash of the client's address and port.
pub fn nftables(site: &Site) -> String {
    let elements: Vec<String> =
        site.servers.iter().enumerate().map(|(at, s)| format!("{at} : {} . {}", s.ip(), s.port())).collect();
    format!(
        "table ip {TABLE} {{\n  chain prerouting {{\n    type nat hook prerouting priority dstnat;\n    \
         ip daddr {} tcp dport {} dnat ip to jhash ip saddr . tcp sport mod {} map {{ {} }}\n  }}\n}}\n",
        site.service.ip(),
        site.service.port(),
        site.servers.len(),
        elements.join(", ")
    )
}

/// What makes IPVS do the same, round-robin by masquerading: the arguments of one call of `ipvsadm` each.
pub fn ipvs(site: &Site) -> Vec<Vec<String>> {
    let words = |text: String| text.split(' ').map(str::to_owned).collect();
    let mut calls = vec![words(format!("-A -t {} -s rr", site.service))];
    calls.extend(site.servers.iter().map(|server| words(format!("-a -t {} -r {server} -m", site.service))));
    calls
}

#[cfg(test)]
mod tests {
    use super::super::workload::{Mode, Workload};
    use super::*;

    fn site() -> Site {
        Site {
            service: "10.80.0.100:80".parse().unwrap(),
            servers: (10..13).map(|n| format!("10.80.1.{n}:8080").parse().unwrap()).collect(),
        }
    }

    fn traffic(workload: Workload) -> Traffic {
        Traffic::new(workload, Mode::KeepAlive, 1000, 100_000, 1024, false)
    }

    #[test]
    fn our_rules_send_each_request_where_it_belongs() {
        use lcs_control::rules::{self as language, Context};
        for workload in Workload::ALL {
            let traffic = traffic(workload);
            let text = rules(&traffic.rules);
            let context = Context { require_default: true, ..Context::named("rules") };
            let set = language::parse(&text, &context).map_err(|e| e.to_string()).unwrap();
            let count = match &traffic.rules {
                Rules::Prefixes(prefixes) => prefixes.len(),
                Rules::Amount => 1,
            };
            assert_eq!(set.rules.len(), count);
        }
        assert_eq!(rules(&Rules::Amount), "if (xml.purchase/totalAmount > 5000) routeTo(two)\ndefault: routeTo(one)\n");
    }

    #[test]
    fn our_configuration_is_one() {
        let folder = std::env::temp_dir().join(format!("lcs-peers-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("a \"quoted\".rules");
        std::fs::write(&file, rules(&traffic(Workload::Urls).rules)).unwrap();
        let text = director(&site(), "10.80.1.1".parse().unwrap(), "eth0", 0, &file, "@lcs-test");
        let outcome = lcs_control::config::Configuration::parse("test", &text).map_err(|e| e.to_string());
        std::fs::remove_dir_all(&folder).unwrap();
        outcome.unwrap();
    }

    #[test]
    fn haproxy_has_a_rule_for_each_or_a_map_and_room_for_the_body() {
        let folder = Path::new("/f");
        let of = |workload, variant| haproxy(&site(), &traffic(workload), variant, 64, folder);
        let rules = of(Workload::Rules, Variant::Plain);
        assert_eq!(rules[0].1.matches("use_backend").count(), 1000);
        assert!(rules[0].1.contains("use_backend one if { path_beg /app999/ }"));
        assert!(rules[0].1.contains("tune.bufsize 16384\n"));
        let map = of(Workload::Rules, Variant::Map);
        assert!(map[0].1.contains("use_backend %[path,map_beg(/f/prefixes.map,three)]"));
        assert_eq!((map[1].0, map[1].1.lines().count()), ("prefixes.map", 1000));
        assert!(map[1].1.contains("/app998/ three\n"));
        let xml = &of(Workload::Xml, Variant::Plain)[0].1;
        let buffer = xml.split_once("tune.bufsize ").unwrap().1.lines().next().unwrap().parse::<usize>().unwrap();
        assert!(buffer > 100_000, "{buffer}");
        assert!(xml.contains("http-buffer-request") && xml.contains("default_backend one"));
        assert!(of(Workload::Urls, Variant::Reuse)[0].1.contains("http-reuse always"));
    }

    #[test]
    fn the_expression_for_larger_amounts_is_exact() {
        let pattern = regex_automata::meta::Regex::new(&larger("<totalAmount>")).unwrap();
        for amount in (0..20_000).chain([99_999, 123_456_789]) {
            let text = format!("<totalAmount>{amount}</totalAmount>");
            assert_eq!(pattern.is_match(&text), amount > LARGE, "{amount}");
        }
    }

    #[test]
    fn nginx_has_a_location_for_each_and_leaves_xml() {
        let files = nginx(&site(), &traffic(Workload::Rules), Path::new("/f")).unwrap();
        assert_eq!(files[0].1.matches("location ^~").count(), 1000);
        assert!(files[0].1.contains("location ^~ /app999/ { proxy_pass http://one; }"));
        assert_eq!(files[0].1.matches('{').count(), files[0].1.matches('}').count());
        assert_eq!(nginx(&site(), &traffic(Workload::Xml), Path::new("/f")), None);
    }

    #[test]
    fn the_kernels_balancers_know_every_server() {
        let text = nftables(&site());
        assert!(text.contains("ip daddr 10.80.0.100 tcp dport 80 dnat ip to jhash ip saddr . tcp sport mod 3 map"));
        assert!(text.contains("2 : 10.80.1.12 . 8080"));
        let calls = ipvs(&site());
        assert_eq!(calls[0].join(" "), "-A -t 10.80.0.100:80 -s rr");
        assert_eq!(calls[3].join(" "), "-a -t 10.80.0.100:80 -r 10.80.1.12:8080 -m");
    }
}
