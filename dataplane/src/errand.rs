//! Rings by which workers hand work to other threads and take it back: bounded, and nothing that is handed out is ever lost.
//!
//! Every worker has a ring of its own out, from which any thread of those that serve takes the next piece, so that a long
//! one delays nobody while another thread is free; and one back. A worker has at most as many pieces out as either ring
//! has places: so a piece that is done always finds room, and whoever serves never waits.

use crossbeam_channel::{Receiver, Sender, bounded};
use std::time::Duration;

/// The longest that [`Intake::wait`] sleeps: what a piece may wait at most for threads that had nothing to do.
pub const NAP: Duration = Duration::from_micros(50);

/// A worker's ends: work goes out and comes back.
pub struct Outlet<T> {
    out: Sender<T>,
    back: Receiver<T>,
    away: usize,
    depth: usize,
}

/// The ends of a thread that serves: those of every worker.
pub struct Intake<T> {
    lanes: Vec<(Receiver<T>, Sender<T>)>,
    next: usize,
}

impl<T> std::fmt::Debug for Outlet<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outlet {{ away: {} of {} }}", self.away, self.depth)
    }
}

impl<T> std::fmt::Debug for Intake<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Intake {{ workers: {} }}", self.lanes.len())
    }
}

/// Rings between `workers` workers and `serving` threads, for `depth` pieces of each worker (at least 1).
pub fn errands<T>(workers: usize, serving: usize, depth: usize) -> (Vec<Outlet<T>>, Vec<Intake<T>>) {
    let depth = depth.max(1);
    let mut outlets = Vec::with_capacity(workers);
    let mut intakes: Vec<Intake<T>> = (0..serving).map(|_| Intake { lanes: Vec::new(), next: 0 }).collect();
    for _ in 0..workers {
        let (out, take) = bounded(depth);
        let (give, back) = bounded(depth);
        for intake in &mut intakes {
            intake.lanes.push((take.clone(), give.clone()));
        }
        outlets.push(Outlet { out, back, away: 0, depth });
    }
    (outlets, intakes)
}

impl<T> Outlet<T> {
    /// Hands a piece out.
    ///
    /// # Errors
    /// Gives it back when as many are out as may be, or nobody serves any more.
    pub fn send(&mut self, piece: T) -> Result<(), T> {
        if self.away >= self.depth {
            return Err(piece);
        }
        self.out.try_send(piece).map_err(|e| e.into_inner())?;
        self.away += 1;
        Ok(())
    }

    /// The next piece that is done, if there is one.
    #[inline]
    pub fn receive(&mut self) -> Option<T> {
        if self.away == 0 {
            return None;
        }
        let piece = self.back.try_recv().ok()?;
        self.away -= 1;
        Some(piece)
    }

    /// Pieces that are out.
    #[inline]
    pub fn away(&self) -> usize {
        self.away
    }

    /// Pieces that may be out.
    pub fn depth(&self) -> usize {
        self.depth
    }
}

impl<T> Intake<T> {
    /// The next piece, and the number of the worker that it is from. The workers take turns.
    #[inline]
    pub fn take(&mut self) -> Option<(usize, T)> {
        let n = self.lanes.len();
        for turn in 0..n {
            let worker = (self.next + turn) % n;
            if let Ok(piece) = self.lanes[worker].0.try_recv() {
                self.next = worker + 1;
                return Some((worker, piece));
            }
        }
        None
    }

    /// Gives a piece back to its worker. One that has ended needs it no more.
    #[inline]
    pub fn give_back(&self, worker: usize, piece: T) {
        if let Some((_, back)) = self.lanes.get(worker) {
            // There is room: a worker has no more pieces out than this ring has places.
            let _ = back.try_send(piece);
        }
    }

    /// Pieces that wait, of all workers.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(|(lane, _)| lane.len()).sum()
    }

    /// Sleeps for a while where there is no piece, at most so long and at most [`NAP`]. Nobody wakes it: to wake a sleeper
    /// would cost whoever sends a lock and a system call for each piece.
    pub fn wait(&self, at_most: Duration) {
        if self.waiting() == 0 {
            std::thread::sleep(at_most.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_out_comes_back_and_no_more_is_out_than_there_is_room_for() {
        let (mut outlets, mut intakes) = errands::<u32>(2, 2, 3);
        for (w, outlet) in outlets.iter_mut().enumerate() {
            for n in 0..3 {
                assert_eq!(outlet.send(10 * w as u32 + n), Ok(()));
            }
            assert_eq!(outlet.send(99), Err(99), "its ring is full");
            assert_eq!(outlet.receive(), None, "nothing is done yet");
        }
        assert_eq!(intakes[1].waiting(), 6);
        // Two threads take what there is, a worker at a time, nothing twice.
        let mut taken = vec![];
        for i in [0, 1, 0, 1, 1, 1, 0] {
            taken.extend(intakes[i].take().map(|(w, piece)| (i, w, piece)));
        }
        let mut pieces: Vec<_> = taken.iter().map(|t| t.2).collect();
        assert!(taken.iter().all(|&(_, w, piece)| w == (piece / 10) as usize));
        pieces.sort_unstable();
        assert_eq!(pieces, [0, 1, 2, 10, 11, 12]);
        assert_eq!(outlets[0].send(98), Err(98), "taken is not yet back");
        for (i, w, piece) in taken {
            intakes[i].give_back(w, piece);
        }
        for outlet in &mut outlets {
            assert_eq!(std::iter::from_fn(|| outlet.receive()).count(), 3);
            assert_eq!((outlet.away(), outlet.send(1)), (0, Ok(())));
        }
    }

    #[test]
    fn with_nobody_to_serve_a_piece_comes_straight_back() {
        let (mut outlets, intakes) = errands::<u8>(1, 1, 4);
        drop(intakes);
        assert_eq!((outlets[0].send(7), outlets[0].away()), (Err(7), 0));
    }

    #[test]
    fn who_sleeps_finds_a_piece_soon() {
        let (mut outlets, mut intakes) = errands::<u8>(1, 1, 4);
        let mut intake = intakes.remove(0);
        let serving = std::thread::spawn(move || {
            loop {
                intake.wait(Duration::from_secs(20));
                if let Some((worker, piece)) = intake.take() {
                    intake.give_back(worker, piece + 1);
                    return;
                }
            }
        });
        assert_eq!(outlets[0].send(41), Ok(()));
        serving.join().unwrap();
        assert_eq!(outlets[0].receive(), Some(42));
    }
}
