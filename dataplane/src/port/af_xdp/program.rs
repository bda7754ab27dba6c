//! The XDP program: which frames are ours, and which the kernel keeps.
//!
//! A frame goes to the worker of its receive queue when
//! 1. it is TCP or UDP to a service (address, port, protocol), or to a service on any port (port 0);
//! 2. it is TCP or UDP from a real server whose replies must come back through us, and is not for an
//!    address of the director itself (so the answers to the director's own connections stay the kernel's);
//! 3. it is an ICMP error to a service address;
//! 4. it is an ICMP error about a packet that we sent to such a real server (RFC 792, RFC 4443: the error
//!    carries the offending packet), and is not for the director itself;
//! 5. it is an ICMP error about a tunnel packet (protocols 4 and 41 in the offending packet) to a server behind a tunnel, to whomever
//!    the error goes: the sender of such packets is an address of the director's own;
//! 6. it is a fragment, the first or a later one, to a service address or from such a real server.
//!    A later fragment carries no ports, so fragments go by address alone;
//! 7. it is IP within IP (protocols 4 and 41) to an endpoint of that protocol without a port: the end of a filter's tunnel.
//!
//! Everything else, ARP and neighbour discovery first of all, and everything malformed, is passed to the kernel.
//! One 802.1Q tag is looked behind; IPv4 options and up to six IPv6 extension headers are stepped over.
//!
//! Each interface gets an instance of its own, because an `XSKMAP` is indexed by queue alone and two
//! interfaces have the same queue numbers. The tables are shared between the instances. The other way, one
//! instance with a map of maps, would cost every frame another lookup to save a load at start.

use super::asm::{Asm, Call, If, Label, Op, Program, Reg, Width};
use Reg::{R0, R1, R2, R3, R6, R7, R8, R9, R10};
use Width::{B8, B16, B32, B64};

/// The maps that the program refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgramMap {
    /// Hash, [`Key`](super::FilterKey) to `u32`: destinations that are ours.
    Services,
    /// Hash, key to `u32`: sources whose packets must come back through us, and ends of tunnels, errors about which must.
    Replies,
    /// Hash, 16 bytes of address to `u32`: the director's own addresses.
    Locals,
    /// Per-CPU array of two `u64`: frames passed, frames redirected.
    Counters,
    /// `XSKMAP` of this interface, by receive queue.
    Sockets,
}

/// Pseudo protocol under which fragments are looked up, for both families: the number of IPv6's fragment header.
pub(super) const FRAGMENT: u8 = 44;

pub(super) const XDP_DROP: u32 = 1;
pub(super) const XDP_PASS: u32 = 2;
pub(super) const XDP_REDIRECT: u32 = 4;

const TCP: i32 = 6;
const UDP: i32 = 17;
const ICMP: i32 = 1;
const ICMPV6: i32 = 58;
/// IPv4 and IPv6 within IP (RFC 2003, RFC 2473).
const IPIP: i32 = 4;
const IPV6: i32 = 41;
/// Extension headers stepped over: hop-by-hop options, routing, destination options (RFC 8200 section 4).
const EXTENSIONS: [i32; 3] = [0, 43, 60];
const EXTENSIONS_MAX: usize = 6;
/// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
const ICMP_ERRORS: [i32; 5] = [3, 4, 5, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
const ICMPV6_ERRORS: [i32; 4] = [1, 2, 3, 4];

/// Stack: the destination's key, the source's key (20 bytes each), an index into the counters.
const DST: i16 = -24;
const SRC: i16 = -48;
const COUNTER: i16 = -52;
/// Offsets within a key.
const PORT: i16 = 16;
const PROTOCOL: i16 = 18;

/// A 16-bit number in network byte order, as a load of the machine's byte order sees it.
pub(super) fn be16(value: u16) -> i32 {
    value.to_be().into()
}

/// Writes the program.
///
/// Registers over the whole program: R6 the context, R7 the cursor into the frame, R8 the frame's end,
/// R9 the protocol and, at the end, the verdict.
pub(super) fn program() -> Program<ProgramMap> {
    let mut asm = Asm::new();
    let to = Targets {
        pass: asm.label("pass"),
        redirect: asm.label("redirect"),
        check_local: asm.label("check_local"),
        fragment: asm.label("fragment"),
        transport: asm.label("transport"),
        replies: asm.label("replies"),
    };
    ethernet(&mut asm, &to);
    transport(&mut asm, &to);
    lookups(&mut asm, &to);
    asm.finish()
}

/// Places that several parts jump to.
struct Targets {
    pass: Label,
    redirect: Label,
    check_local: Label,
    fragment: Label,
    transport: Label,
    replies: Label,
}

/// To the kernel unless `bytes` more bytes stand at the cursor.
fn need(asm: &mut Asm<ProgramMap>, to: &Targets, bytes: i32) {
    asm.op_reg(Op::Mov, R1, R7);
    asm.op(Op::Add, R1, bytes);
    asm.jump_if_reg(R1, If::Greater, R8, to.pass);
}

/// To `found` when the key at `key` on the stack is in `map`.
fn lookup(asm: &mut Asm<ProgramMap>, map: ProgramMap, key: i16, found: Label) {
    asm.map(R1, map);
    asm.op_reg(Op::Mov, R2, R10);
    asm.op(Op::Add, R2, key.into());
    asm.call(Call::MapLookupElem);
    asm.jump_if(R0, If::NotEqual, 0, found);
}

fn ethernet(asm: &mut Asm<ProgramMap>, to: &Targets) {
    let untagged = asm.label("untagged");
    let ipv6 = asm.label("ipv6");
    asm.comment("struct xdp_md: data at 0, data_end at 4");
    asm.op_reg(Op::Mov, R6, R1);
    asm.load(B32, R7, R6, 0);
    asm.load(B32, R8, R6, 4);
    asm.comment("Ethernet, and one 802.1Q tag");
    need(asm, to, 18);
    asm.load(B16, R2, R7, 12);
    asm.op(Op::Add, R7, 14);
    asm.jump_if(R2, If::NotEqual, be16(0x8100), untagged);
    asm.load(B16, R2, R7, 2);
    asm.op(Op::Add, R7, 4);
    asm.bind(untagged);
    asm.jump_if(R2, If::Equal, be16(0x86dd), ipv6);
    asm.jump_if(R2, If::NotEqual, be16(0x0800), to.pass);
    ipv4_header(asm, to);
    asm.bind(ipv6);
    ipv6_header(asm, to);
}

/// Version and header length of an IPv4 header whose first 20 bytes are known to be there.
/// Leaves the length in bytes in R1.
fn ipv4_length(asm: &mut Asm<ProgramMap>, to: &Targets, at: i16) {
    asm.load(B8, R1, R7, at);
    asm.op_reg(Op::Mov, R2, R1);
    asm.op(Op::Rsh, R2, 4);
    asm.jump_if(R2, If::NotEqual, 4, to.pass);
    asm.op(Op::And, R1, 0xf);
    asm.jump_if(R1, If::Less, 5, to.pass);
    asm.op(Op::Lsh, R1, 2);
}

fn ipv4_header(asm: &mut Asm<ProgramMap>, to: &Targets) {
    let icmp = asm.label("icmp");
    asm.comment("IPv4: keys hold the address v4-mapped (::ffff:a.b.c.d)");
    need(asm, to, 20);
    ipv4_length(asm, to, 0);
    for (key, address) in [(DST, 16), (SRC, 12)] {
        asm.store_imm(B64, R10, key, 0);
        asm.store_imm(B32, R10, key + 8, i32::from_ne_bytes([0, 0, 0xff, 0xff]));
        asm.load(B32, R2, R7, address);
        asm.store(B32, R10, key + 12, R2);
        asm.store_imm(B32, R10, key + PORT, 0);
    }
    asm.load(B8, R9, R7, 9);
    asm.load(B16, R2, R7, 6);
    asm.op(Op::And, R2, be16(0x3fff));
    asm.op_reg(Op::Add, R7, R1);
    asm.comment("more fragments, or an offset");
    asm.jump_if(R2, If::NotEqual, 0, to.fragment);
    asm.jump_if(R9, If::NotEqual, ICMP, to.transport);

    asm.bind(icmp);
    asm.comment("ICMP: errors only; 8 bytes, then the header of the packet in error");
    need(asm, to, 8 + 20);
    icmp_error(asm, to, &ICMP_ERRORS, ICMP);
    asm.op(Op::Add, R7, 8);
    ipv4_length(asm, to, 0);
    asm.load(B16, R2, R7, 6);
    asm.op(Op::And, R2, be16(0x1fff));
    asm.jump_if(R2, If::NotEqual, 0, to.pass);
    asm.load(B32, R2, R7, 16);
    asm.store(B32, R10, SRC + 12, R2);
    asm.load(B8, R9, R7, 9);
    asm.op_reg(Op::Add, R7, R1);
    embedded(asm, to, ICMP);
}

fn ipv6_header(asm: &mut Asm<ProgramMap>, to: &Targets) {
    let after = asm.label("after_extensions");
    asm.comment("IPv6");
    need(asm, to, 40);
    asm.load(B8, R1, R7, 0);
    asm.op(Op::Rsh, R1, 4);
    asm.jump_if(R1, If::NotEqual, 6, to.pass);
    for (key, address) in [(DST, 24), (SRC, 8)] {
        for half in [0, 8] {
            asm.load(B64, R2, R7, address + half);
            asm.store(B64, R10, key + half, R2);
        }
        asm.store_imm(B32, R10, key + PORT, 0);
    }
    asm.load(B8, R9, R7, 6);
    asm.op(Op::Add, R7, 40);
    for _ in 0..EXTENSIONS_MAX {
        let extension = asm.label("extension");
        asm.jump_if(R9, If::Equal, EXTENSIONS[0], extension);
        asm.jump_if(R9, If::Equal, EXTENSIONS[1], extension);
        asm.jump_if(R9, If::NotEqual, EXTENSIONS[2], after);
        asm.bind(extension);
        need(asm, to, 8);
        asm.load(B8, R9, R7, 0);
        asm.load(B8, R1, R7, 1);
        asm.comment("length in units of 8 bytes, the first not counted");
        asm.op(Op::Add, R1, 1);
        asm.op(Op::Lsh, R1, 3);
        asm.op_reg(Op::Add, R7, R1);
    }
    asm.bind(after);
    asm.jump_if(R9, If::Equal, FRAGMENT.into(), to.fragment);
    asm.jump_if(R9, If::NotEqual, ICMPV6, to.transport);

    asm.comment("ICMPv6: errors only; 8 bytes, then the header of the packet in error");
    need(asm, to, 8 + 40);
    icmp_error(asm, to, &ICMPV6_ERRORS, ICMPV6);
    asm.op(Op::Add, R7, 8);
    for half in [0, 8] {
        asm.load(B64, R2, R7, 24 + half);
        asm.store(B64, R10, SRC + half, R2);
    }
    asm.load(B8, R9, R7, 6);
    asm.op(Op::Add, R7, 40);
    let whole = asm.label("embedded_whole");
    asm.jump_if(R9, If::NotEqual, FRAGMENT.into(), whole);
    asm.comment(
        "a first fragment: tunnel packets are cut where a path takes less than IPv6's least within an outer header",
    );
    need(asm, to, 8);
    asm.load(B16, R2, R7, 2);
    asm.op(Op::And, R2, be16(0xfff8));
    asm.jump_if(R2, If::NotEqual, 0, to.pass);
    asm.load(B8, R9, R7, 0);
    asm.op(Op::Add, R7, 8);
    asm.bind(whole);
    embedded(asm, to, ICMPV6);
}

/// To the kernel unless the type at the cursor is an error; to us when it is for a service address.
fn icmp_error(asm: &mut Asm<ProgramMap>, to: &Targets, errors: &[i32], protocol: i32) {
    let error = asm.label("icmp_error");
    asm.load(B8, R1, R7, 0);
    for &kind in &errors[1..] {
        asm.jump_if(R1, If::Equal, kind, error);
    }
    asm.jump_if(R1, If::NotEqual, errors[0], to.pass);
    asm.bind(error);
    asm.store_imm(B8, R10, DST + PROTOCOL, protocol);
    lookup(asm, ProgramMap::Services, DST, to.redirect);
}

/// The cursor is at the transport header of a packet in error, whose destination address is in the
/// source's key: completes that key, and goes on as for a packet from there. Of a tunnel packet, which has no ports, the key says
/// `icmp`, the error's own protocol: no packet is looked up under that, and packets from the tunnel's end stay the kernel's.
fn embedded(asm: &mut Asm<ProgramMap>, to: &Targets, icmp: i32) {
    let known = asm.label("embedded_port");
    let tunnel = asm.label("embedded_tunnel");
    asm.jump_if(R9, If::Equal, TCP, known);
    asm.jump_if(R9, If::Equal, IPIP, tunnel);
    asm.jump_if(R9, If::Equal, IPV6, tunnel);
    asm.jump_if(R9, If::NotEqual, UDP, to.pass);
    asm.bind(known);
    need(asm, to, 4);
    asm.load(B16, R1, R7, 2);
    asm.store(B16, R10, SRC + PORT, R1);
    asm.store(B8, R10, SRC + PROTOCOL, R9);
    asm.jump(to.replies);

    asm.comment("about a tunnel packet: ours if we send such to that server, though the error is for the director's own address");
    asm.bind(tunnel);
    asm.store_imm(B8, R10, SRC + PROTOCOL, icmp);
    lookup(asm, ProgramMap::Replies, SRC, to.redirect);
    asm.jump(to.pass);
}

fn transport(asm: &mut Asm<ProgramMap>, to: &Targets) {
    let ports = asm.label("ports");
    let services = asm.label("services");
    let any_port = asm.label("any_port");
    asm.bind(to.transport);
    asm.jump_if(R9, If::Equal, TCP, ports);
    asm.comment("IP within IP has no ports: a filter's tunnels");
    asm.jump_if(R9, If::Equal, IPIP, services);
    asm.jump_if(R9, If::Equal, IPV6, services);
    asm.jump_if(R9, If::NotEqual, UDP, to.pass);
    asm.bind(ports);
    need(asm, to, 4);
    asm.load(B16, R1, R7, 2);
    asm.store(B16, R10, DST + PORT, R1);
    asm.load(B16, R1, R7, 0);
    asm.store(B16, R10, SRC + PORT, R1);
    asm.jump(services);
    asm.bind(to.fragment);
    asm.op(Op::Mov, R9, FRAGMENT.into());
    asm.bind(services);
    asm.store(B8, R10, DST + PROTOCOL, R9);
    asm.store(B8, R10, SRC + PROTOCOL, R9);

    asm.comment("the destination: a service, or a service on any port");
    lookup(asm, ProgramMap::Services, DST, to.redirect);
    asm.jump_if(R9, If::Equal, FRAGMENT.into(), any_port);
    asm.store_imm(B16, R10, DST + PORT, 0);
    lookup(asm, ProgramMap::Services, DST, to.redirect);
    asm.bind(any_port);
}

fn lookups(asm: &mut Asm<ProgramMap>, to: &Targets) {
    let count = asm.label("count");
    let index = asm.label("index");
    let done = asm.label("done");
    asm.bind(to.replies);
    asm.comment("the source: a real server, on its port or on any; a fragment has port 0 from the first");
    lookup(asm, ProgramMap::Replies, SRC, to.check_local);
    asm.jump_if(R9, If::Equal, FRAGMENT.into(), to.pass);
    asm.store_imm(B16, R10, SRC + PORT, 0);
    lookup(asm, ProgramMap::Replies, SRC, to.check_local);
    asm.jump(to.pass);

    asm.comment("from a real server: ours, unless it is for the director itself");
    asm.bind(to.check_local);
    lookup(asm, ProgramMap::Locals, DST, to.pass);

    asm.comment("to the worker of this queue; to the kernel when there is none (flags: the verdict then)");
    asm.bind(to.redirect);
    asm.map(R1, ProgramMap::Sockets);
    asm.load(B32, R2, R6, 16);
    asm.op(Op::Mov, R3, XDP_PASS as i32);
    asm.call(Call::RedirectMap);
    asm.op_reg(Op::Mov, R9, R0);
    asm.jump(count);

    asm.bind(to.pass);
    asm.op(Op::Mov, R9, XDP_PASS as i32);

    asm.comment("per processor: [passed, redirected]");
    asm.bind(count);
    asm.op(Op::Mov, R1, 0);
    asm.jump_if(R9, If::NotEqual, XDP_REDIRECT as i32, index);
    asm.op(Op::Mov, R1, 1);
    asm.bind(index);
    asm.store(B32, R10, COUNTER, R1);
    asm.map(R1, ProgramMap::Counters);
    asm.op_reg(Op::Mov, R2, R10);
    asm.op(Op::Add, R2, COUNTER.into());
    asm.call(Call::MapLookupElem);
    asm.jump_if(R0, If::Equal, 0, done);
    asm.load(B64, R1, R0, 0);
    asm.op(Op::Add, R1, 1);
    asm.store(B64, R0, 0, R1);
    asm.bind(done);
    asm.op_reg(Op::Mov, R0, R9);
    asm.exit();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = include_str!("program.listing");

    const HEADING: &str = "\
; The XDP program as the binary carries it: number, code, registers, offset, immediate, meaning.
; Immediates compared with header fields are in network byte order as a little-endian machine loads them.
; Its source is program.rs. Written by: cargo test -p lcs-dataplane write_the_listing -- --ignored
";

    fn listing() -> String {
        format!("{HEADING}{}", program().listing())
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_listing_is_what_the_source_gives() {
        assert!(
            LISTING == listing(),
            "program.listing is not what program.rs gives; look at the difference after \
             `cargo test -p lcs-dataplane write_the_listing -- --ignored`"
        );
    }

    #[test]
    #[ignore = "writes program.listing anew from the source"]
    fn write_the_listing() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/port/af_xdp/program.listing");
        std::fs::write(path, listing()).expect("the listing is writable");
    }
}
