//! Replays the fuzz targets' corpus and everything that they once found. `control/fuzz/README.md` says how a crash becomes a case here.

mod hold;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut n = 0;
    for folder in ["corpus", "regressions"] {
        let Ok(files) = fs::read_dir(fuzz.join(folder).join(target)) else { continue };
        for file in files.map(|f| f.unwrap().path()) {
            let bytes = fs::read(&file).unwrap();
            if let Err(e) = std::panic::catch_unwind(|| run(&bytes)) {
                eprintln!("while replaying {}", file.display());
                std::panic::resume_unwind(e);
            }
            n += 1;
        }
    }
    assert!(n > 0, "no case for {target}");
}

#[test]
fn rules() {
    replay("rules", hold::rules);
}

#[test]
fn table() {
    replay("table", hold::table);
}
