//! Captures in every form, damaged ones, and the port between two.

use super::*;

fn put(out: &mut Vec<u8>, big_endian: bool, value: u64, bytes: usize) {
    let be = value.to_be_bytes();
    let field = &be[8 - bytes..];
    if big_endian { out.extend(field) } else { out.extend(field.iter().rev()) }
}

/// A classic capture of (seconds, fraction, captured bytes, length).
fn classic(big_endian: bool, nano: bool, network: u64, records: &[(u64, u64, &[u8], u64)]) -> Vec<u8> {
    let mut out = vec![];
    put(&mut out, big_endian, if nano { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }, 4);
    for (value, bytes) in [(2, 2), (4, 2), (0, 4), (0, 4), (65_535, 4), (network, 4)] {
        put(&mut out, big_endian, value, bytes);
    }
    for (seconds, fraction, frame, length) in records {
        for value in [*seconds, *fraction, frame.len() as u64, *length] {
            put(&mut out, big_endian, value, 4);
        }
        out.extend(*frame);
    }
    out
}

fn block(big_endian: bool, kind: u64, body: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let length = (body.len().next_multiple_of(4) + 12) as u64;
    put(&mut out, big_endian, kind, 4);
    put(&mut out, big_endian, length, 4);
    out.extend(body);
    out.resize(length as usize - 4, 0);
    put(&mut out, big_endian, length, 4);
    out
}

fn fields(big_endian: bool, fields: &[(u64, usize)]) -> Vec<u8> {
    let mut out = vec![];
    fields.iter().for_each(|(value, bytes)| put(&mut out, big_endian, *value, *bytes));
    out
}

fn section(big_endian: bool) -> Vec<u8> {
    block(big_endian, 0x0a0d_0d0a, &fields(big_endian, &[(0x1a2b_3c4d, 4), (1, 2), (0, 2), (u64::MAX, 8)]))
}

fn interface(big_endian: bool, link_type: u64, snaplen: u64, options: &[(u64, &[u8])]) -> Vec<u8> {
    let mut body = fields(big_endian, &[(link_type, 2), (0, 2), (snaplen, 4)]);
    for (code, value) in options {
        body.extend(fields(big_endian, &[(*code, 2), (value.len() as u64, 2)]));
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    if !options.is_empty() {
        body.extend([0; 4]);
    }
    block(big_endian, 1, &body)
}

fn enhanced(big_endian: bool, number: u64, time: u64, frame: &[u8], length: u64) -> Vec<u8> {
    let head = [(number, 4), (time >> 32, 4), (time & 0xffff_ffff, 4), (frame.len() as u64, 4), (length, 4)];
    block(big_endian, 6, &[fields(big_endian, &head), frame.to_vec()].concat())
}

#[test]
fn classic_captures_of_both_byte_orders_and_resolutions_are_read() {
    for (big_endian, nano) in [(false, false), (false, true), (true, false), (true, true)] {
        let records: [(u64, u64, &[u8], u64); 2] = [(7, 9, b"whole", 5), (8, 0, b"be", 1514)];
        let file = classic(big_endian, nano, 1, &records);
        let read = read(&file).unwrap();
        let unit = if nano { 1 } else { 1000 };
        assert_eq!((read[0].at, read[0].bytes, read[0].length), (7_000_000_000 + 9 * unit, &b"whole"[..], 5));
        assert_eq!((read[1].offset, read[1].interface), (24 + 16 + 5, 0));
        assert_eq!([read[0].is_truncated(), read[1].is_truncated()], [false, true]);
    }
    // Two 16-bit words of FCS.
    let file = classic(false, true, 1 | 1 << 26 | 2 << 28, &[(0, 0, b"frame1234", 9), (0, 0, b"frame", 9)]);
    let read = read(&file).unwrap();
    assert_eq!([(read[0].bytes, read[0].length), (read[1].bytes, read[1].length)], [(&b"frame"[..], 5); 2]);
}

#[test]
fn pcapng_sections_interfaces_and_packets_are_read() {
    for big_endian in [false, true] {
        let seconds = 1_700_000_000u64;
        let offset = fields(big_endian, &[(seconds, 8)]);
        let file = [
            section(big_endian),
            interface(big_endian, 1, 0, &[]),
            interface(big_endian, 1, 4, &[(2, b"eth1"), (9, &[9]), (14, &offset)]),
            interface(big_endian, 1, 0, &[(9, &[0x80 | 10]), (13, &[4])]),
            block(big_endian, 5, &[0; 8]),
            enhanced(big_endian, 0, 1_000_002, b"micro", 5),
            enhanced(big_endian, 1, 5, b"nano", 60),
            enhanced(big_endian, 2, 1024 + 512, b"frame1234", 9),
            block(
                big_endian,
                2,
                &fields(big_endian, &[(0, 2), (0, 2), (0, 4), (3, 4), (2, 4), (2, 4), (0x6162_0000, 4)]),
            ),
            // Another section, of the other byte order, counts its interfaces anew.
            section(!big_endian),
            interface(!big_endian, 1, 4, &[]),
            block(!big_endian, 3, &[fields(!big_endian, &[(9, 4)]), b"simp".to_vec()].concat()),
        ]
        .concat();
        let read = read(&file).unwrap();
        let seen: Vec<_> = read.iter().map(|c| (c.at, c.interface, c.name, c.bytes.len(), c.length)).collect();
        let expected = [
            (1_000_002_000, 0, None, 5, 5),
            (seconds * 1_000_000_000 + 5, 1, Some("eth1"), 4, 60),
            (1_500_000_000, 2, None, 5, 5),
            (3_000, 0, None, 2, 2),
            (3_000, 0, None, 4, 9),
        ];
        assert_eq!(seen, expected);
        assert_eq!(read[4].bytes, b"simp");
    }
}

#[test]
fn a_damaged_file_is_refused_at_its_byte() {
    let complaint = |file: &[u8]| read(file).unwrap_err().to_string();
    let good = classic(false, true, 1, &[(0, 0, b"frame", 5)]);
    assert_eq!(
        complaint(b"abc"),
        "byte 0: a capture's first bytes needs 4 bytes, and 3 are left; the file was cut short"
    );
    assert!(
        complaint(b"\x1f\x8b\x08\x00xxxxx").starts_with("byte 0: no pcap or pcapng file (it begins with 1f8b0800)")
    );
    assert!(complaint(&good[..20]).starts_with("byte 0: the file's header needs 24 bytes, and 20 are left"));
    assert!(complaint(&good[..30]).starts_with("byte 24: a record's header needs 16 bytes, and 6 are left"));
    assert!(complaint(&good[..43]).starts_with("byte 40: a frame needs 5 bytes, and 3 are left"));
    assert!(complaint(&classic(true, true, 113, &[])).starts_with("byte 20: frames of link type 113, not Ethernet"));
    let mut long = good.clone();
    long[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(complaint(&long).starts_with("byte 32: a frame of 4294967295 captured bytes"));
    let mut old = good.clone();
    old[4] = 1;
    assert!(complaint(&old).starts_with("byte 4: pcap version 1 is not known"));

    let begin = [section(false), interface(false, 1, 0, &[])].concat();
    let with = |more: Vec<u8>| [begin.clone(), more].concat();
    let at = begin.len();
    let cases = [
        (with(vec![6, 0, 0, 0, 5]), at, "a block's header needs 12 bytes, and 5 are left"),
        (with(vec![6, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0]), at + 4, "a block of 11 bytes"),
        (with(vec![6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), at + 4, "a block of 0 bytes"),
        (with(vec![6, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), at, "a block needs 256 bytes, and 12 are left"),
        (
            with(vec![9, 0, 0, 0, 12, 0, 0, 0, 16, 0, 0, 0]),
            at + 8,
            "a block of 12 bytes says at its end that it has 16",
        ),
        (with(enhanced(false, 1, 0, b"", 0)), at + 8, "a frame of interface 1, and 1 were described"),
        (with(block(false, 6, &[0; 16])), at + 24, "a packet's length needs 4 bytes, and 0 are left"),
        (with(block(false, 3, &[9, 0, 0, 0, 1, 2, 3, 4])), at + 12, "a packet's frame needs 9 bytes, and 4 are left"),
        (section(false).into_iter().take(9).collect(), 0, "a block's header needs 12 bytes, and 9 are left"),
    ];
    for (file, offset, words) in cases {
        let complaint = complaint(&file);
        assert!(complaint.starts_with(&format!("byte {offset}: {words}")), "{complaint}");
    }
    let usb = [section(true), interface(true, 220, 0, &[]), enhanced(true, 0, 0, b"", 0)].concat();
    assert!(complaint(&usb).contains("frames of link type 220"));
}

#[test]
fn whatever_the_bytes_are_reading_ends() {
    let files = [
        classic(false, false, 1, &[(1, 2, b"some frame", 10), (3, 4, b"another", 70)]),
        [
            section(true),
            interface(true, 1, 64, &[(2, b"eth0"), (9, &[0xff]), (14, &[0xff; 8])]),
            enhanced(true, 0, u64::MAX, b"a frame", 7),
            block(true, 3, &[0, 0, 0, 2, 1, 2, 0, 0]),
        ]
        .concat(),
    ];
    for file in files {
        assert_eq!(read(&file).unwrap().len(), 2);
        for at in 0..file.len() {
            assert!(read(&file[..at]).map_or(0, |f| f.len()) < 2);
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = file.clone();
                damaged[at] = value;
                let reader = Reader::new(&damaged);
                assert!(reader.map_or(0, |r| r.count()) <= 3);
            }
        }
    }
}

#[test]
fn frames_come_when_their_time_has_come_and_go_into_a_capture() {
    let file = classic(false, true, 1, &[(1, 0, b"first", 5), (1, 0, b"beginning", 12), (2, 0, b"last", 4)]);
    let mut port = PcapPort::new(&file, 2, vec![]).unwrap();
    let mut frames: [Frame; BURST] = Default::default();
    let mut interfaces = [9; BURST];
    assert_eq!(port.next_arrival(), Some(1_000_000_000));
    port.advance(999_999_999);
    assert_eq!(port.receive(&mut frames, &mut interfaces), 0);
    port.advance(1_000_000_000);
    assert_eq!(port.receive(&mut frames, &mut interfaces), 2);
    assert_eq!((frames[1].bytes(), interfaces[1]), (&b"beginning\0\0\0"[..], 0));
    let arrivals: Vec<_> = port.arrivals().iter().map(|a| (a.number, a.captured.is_truncated(), a.place)).collect();
    assert_eq!(arrivals, [(1, false, Ok(0)), (2, true, Ok(1))]);
    port.transmit(1, std::mem::take(&mut frames[0])).unwrap();
    port.flush();
    port.release(std::mem::take(&mut frames[1]));
    port.advance(port.next_arrival().unwrap());
    assert_eq!(port.receive(&mut frames, &mut interfaces), 1);
    port.transmit(0, std::mem::take(&mut frames[0])).unwrap();
    assert_eq!((port.next_arrival(), port.read_error()), (None, None));
    let counts = port.pool();
    assert_eq!((counts.held, counts.free + counts.transmitting), (0, counts.total));
    let (sent, n) = port.finish().unwrap();
    let sent: Vec<_> = read(&sent).unwrap().iter().map(|c| (c.at, c.bytes.to_vec())).collect();
    assert_eq!((n, sent), (2, vec![(1_000_000_000, b"first".to_vec()), (2_000_000_000, b"last".to_vec())]));
}

#[test]
fn waiting_ends_with_the_time_or_at_once_where_a_frame_has_come() {
    let file = classic(false, true, 1, &[(1, 0, b"one", 3), (3, 0, b"two", 3)]);
    let mut port = PcapPort::new(&file, 1, vec![]).unwrap();
    let begun = std::time::Instant::now();
    let (short, long) = (Duration::from_millis(5), Duration::from_secs(30));
    port.wait(long, None);
    port.advance(1_000_000_000);
    port.wait(long, None);
    let mut frames: [Frame; BURST] = Default::default();
    assert_eq!(port.receive(&mut frames, &mut [0; BURST]), 1);
    port.release(std::mem::take(&mut frames[0]));
    let waits = std::time::Instant::now();
    port.wait(short, None);
    assert!(waits.elapsed() >= short, "the second frame comes later");
    assert!(begun.elapsed() < long);
}

#[test]
fn what_cannot_be_received_is_left_out_and_said() {
    let big = vec![1; 5000];
    let file = [
        section(false),
        interface(false, 1, 0, &[(2, b"a")]),
        interface(false, 1, 0, &[(2, b"b")]),
        interface(false, 1, 0, &[(2, b"c")]),
        enhanced(false, 0, 0, &big, 5000),
        enhanced(false, 2, 0, b"c", 1),
        enhanced(false, 1, 0, b"b", 1),
        vec![1, 2, 3],
    ]
    .concat();
    let named = |_: u32, name: Option<&str>| ["b", "a"].iter().position(|n| name == Some(*n)).map(|i| i as u8);
    let mut port = PcapPort::new(&file, 2, vec![]).unwrap().with_interfaces(Box::new(named)).with_kernel();
    assert!(port.capabilities().exception_path && port.capabilities().kernel_answers);
    let mut frames: [Frame; BURST] = Default::default();
    let mut interfaces = [9; BURST];
    assert_eq!(port.receive(&mut frames, &mut interfaces), 1);
    assert_eq!((frames[0].bytes(), interfaces[0]), (&b"b"[..], 0));
    let places: Vec<_> = port.arrivals().iter().map(|a| a.place).collect();
    assert_eq!(places, [Err(Skipped::TooLong), Err(Skipped::Interface), Ok(0)]);
    assert!(port.read_error().unwrap().to_string().contains("a block's header needs 12 bytes, and 3 are left"));
    port.to_kernel(0, std::mem::take(&mut frames[0])).unwrap();
    assert_eq!(port.pool().free, port.pool().total);
}

#[test]
fn bursts_are_no_longer_than_a_burst_and_lose_nothing_when_buffers_run_out() {
    let records = vec![(1, 0, &b"frame"[..], 5); 200];
    let file = classic(false, true, 1, &records);
    let mut port = PcapPort::new(&file, 1, vec![]).unwrap();
    let mut held = vec![];
    let mut frames: [Frame; BURST] = Default::default();
    loop {
        let n = port.receive(&mut frames, &mut [0; BURST]);
        assert!(n <= BURST);
        held.extend(frames[..n].iter_mut().map(std::mem::take));
        if n == 0 {
            break;
        }
    }
    assert_eq!((held.len(), port.pool().free), (BUFFERS, 0));
    held.drain(..).for_each(|frame| port.release(frame));
    let mut rest = 0;
    loop {
        let n = port.receive(&mut frames, &mut [0; BURST]);
        rest += n;
        frames[..n].iter_mut().for_each(|f| port.release(std::mem::take(f)));
        if n == 0 {
            break;
        }
    }
    assert_eq!(rest, 200 - BUFFERS);
    assert_eq!(port.arrivals().len(), 0);
}
