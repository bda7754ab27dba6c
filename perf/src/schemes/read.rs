//! Reads what the command line gives: sizes, times, shares.

use lcs_dataplane::worker::Nanos;

/// A number with one of these units behind it.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<f64>().ok().map(|n| n * scale)
}

/// Bytes: `500`, `0.1k`, `10k`, `1M`.
///
/// # Errors
/// How it is to be written.
pub fn read_size(text: &str) -> Result<usize, String> {
    let bytes = scaled(text, &[("", 1.0), ("k", 1e3), ("K", 1e3), ("M", 1e6)]);
    let whole = bytes.filter(|n| (1.0..=1e12).contains(n) && (n - n.round()).abs() < 1e-6);
    whole.map(|n| n.round() as usize).ok_or_else(|| {
        "write a number of bytes, at least 1, such as 500, 0.1k, 10k or 1M (k is a thousand, M a million)".to_owned()
    })
}

/// A time: `1ms`, `0.2ms`, `50us`, `1s`.
///
/// # Errors
/// How it is to be written.
pub fn read_time(text: &str) -> Result<Nanos, String> {
    let time = scaled(text, &[("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)]);
    let sane = time.filter(|n| n.is_finite() && *n <= 1e15);
    sane.map(|n| n.round() as Nanos).ok_or_else(|| "write a time with its unit, such as 50us, 0.2ms or 1s".to_owned())
}

/// A share: `0.01` or `1%`.
///
/// # Errors
/// How it is to be written.
pub fn read_loss(text: &str) -> Result<f64, String> {
    let share = scaled(text, &[("", 1.0), ("%", 0.01)]);
    share.filter(|n| n.is_finite()).ok_or_else(|| "write a share of frames, such as 0.01 or 1%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_meant_and_says_how_else_to_write_it() {
        let sizes = ["0.1k", "1k", "500", "1000k", "1.5M"].map(|t| read_size(t).unwrap());
        assert_eq!(sizes, [100, 1_000, 500, 1_000_000, 1_500_000]);
        for wrong in ["", "k", "1kb", "-1", "0", "0.0001k", "1e3", "1..2k", "∞"] {
            assert!(read_size(wrong).unwrap_err().contains("such as 500, 0.1k"), "{wrong}");
        }
        assert_eq!(
            ["1ms", "0.2ms", "50us", "1s"].map(|t| read_time(t).unwrap()),
            [1_000_000, 200_000, 50_000, 1_000_000_000]
        );
        assert!(read_time("1").unwrap_err().contains("with its unit"));
        assert_eq!((read_loss("0.01"), read_loss("1%"), read_loss("0")), (Ok(0.01), Ok(0.01), Ok(0.0)));
        assert!(read_loss("few").is_err());
    }
}
