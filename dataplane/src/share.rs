//! Whether a thread has its core to itself.
//!
//! A core with several hardware threads (SMT) divides its execution units among those that are busy. In a virtual machine the other thread may be
//! a stranger's, and nothing says so: the same code takes 1.5 to 2 times as long for some milliseconds or minutes, at the same clock. What depends
//! on it can be measured: independent additions compete for the units, while a chain of multiplications, each of which waits for the last, takes its
//! latency whatever the neighbour does. The ratio of the two does not depend on the clock either.
//!
//! Neighbours on other cores take room in the last-level cache, which these two do not see: [`Chain`] does.

/// Additions in a block.
const BLOCK: u32 = 64;
/// Blocks of additions in a measurement.
const BLOCKS: u32 = 512;
/// Multiplications in a measurement.
const PRODUCTS: u32 = 3072;
/// Cycles of the core that a multiplication of 64 bits takes, on Intel's cores since Nehalem and on AMD's since Zen (Agner Fog,
/// *Instruction tables*).
const PRODUCT_LATENCY: f64 = 3.0;
/// Measurements of each, of which the shortest counts: an interrupt makes one longer.
const TIMES: usize = 4;
/// Of these, in a glance: an eighth, measured half as often.
const GLANCE: u32 = 8;

/// Additions that a core of the last ten years ends in a cycle for a thread that has it alone: four at least.
pub const WHOLE_CORE: f64 = 4.0;

/// Additions that the core ends for this thread in one of its cycles, where none waits for another. Takes about 30 µs. [`WHOLE_CORE`]
/// or more where the thread has the core to itself, about half of that where it shares it; `None` where it is not known how to measure it.
pub fn additions_per_cycle() -> Option<f64> {
    look(BLOCKS, PRODUCTS, TIMES)
}

/// The same in some 1.5 µs, and up to a tenth less, as beginning and end of the loops weigh more: to look again and again while something else is
/// measured.
pub fn glance() -> Option<f64> {
    look(BLOCKS / GLANCE, PRODUCTS / GLANCE, TIMES / 2)
}

fn look(blocks: u32, factors: u32, times: usize) -> Option<f64> {
    let mut shortest = [u64::MAX; 2];
    for _ in 0..times {
        let measured = [measure(|| additions(blocks))?, measure(|| products(factors))?];
        for (shortest, cycles) in shortest.iter_mut().zip(measured) {
            *shortest = cycles.min(*shortest);
        }
    }
    let [additions, products] = shortest.map(|cycles| cycles.max(1) as f64);
    let cycle = products / f64::from(factors) / PRODUCT_LATENCY;
    Some(f64::from(BLOCK * blocks) * cycle / additions)
}

/// Lines of a [`Chain`]: 2 MiB of them, four times the second-level cache of most cores, and little of a last-level cache.
const LINES: usize = 32 << 10;
/// Lines that are read one after the other in a measurement.
const LINKS: usize = 8;

/// Whether the last-level cache still has what was left there: a chain of lines in random order, each of which says where the next one is, so that a
/// read waits for the one before it. What has been evicted since the last time comes from memory.
#[derive(Debug)]
pub struct Chain {
    /// Of each line the first word is the number of the next.
    lines: Vec<[u32; 16]>,
    at: usize,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Chain {
    /// A chain of 2 MiB.
    pub fn new() -> Self {
        let mut order: Vec<u32> = (0..LINES as u32).collect();
        let mut random = 0x853c_49e6_748f_ea9b_u64;
        for i in (1..LINES).rev() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(i, (random % (i as u64 + 1)) as usize);
        }
        let mut lines = vec![[0; 16]; LINES];
        for (from, to) in order.iter().zip(order.iter().cycle().skip(1)) {
            lines[*from as usize][0] = *to;
        }
        Chain { lines, at: 0 }
    }

    /// TSC cycles that the next 8 lines take, the median of three times 8; all of the chain comes once in 1365 calls. Takes between
    /// half a microsecond and three; `None` where the processor cannot be told to wait for a read.
    pub fn glance(&mut self) -> Option<u64> {
        let mut times = [0; 3];
        for time in &mut times {
            settle()?;
            let before = crate::cycles::tsc();
            for _ in 0..LINKS {
                self.at = self.lines.get(self.at).map_or(0, |line| line[0] as usize);
            }
            std::hint::black_box(self.at);
            settle()?;
            *time = crate::cycles::tsc().saturating_sub(before);
        }
        times.sort_unstable();
        Some(times[1])
    }
}

/// Waits until all reads before it are done.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn settle() -> Option<()> {
    // SAFETY: LFENCE is available on every x86_64 processor, and orders loads only.
    unsafe { core::arch::asm!("lfence", options(nostack, preserves_flags)) };
    Some(())
}

#[cfg(not(target_arch = "x86_64"))]
fn settle() -> Option<()> {
    None
}

/// TSC cycles of `work`, where there is any for this processor.
fn measure(work: impl FnOnce() -> Option<()>) -> Option<u64> {
    let before = crate::cycles::tsc();
    work()?;
    Some(crate::cycles::tsc().saturating_sub(before))
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn additions(blocks: u32) -> Option<()> {
    let [mut a, mut b, mut c, mut d] = [0u64; 4];
    for _ in 0..blocks {
        // SAFETY: adds to four registers that the compiler has given for it; no memory, no stack.
        unsafe {
            core::arch::asm!(
                ".rept 16",
                "add {0}, 1",
                "add {1}, 1",
                "add {2}, 1",
                "add {3}, 1",
                ".endr",
                inout(reg) a,
                inout(reg) b,
                inout(reg) c,
                inout(reg) d,
                options(nomem, nostack),
            );
        }
    }
    std::hint::black_box([a, b, c, d]);
    Some(())
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn products(factors: u32) -> Option<()> {
    let mut product = 3u64;
    for _ in 0..factors / 16 {
        // SAFETY: multiplies in a register that the compiler has given for it; no memory, no stack.
        unsafe {
            core::arch::asm!(
                ".rept 16",
                "imul {0}, {0}",
                ".endr",
                inout(reg) product,
                options(nomem, nostack),
            );
        }
    }
    std::hint::black_box(product);
    Some(())
}

#[cfg(not(target_arch = "x86_64"))]
fn additions(_: u32) -> Option<()> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn products(_: u32) -> Option<()> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_comes_to_every_line_before_the_first_again() {
        let chain = Chain::new();
        let (mut at, mut seen) = (0, 0);
        while {
            at = chain.lines[at][0] as usize;
            seen += 1;
            at != 0
        } {}
        assert_eq!(seen, LINES);
        let mut chain = chain;
        assert_eq!(chain.glance().is_some_and(|cycles| cycles > 0), cfg!(target_arch = "x86_64"));
    }

    /// No core of today ends fewer than one a cycle for a thread, nor more than ten.
    #[test]
    fn a_core_ends_a_plausible_number_of_additions() {
        for look in [additions_per_cycle, glance] {
            let best = (0..100).filter_map(|_| look()).reduce(f64::max);
            assert!(best.is_none_or(|rate| (1.0..10.0).contains(&rate)), "{best:?}");
            assert_eq!(best.is_some(), cfg!(target_arch = "x86_64"));
        }
    }
}
