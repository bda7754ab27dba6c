//! `lcs stats --flame`: cycles per packet of each stage over time, stacked, a band for each worker, as SVG.

use super::table::{number, percent, scaled};
use crate::protocol::{Stats, WorkerStats};
use std::fmt::Write;

/// Most intervals in one picture: more would be finer than a screen shows.
pub const INTERVALS_MAX: usize = 2000;

/// What the loop spends beside its stages.
const REST: &str = "rest of the loop";
/// Stages one above the other must be told apart; stages beyond these begin anew.
const COLOURS: [&str; 10] =
    ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#ff9da7", "#bab0ac"];
/// Places, in units of the picture.
const LEFT: f64 = 90.0;
const RIGHT: f64 = 890.0;
const WIDTH: f64 = 1160.0;
const TOP: f64 = 64.0;
const BAND: f64 = 190.0;
const GAP: f64 = 46.0;
/// Highest value shown, as a multiple of the one that nine in ten intervals do not exceed: one interval with two packets in it
/// must not flatten all others.
const CLIP: f64 = 2.0;

/// A worker in an interval.
#[derive(Debug, Clone, Default, PartialEq)]
struct Cell {
    packets: u64,
    busy: f64,
    /// Cycles by stage, in the order of [`Flame::stages`].
    cycles: Vec<u64>,
}

impl Cell {
    fn per_packet(&self, stage: usize) -> f64 {
        if self.packets == 0 { 0.0 } else { self.cycles.get(stage).map_or(0.0, |c| *c as f64 / self.packets as f64) }
    }

    fn all(&self) -> f64 {
        if self.packets == 0 { 0.0 } else { self.cycles.iter().sum::<u64>() as f64 / self.packets as f64 }
    }
}

/// What is between two readings.
#[derive(Debug, Clone)]
struct Interval {
    /// Seconds since the first reading.
    from: f64,
    to: f64,
    workers: Vec<Cell>,
}

/// Readings of a director's counters, kept small, and their picture.
#[derive(Debug, Default)]
pub struct Flame {
    stages: Vec<String>,
    hz: u64,
    first: Option<f64>,
    last: Option<Stats>,
    intervals: Vec<Interval>,
}

impl Flame {
    /// Takes a reading; `false` where it is not a later one of the same director, or there are [`INTERVALS_MAX`] intervals:
    /// it is left out then.
    pub fn add(&mut self, now: &Stats) -> bool {
        let now = Stats { services: Vec::new(), ..now.clone() };
        let Some(before) = &self.last else {
            self.hz = now.tsc_hz;
            self.stages = now.total.stages.iter().map(|s| s.name.clone()).collect();
            self.stages.push(REST.to_owned());
            self.first = Some(now.uptime);
            self.last = Some(now);
            return true;
        };
        let later = now.uptime > before.uptime
            && now.workers.len() == before.workers.len()
            && now.workers.iter().zip(&before.workers).all(|(n, b)| n.cycles >= b.cycles && n.received >= b.received);
        if !later || self.intervals.len() >= INTERVALS_MAX {
            return false;
        }
        let first = self.first.unwrap_or(now.uptime);
        let d = super::since(&now, before);
        let workers = d.workers.iter().map(|w| cell(w, &self.stages, d.uptime * d.tsc_hz as f64)).collect();
        self.intervals.push(Interval { from: before.uptime - first, to: now.uptime - first, workers });
        self.last = Some(now);
        true
    }

    /// Intervals so far.
    pub fn intervals(&self) -> usize {
        self.intervals.len()
    }

    /// The picture, as an SVG document that needs nothing else; none while there is no interval.
    pub fn svg(&self) -> Option<String> {
        let end = self.intervals.last()?.to;
        let workers = self.intervals.first()?.workers.len();
        let height = TOP + workers as f64 * (BAND + GAP) + 30.0;
        let legend = TOP + 20.0 + 20.0 * (self.stages.len() + 3) as f64;
        let height = height.max(legend);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<title>Cycles per packet by stage</title>\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"28\" font-size=\"17\">Cycles per packet by stage, over {end:.1} s in {} intervals</text>\n",
            self.intervals.len()
        );
        let top = self.scale();
        for worker in 0..workers {
            self.band(&mut out, worker, TOP + worker as f64 * (BAND + GAP), top, end);
        }
        self.legend(&mut out);
        out += "</svg>\n";
        Some(out)
    }

    /// The highest value that is shown: the same in all bands, so that they can be compared.
    fn scale(&self) -> f64 {
        let mut all: Vec<f64> =
            self.intervals.iter().flat_map(|i| i.workers.iter().map(Cell::all)).filter(|v| *v > 0.0).collect();
        all.sort_by(f64::total_cmp);
        let (Some(highest), Some(usual)) = (all.last(), all.get((all.len() * 9).div_ceil(10).saturating_sub(1))) else {
            return 100.0;
        };
        round_up(highest.min(usual * CLIP))
    }

    fn band(&self, out: &mut String, worker: usize, y: f64, top: f64, end: f64) {
        let cells: Vec<(&Interval, &Cell)> =
            self.intervals.iter().filter_map(|i| i.workers.get(worker).map(|c| (i, c))).collect();
        let packets: u64 = cells.iter().map(|(_, c)| c.packets).sum();
        let cycles: u64 = cells.iter().flat_map(|(_, c)| &c.cycles).sum();
        let busy = cells.iter().map(|(i, c)| c.busy * (i.to - i.from)).sum::<f64>() / end;
        let mean = match packets {
            0 => "no packets".to_owned(),
            n => format!(
                "{} packets/s, mean {:.0} cycles/packet, busy {}",
                scaled(n as f64 / end, "").trim_end(),
                cycles as f64 / n as f64,
                percent(busy)
            ),
        };
        let foot = y + BAND;
        let place = |v: f64| foot - v.min(top) / top * (BAND - 20.0);
        let at = |t: f64| LEFT + t / end * (RIGHT - LEFT);
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{:.1}\">worker {worker}: {mean}</text>", y + 10.0);
        for step in 0..=4 {
            let value = top * f64::from(step) / 4.0;
            let level = place(value);
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT} {level:.1}H{RIGHT}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444\">{}</text>",
                LEFT - 6.0,
                level + 4.0,
                figure(value)
            );
        }
        let middle = (y + foot) / 2.0;
        let _ = writeln!(
            out,
            "<text transform=\"translate(28 {middle:.1}) rotate(-90)\" text-anchor=\"middle\" fill=\"#444\">cycles/packet</text>"
        );
        let mut below = vec![0.0; cells.len()];
        for (stage, name) in self.stages.iter().enumerate() {
            let sum: u64 = cells.iter().filter_map(|(_, c)| c.cycles.get(stage)).sum();
            if sum == 0 {
                continue;
            }
            // Along the upper edges forward, along the lower ones back: an area of steps.
            let (mut upper, mut lower) = (String::new(), Vec::with_capacity(cells.len()));
            for ((interval, cell), below) in cells.iter().zip(&mut below) {
                let from = *below;
                *below += cell.per_packet(stage);
                let (left, right) = (at(interval.from), at(interval.to));
                let _ = write!(upper, "L{left:.1} {:.1}H{right:.1}", place(*below));
                lower.push(format!("L{right:.1} {:.1}H{left:.1}", place(from)));
            }
            lower.reverse();
            let mean = sum as f64 / packets.max(1) as f64;
            let _ = writeln!(
                out,
                "<path d=\"M{}{}Z\" fill=\"{}\"><title>worker {worker}, {}: mean {mean:.1} cycles/packet</title></path>",
                &upper[1..],
                lower.concat(),
                colour(stage),
                escape(name)
            );
        }
        for ((interval, cell), _) in cells.iter().zip(&below).filter(|(_, v)| **v > top * 1.0001) {
            let x = (at(interval.from) + at(interval.to)) / 2.0;
            let y = place(top);
            let _ = writeln!(
                out,
                "<path d=\"M{x:.1} {:.1}l4 7h-8Z\" fill=\"#111\"><title>beyond the scale: {} cycles/packet; packets: {}</title></path>",
                y - 8.0,
                number(cell.all() as u64),
                number(cell.packets)
            );
        }
        axis(out, foot, end, at);
    }

    fn legend(&self, out: &mut String) {
        let x = RIGHT + 24.0;
        let cells = || self.intervals.iter().flat_map(|i| &i.workers);
        let packets: u64 = cells().map(|c| c.packets).sum();
        let all: u64 = cells().flat_map(|c| &c.cycles).sum();
        let mut y = TOP + 10.0;
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y:.1}\" fill=\"#444\">mean cycles/packet, share</text>");
        // The uppermost stage first, as in the picture.
        for (stage, name) in self.stages.iter().enumerate().rev() {
            let sum: u64 = cells().filter_map(|c| c.cycles.get(stage)).sum();
            if sum == 0 {
                continue;
            }
            y += 20.0;
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}: {:.1}, {}</text>",
                y - 11.0,
                colour(stage),
                x + 18.0,
                escape(name),
                sum as f64 / packets.max(1) as f64,
                percent(sum as f64 / all.max(1) as f64)
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{:.1}\" fill=\"#444\">{:.2} cycles = 1 ns</text><text x=\"{x}\" y=\"{:.1}\" fill=\"#444\">▴ beyond the scale</text>",
            y + 24.0,
            self.hz as f64 / 1e9,
            y + 44.0
        );
    }
}

fn cell(w: &WorkerStats, stages: &[String], available: f64) -> Cell {
    let mut cycles: Vec<u64> =
        stages.iter().map(|name| w.stages.iter().find(|s| s.name == *name).map_or(0, |s| s.cost.cycles)).collect();
    let known: u64 = cycles.iter().sum();
    if let Some(rest) = cycles.last_mut() {
        *rest = w.cycles.saturating_sub(known);
    }
    // Cycles are sampled under load, so that they may come to a little more than there were.
    let busy = (w.cycles as f64 / available.max(1.0)).min(1.0);
    Cell { packets: w.received + w.taken_over, busy, cycles }
}

fn axis(out: &mut String, foot: f64, end: f64, at: impl Fn(f64) -> f64) {
    let _ = writeln!(out, "<path d=\"M{LEFT} {foot:.1}H{RIGHT}\" stroke=\"#333\"/>");
    let step = round_up(end / 10.0);
    let mut n = 0u32;
    // At most ten steps and one; the bound is for ends that are no numbers.
    while f64::from(n) * step <= end * 1.0001 && n <= 10 {
        let t = f64::from(n) * step;
        let unit = if n == 0 { " s" } else { "" };
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} {foot:.1}v4\" stroke=\"#333\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444\">{}{unit}</text>",
            at(t),
            at(t),
            foot + 18.0,
            figure(t)
        );
        n += 1;
    }
}

fn colour(stage: usize) -> &'static str {
    COLOURS[stage % COLOURS.len()]
}

/// The next of 1, 2, 4, 5 or 10 times a power of ten.
fn round_up(value: f64) -> f64 {
    if !(value > 0.0 && value.is_finite()) {
        return 1.0;
    }
    let decade = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0].into_iter().map(|m| m * decade).find(|v| *v >= value * 0.9999).unwrap_or(decade * 10.0)
}

/// A number of an axis, without digits that say nothing.
fn figure(value: f64) -> String {
    if value >= 1e4 { number(value as u64) } else { ((value * 1e3).round() / 1e3).to_string() }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Stage;
    use lcs_dataplane::cycles::StageCost;

    /// Two workers after `seconds`; the first has had `packets` at 30 + 50 cycles and 10 of the loop, the second none.
    fn reading(seconds: f64, packets: u64) -> Stats {
        let stage = |name: &str, cycles| Stage {
            name: name.into(),
            cycles_per_packet: 0.0,
            share: 0.0,
            cost: StageCost { packets, cycles: packets * cycles, ..StageCost::default() },
        };
        let busy = WorkerStats {
            received: packets,
            cycles: packets * 90,
            stages: vec![stage("receive", 30), stage("look<up", 50)],
            ..WorkerStats::default()
        };
        let idle = WorkerStats::default();
        Stats {
            uptime: seconds,
            tsc_hz: 2_500_000_000,
            total: busy.clone(),
            workers: vec![busy, idle],
            content_workers: vec![],
            services: vec![],
            taps: vec![],
            filter: None,
        }
    }

    #[test]
    fn stages_are_stacked_for_each_worker() {
        let mut flame = Flame::default();
        assert!(flame.add(&reading(5.0, 0)) && flame.svg().is_none());
        assert!(flame.add(&reading(6.0, 1000)) && flame.add(&reading(7.0, 5000)));
        let svg = flame.svg().unwrap();
        for shown in [
            "over 2.0 s in 2 intervals",
            "worker 0: 2.50 k packets/s, mean 90 cycles/packet",
            "worker 1: no packets",
            "receive: 30.0, 33.3 %",
            "look&lt;up: 50.0, 55.6 %",
            "rest of the loop: 10.0, 11.1 %",
            "2.50 cycles = 1 ns",
        ] {
            assert!(svg.contains(shown), "{shown}: {svg}");
        }
        // On a scale to 100, 30 cycles begin at the foot (254) and reach 30 % of 170 up, all along the two seconds.
        assert!(svg.contains("d=\"M90.0 203.0H490.0L490.0 203.0H890.0L890.0 254.0H490.0L490.0 254.0H90.0Z\""), "{svg}");
        // The next stage stands on it.
        assert!(svg.contains("d=\"M90.0 118.0H490.0L490.0 118.0H890.0L890.0 203.0H490.0L490.0 203.0H90.0Z\""), "{svg}");
        assert_eq!(svg.matches("<path").count(), svg.matches("/>").count() + svg.matches("</path>").count() - 4);
    }

    #[test]
    fn what_is_no_later_reading_of_the_same_director_is_left_out() {
        let mut flame = Flame::default();
        assert!(flame.add(&reading(5.0, 1000)));
        assert!(!flame.add(&reading(5.0, 1000)));
        assert!(!flame.add(&reading(6.0, 10)), "its counters went back");
        let mut other = reading(6.0, 2000);
        other.workers.pop();
        assert!(!flame.add(&other));
        assert!(flame.add(&reading(6.0, 2000)));
        assert_eq!(flame.intervals(), 1);
    }

    #[test]
    fn a_lone_dear_packet_is_marked_and_does_not_flatten_the_rest() {
        let mut flame = Flame::default();
        for second in 0..20 {
            flame.add(&reading(f64::from(second), u64::try_from(second).unwrap() * 1000));
        }
        let mut dear = reading(20.0, 19_001);
        dear.workers[0].cycles = 19_000 * 90 + 100_000;
        flame.add(&dear);
        let svg = flame.svg().unwrap();
        assert!(svg.contains("beyond the scale: 100,000 cycles/packet; packets: 1<"), "{svg}");
        assert!(svg.contains(">200</text>") && !svg.contains(">100,000</text>"), "{svg}");
    }
}
