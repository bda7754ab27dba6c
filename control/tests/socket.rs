//! The control socket as its clients see it, good ones and bad ones: over a director with a memory port.

use lcs_control::config::Configuration;
use lcs_control::protocol::{FailureCode, REQUEST_MAX, Request, Response};
use lcs_control::run::Director;
use lcs_control::socket::{CLIENTS, Client, ClientError};
use lcs_pipelines::command::TraceFilter;
use proptest::prelude::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// A director on a thread of its own, with a socket in a folder of its own.
struct Running {
    folder: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), String>>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("lcs-socket-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self::start_in(folder).unwrap()
    }

    fn start_in(folder: PathBuf) -> Result<Self, String> {
        let file = folder.join("lcs.toml");
        let text = format!(
            "[director]\nsocket = {:?}\n[workers]\nflows = 64\n[port]\nkind = \"memory\"\nbuffers = 256\n\
             interfaces = [\"eth0\"]\n[[services]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80\n\
             servers = [{{ name = \"s1\", address = \"10.0.0.1\" }}]\n",
            folder.join("lcs.sock")
        );
        std::fs::write(&file, text).unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, ready) = mpsc::channel();
        let lines = Arc::clone(&log);
        let thread = std::thread::spawn(move || {
            let again = file.clone();
            let director = Director {
                configuration: Configuration::load(&file).unwrap(),
                source: Some(Box::new(move || Configuration::load(&again))),
                name: "test".into(),
                log: Box::new(move |line| lines.lock().unwrap().push(line.to_owned())),
            };
            let stop = async {
                let _ = stopped.await;
            };
            director.run_until(stop, move || tell.send(()).unwrap()).map_err(|e| e.to_string())
        });
        if ready.recv_timeout(Duration::from_secs(30)).is_err() {
            return Err(thread.join().unwrap().unwrap_err());
        }
        Ok(Running { folder, stop: Some(stop), thread: Some(thread), log })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("lcs.sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// It answers: nothing that went before has disturbed it.
    fn check(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.client().call(Request::Status) {
                Ok(Response::Status(_)) => return,
                // Clients that are gone may not all have been noticed yet.
                Err(ClientError::Refused(f)) if f.code == FailureCode::Busy => {}
                Err(ClientError::Broken(_)) => {}
                other => panic!("{other:?}"),
            }
            assert!(Instant::now() < deadline, "it does not answer");
        }
    }

    fn end(&mut self) -> Result<(), String> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), |t| t.join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.end();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn line(stream: &UnixStream) -> String {
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text).unwrap();
    text
}

fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

#[test]
fn the_socket_is_for_its_user_only_and_gone_at_the_end() {
    let mut running = Running::start();
    let meta = std::fs::metadata(running.socket()).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let second = Running::start_in(running.folder.clone()).err().unwrap();
    assert!(second.contains("another director answers"), "{second}");
    running.check();
    running.end().unwrap();
    assert!(!exists(&running.socket()));
    let error = Client::connect(&running.socket()).unwrap_err();
    assert!(matches!(error, ClientError::NotReachable { .. }) && error.to_string().contains("is it running?"));
    // A socket that a killed director has left behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(running.socket()).unwrap());
    drop(Running::start_in(running.folder.clone()).unwrap());
    // But a file of somebody's is.
    std::fs::create_dir_all(&running.folder).unwrap();
    std::fs::write(running.socket(), "precious").unwrap();
    let refused = Running::start_in(running.folder.clone()).err().unwrap();
    assert!(refused.contains("is no socket"), "{refused}");
    assert_eq!(std::fs::read_to_string(running.socket()).unwrap(), "precious");
}

#[test]
fn rubbish_is_answered_and_a_giant_line_ends_its_client_only() {
    let running = Running::start();
    let mut stream = running.raw();
    for (sent, said) in [
        ("rubbish\n", "\"bad-request\""),
        ("{}\n", "missing field `version`"),
        ("{\"version\":99,\"request\":{\"op\":\"dance\"}}\n", "speaks version 99"),
        ("{\"version\":1,\"request\":{\"op\":\"dance\"}}\n", "unknown variant `dance`"),
        ("\n\n{\"version\":1,\"request\":{\"op\":\"status\"}}\n", "\"kind\":\"status\""),
    ] {
        stream.write_all(sent.as_bytes()).unwrap();
        let answer = line(&stream);
        assert!(answer.contains(said), "{sent} → {answer}");
    }
    let giant = vec![b'x'; REQUEST_MAX + 2];
    let _ = stream.write_all(&giant);
    assert!(line(&stream).contains("at most"));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest); // closed, or reset because of what it sent in vain
    running.check();
}

#[test]
fn many_clients_silent_clients_and_vanishing_clients_disturb_nobody() {
    let running = Running::start();
    let silent: Vec<UnixStream> = (0..CLIENTS).map(|_| running.raw()).collect();
    for mut half in silent.iter().take(8) {
        half.write_all(b"{\"version\":1,").unwrap();
    }
    // One too many is told so.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match running.client().call(Request::Status) {
            Err(ClientError::Refused(f)) if f.code == FailureCode::Busy => break,
            Err(ClientError::Broken(_)) => break, // it closed before it was asked
            _ => assert!(Instant::now() < deadline),
        }
    }
    drop(silent);
    let deadline = Instant::now() + Duration::from_secs(10);
    while running.client().call(Request::Status).is_err() {
        assert!(Instant::now() < deadline, "there is room again");
    }
    for _ in 0..200 {
        let mut stream = running.raw();
        // Where there are too many at once, this one is closed before it has asked.
        let _ = stream.write_all(b"{\"version\":1,\"request\":{\"op\":\"stats\"}}\n");
    }
    running.check();
}

#[test]
fn a_trace_ends_when_its_client_does_and_the_next_can_begin() {
    let running = Running::start();
    let trace = Request::Trace { filter: TraceFilter::default(), frames: 5 };
    let call = serde_json::json!({ "version": 1, "request": trace });
    let mut first = running.raw();
    writeln!(first, "{call}").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // It has begun when another is refused.
    loop {
        let mut second = running.raw();
        writeln!(second, "{call}").unwrap();
        second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut text = String::new();
        if BufReader::new(&second).read_line(&mut text).is_ok() && text.contains("\"busy\"") {
            break;
        }
        assert!(Instant::now() < deadline);
    }
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut next = running.raw();
        writeln!(next, "{call}").unwrap();
        next.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut text = String::new();
        // No answer yet: it waits for frames, so it is on.
        if BufReader::new(&next).read_line(&mut text).is_err() {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
    }
    running.check();
}

#[test]
fn a_reload_through_the_socket_tells_what_is_wrong_with_the_file() {
    let running = Running::start();
    let file = running.folder.join("lcs.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("port = 80", "prot = 80")).unwrap();
    let Err(ClientError::Refused(failure)) = running.client().call(Request::Reload) else { panic!() };
    assert!(failure.message.contains("did you mean `port`?"), "{failure}");
    std::fs::write(&file, good.replace("s1", "s2")).unwrap();
    let Ok(Response::Applied(applied)) = running.client().call(Request::Reload) else { panic!() };
    assert_eq!((applied.changes.len(), applied.workers), (2, 1));
    assert!(running.log.lock().unwrap().iter().any(|l| l.contains("1 worker;")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_disturb_the_director(chunks in proptest::collection::vec(
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            Just(b"{\"version\":1,\"request\":{\"op\":\"status\"}}\n".to_vec()),
            Just(b"{\"version\":1,\"request\":{\"op\":\"weight\",\"service\":\"web\",\"server\":\"s1\",\"weight\":4294967295}}\n".to_vec()),
            Just(b"{\"version\":1,\"request\":{\"op\":\"connections\",\"limit\":4294967295}}\n".to_vec()),
            Just(b"{\"version\":1,\"request\":{\"op\":\"trace\",\"frames\":4294967295}}\n".to_vec()),
            "\\{\"version\":1,\"request\":\\{[\"a-z:,0-9{}]{0,60}\\}\\}\n".prop_map(String::into_bytes),
        ],
        1..6,
    )) {
        // One director for all cases: what one of them breaks, the next one finds.
        static RUNNING: Mutex<Option<Running>> = Mutex::new(None);
        let mut running = RUNNING.lock().unwrap();
        let running = running.get_or_insert_with(Running::start);
        let mut stream = running.raw();
        for chunk in &chunks {
            if stream.write_all(chunk).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answers = String::new();
        let _ = stream.read_to_string(&mut answers);
        for answer in answers.lines() {
            prop_assert!(serde_json::from_str::<lcs_control::protocol::Answer>(answer).is_ok(), "{}", answer);
        }
        running.check();
    }
}
