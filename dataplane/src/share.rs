//! Whether a thread has its core to itself.
//!
//! A core with several hardware threads (SMT) divides its execution units among those that are busy. In a virtual machine the other thread may be
//! a stranger's, and nothing says so: the same code takes 1.5 to 2 times as long for some milliseconds or minutes, at the same clock. What depends
//! on it can be measured: independent additions compete for the units, while a chain of multiplications, each of which waits for the last, takes its
//! latency whatever the neighbour does. The ratio of the two does not depend on the clock either.

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
