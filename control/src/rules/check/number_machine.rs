//! "This text is a number that stands in this relation to that constant", as an automaton: for the
//! rare variable that is compared both as a number and as text.
//!
//! Numbers with a power of ten (`1e3`) are left out: to count zeros against an exponent takes more than
//! an automaton has. Such a text is refused either way, so no witness holds one.

use super::super::ast::Relation;
use super::super::decimal::Decimal;
use super::machine::{ByteSplit, Fate};

/// A comparison with one constant.
#[derive(Debug)]
pub struct NumberMachine {
    relation: Relation,
    negative: bool,
    whole: Vec<u8>,
    fraction: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Blanks in front.
    Before = 0,
    Sign = 1,
    Whole = 2,
    /// The point, with digits before it or not.
    Fraction = 3,
    After = 4,
    NotANumber = 5,
    /// A power of ten: refused either way.
    LeftOut = 6,
}

const PHASES: [Phase; 7] =
    [Phase::Before, Phase::Sign, Phase::Whole, Phase::Fraction, Phase::After, Phase::NotANumber, Phase::LeftOut];

/// The state, packed: phase, sign, any digit seen, order so far (0 less, 1 equal, 2 greater), place.
#[derive(Clone, Copy)]
struct State {
    phase: Phase,
    negative: bool,
    digits: bool,
    order: u32,
    place: u32,
}

impl State {
    fn pack(self) -> u32 {
        self.phase as u32
            | u32::from(self.negative) << 3
            | u32::from(self.digits) << 4
            | self.order << 5
            | self.place << 7
    }

    fn unpack(packed: u32) -> State {
        State {
            phase: PHASES[(packed & 7).min(6) as usize],
            negative: packed >> 3 & 1 == 1,
            digits: packed >> 4 & 1 == 1,
            order: packed >> 5 & 3,
            place: packed >> 7,
        }
    }
}

fn order(digit: u8, constant: u8) -> u32 {
    match digit.cmp(&constant) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Equal => 1,
        std::cmp::Ordering::Greater => 2,
    }
}

impl NumberMachine {
    pub fn new(relation: Relation, constant: Decimal) -> Self {
        let text = constant.to_string();
        let magnitude = text.trim_start_matches('-');
        let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
        NumberMachine {
            relation,
            negative: text.starts_with('-'),
            whole: whole.trim_start_matches('0').bytes().collect(),
            fraction: fraction.bytes().collect(),
        }
    }

    pub fn start(&self) -> u32 {
        State { phase: Phase::Before, negative: false, digits: false, order: 1, place: 0 }.pack()
    }

    pub fn step(&self, state: u32, byte: u8) -> u32 {
        let mut s = State::unpack(state);
        let blank = byte.is_ascii_whitespace();
        match (s.phase, byte) {
            (Phase::NotANumber | Phase::LeftOut, _) => return state,
            (Phase::Before, _) if blank => return state,
            (Phase::Before, b'-' | b'+') => {
                s.phase = Phase::Sign;
                s.negative = byte == b'-';
            }
            (Phase::Before | Phase::Sign | Phase::Whole, b'0'..=b'9') => {
                s.phase = Phase::Whole;
                s.digits = true;
                self.whole_digit(&mut s, byte);
            }
            (Phase::Before | Phase::Sign | Phase::Whole, b'.') => self.point(&mut s),
            (Phase::Fraction, b'0'..=b'9') => {
                s.digits = true;
                if s.order == 1 {
                    s.order = order(byte, self.fraction.get(s.place as usize).copied().unwrap_or(b'0'));
                }
                s.place = (s.place + 1).min(self.fraction.len() as u32);
            }
            (Phase::Whole | Phase::Fraction, b'e' | b'E') if s.digits => s.phase = Phase::LeftOut,
            (Phase::Whole | Phase::Fraction, _) if blank && s.digits => {
                s.order = self.order_at_end(s);
                s.phase = Phase::After;
            }
            (Phase::After, _) if blank => return state,
            _ => s.phase = Phase::NotANumber,
        }
        if matches!(s.phase, Phase::NotANumber | Phase::LeftOut) {
            s = State { phase: s.phase, negative: false, digits: false, order: 1, place: 0 };
        }
        s.pack()
    }

    fn whole_digit(&self, s: &mut State, digit: u8) {
        if s.place == 0 && digit == b'0' {
            return;
        }
        if (s.place as usize) < self.whole.len() && s.order == 1 {
            s.order = order(digit, self.whole[s.place as usize]);
        }
        s.place = (s.place + 1).min(self.whole.len() as u32 + 1);
    }

    fn point(&self, s: &mut State) {
        s.order = self.whole_order(*s);
        s.phase = Phase::Fraction;
        s.place = 0;
    }

    /// The order of the whole parts: by length, then by digits.
    fn whole_order(&self, s: State) -> u32 {
        match (s.place as usize).cmp(&self.whole.len()) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => s.order,
            std::cmp::Ordering::Greater => 2,
        }
    }

    /// The order of the magnitudes if the number ends here.
    fn order_at_end(&self, s: State) -> u32 {
        let (order, place) = match s.phase {
            Phase::Whole => (self.whole_order(s), 0),
            Phase::Fraction => (s.order, s.place as usize),
            _ => return s.order,
        };
        let more = self.fraction.iter().skip(place).any(|digit| *digit != b'0');
        if order == 1 && more { 0 } else { order }
    }

    pub fn accepts(&self, state: u32) -> bool {
        let s = State::unpack(state);
        if !s.digits || matches!(s.phase, Phase::NotANumber | Phase::LeftOut) {
            return false;
        }
        let magnitude = self.order_at_end(s);
        let zero = self.whole.is_empty() && self.fraction.is_empty();
        // Of two numbers with different signs the negative one is smaller; zero has no sign.
        let order: i32 = match (s.negative, self.negative) {
            _ if zero && magnitude == 1 => 0,
            (false, false) => magnitude as i32 - 1,
            (true, true) => 1 - magnitude as i32,
            (true, false) => -1,
            (false, true) => 1,
        };
        self.relation.holds(&order, &0)
    }

    pub fn fate(&self, state: u32) -> Fate {
        match State::unpack(state).phase {
            Phase::NotANumber => Fate::Never,
            _ => Fate::Open,
        }
    }

    /// Whether this text is outside what the automaton decides.
    pub fn left_out(state: u32) -> bool {
        State::unpack(state).phase == Phase::LeftOut
    }

    pub fn split(split: &mut ByteSplit) {
        split.by(|byte| match byte {
            b'0'..=b'9' | b'-' | b'+' | b'.' => u16::from(byte),
            b'e' | b'E' => 1,
            _ if byte.is_ascii_whitespace() => 2,
            _ => 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_automaton_agrees_with_arithmetic() {
        let relations = [
            Relation::Equal,
            Relation::NotEqual,
            Relation::Less,
            Relation::LessOrEqual,
            Relation::Greater,
            Relation::GreaterOrEqual,
        ];
        let numbers = [
            "0",
            "-0",
            "00",
            "0.0",
            "5",
            "05",
            "5.0",
            "5.",
            ".5",
            "-.5",
            "-5",
            "4.99",
            "5.01",
            "5.000000000001",
            "49",
            "50",
            "51",
            "500",
            " 5 ",
            "+5",
            "-4.9",
            "-5.1",
            "0.05",
            "10.5",
            "10.49",
            "10.51",
            "10",
            "11",
            "",
            ".",
            "-",
            "5x",
            "x5",
            "5 5",
            "1.2.3",
            "--5",
        ];
        for constant in ["0", "5", "-5", "0.5", "10.5", "50", "-0.05", "0.000000001"] {
            let c = Decimal::from_rule(constant).unwrap();
            for relation in relations {
                let machine = NumberMachine::new(relation, c);
                for text in numbers {
                    let state = text.bytes().fold(machine.start(), |state, byte| machine.step(state, byte));
                    let expected = Decimal::from_request(text.as_bytes()).is_some_and(|n| relation.holds(&n, &c));
                    assert_eq!(machine.accepts(state), expected, "{text:?} {} {constant}", relation.symbol());
                }
            }
        }
    }
}
