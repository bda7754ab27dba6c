//! Namespaces: what's inside stays inside, and nothing is left behind.

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use lcs_hwconf::netns::Namespace;
use lcs_hwconf::rtnl::{Rtnl, VethEnd};
use support::{eventually, root};

fn end<'a>(name: &'a str, namespace: Option<&'a Namespace>) -> VethEnd<'a> {
    VethEnd { name, namespace, mac: None, mtu: 1500, queues: 1 }
}

#[test]
fn a_namespace_is_apart_from_ours_and_from_others() {
    if !root("a_namespace_is_apart_from_ours_and_from_others") {
        return;
    }
    let (a, b) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    let ours = Namespace::current().unwrap();
    let ids = [a.id().unwrap(), b.id().unwrap(), ours.id().unwrap()];
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    assert_eq!(a.duplicate().unwrap().id().unwrap(), ids[0]);

    // `run` is inside, and leaves the caller where it was.
    let inside = a.run(|| Namespace::current().unwrap().id().unwrap()).unwrap();
    assert_eq!(inside, ids[0]);
    assert_eq!(Namespace::current().unwrap().id().unwrap(), ids[2]);
    // So is a spawned thread, and one that it starts.
    let thread = b
        .spawn("inside", || std::thread::spawn(|| Namespace::current().unwrap().id().unwrap()).join().unwrap())
        .unwrap();
    assert_eq!(thread.join().unwrap(), ids[1]);

    // A new namespace has a loopback and nothing else; the same port is free in both.
    let links = Rtnl::open_in(&a).unwrap().links().unwrap();
    assert_eq!(links.iter().map(|l| (l.name.as_str(), l.up)).collect::<Vec<_>>(), [("lo", false)]);
    for namespace in [&a, &b] {
        Rtnl::open_in(namespace).unwrap().set_up("lo", true).unwrap();
    }
    let in_a = a.run(|| TcpListener::bind("127.0.0.1:80").unwrap()).unwrap();
    let in_b = b.run(|| TcpListener::bind("127.0.0.1:80").unwrap()).unwrap();
    drop((in_a, in_b));
}

#[test]
fn a_sysctl_is_set_inside_only() {
    if !root("a_sysctl_is_set_inside_only") {
        return;
    }
    let (a, b) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    for path in ["net/ipv4/conf/all/arp_ignore", "net/ipv6/conf/all/forwarding"] {
        let before = Namespace::current().unwrap().read_sysctl(path).unwrap();
        b.sysctl(path, "0").unwrap();
        a.sysctl(path, "1").unwrap();
        assert_eq!(a.read_sysctl(path).unwrap(), "1");
        assert_eq!(b.read_sysctl(path).unwrap(), "0");
        assert_eq!(Namespace::current().unwrap().read_sysctl(path).unwrap(), before);
    }
    let error = a.sysctl("net/ipv4/no_such_setting", "1").unwrap_err().to_string();
    assert!(error.contains("net/ipv4/no_such_setting=1") && error.contains("no such setting"), "{error}");
}

#[test]
fn a_panic_inside_reaches_the_caller() {
    if !root("a_panic_inside_reaches_the_caller") {
        return;
    }
    let namespace = Namespace::create().unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| namespace.run(|| panic!("from inside"))));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"from inside"));
}

#[test]
fn the_last_reference_takes_the_veth_with_it() {
    if !root("the_last_reference_takes_the_veth_with_it") {
        return;
    }
    let near = Namespace::create().unwrap();
    let rtnl = Rtnl::open_in(&near).unwrap();
    let far = Namespace::create().unwrap();
    rtnl.create_veth(&end("near", None), &end("far", Some(&far))).unwrap();
    assert!(rtnl.link("near").is_ok());
    drop(far);
    eventually("the veth's end", || rtnl.link("near").is_err());
}

/// The part of `nothing_is_left_after_sigkill` that is killed: run by it alone, in a process of its own.
#[test]
#[ignore = "run by nothing_is_left_after_sigkill"]
fn holds_a_namespace_until_killed() {
    let far = Namespace::create().unwrap();
    let rtnl = Rtnl::open().unwrap();
    rtnl.create_veth(&end("near", None), &end("far", Some(&far))).unwrap();
    let _thread = far.spawn("sleeper", std::thread::park).unwrap();
    println!("ready");
    loop {
        std::thread::park();
    }
}

#[test]
fn nothing_is_left_after_sigkill() {
    if !root("nothing_is_left_after_sigkill") {
        return;
    }
    // The child puts one end of a veth where we see it, and the other into a namespace of its own making.
    let near = Namespace::create().unwrap();
    let rtnl = Rtnl::open_in(&near).unwrap();
    let mut child = near
        .run(|| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "holds_a_namespace_until_killed", "--ignored", "--nocapture"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("ready")), "the child ended before it was ready");
    assert!(rtnl.link("near").is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the end of the killed process's veth", || rtnl.link("near").is_err());
}
