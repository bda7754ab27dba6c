use super::*;
use proptest::prelude::*;

const BASE: &str = "[port]\ninterfaces = [\"eth0\"]\n";

fn wrong(text: &str) -> Invalid {
    Configuration::parse("lcs.toml", text).expect_err("this should be refused")
}

/// A service in one line, appended to the base; its text is in line 4.
fn service(keys: &str) -> String {
    format!("{BASE}[[services]]\n{keys}\n")
}

#[test]
fn the_example_is_valid_and_means_what_its_comments_say() {
    let c = Configuration::parse("example", EXAMPLE).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(c.services.len(), 3);
    let web = &c.services[0];
    assert_eq!((web.name.as_str(), web.port, web.scheduler, web.forward), ("web", 80, Scheduler::Wrr, Forward::Nat));
    assert_eq!((web.servers[0].weight, web.servers[0].port, web.servers[1].weight), (2, 8080, 1));
    assert_eq!(c.services[1].servers[0].forward, Forward::FullNat);
    assert_eq!(c.services[1].source_ports, (1024, 65_535));
    assert_eq!((c.services[2].protocol, c.services[2].servers[1].port), (Protocol::Udp, 0));
    use lcs_dataplane::flow::TcpState;
    assert_eq!(c.timeouts.get(TcpState::Established).as_secs(), 900);
    assert_eq!(c.timeouts.get(TcpState::FinWait).as_secs(), 120);
    assert_eq!((c.workers.count(), c.workers.flows), (1, 1_000_000));
}

/// A DPDK port of so many interfaces with a TAP device, whose text is in line 5.
fn taps(interfaces: usize, keys: &str) -> String {
    let names: Vec<String> = (0..interfaces).map(|n| format!("\"net_ring{n}\"")).collect();
    format!("[port]\nkind = \"dpdk\"\ninterfaces = [{}]\n[[port.taps]]\n{keys}\n", names.join(", "))
}

#[test]
fn taps_have_names_by_default_and_give_the_port_a_kernel_that_checks_servers() {
    let read = |text: &str| Configuration::parse("f", text).unwrap_or_else(|e| panic!("{e}"));
    let c = read(&taps(2, "[[port.taps]]\naddresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\nrate = 5"));
    let seen: Vec<_> = c.port.taps.iter().map(|t| (t.name.as_str(), t.addresses.len(), t.rate)).collect();
    assert_eq!(seen, [("lcs0", 0, 20_000), ("lcs1", 2, 5)]);
    let service = "[[services]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80\ncheck = \"tcp\"\n";
    assert!(read(&(taps(1, "") + service)).port.has_kernel());
    let without = taps(1, "").replace("[[port.taps]]", "") + service;
    let invalid = wrong(&without);
    assert!(invalid.problems[0].mend.contains("[[port.taps]]"), "{invalid}");
}

#[test]
fn an_address_is_the_kernels_or_one_of_the_sources() {
    let service = "[[services]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80\nforward = \"fullnat\"\n\
                   sources = [\"192.0.2.10\"]\n";
    let with = |address: &str| taps(1, &format!("addresses = [\"{address}/24\"]")) + service;
    Configuration::parse("f", &with("192.0.2.11")).unwrap_or_else(|e| panic!("{e}"));
    let invalid = wrong(&with("192.0.2.10"));
    let [problem] = invalid.problems.as_slice() else { panic!("{invalid}") };
    assert!(problem.what.contains("192.0.2.10") && problem.what.contains("lcs0"), "{invalid}");
    assert!(problem.what.contains("service web") && problem.mend.contains("another address"), "{invalid}");
}

/// A service with a check, whose text is in line 4.
fn check(keys: &str) -> String {
    service(&format!("{keys}\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80"))
}

#[test]
fn checks_have_defaults_and_may_be_set() {
    let read =
        |keys: &str| Configuration::parse("f", &check(keys)).unwrap_or_else(|e| panic!("{e}")).services.remove(0);
    assert_eq!(read("").check, None);
    assert_eq!(read("check = \"http\"").check, Some(Check::new(CheckKind::Http)));
    let all = "check = { kind = \"http\", interval = \"500ms\", timeout = \"300ms\", rise = 1, fall = 5, port = 8081, \
               path = \"/up\", host = \"a.example\", status = \"204\" }";
    let millis = std::time::Duration::from_millis;
    let wanted = Check {
        interval: millis(500),
        timeout: millis(300),
        rise: 1,
        fall: 5,
        port: Some(8081),
        path: "/up".into(),
        host: Some("a.example".into()),
        status: (204, 204),
        ..Check::new(CheckKind::Http)
    };
    assert_eq!(read(all).check, Some(wanted));
    assert_eq!(read("check = { kind = \"tcp\", interval = \"500ms\" }").check.map(|c| c.timeout), Some(millis(500)));
}

#[test]
fn every_mistake_is_shown_at_its_place_with_its_mend() {
    let table: &[(&str, (usize, usize), &str, &str)] = &[
        (
            "[port]\ninterfaces = [\"eth0\"]\nmdoe = \"auto\"",
            (3, 1),
            "unknown key `mdoe` in [port]",
            "did you mean `mode`?",
        ),
        ("[port]\ninterfaces = [\"eth0\"\n", (2, 21), "this is not TOML", "toml.io"),
        ("[port]\ninterfaces = \"eth0\"", (2, 14), "where a list is expected", "interfaces = ["),
        (&check("check = \"ping\""), (4, 9), "is none of", "tcp, http"),
        (&check("check = { kind = \"tcp\", path = \"/\" }"), (4, 32), "only connects", "kind = \"http\""),
        (&check("check = { path = \"/\" }"), (4, 9), "has no `kind`", "kind = \"http\""),
        (&check("check = { kind = \"http\", timeout = 5 }"), (4, 36), "longer than `interval`", "longer interval"),
        (&check("check = { kind = \"http\", status = \"20x\" }"), (4, 35), "no range of status codes", "200-399"),
        (&check("check = \"tcp\"\nprotocol = \"udp\""), (4, 9), "no handshake", "add `port`"),
        ("[port]\ninterfaces = [\"eth0\"]\nmode = \"nativ\"", (3, 8), "is none of", "did you mean \"native\"?"),
        ("[port]\ninterfaces = [\"eth0\"]\nbuffers = 1000", (3, 11), "power of two", "write 1024"),
        ("[port]\ninterfaces = [\"eth0\"]\nclients = [\"eth0\"]", (3, 11), "devices of DPDK", "lcs hw plan"),
        (
            "[port]\nkind = \"dpdk\"\ninterfaces = [\"net_null0\"]\nclients = [\"net_null1\"]",
            (4, 12),
            "none of `interfaces`",
            "net_null0",
        ),
        ("[port]\nkind = \"memory\"\ninterfaces = [\"a\"]\ncoalesce-us = 50", (4, 15), "receive queues", "af-xdp"),
        (
            "[port]\ninterfaces = [\"eth0\"]\n[[port.taps]]\nname = \"lcs0\"",
            (3, 1),
            "on AF_XDP the kernel keeps its interfaces",
            "kind = \"dpdk\"",
        ),
        (&taps(2, "name = \"lcs0\""), (4, 1), "1 TAP devices, and 2 interfaces", "for each of `interfaces`"),
        (&taps(1, "name = \"lcs/0\""), (5, 8), "no name for an interface", "1 to 15 bytes"),
        (&taps(1, "name = \"lcs%d\""), (5, 8), "no name for an interface", "'%'"),
        (&taps(1, "rate = 0"), (5, 8), "out of range", "from 1"),
        (&taps(1, "addresses = [\"192.0.2.10\"]"), (5, 14), "length of its network's prefix", "192.0.2.10/24"),
        (&taps(1, "addresses = [\"192.0.2.0/24\"]"), (5, 14), "is a network", "an address of this machine"),
        (&taps(1, "addresses = [\"127.0.0.1/8\"]"), (5, 14), "loopback", "an address of this machine"),
        (&taps(1, "addresses = [\"10.0.0.1/8\", \"10.0.0.1/24\"]"), (5, 28), "given twice", "remove one"),
        (&taps(1, "mac = \"02:00:00:00:00:01\""), (5, 1), "unknown key `mac`", "known here"),
        (&taps(2, "name = \"a\"\n[[port.taps]]\nname = \"a\""), (7, 8), "two TAP devices", "of its own"),
        ("[workers]\nflows = 1\n", (1, 1), "has no `port`", "add [port]"),
        (
            "[workers]\ncores = [1, 1]\n[port]\ninterfaces = [\"eth0\"]",
            (2, 9),
            "names core 1 twice",
            "list of different cores",
        ),
        ("[port]\ninterfaces = [\"eth0\"]\n[timeouts]\nudp = \"5 weeks\"", (4, 7), "no time", "\"15m\""),
        ("[port]\ninterfaces = [\"eth0\"]\n[timeouts]\nestablshed = 5", (4, 1), "unknown key", "`established`"),
        ("[port]\ninterfaces = [\"eth0\"]\n[timeouts]\nudp = 0", (4, 7), "out of range", "200ms"),
    ];
    for (text, place, what, mend) in table {
        let invalid = wrong(text);
        let p = &invalid.problems[0];
        assert_eq!((p.line, p.column), *place, "{invalid}");
        assert!(p.what.contains(what) && p.mend.contains(mend), "{invalid}");
    }
}

#[test]
fn every_mistake_in_a_service_is_shown_at_its_place_with_its_mend() {
    let head = "name = \"web\"\naddress = \"192.0.2.1\"\nport = 80\n";
    let table: &[(&str, usize, &str, &str)] = &[
        (
            "servers = [{ name = \"s1\", address = \"2001:db8::1\" }]",
            7,
            "is IPv6, and its service web is IPv4",
            "tunnel",
        ),
        ("forward = \"fullnat\"", 4, "no source address", "sources = ["),
        ("forward = \"fullnat\"\nsources = [\"2001:db8::1\"]", 8, "is IPv6, and service web is IPv4", "same family"),
        (
            "forward = \"dr\"\nservers = [{ name = \"s1\", address = \"10.0.0.1\", port = 8080 }]",
            8,
            "dr cannot change the port from 80",
            "leave `port` out",
        ),
        ("servers = [{ name = \"s1\", address = \"10.0.0.1\", weight = 65536 }]", 7, "out of range", "0 to 65535"),
        ("servers = [{ name = \"s1\", address = \"10.0.0.1\", weight = -1 }]", 7, "out of range", "0 to 65535"),
        ("servers = [{ name = \"a/b\", address = \"10.0.0.1\" }]", 7, "has '/' in it", "letters"),
        ("servers = [{ name = \"s1\", address = \"192.0.2.1\" }]", 7, "address of its service", "own interface"),
        ("servers = [{ name = \"s1\" }]", 7, "has no `address`", "add address"),
        ("servers = [{ address = \"10.0.0.1\" }]", 7, "has no `name`", "SERVICE/SERVER"),
        ("servers = [{ name = \"s1\", address = \"10.0.0.1:80\" }]", 7, "address with a port", "IPv4 or IPv6"),
        ("servers = [{ name = \"s1\", address = \"::ffff:10.0.0.1\" }]", 7, "IPv6 coat", "IPv4"),
        (
            "servers = [{ name = \"s1\", address = \"10.0.0.1\" },\n { name = \"s1\", address = \"10.0.0.2\" }]",
            8,
            "two servers named s1",
            "another name",
        ),
        (
            "servers = [{ name = \"s1\", address = \"10.0.0.1\" },\n { name = \"s2\", address = \"10.0.0.1\", port = 80 }]",
            8,
            "are both 10.0.0.1:80",
            "sum of their weights",
        ),
        ("scheduler = \"random\"", 7, "is none of rr, wrr, lc, wlc", "write one of"),
        ("source-ports = \"9-1\"", 7, "no range of ports", "first-last"),
        ("persistence = \"1 ms\"", 7, "out of range", "from 200ms"),
        ("persistence = { timeout = \"60s\", mask4 = 33 }", 7, "33", "32"),
        ("persistence = { mask = 24 }", 7, "unknown key `mask`", "`mask4`"),
        ("sheduler = \"rr\"", 7, "unknown key `sheduler` in service web", "`scheduler`"),
    ];
    for (keys, line, what, mend) in table {
        let invalid = wrong(&service(&format!("{head}{keys}")));
        let p = &invalid.problems[0];
        assert_eq!(p.line, *line, "{invalid}");
        assert!(p.what.contains(what) && p.mend.contains(mend), "{invalid}");
    }
}

#[test]
fn persistence_is_a_time_or_a_table() {
    let head = "name = \"web\"\naddress = \"192.0.2.1\"\nport = 80\n";
    for (keys, want) in [
        ("", None),
        ("persistence = \"90s\"", Some((90, 32, 128))),
        ("persistence = 90", Some((90, 32, 128))),
        ("persistence = { mask4 = 24 }", Some((300, 24, 128))),
        ("persistence = { timeout = \"1h\", mask4 = 16, mask6 = 56 }", Some((3600, 16, 56))),
    ] {
        let configuration =
            Configuration::parse("f", &service(&format!("{head}{keys}"))).unwrap_or_else(|e| panic!("{e}"));
        let p = configuration.services[0].persistence;
        assert_eq!(p.map(|p| (p.timeout.as_secs(), p.mask4, p.mask6)), want, "{keys}");
    }
}

#[test]
fn port_zero_cannot_be_remapped_and_two_services_cannot_share_a_name_or_endpoint() {
    let any = "name = \"all\"\naddress = \"192.0.2.1\"\nport = 0\n";
    let i = wrong(&service(&format!("{any}servers = [{{ name = \"s1\", address = \"10.0.0.1\", port = 80 }}]")));
    assert!(i.problems[0].what.contains("is on every port"), "{i}");

    let two = format!("{}[[services]]\n{any}", service(any));
    let i = wrong(&two);
    assert_eq!(i.problems.len(), 1, "{i}");
    assert!(i.problems[0].what.contains("two services named all; the first is in line 4"), "{i}");

    let i = wrong(&two.replacen("\"all\"", "\"one\"", 1));
    assert!(i.problems[0].what.contains("services one (line 4) and all are both on tcp 192.0.2.1:*"), "{i}");

    let udp = format!("{}[[services]]\n{any}protocol = \"udp\"\n", service(any).replacen("\"all\"", "\"one\"", 1));
    Configuration::parse("f", &udp).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_files_order() {
    let text = "[workers]\nidle = \"lazy\"\n[port]\ninterfaces = []\n[director]\naddresses = [\"127.0.0.1\"]\n";
    let lines: Vec<usize> = wrong(text).problems.iter().map(|p| p.line).collect();
    assert_eq!(lines, [2, 4, 6]);
}

#[test]
fn a_tunnel_may_mix_families_and_on_a_memory_port_needs_an_address_to_begin_at() {
    let keys = "name = \"t\"\naddress = \"192.0.2.1\"\nport = 80\nforward = \"tunnel\"\n\
                servers = [{ name = \"s1\", address = \"2001:db8::1\" }]";
    Configuration::parse("f", &service(keys)).unwrap_or_else(|e| panic!("{e}"));
    let memory = service(keys).replace("[port]\n", "[port]\nkind = \"memory\"\n");
    assert!(wrong(&memory).problems[0].what.contains("tunnel to server t/s1 has no address to begin at"));
    let given = format!("[director]\naddresses = [\"2001:db8::ffff\"]\n{memory}");
    Configuration::parse("f", &given).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn presets_and_units_of_time_outs() {
    use lcs_dataplane::flow::TcpState;
    let c = Configuration::parse("f", &format!("{BASE}[timeouts]\npreset = \"rfc5382\"\nclose = \"500ms\"\nudp = 1.5"));
    let t = c.unwrap_or_else(|e| panic!("{e}")).timeouts;
    let of = |s| t.get(s).as_millis();
    assert_eq!((of(TcpState::Established), of(TcpState::SynReceived)), (7_440_000, 240_000));
    assert_eq!((of(TcpState::Close), of(TcpState::Udp)), (500, 1500));
}

#[test]
fn what_cannot_be_read_of_a_service_hides_no_other_mistake() {
    let all = |text: &str| {
        let invalid = wrong(text);
        invalid.problems.iter().map(|p| format!("{}: {}", p.line, p.what)).collect::<Vec<_>>()
    };
    // A value that is none, and beside it a bad name, a bad source, two servers of one name, one of them with a bad address.
    let text = service(
        "name = \"-web\"\naddress = \"192.0.2\"\nport = 80\nforward = \"fullnat\"\nsources = [\"224.0.0.1\"]\n\
         servers = [\n{ name = \"s1\", address = \"10.0.0.1\" },\n{ name = \"s1\", address = \"10.0.0\" },\n\
         { name = \"s3\", address = \"127.0.0.1\" },\n{ name = \"s4\", address = \"10.0.0.1\" }]",
    );
    let found = all(&text);
    let expected = [
        "4: the name \"-web\" begins with a mark",
        "5: `address`: \"192.0.2\" is no address",
        "8: the source address 224.0.0.1 is a multicast address",
        "11: service -web has two servers named s1",
        "11: `address`: \"10.0.0\" is no address",
        "12: 127.0.0.1 is a loopback address, which never comes over a network",
        "13: servers s1 and s4 of service -web are both 10.0.0.1:80",
    ];
    assert_eq!(found, expected, "{found:#?}");
    // Nothing is made of what stands for a port, a name or an address that could not be read.
    let found = all(&service(
        "address = \"2001:db8::1\"\nport = \"http\"\ncheck = \"tcp\"\n\
         servers = [{ address = \"2001:db8::2\", port = 8080, forward = \"dr\" }, { address = \"2001:db8::2\" }]",
    ));
    let expected = [
        "3: a service has no `name`",
        "5: `port` is a string, where an integer is expected",
        "7: a server has no `name`",
        "7: a server has no `name`",
    ];
    assert_eq!(found, expected, "{found:#?}");
    // Two of one name are told, whatever else is wrong with them.
    let found = all(&format!(
        "{BASE}[[services]]\nname = \"web\"\naddress = \"x\"\nport = 80\n[[services]]\nname = \"web\"\naddress = \"y\"\nport = 80\n"
    ));
    assert!(found.contains(&"8: there are two services named web; the first is in line 4".to_owned()), "{found:#?}");
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn neighbours_and_routes() {
    let text = format!(
        "{BASE}[[neighbours]]\naddress = \"10.0.0.1\"\nmac = \"02:00:00:00:00:01\"\n\
         [[routes]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.1\"\n[[routes]]\nto = \"10.0.0.9/24\"\n"
    );
    let c = Configuration::parse("f", &text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(c.neighbours[0].interface, 0);
    assert_eq!((c.routes[1].to.to_string().as_str(), c.routes[1].via), ("10.0.0.0/24", None));
    let i = wrong(&text.replace("0.0.0.0/0", "::/0"));
    assert!(i.problems[0].what.contains("not of the family"), "{i}");
    let i = wrong(&text.replace("02:00:00:00:00:01", "01:00:00:00:00:01"));
    assert!(i.problems[0].what.contains("no single station"), "{i}");
}

proptest! {
    #[test]
    fn no_text_panics_and_a_refusal_says_where(text in "[\\[\\]a-z\"= {},0-9.\n\té-]{0,200}") {
        let document = format!("{BASE}[[services]]\n{text}");
        for t in [text.as_str(), document.as_str()] {
            if let Err(invalid) = Configuration::parse("f", t) {
                prop_assert!(!invalid.problems.is_empty());
                prop_assert!(invalid.problems.iter().all(|p| p.line >= 1 && p.column >= 1 && p.width >= 1));
                prop_assert!(invalid.to_string().contains("mend"));
            }
        }
    }

    #[test]
    fn damaged_examples_never_panic(at in 0usize..4500, what in "[\"\\[\\]{}=\n0-9a-z]{0,3}") {
        let mut text = EXAMPLE.to_owned();
        let at = (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.insert_str(at, &what);
        let _ = Configuration::parse("f", &text).map_err(|e| e.to_string());
    }
}
