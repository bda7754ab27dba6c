//! The numbers that rules compare: exact decimals, never floating point, so that `> 50000` and
//! `< 50000` leave out exactly 50000.

use std::fmt;

/// Digits behind the point that a rule's number may have.
pub const FRACTION_DIGITS: usize = 9;
/// Digits before the point that a rule's number may have.
pub const INTEGER_DIGITS: usize = 27;

/// Steps of the number one: half a billionth each.
const ONE: i128 = 2_000_000_000;
const LIMIT: i128 = 10i128.pow(INTEGER_DIGITS as u32) * ONE;

/// A decimal number that orders rightly against every number that a rule can hold.
///
/// A rule's numbers are the even steps. A request's number with digits beyond the ninth behind the
/// point lies on the odd step between two of them, and one of 10²⁷ or more saturates there, above
/// every rule's number; so every comparison with a rule's number is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(i128);

impl Decimal {
    /// The largest number: what longer numbers saturate to.
    pub const MAX: Decimal = Decimal(LIMIT);
    /// The smallest number.
    pub const MIN: Decimal = Decimal(-LIMIT);
    /// Zero.
    pub const ZERO: Decimal = Decimal(0);

    /// The whole number `n`, saturated.
    pub fn from_integer(n: i128) -> Self {
        Decimal(n.saturating_mul(ONE).clamp(-LIMIT, LIMIT))
    }

    /// Half-billionths from zero.
    pub fn steps(self) -> i128 {
        self.0
    }

    /// The number so many half-billionths from zero, saturated.
    pub fn from_steps(steps: i128) -> Self {
        Decimal(steps.clamp(-LIMIT, LIMIT))
    }

    /// The whole number that this is, if it is one.
    pub fn integer(self) -> Option<i128> {
        (self.0 % ONE == 0).then_some(self.0 / ONE)
    }

    /// Reads a number from a request: blanks around are passed over; then an optional sign, digits
    /// with an optional point (`5`, `5.25`, `.5`), and an optional power of ten (`1e3`). Anything else
    /// (hexadecimal, a unit, a thousands separator) is not a number.
    pub fn from_request(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let (negative, text) = sign(text);
        let at = text.iter().position(|b| matches!(b, b'e' | b'E'));
        let (mantissa, power) = match at {
            Some(at) => (&text[..at], exponent(&text[at + 1..])?),
            None => (text, 0),
        };
        let point = mantissa.iter().position(|b| *b == b'.').unwrap_or(mantissa.len());
        let whole = &mantissa[..point];
        let fraction = mantissa.get(point + 1..).unwrap_or_default();
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        if !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return None;
        }
        // Digit k (from 0) stands for 10^(first - k).
        let first = i64::try_from(whole.len()).ok()?.saturating_add(power) - 1;
        let mut steps: i128 = 0;
        for (place, digit) in (0i64..).zip(whole.iter().chain(fraction)) {
            let digit = i128::from(digit - b'0');
            if digit == 0 {
                continue;
            }
            let ten = first.saturating_sub(place);
            if ten >= INTEGER_DIGITS as i64 {
                steps = LIMIT;
                break;
            }
            match u32::try_from(ten.saturating_add(FRACTION_DIGITS as i64)) {
                Ok(ten) => steps += 2 * digit * 10i128.pow(ten),
                Err(_) => {
                    steps |= 1;
                    break;
                }
            }
        }
        Some(Decimal(if negative { -steps } else { steps }))
    }

    /// Reads a number of a rule: as from a request, but only within the limits, so that what is
    /// written is what is compared.
    pub fn from_rule(text: &str) -> Option<Self> {
        Self::from_request(text.as_bytes()).filter(|number| number.0 % 2 == 0 && number.0.abs() < LIMIT)
    }

    /// The number in `low..=high` that is shortest to write: a whole number where there is one, the
    /// one nearest to zero among equally short ones of one sign.
    pub fn shortest_between(low: Decimal, high: Decimal) -> Decimal {
        debug_assert!(low <= high);
        if low.0 <= 0 && high.0 >= 0 {
            return Decimal::ZERO;
        }
        let mirrored = high.0 < 0;
        let (near, far) = if mirrored { (-high.0, -low.0) } else { (low.0, high.0) };
        let mut unit = ONE;
        loop {
            let up = near.div_euclid(unit) * unit + if near % unit == 0 { 0 } else { unit };
            if up <= far || unit == 1 {
                return Decimal(if mirrored { -up } else { up });
            }
            unit = if unit == 2 { 1 } else { unit / 10 };
        }
    }
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    }
}

/// A power of ten; beyond a million either way it says no more.
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = sign(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().fold(0i64, |sum, digit| (sum * 10 + i64::from(digit - b'0')).min(1_000_000));
    Some(if negative { -size } else { size })
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let one = ONE.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        write!(f, "{}", magnitude / one)?;
        let fraction = magnitude % one;
        if fraction != 0 {
            // Half-billionths have ten digits behind the point.
            let digits = format!("{:010}", fraction * 5);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Decimal> {
        Decimal::from_request(text.as_bytes())
    }

    #[test]
    fn what_is_a_number_and_what_is_not() {
        assert_eq!(read(" 5000 "), Some(Decimal::from_integer(5000)));
        assert_eq!(read("-1.50"), read("-1.5"));
        assert_eq!(read("+007"), read("7"));
        assert_eq!(read("1e3"), read("1000"));
        assert_eq!(read("2500E-2"), read("25"));
        assert_eq!(read(".5"), read("0.50"));
        assert_eq!(read("5."), read("5"));
        for text in ["", " ", "-", ".", "0x10", "1,000", "5 EUR", "--1", "1.2.3", "e3", "1e", "1e3.5"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn long_numbers_still_compare_rightly_with_every_rule() {
        let most = "9".repeat(INTEGER_DIGITS);
        assert!(read(&format!("{most}9")) > Decimal::from_rule(&most));
        assert!(read("-1e99") < Decimal::from_rule(&format!("-{most}")));
        assert!(read("0.1234567891") > Decimal::from_rule("0.123456789"));
        assert!(read("0.1234567891") < Decimal::from_rule("0.123456790"));
        assert!(read("1e-99") > read("0") && read("-1e-99") < read("0"));
        assert_eq!(Decimal::from_rule("1e27"), None);
        assert_eq!(Decimal::from_rule("0.1234567891"), None);
        assert_eq!(Decimal::from_rule("1.500000000000000000"), read("1.5"));
    }

    #[test]
    fn numbers_print_as_they_are_written() {
        for text in ["0", "50000", "-1.5", "0.000000001", "999999999999999999999999999.5"] {
            assert_eq!(Decimal::from_rule(text).unwrap().to_string(), text);
        }
        // Between two numbers of rules: what is printed reads back to the same step.
        let between = read("0.00000000123").unwrap();
        assert_eq!(read(&between.to_string()), Some(between));
    }

    #[test]
    fn the_shortest_number_of_an_interval() {
        let between =
            |low: &str, high: &str| Decimal::shortest_between(read(low).unwrap(), read(high).unwrap()).to_string();
        assert_eq!(between("5000.0000000001", "9999"), "5001");
        assert_eq!(between("-3", "8"), "0");
        assert_eq!(between("1.0000000001", "1.9999999999"), "1.1");
        assert_eq!(between("-7.5", "-7.2"), "-7.2");
        assert_eq!(between("50000", "50000"), "50000");
        assert_eq!(between("0.0000000011", "0.0000000019"), "0.0000000015");
    }
}
