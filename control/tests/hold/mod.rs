//! What must hold of any text that is given as a rule file or a test table: for the fuzz targets and the replay of their corpus.

use lcs_control::rules::{self, Connection, Context, Diagnostic, Evaluator, HttpRequest, Message, Trial};

/// A mistake is somewhere in the file, and says what to do in some words.
fn sound(text: &str, errors: &[Diagnostic]) {
    assert!(!errors.is_empty());
    for error in errors {
        let lines = text.split('\n').count();
        assert!((1..=lines + 1).contains(&error.position.line), "{error}");
        assert!(error.position.column >= 1 && error.width >= 1 && !error.message.is_empty(), "{error}");
        assert!(error.position.column <= error.line_text.chars().count() + 1, "{error}");
        let _ = error.to_string();
    }
}

/// A rule file.
pub fn rules(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let set = match rules::parse(text, &Context::named("fuzz")) {
        Ok(set) => set,
        Err(errors) => return sound(text, &errors.0),
    };
    let printed = rules::format(&set);
    let again = rules::parse(&printed, &Context::named("fuzz")).unwrap_or_else(|e| panic!("{e}\nof\n{printed}"));
    assert_eq!(set.without_places(), again.without_places(), "{printed}");
    assert_eq!(rules::format(&again), printed);
    let trial = match Trial::new(&set) {
        Ok(trial) => trial,
        Err(errors) => return sound(text, &errors.0),
    };
    let mut connection = Connection::default();
    let mut request = HttpRequest { url: b"/a/b.gif?q=5&a=b".to_vec(), ..HttpRequest::default() };
    request.headers = vec![("Host".into(), b"a.example".to_vec()), ("Cookie".into(), b"name=servlet1; a=b".to_vec())];
    connection.message = Message::Http(Box::new(request));
    let verdict = trial.verdict(connection.message.protocol(), &connection.message.to_bytes(), &connection);
    assert_eq!(verdict, Ok(Evaluator::new(&set).verdict(&connection)), "{printed}");
}

/// A test table.
pub fn table(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let set = "a: if (suffix(path, \".gif\")) routeTo(images)\nb: if (xml.a/b > 5 || ip.ttl == 5) forward(s1)\n\
               c: if (smtp.to == \"a@b\" && server_up(web)) routeTo(web)\ndefault: reject(404)\n";
    let set = rules::parse(set, &Context::named("set")).unwrap_or_else(|e| panic!("{e}"));
    let trial = Trial::new(&set).unwrap_or_else(|e| panic!("{e}"));
    match rules::test_table(&set, text, "fuzz", |case| trial.decide(case)) {
        Ok(report) => assert!(report.failures.len() <= report.cases),
        Err(errors) => sound(text, &errors.0),
    }
}
