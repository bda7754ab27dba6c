//! Exact decimal numbers, as rules compare them.
//!
//! A binary float would call 111222333444555666 equal to its neighbours; an order number must not be.

use std::fmt;

/// Digits that a constant may have after the point.
pub const MAX_FRACTION_DIGITS: u32 = 9;
/// Digits that a constant may have before the point.
pub const MAX_INTEGER_DIGITS: u32 = 27;

const SCALE: i128 = 1_000_000_000;

/// A decimal number that orders exactly against every constant a rule can hold.
///
/// Stored as `2 · value · 10⁹`, plus (away from zero) 1 if digits beyond the ninth after the point are left over. So a
/// value between two representable constants lies between them here too, and `x > c` is the closed interval that
/// begins at [`Number::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(i128);

/// Why a constant cannot stand in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// The text is no decimal number.
    #[error("not a number: write digits with an optional sign and decimal point")]
    Syntax,
    /// More digits than [`MAX_INTEGER_DIGITS`] or [`MAX_FRACTION_DIGITS`].
    #[error("too many digits: at most {MAX_INTEGER_DIGITS} before and {MAX_FRACTION_DIGITS} after the point")]
    Digits,
}

impl Number {
    /// Below every value that a request can carry.
    pub const MIN: Self = Self(-i128::MAX);
    /// Above every value that a request can carry.
    pub const MAX: Self = Self(i128::MAX);
    const LIMIT: i128 = 10_i128.pow(MAX_INTEGER_DIGITS) * SCALE;

    /// Reads a value out of a request: blanks around it are ignored, then an optional sign, digits with an optional
    /// point, and an optional power of ten (`-12.50`, `.5`, `1e3`). Anything else is no number. Values too large for
    /// any constant compare as larger (or smaller) than all of them.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let (negative, digits) = match text.first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        // Most values are short integers.
        if digits.len() <= 18 && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
            let value = digits.iter().fold(0_i64, |sum, d| sum * 10 + i64::from(d - b'0'));
            return Some(Self::from(if negative { -value } else { value }));
        }
        let magnitude = parse_magnitude(digits)?;
        Some(Self(if negative { -magnitude } else { magnitude }))
    }

    /// Reads a constant out of a rule: as [`Number::parse`], but it must be held exactly.
    pub fn constant(text: &str) -> Result<Self, NumberError> {
        let number = Self::parse(text.as_bytes()).ok_or(NumberError::Syntax)?;
        let exact = number.0 % 2 == 0 && number.0.abs() < 2 * Self::LIMIT;
        exact.then_some(number).ok_or(NumberError::Digits)
    }

    /// The smallest number above this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The largest number below this one.
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

fn parse_magnitude(text: &[u8]) -> Option<i128> {
    let mantissa_end = text.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(text.len());
    let exponent = match text.get(mantissa_end + 1..) {
        Some(exponent) => parse_exponent(exponent)?,
        None if mantissa_end == text.len() => 0,
        None => return None,
    };
    let mantissa = &text[..mantissa_end];
    let point = mantissa.iter().position(|&b| b == b'.').unwrap_or(mantissa.len());
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    let (whole, fraction) = (&mantissa[..point], mantissa.get(point + 1..).unwrap_or(&[]));
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return None;
    }
    // Place of the next digit, counted from the point: 10^(place - 1).
    let mut place = i64::try_from(whole.len()).ok()?.saturating_add(exponent);
    let mut value: i128 = 0;
    let mut rest = false;
    for digit in whole.iter().chain(fraction) {
        let digit = i128::from(digit - b'0');
        if digit != 0 {
            if place > i64::from(MAX_INTEGER_DIGITS) {
                return Some(2 * Number::LIMIT);
            }
            let power = place - 1 + i64::from(MAX_FRACTION_DIGITS);
            match u32::try_from(power) {
                Ok(power) => value += digit * 10_i128.pow(power),
                Err(_) => rest = true,
            }
        }
        place = place.saturating_sub(1);
    }
    Some(2 * value + i128::from(rest))
}

/// Powers beyond ±10⁶ say no more than ±10⁶ does.
fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_i64, |sum, d| (sum * 10 + i64::from(d - b'0')).min(1_000_000));
    Some(if negative { -value } else { value })
}

macro_rules! from_integers {
    ($($integer:ty),*) => {
        $(impl From<$integer> for Number {
            fn from(value: $integer) -> Self {
                Self(i128::from(value) * SCALE * 2)
            }
        })*
    };
}

from_integers!(i32, u32, i64, u64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = (self.0 / 2).unsigned_abs();
        let (whole, fraction) = (magnitude / SCALE as u128, magnitude % SCALE as u128);
        if self.0 < 0 {
            f.write_str("-")?;
        }
        write!(f, "{whole}")?;
        if fraction != 0 {
            let digits = format!("{fraction:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> Number {
        Number::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text} is a number"))
    }

    #[test]
    fn values_order_exactly_around_a_constant() {
        let five = Number::constant("5").unwrap();
        for (text, order) in [
            ("5", 0),
            (" 5.000 ", 0),
            ("+5", 0),
            ("50e-1", 0),
            ("0.5E1", 0),
            ("5.0000000001", 1),
            ("4.9999999999999999999999", -1),
            ("999999999999999999999999999999999999999999", 1),
            ("-1e999999999999", -1),
            ("1e-999999999", -1),
        ] {
            assert_eq!(n(text).cmp(&five) as i8, order, "{text}");
        }
        assert!(n("-5.0000000001") < n("-5") && n("-5.0000000001") > n("-5.000000001"));
        assert!(n("111222333444555666") < n("111222333444555667"));
        assert!(five.previous() < five && five < five.next());
    }

    #[test]
    fn what_is_no_number() {
        for text in ["", " ", "-", ".", "5a", "0x10", "1,000", "5 000", "e5", "5e", "--5", "1.2.3", "NaN", "inf", "5e+"]
        {
            assert_eq!(Number::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn constants_must_be_exact() {
        assert_eq!(Number::constant("12.50").unwrap().to_string(), "12.5");
        assert_eq!(Number::constant("-0.000000001").unwrap().to_string(), "-0.000000001");
        assert_eq!(Number::constant("0.0000000001"), Err(NumberError::Digits));
        assert_eq!(Number::constant("1e27"), Err(NumberError::Digits));
        assert_eq!(Number::constant("ten"), Err(NumberError::Syntax));
    }
}
