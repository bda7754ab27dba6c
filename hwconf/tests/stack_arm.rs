//! The arm between a filter and its host's stack, in a namespace of its own.

use lcs_hwconf::stack_arm::{TABLE, check, create};
use lcs_hwconf::testbed::Host;

#[test]
fn what_is_missing_of_an_arm_is_said_with_the_commands_that_make_it() {
    let host = match Host::create("server") {
        Ok(host) => host,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let services = [("198.51.100.1".parse().unwrap(), 80), ("2001:db8::1".parse().unwrap(), 443)];
    let wrong = |what: &str| {
        let error = check(host.rtnl(), "lcs0", &services).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        error
    };
    let error = wrong("there is no interface lcs0");
    for command in [
        "ip link add lcs0 address 02:6c:63:73:00:01 type veth peer name lcs1 address 02:6c:63:73:00:01",
        "ip link set lcs1 arp off",
        "ip rule add from 198.51.100.1 ipproto tcp sport 80 lookup 7411",
        "ip -6 route replace default dev lcs1 table 7411",
    ] {
        assert!(error.contains(command), "{command} in {error}");
    }
    create(host.rtnl(), host.ethtool(), ("lcs0", "lcs1"), &services, 1500).unwrap();
    wrong("198.51.100.1 is no address of this host");
    for (address, _) in services {
        host.add_hidden_address(address).unwrap();
    }
    assert_eq!(check(host.rtnl(), "lcs0", &services).unwrap(), "lcs1");
    // A service that nobody has routed.
    let more = [("198.51.100.1".parse().unwrap(), 81)];
    let error = check(host.rtnl(), "lcs0", &more).unwrap_err().to_string();
    assert!(error.contains("no rule routes them"), "{error}");
    let policies = host.rtnl().policies().unwrap();
    assert!(
        policies.iter().any(|p| p.from == services[1].0 && p.port == Some(443) && p.table == TABLE),
        "{policies:?}"
    );
    host.rtnl().set_up("lcs1", false).unwrap();
    wrong("the interface lcs1 is down");
}
