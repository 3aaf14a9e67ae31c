//! Memory shared by two processes, seen as an array of atomic 64-bit words.
//!
//! A memfd, sealed against resizing: a process that shrank it would kill the other by SIGBUS. Words, not structs:
//! whatever the other process writes is a valid `u64`, so no content can make reading it undefined.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::ftruncate;

const WORD_BYTES: usize = size_of::<AtomicU64>();

/// A mapping of a shared memfd.
#[derive(Debug)]
pub struct SharedWords {
    memfd: OwnedFd,
    address: NonNull<AtomicU64>,
    word_count: usize,
}

// SAFETY: the mapping is only reachable as `&AtomicU64`, which any thread may use; it lives until Drop.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Creates `word_count` words of zero, sealed at that size.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`/`ENOMEM`: the machine or this process is short of that; try again later.
    pub fn create(name: &str, word_count: usize) -> io::Result<Self> {
        let memfd = new_memfd(name)?;
        ftruncate(&memfd, (word_count * WORD_BYTES) as i64)?;
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(size_seals() | SealFlag::F_SEAL_SEAL))?;
        Self::map(memfd, word_count)
    }

    /// Maps a memfd that another process created.
    ///
    /// # Errors
    /// `InvalidData` if it is not sealed against resizing or smaller than `word_count` words: do not use it.
    pub fn open(memfd: OwnedFd, word_count: usize) -> io::Result<Self> {
        let seals = SealFlag::from_bits_truncate(fcntl(&memfd, FcntlArg::F_GET_SEALS)?);
        let len = nix::sys::stat::fstat(&memfd)?.st_size;
        if !seals.contains(size_seals()) || (len as usize) < word_count * WORD_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "shared memory is unsealed or too small"));
        }
        Self::map(memfd, word_count)
    }

    fn map(memfd: OwnedFd, word_count: usize) -> io::Result<Self> {
        let bytes =
            NonZeroUsize::new(word_count * WORD_BYTES).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; the file is at least `bytes` long
        // and sealed, so no access inside it can fault.
        let address = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, &memfd, 0)? };
        Ok(Self { memfd, address: address.cast(), word_count })
    }

    /// The word at `index`.
    ///
    /// # Panics
    /// If `index` is out of bounds: the layout is a constant of the caller.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.word_count, "word {index} of {}", self.word_count);
        // SAFETY: in bounds, page-aligned base, and every bit pattern is a valid AtomicU64. The mapping outlives
        // the reference, which borrows self.
        unsafe { self.address.add(index).as_ref() }
    }
}

impl AsFd for SharedWords {
    /// The memfd, for handing it to the other process.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: address and length are those of our own mapping, and no reference to it outlives self.
        let unmapped = unsafe { munmap(self.address.cast(), self.word_count * WORD_BYTES) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping");
    }
}

fn size_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// Kernels before 6.3 do not know `MFD_NOEXEC_SEAL` and say EINVAL. Source: memfd_create(2).
fn new_memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let noexec = MFdFlags::from_bits_retain(nix::libc::MFD_NOEXEC_SEAL);
    match memfd_create(name, flags | noexec) {
        Err(nix::errno::Errno::EINVAL) => Ok(memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn two_mappings_of_one_memfd_are_one_memory() {
        let ours = SharedWords::create("test", 8).unwrap();
        let theirs = SharedWords::open(ours.as_fd().try_clone_to_owned().unwrap(), 8).unwrap();
        ours.word(7).store(42, Ordering::Relaxed);
        assert_eq!(theirs.word(7).load(Ordering::Relaxed), 42);
    }

    #[test]
    fn a_sealed_board_cannot_be_resized_by_anyone() {
        let board = SharedWords::create("test", 8).unwrap();
        assert!(ftruncate(board.as_fd(), 0).is_err());
        assert!(ftruncate(board.as_fd(), 4096 * 4).is_err());
    }

    #[test]
    fn an_unsealed_or_short_memfd_is_refused() {
        let unsealed = new_memfd("test").unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        assert!(SharedWords::open(unsealed, 8).is_err());
        let short = SharedWords::create("test", 8).unwrap();
        assert!(SharedWords::open(short.as_fd().try_clone_to_owned().unwrap(), 1024).is_err());
    }
}
