//! The four rings that a socket shares with the kernel, each with one producer and one consumer.
//!
//! Indices count up for ever and wrap at 2³²; the entry is the index modulo the ring's size, a power of two.
//! The producer writes entries and then its index (release); the consumer reads that index (acquire), then
//! entries, then writes its own index (release), which the producer reads (acquire) before it overwrites them.
//! Each side keeps a copy of both indices and looks at the other's only when its copy says that it must,
//! because that cache line travels between two processors.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Where the kernel put a ring's parts, relative to the mapping (`struct xdp_ring_offset`).
pub(super) type Offsets = libc::xdp_ring_offset;

/// A ring's shared memory, unmapped on drop.
struct Shared<T> {
    start: NonNull<u8>,
    len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
}

impl<T> Shared<T> {
    fn map(socket: &OwnedFd, page_offset: libc::off_t, offsets: &Offsets, size: u32) -> io::Result<Self> {
        assert!(size.is_power_of_two());
        let len = offsets.desc as usize + size as usize * size_of::<T>();
        let last = [offsets.producer, offsets.consumer, offsets.flags].into_iter().max().unwrap_or(0);
        if last as usize + size_of::<u32>() > len {
            return Err(io::Error::other("the kernel's ring layout makes no sense"));
        }
        // SAFETY: a new shared mapping of the socket's ring, at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                page_offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start: NonNull<u8> = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: every offset lies within the `len` bytes mapped: `desc` by the computation of `len`, the
        // others by the check above. The kernel aligns the indices for 32 bits and the entries for 64.
        unsafe {
            Ok(Shared {
                start,
                len,
                producer: start.add(offsets.producer as usize).cast(),
                consumer: start.add(offsets.consumer as usize).cast(),
                flags: start.add(offsets.flags as usize).cast(),
                entries: start.add(offsets.desc as usize).cast(),
                size,
            })
        }
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into the mapping, which lives as long as `self`; both sides use it atomically.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: `index` is reduced to less than `size`, and `size` entries are mapped.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map` made; references into it borrow `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The side of a ring that we fill: the fill ring and the transmit ring.
pub(super) struct Producer<T> {
    ring: Shared<T>,
    /// Our index, including entries that are written and not yet published.
    next: u32,
    /// Our index as the kernel knows it.
    published: u32,
    /// The kernel's index as we last read it.
    consumed: u32,
}

// SAFETY: the value is the only producer of its ring in this process and may move between threads.
unsafe impl<T: Send> Send for Producer<T> {}

impl<T: Copy> Producer<T> {
    pub(super) fn map(socket: &OwnedFd, page_offset: libc::off_t, offsets: &Offsets, size: u32) -> io::Result<Self> {
        Shared::map(socket, page_offset, offsets, size).map(|ring| {
            let next = ring.producer().load(Ordering::Relaxed);
            let consumed = ring.consumer().load(Ordering::Acquire);
            Producer { ring, next, published: next, consumed }
        })
    }

    /// Writes an entry, for the kernel to see after [`Self::publish`]; `false` when the ring is full.
    #[inline]
    #[must_use]
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.next.wrapping_sub(self.consumed) == self.ring.size {
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
            if self.next.wrapping_sub(self.consumed) == self.ring.size {
                return false;
            }
        }
        // SAFETY: the entry lies in the mapping; the kernel has consumed it (checked above, with acquire)
        // and does not read it again before `publish`.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Lets the kernel see what was pushed.
    #[inline]
    pub(super) fn publish(&mut self) {
        if self.published != self.next {
            self.published = self.next;
            self.ring.producer().store(self.next, Ordering::Release);
        }
    }

    /// Published entries that the kernel has not taken yet.
    #[inline]
    pub(super) fn backlog(&mut self) -> u32 {
        if self.consumed != self.published {
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
        }
        self.published.wrapping_sub(self.consumed)
    }

    /// Whether the kernel asks to be woken up by a system call in order to go on with this ring.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        // SAFETY: points into the mapping, which lives as long as `self`; only the kernel writes it, atomically.
        let flags = unsafe { self.ring.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The side of a ring that we empty: the receive ring and the completion ring.
pub(super) struct Consumer<T> {
    ring: Shared<T>,
    /// Our index, including entries that are read and not yet given back.
    next: u32,
    /// Our index as the kernel knows it.
    released: u32,
    /// The kernel's index as we last read it.
    produced: u32,
}

// SAFETY: the value is the only consumer of its ring in this process and may move between threads.
unsafe impl<T: Send> Send for Consumer<T> {}

impl<T: Copy> Consumer<T> {
    pub(super) fn map(socket: &OwnedFd, page_offset: libc::off_t, offsets: &Offsets, size: u32) -> io::Result<Self> {
        Shared::map(socket, page_offset, offsets, size).map(|ring| {
            let next = ring.consumer().load(Ordering::Relaxed);
            Consumer { ring, next, released: next, produced: next }
        })
    }

    /// Reads the next entry. The kernel may not reuse its place before [`Self::release`].
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        // SAFETY: the entry lies in the mapping, and the kernel wrote it before it moved its index, which was read with acquire.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of what was popped back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        if self.released != self.next {
            self.released = self.next;
            self.ring.consumer().store(self.next, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::FromRawFd;

    const OFFSETS: Offsets = Offsets { producer: 0, consumer: 64, flags: 128, desc: 192 };

    /// Memory laid out as the kernel lays out a ring of 8 entries, with both indices at `start`.
    fn memory(start: u32) -> OwnedFd {
        // SAFETY: plain system calls; the descriptor is new and ours alone.
        let fd = unsafe {
            let fd = libc::memfd_create(c"ring".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0 && libc::ftruncate(fd, 4096) == 0);
            OwnedFd::from_raw_fd(fd)
        };
        let ring = Shared::<u64>::map(&fd, 0, &OFFSETS, 8).expect("a mapping");
        ring.producer().store(start, Ordering::Relaxed);
        ring.consumer().store(start, Ordering::Relaxed);
        fd
    }

    fn ends(start: u32) -> (Producer<u64>, Consumer<u64>) {
        let fd = memory(start);
        let producer = Producer::map(&fd, 0, &OFFSETS, 8).expect("a mapping");
        (producer, Consumer::map(&fd, 0, &OFFSETS, 8).expect("a mapping"))
    }

    #[test]
    fn nothing_is_seen_before_it_is_published_or_free_before_it_is_released() {
        let (mut producer, mut consumer) = ends(u32::MAX - 2);
        for value in 0..8 {
            assert!(producer.push(value));
        }
        assert!(!producer.push(8), "full");
        assert_eq!((consumer.pop(), producer.backlog()), (None, 0));
        producer.publish();
        assert_eq!(producer.backlog(), 8);
        assert_eq!([consumer.pop(), consumer.pop()], [Some(0), Some(1)]);
        assert!(!producer.push(8), "still full");
        consumer.release();
        assert_eq!(producer.backlog(), 6);
        assert!(producer.push(8) && producer.push(9) && !producer.push(10));
        producer.publish();
        assert_eq!(std::iter::from_fn(|| consumer.pop()).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn entries_cross_threads_in_order_and_whole() {
        let (mut producer, mut consumer) = ends(u32::MAX - 50_000);
        let sender = std::thread::spawn(move || {
            for value in 0..100_000u64 {
                while !producer.push(value * 0x1_0000_0001) {
                    producer.publish();
                    std::thread::yield_now();
                }
                if value % 3 == 0 {
                    producer.publish();
                }
            }
            producer.publish();
        });
        for expected in 0..100_000u64 {
            let value = loop {
                match consumer.pop() {
                    Some(value) => break value,
                    None => {
                        consumer.release();
                        std::thread::yield_now();
                    }
                }
            };
            assert_eq!(value, expected * 0x1_0000_0001);
        }
        sender.join().expect("the sender");
    }
}
