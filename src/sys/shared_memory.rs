//! Memory that forked processes share: a sealed file in memory, mapped MAP_SHARED before the first fork.
//!
//! (`memmap2::map_anon` is MAP_PRIVATE: every child would write to a copy of its own.)

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Types that may stand in shared memory: `repr(C)`, made of atomics only, and valid for every bit pattern.
///
/// # Safety
/// The implementor promises just that: other processes write the memory at any time, so a field that is no atomic, or
/// that has invalid bit patterns (bool, enums, references), is undefined behaviour.
pub unsafe trait Shared: Sync + 'static {}

/// A mapping that lives as long as the process.
pub struct SharedMemory {
    file: File,
    map: &'static MmapRaw,
}

impl SharedMemory {
    /// Creates `length` bytes of zeros, readable and writable, that children inherit through fork. The size is sealed.
    ///
    /// # Errors
    /// What the kernel says to `memfd_create`, `ftruncate` or `mmap`.
    pub fn create(name: &CStr, length: usize) -> io::Result<Self> {
        let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        file.set_len(u64::try_from(length).map_err(io::Error::other)?)?;
        fcntl(
            &file,
            FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL),
        )?;
        let map = MmapOptions::new().len(length).map_raw(&file)?;
        Ok(SharedMemory { file, map: Box::leak(Box::new(map)) })
    }

    /// Maps what another process created, for reading only: a write through it ends the process.
    ///
    /// # Errors
    /// The file cannot be mapped, or it could still shrink under the mapping.
    pub fn open_read_only(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared memory is not sealed"));
        }
        let map = MmapOptions::new().map_raw_read_only(&file)?;
        Ok(SharedMemory { file, map: Box::leak(Box::new(map)) })
    }

    /// Another descriptor of the same memory that can only be read from, to hand to another program.
    ///
    /// # Errors
    /// `/proc` is not there, or the table of descriptors is full.
    pub fn read_only_descriptor(&self) -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?.into())
    }

    /// Leaves the memory out of core dumps.
    ///
    /// # Errors
    /// What `madvise` says.
    pub fn keep_out_of_core_dumps(&self) -> io::Result<()> {
        // SAFETY: the range is exactly the mapping, which is never unmapped; MADV_DONTDUMP changes no byte of it.
        let done =
            unsafe { libc::madvise(self.map.as_mut_ptr().cast(), self.map.len(), libc::MADV_DONTDUMP) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The descriptor.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Bytes mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// The `count` values of `T` from byte `offset` on.
    ///
    /// # Panics
    /// They do not lie in the mapping, or are not aligned: a layout that was computed wrong.
    #[must_use]
    pub fn slice<T: Shared>(&self, offset: usize, count: usize) -> &'static [T] {
        let bytes = count.checked_mul(size_of::<T>()).expect("the layout fits memory");
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.map.len()),
            "the layout lies in the mapping"
        );
        assert!(offset.is_multiple_of(align_of::<T>()), "the layout is aligned");
        let start = self.map.as_ptr();
        // SAFETY: `offset` lies in the mapping (asserted above), whose start is page-aligned.
        let start = unsafe { start.add(offset) };
        // SAFETY: `count` values lie in the mapping and are aligned (asserted above); the mapping is leaked, so it
        // lives for ever; `T: Shared` is made of atomics and valid for every bit pattern, so others may write it.
        unsafe { std::slice::from_raw_parts(start.cast::<T>(), count) }
    }
}
