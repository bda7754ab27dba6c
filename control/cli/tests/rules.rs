//! `lcs rules` as a shell sees it: what is printed, what is written, exit codes.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// A folder that is removed at the end, and `lcs` in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lcs-rules-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lcs"));
        command.args(line.split(' ')).current_dir(&self.0);
        command
    }

    /// Exit code, standard output, standard error.
    fn lcs(&self, line: &str) -> (i32, String, String) {
        shown(&self.command(line).output().unwrap())
    }

    fn piped(&self, line: &str, input: &[u8]) -> (i32, String, String) {
        let mut child =
            self.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        shown(&child.wait_with_output().unwrap())
    }

    /// Exit code, and the standard output as JSON.
    fn json(&self, line: &str) -> (i32, Value) {
        let (code, out, error) = self.lcs(&format!("{line} --json"));
        (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}")))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shown(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const RULES: &str = "# The shop.\npictures: if (suffix(path, \".gif\")) routeTo(images)\n\
    big: if (xml.purchase/totalAmount > 5000) routeTo(web)\nttl: if (ip.ttl == 33) reject(403)\n\
    default: routeTo(web)\n";
const CONFIGURATION: &str = "[director]\nsocket = \"lcs.sock\"\n[workers]\nflows = 64\n[port]\nkind = \"memory\"\n\
    buffers = 256\ninterfaces = [\"eth0\"]\n[[services]]\nname = \"shop\"\naddress = \"192.0.2.1\"\nport = 80\n\
    rules = \"shop.rules\"\ngroups = { web = [\"s1\"], images = [\"s2\"] }\n\
    servers = [{ name = \"s1\", address = \"10.0.0.1\" }, { name = \"s2\", address = \"10.0.0.2\" }]\n";

#[test]
fn fmt_rewrites_in_place_and_check_only_says() {
    let folder = Folder::new("fmt");
    folder.write("a.rules", RULES);
    assert_eq!(folder.lcs("rules fmt --check a.rules"), (0, String::new(), String::new()));
    let ugly = "Rule  1:  if(atoi(xml.a)>5){routeTo( web );}   # big\ndefault : reject\n";
    folder.write("a.rules", ugly);
    let (code, out, _) = folder.lcs("rules fmt --check a.rules");
    assert!(code == 1 && out.contains("a.rules is not in canonical form"), "{out}");
    assert_eq!(folder.read("a.rules"), ugly);
    assert_eq!(folder.json("rules fmt --check a.rules").1["canonical"], false);
    assert_eq!(folder.lcs("rules fmt a.rules").0, 0);
    let formatted = folder.read("a.rules");
    assert_eq!(formatted, "1: if (xml.a > 5) routeTo(web)  # big\ndefault: reject\n");
    assert_eq!(folder.lcs("rules fmt --check a.rules").0, 0);
    assert_eq!(folder.piped("rules fmt -", ugly.as_bytes()), (0, formatted.clone(), String::new()));
    // What is no rule set stays as it is.
    folder.write("a.rules", "if (");
    let (code, _, error) = folder.lcs("rules fmt a.rules");
    assert!(code == 1 && error.starts_with("a.rules:1:"), "{error}");
    assert_eq!(folder.read("a.rules"), "if (");
    let (code, _, error) = folder.lcs("rules fmt none.rules");
    assert!(code == 1 && error.contains("none.rules: cannot be read") && error.contains("name an existing"), "{error}");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside the file");
}

#[test]
fn check_fails_with_what_is_denied() {
    let folder = Folder::new("check");
    folder.write("a.rules", RULES);
    let (code, out, _) = folder.lcs("rules check a.rules");
    assert!(code == 0 && out.contains("a.rules: 3 rules: ") && out.contains("potential conflict"), "{out}");
    assert_eq!(folder.lcs("rules check a.rules --deny note").0, 1);
    folder.write(
        "b.rules",
        format!("{}again: if (suffix(path, \".gif\")) routeTo(images)\n", RULES.replace("default: routeTo(web)\n", "")),
    );
    let (code, report) = folder.json("rules check b.rules");
    assert_eq!((code, &report["findings"][0]["kind"]), (1, &"duplicate".into()));
    assert_eq!(report["findings"][0]["places"][0]["line"], 5);
    assert_eq!(folder.lcs("rules check b.rules --deny error").0, 0);
    // Names that are given must be kept to.
    assert_eq!(folder.lcs("rules check a.rules --groups web,images").0, 0);
    let (code, _, error) = folder.lcs("rules check a.rules --groups web,image");
    assert!(code == 1 && error.contains("a.rules:2:45: error: there is no group `images`"), "{error}");
    let (code, report) = folder.json("rules check a.rules --groups web");
    assert_eq!((code, &report["error"]["problems"][0]["line"]), (1, &2.into()));
    assert_eq!(report["error"]["problems"][0]["mistake"], "unknown-name");
}

#[test]
fn check_against_a_configuration_takes_the_names_of_the_service() {
    let folder = Folder::new("against");
    folder.write("lcs.toml", CONFIGURATION);
    folder.write("shop.rules", RULES);
    assert_eq!(folder.lcs("rules check shop.rules -c lcs.toml").0, 0);
    folder.write("new.rules", "a: if (path == /a) forward(s3)\ndefault: routeTo(web)\n");
    for line in ["rules check new.rules -c lcs.toml", "rules check new.rules -c lcs.toml --service shop"] {
        let (code, _, error) = folder.lcs(line);
        assert!(code == 1 && error.contains("new.rules:1:28: error: there is no server `s3`"), "{error}");
    }
    folder.write("new.rules", "a: if (path == /a) forward(s2)\n");
    assert!(folder.lcs("rules check new.rules -c lcs.toml").2.contains("no `default`"));
    assert_eq!(folder.lcs("rules check new.rules -c lcs.toml --service shpo").0, 2);
    assert_eq!(folder.lcs("rules check new.rules --service shop").0, 2);
    assert_eq!(folder.lcs("rules check new.rules -c lcs.toml --groups web").0, 2);
    // `lcs check` shows the mistakes of the rule file, too.
    folder.write("shop.rules", "default: routeTo(wbe)\n");
    let (code, _, error) = folder.lcs("check -c lcs.toml");
    assert!(code == 1 && error.contains("--> shop.rules:1:18") && error.contains("did you mean `web`?"), "{error}");
    let (_, report) = folder.json("check -c lcs.toml");
    assert_eq!(report["error"]["problems"][0]["file"], "shop.rules");
}

#[test]
fn check_knows_what_the_services_clients_speak() {
    let folder = Folder::new("speak");
    folder.write("lcs.toml", CONFIGURATION);
    folder.write("shop.rules", "a: if (path == /a ||\n  smtp.to == \"x@y\") routeTo(web)\ndefault: routeTo(web)\n");
    let (code, out, _) = folder.lcs("rules check shop.rules -c lcs.toml");
    let finding = "shop.rules:2:3: warning: never there: a asks for smtp.to, which is never there: this service speaks HTTP; \
        give the rule to a service that speaks SMTP, or remove it\n";
    assert!(code == 1 && out.contains(finding), "{out}");
    assert_eq!(folder.lcs("rules check shop.rules").0, 0, "any service may use it");
    let (code, out, _) = folder.lcs("check -c lcs.toml");
    assert!(code == 0 && out.contains("shop.rules:2:3: warning: a asks for smtp.to"), "{out}");
    assert_eq!(folder.json("check -c lcs.toml").1["findings"].as_array().unwrap().len(), 1);
    folder.write("shop.rules", "a: if (path == /a) routeTo(web)\ndefault: routeTo(web)\n");
    assert_eq!(folder.lcs("rules check shop.rules -c lcs.toml").0, 0);
    assert_eq!(folder.json("check -c lcs.toml").1["findings"], Value::Array(vec![]));
}

#[test]
fn a_hint_never_fails_and_a_file_that_is_no_text_is_named_by_its_line() {
    let folder = Folder::new("hint");
    folder.write("a.rules", "a: if (xml.//Amount[Value > 10000]) routeTo(a)\ndefault: routeTo(b)\n");
    let (code, out, _) = folder.lcs("rules check a.rules --deny note");
    assert!(
        code == 0 && out.contains("a.rules:1:1: hint: first only: xml.//Amount/Value is the first such place"),
        "{out}"
    );
    folder.write("a.rules", b"# fine\n# caf\xe9\ndefault: reject\n");
    let (code, _, error) = folder.lcs("rules check a.rules");
    let what = "a.rules: cannot be read: line 2 is not UTF-8: it has the byte 0xe9 (save it as UTF-8 text)";
    assert!(code == 1 && error.contains(what), "{error}");
    folder.write("a.list", b"10.0.0.1\n\xff\n");
    folder.write("a.rules", "a: if (ip.src in @a.list) reject\n");
    let (_, _, error) = folder.lcs("rules check a.rules");
    assert!(error.contains("a.rules:1:18: error: cannot read the list: a.list: line 2 is not UTF-8"), "{error}");
}

#[test]
fn explain_reads_bytes_text_and_captures() {
    let folder = Folder::new("explain");
    folder.write("a.rules", RULES);
    folder.write("a.http", "GET /x/a.gif?b HTTP/1.1\r\nHost: h\r\n\r\n");
    let (code, out, _) = folder.lcs("rules explain a.rules --request a.http");
    assert_eq!(
        (code, out.as_str()),
        (
            0,
            "a.rules:2: pictures takes it\n    true     suffix(path, \".gif\")    (\"/x/a.gif\")\n=> routeTo(images)\n\
             assumed: the client speaks HTTP, by its first bytes (--application)\n\
             assumed: the client is 192.0.2.1, port 40000 (say who with --from), its packet has TTL 64\n\
             assumed: every group has a server that is up (--down), and none has connections\n\
             assumed: a head of 16384 bytes and 65536 bytes of a body are read, switching = \"request\", on-unparsed = \"reset\" (-c)\n"
        )
    );
    let body = "<purchase><totalAmount>5001</totalAmount></purchase>";
    let text = format!("POST /buy HTTP/1.1\nHost: h\nContent-Type: text/xml\n\n{body}\n");
    folder.write("a.txt", &text);
    let (code, out, _) = folder.lcs("rules explain a.rules --request a.txt");
    let refused = "cannot be read: a line does not end in CR LF\n=> refused\n   the client is answered 400\n   \
        if its line ends are plain ones, give --text\n";
    assert!(code == 1 && out.contains(refused), "{out}");
    let (code, answer) = folder.json("rules explain a.rules --text --request a.txt");
    let answer = &answer["requests"][0];
    assert_eq!((code, &answer["action"]), (0, &"routeTo(web)".into()));
    assert_eq!((&answer["rules"][0]["truth"], &answer["rules"][1]["truth"]), (&"false".into(), &"true".into()));
    assert_eq!(answer["rules"][1]["terms"][0]["value"], "\"5001\"");
    // Half a request decides nothing yet.
    let (code, out, _) = folder.piped("rules explain a.rules --request -", b"GET /a");
    assert!(code == 1 && out.contains("=> more of the request is needed\n"), "{out}");
    // A capture: here the TTL decides.
    folder.write("a.pcap", capture(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 8080, 33));
    let (code, out, _) = folder.lcs("rules explain a.rules --request a.pcap --port 8080");
    assert!(code == 0 && out.contains("true     ip.ttl == 33    (33)\n=> reject(403)"), "{out}");
    let (code, _, error) = folder.lcs("rules explain a.rules --request a.pcap");
    assert!(code == 1 && error.contains("port 80 in this capture; name another with --port"), "{error}");
    // What the client speaks may be said.
    folder.write(
        "mail.rules",
        "a: if (ftp.user == joe) routeTo(a)\nb: if (pop.user == joe) routeTo(b)\ndefault: reject\n",
    );
    for (application, group) in [("ftp", "routeTo(a)"), ("pop3", "routeTo(b)")] {
        let line = format!("rules explain mail.rules --request - --application {application}");
        let (_, out, _) = folder.piped(&line, b"USER joe\r\n");
        assert!(out.contains(&format!("=> {group}\n")), "{out}");
    }
    folder.write("empty", "");
    let (code, _, error) = folder.lcs("rules explain a.rules --request empty");
    assert!(code == 1 && error.contains("empty is empty; put into it what a client sends"), "{error}");
}

#[test]
fn explain_decides_as_workers_do() {
    let folder = Folder::new("workers");
    folder.write("lcs.toml", CONFIGURATION.replace("rules =", "body-limit = 100\non-unparsed = \"default\"\nrules ="));
    let rules = "R1: if (prefix(url, \"/x\")) routeTo(images)\nR2: if (xml.a > 5) reject(403)\n\
        R3: if (ip.src in 203.0.113.0/24 && server_up(images)) routeTo(images)\ndefault: routeTo(web)\n";
    folder.write("shop.rules", rules);
    let post = |url: &str, field: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {url} HTTP/1.1\r\nHost: h\r\n{field}Content-Type: text/xml\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    // What lies behind the rule that decides may be as unreadable as it likes.
    let packed = "Content-Encoding: gzip\r\n";
    folder.write("a.http", post("/x", packed, "\x1f"));
    let (code, out, _) = folder.lcs("rules explain shop.rules --request a.http");
    assert!(
        code == 0 && out.starts_with("shop.rules:1: R1 takes it\n") && out.contains("=> routeTo(images)\n"),
        "{out}"
    );
    folder.write("a.http", post("/y", packed, "\x1f"));
    let (code, answer) = folder.json("rules explain shop.rules --request a.http");
    let request = &answer["requests"][0];
    assert_eq!(
        (code, &request["verdict"], &request["notes"][0]),
        (1, &Value::Null, &"the client is answered 415".into())
    );
    assert!(request["refused"].as_str().unwrap().contains("Content-Encoding"), "{request}");
    // The service's own limit, and what it does then.
    let late = post("/y", "", &format!("<!--{}--><a>9</a>", "x".repeat(200)));
    folder.write("a.http", &late);
    assert!(folder.lcs("rules explain shop.rules --request a.http").1.contains("=> reject(403)\n"));
    let (code, out, _) = folder.lcs("rules explain shop.rules --request a.http -c lcs.toml");
    assert!(code == 1 && out.contains("the body exceeds what may be inspected\n=> default: routeTo(web)\n"), "{out}");
    assert!(!out.contains("assumed: a head") && !out.contains("first bytes"), "{out}");
    // Who asks, and which servers are there.
    folder.write("a.http", "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let explained = |options: &str| folder.lcs(&format!("rules explain shop.rules --request a.http {options}"));
    assert!(explained("--from 203.0.113.9").1.contains("(203.0.113.9)"));
    assert!(explained("-c lcs.toml --from 203.0.113.9").1.contains("=> routeTo(images)\n"));
    let (code, out, _) = explained("--from 203.0.113.9 --down images --down web");
    assert!(code == 0 && out.contains("=> default: routeTo(web)\n   no server of `web` is up"), "{out}");
    assert!(out.contains("assumed: every other group"), "{out}");
    for (options, what) in [("--down image", "known are: images, web"), ("-c lcs.toml --from ::5", "one of its family")]
    {
        let (code, _, error) = explained(options);
        assert!(code == 2 && error.contains(what), "{error}");
    }
    // The head is read to its end though the rule is certain before.
    let (code, out, _) = folder.piped("rules explain shop.rules --request -", b"GET /x HTTP/1.1\r\nHost: h\r\n");
    assert!(code == 1 && out.contains("=> more of the request is needed\n   which rule takes it is certain"), "{out}");
}

#[test]
fn explain_says_it_of_every_request_of_a_connection_by_the_packet_that_brought_it() {
    let folder = Folder::new("connection");
    let rules = "far: if (ip.ttl == 33) routeTo(a)\ndeep: if (bitmatch(2016, 8, 0xff) == 0x41) routeTo(b)\n\
        beyond: if (exists(bitmatch(800, 8, 0xff)) && path == /1) routeTo(c)\ndefault: routeTo(d)\n";
    folder.write("a.rules", rules);
    let get = |number: usize, field: &str| format!("GET /{number} HTTP/1.1\r\nHost: h\r\n{field}\r\n");
    let (first, second) = (get(1, ""), get(2, "") + &get(3, &format!("A: {}\r\n", "A".repeat(300))));
    let last = get(4, "Connection: close\r\n") + &get(5, "");
    let mut at = 1;
    // Only the SYN has the TTL that a rule asks for.
    let mut segments = vec![(0, 2, &b""[..], 33)];
    for text in [&first, &second[..40], &second[40..], &last] {
        segments.push((at, 0x18, text.as_bytes(), 64));
        at += text.len() as u32;
    }
    folder.write("a.pcap", captured(&segments, 80));
    let (code, out, error) = folder.lcs("rules explain a.rules --request a.pcap");
    let lines: Vec<&str> = out.lines().filter(|line| line.starts_with("request") || line.starts_with("=>")).collect();
    let expected = [
        "request 1 of 4: GET /1 HTTP/1.1",
        "=> default: routeTo(d)",
        "request 2 of 4: GET /2 HTTP/1.1",
        "=> default: routeTo(d)",
        "request 3 of 4: GET /3 HTTP/1.1",
        "=> routeTo(b)",
        "request 4 of 4: GET /4 HTTP/1.1",
        "=> default: routeTo(d)",
    ];
    assert_eq!((code, lines), (0, expected.to_vec()), "{out}{error}");
    assert!(out.contains("(absent)") && out.contains("bytes behind it were not looked at\n"), "{out}");
    assert!(!out.contains("assumed: the client is"), "{out}");
    let (code, _, error) = folder.lcs("rules explain a.rules --request a.pcap --from 203.0.113.9");
    assert!(code == 2 && error.contains("the capture says who sent it"), "{error}");
}

#[test]
fn explain_takes_a_line_end_for_none_a_drained_server_for_down_and_a_capture_only_from_its_beginning() {
    let folder = Folder::new("ends");
    folder.write("a.rules", "up: if (server_up(images)) routeTo(images)\ndefault: routeTo(web)\n");
    let request = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab";
    for end in ["", "\n", "\r\n"] {
        folder.write("a.http", format!("{request}{end}"));
        let (code, out, error) = folder.lcs("rules explain a.rules --request a.http");
        assert!(code == 0 && !out.contains("request 1 of") && !out.contains("not looked at"), "{out}{error}");
        assert!(out.contains("=> routeTo(images)"), "{out}");
    }
    let drained = CONFIGURATION.replace("\"10.0.0.2\" }", "\"10.0.0.2\", state = \"draining\" }");
    folder.write("lcs.toml", drained.replace("shop.rules", "a.rules"));
    let (code, out, error) = folder.lcs("rules explain a.rules --request a.http -c lcs.toml");
    assert!(code == 0 && out.contains("=> default: routeTo(web)"), "{out}{error}");
    // Its first segment was lost.
    folder.write("a.pcap", captured(&[(0, 2, b"", 64), (101, 0x18, b"Host: h\r\n\r\n", 64)], 80));
    let (code, _, error) = folder.lcs("rules explain a.rules --request a.pcap");
    assert!(code == 1 && error.contains("the first bytes of what the client sent are not in the capture"), "{error}");
}

/// A capture with one TCP segment over IPv4.
fn capture(payload: &[u8], port: u16, ttl: u8) -> Vec<u8> {
    captured(&[(1, 0x18, payload, ttl)], port)
}

/// A capture of TCP segments over IPv4: sequence number, flags, payload, TTL.
fn captured(segments: &[(u32, u8, &[u8], u8)], port: u16) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (seq, flags, payload, ttl) in segments {
        let frame = segment(*seq, *flags, payload, port, *ttl);
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

fn segment(seq: u32, flags: u8, payload: &[u8], port: u16, ttl: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let length = (40 + payload.len()) as u16;
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, ttl, 6, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1]);
    let sum: u32 = frame[14..34].chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(p[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend([0x9c, 0x40]);
    frame.extend(port.to_be_bytes());
    frame.extend(seq.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    frame.extend(payload);
    frame
}

#[test]
fn test_runs_a_table() {
    let folder = Folder::new("test");
    folder.write("a.rules", RULES);
    folder.write("a.table", "GET /a.gif => images\nxml.purchase/totalAmount=9000 => rule big\nGET / => default\n");
    let (code, out, _) = folder.lcs("rules test a.rules a.table");
    assert_eq!((code, out.as_str()), (0, "a.table: 3 of 3 as expected\n"));
    folder.write("a.table", "GET /a.gif => web\n<<< => web\nGET /a\n>>>\n");
    let (code, report) = folder.json("rules test a.rules a.table");
    assert_eq!((code, report["cases"].as_u64(), report["failures"].as_array().unwrap().len()), (1, Some(2), 2));
    folder.write("a.table", "GET /a.gif -> web\n");
    let (code, _, error) = folder.lcs("rules test a.rules a.table");
    assert!(code == 1 && error.starts_with("a.table:1:1: error: expected `=>`"), "{error}");
}

struct Director(Child);

impl Drop for Director {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &Folder) -> Director {
    let mut child = folder.command("run -c lcs.toml").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("control socket") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the director has ended");
    }
    // What it says from now on must not block it.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    Director(child)
}

#[test]
fn load_gives_a_running_director_other_rules_and_lists_show_them() {
    let folder = Folder::new("load");
    folder.write("lcs.toml", CONFIGURATION);
    folder.write("shop.rules", RULES);
    let _director = start(&folder);
    let (_, out, _) = folder.lcs("vs list --socket lcs.sock");
    let line = "shop: every http request by 3 rules of shop.rules; groups images (wrr: s2), web (wrr: s1)\n";
    assert!(out.ends_with(line), "{out}");
    assert!(folder.lcs("status --socket lcs.sock").1.contains("1 with 2 servers, 1 switched by content"));
    folder.write("new.rules", "a: if (path == /a) forward(s2)\ndefault: routeTo(web)\n");
    let (code, out, error) = folder.lcs("rules load shop new.rules --socket lcs.sock");
    assert!(
        code == 0 && out.contains("~ shop: 3 rules of shop.rules → 1 rule of") && out.contains("applied on 1 worker"),
        "{out}{error}"
    );
    let (_, all) = folder.json("vs list --socket lcs.sock");
    let content = &all["services"][0]["content"];
    assert_eq!(
        (&content["rules"], &content["application"], &content["switching"]),
        (&1.into(), &"http".into(), &"request".into())
    );
    assert_eq!(content["groups"][0]["servers"][0], "s2");
    folder.write("new.rules", "a: if (path == /a) forward(s3)\ndefault: routeTo(web)\n");
    let (code, _, error) = folder.lcs("rules load shop new.rules --socket lcs.sock");
    assert!(code == 1 && error.contains("new.rules:1:28: error: there is no server `s3`"), "{error}");
    assert!(!error.starts_with("error: "), "each mistake says so itself: {error}");
    let (_, failure) = folder.json("rules load shop new.rules --socket lcs.sock");
    let problem = &failure["error"]["problems"][0];
    assert_eq!((&problem["line"], &problem["column"]), (&1.into(), &28.into()), "{failure}");
    let (code, failure) = folder.json("rules load shpo new.rules --socket lcs.sock");
    assert_eq!((code, &failure["error"]["code"]), (1, &"not-found".into()));
    assert_eq!(folder.json("vs list --socket lcs.sock").1["services"][0]["content"]["rules"], 1);
    let (code, out, _) = folder.lcs("rs add shop/s4 10.0.0.4 --group images --socket lcs.sock");
    assert!(code == 0 && out.contains("group images: s2 → s2 s4"), "{out}");
    assert_eq!(folder.lcs("rs del shop/s2 --socket lcs.sock").0, 1, "a rule forwards to it");
    assert_eq!(folder.lcs("reload --socket lcs.sock").0, 0);
    assert_eq!(folder.lcs("rs del shop/s2 --socket lcs.sock").0, 0);
    assert_eq!(folder.lcs("rules load shop new.rules --socket none.sock").0, 3);
}
