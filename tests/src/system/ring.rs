//! The latest frames of an interface, in memory that the kernel writes them to (packet(7),
//! `PACKET_RX_RING`): nobody is woken by a frame, and nothing is written anywhere.
use super::{check, open_packet_socket};
use std::{
    io::{self, Write},
    mem::{size_of_val, zeroed},
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

/// A frame's place: the kernel's header, and 190 bytes of the frame, which has all headers.
const SLOT: usize = 256;
/// How many frames there is room for. A power of two.
const SLOTS: usize = 1 << 16;
/// What the kernel allocates at a time.
const BLOCK: usize = 1 << 16;
/// So many are let go of at once, and as many are free then: what may come in between.
const SPARE: usize = SLOTS / 4;

/// The magic number of a file with nanoseconds, its version, no offset, the length of frames, and
/// `LINKTYPE_ETHERNET` (pcap-savefile(5)).
const PCAP: [u32; 6] = [0xa1b2_3c4d, 2 | 4 << 16, 0, 0, SLOT as u32, 1];

/// Frames of an interface, the latest of which are kept.
pub struct FrameRing {
    /// Frames come as long as it is open.
    _socket: OwnedFd,
    memory: *mut u8,
    /// The oldest frame that is kept, and the first place that the kernel has not written since: both
    /// only rise.
    oldest: usize,
    next: usize,
}

// SAFETY: the memory is this value's own, and shared with nobody but the kernel, which does not
// care for threads.
unsafe impl Send for FrameRing {}

impl FrameRing {
    /// Begins to record an interface of the calling thread's namespace, what it sees of others' traffic
    /// included.
    ///
    /// # Errors
    /// No such interface, not root, or not 16 MiB of memory.
    pub fn open(interface: &str) -> io::Result<Self> {
        let (socket, ifindex) = open_packet_socket(interface, |socket| {
            set(socket, libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V2)?;
            let size = libc::tpacket_req {
                tp_block_size: BLOCK as u32,
                tp_block_nr: (SLOTS * SLOT / BLOCK) as u32,
                tp_frame_size: SLOT as u32,
                tp_frame_nr: SLOTS as u32,
            };
            set(socket, libc::PACKET_RX_RING, &size)
        })?;
        // SAFETY: plain data, for which all zeroes is a value.
        let mut all: libc::packet_mreq = unsafe { zeroed() };
        all.mr_ifindex = ifindex;
        all.mr_type = libc::PACKET_MR_PROMISC as u16;
        set(&socket, libc::PACKET_ADD_MEMBERSHIP, &all)?;
        // SAFETY: a new mapping, of the size that was asked for.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SLOTS * SLOT,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { _socket: socket, memory: memory.cast(), oldest: 0, next: 0 })
    }

    fn slot(&self, number: usize) -> *mut libc::tpacket2_hdr {
        // SAFETY: within the mapping, which is aligned to pages.
        unsafe { self.memory.add(number % SLOTS * SLOT).cast() }
    }

    fn status(&self, number: usize) -> &AtomicU32 {
        // SAFETY: the first field of a slot, aligned, which the kernel writes too, and atomically.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.slot(number)).tp_status) }
    }

    /// Lets go of the oldest frames where room is short. To be called before as many have come as may
    /// in between: 16 Ki.
    pub fn make_room(&mut self) {
        while self.next - self.oldest < SLOTS
            && self.status(self.next).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
        {
            self.next += 1;
        }
        if self.next - self.oldest > SLOTS - 2 * SPARE {
            for number in self.oldest..self.oldest + SPARE {
                self.status(number).store(libc::TP_STATUS_KERNEL, Ordering::Release);
            }
            self.oldest += SPARE;
        }
    }

    /// Writes all that is kept as a pcap file.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&mut self, to: &mut impl Write) -> io::Result<()> {
        self.make_room();
        for word in PCAP {
            to.write_all(&word.to_ne_bytes())?;
        }
        for number in self.oldest..self.next {
            let slot = self.slot(number);
            // SAFETY: the kernel does not write to a slot that it has filled, until it is let go of;
            // the frame lies in its slot, as long as the kernel says.
            let (header, frame) = unsafe {
                let header = *slot;
                let at = slot.cast::<u8>().add(header.tp_mac.into());
                (header, std::slice::from_raw_parts(at, header.tp_snaplen as usize))
            };
            let mut tag = vec![];
            if header.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                // The kernel has taken it off.
                tag.extend(header.tp_vlan_tpid.to_be_bytes());
                tag.extend(header.tp_vlan_tci.to_be_bytes());
            }
            let (addresses, rest) = frame.split_at(frame.len().min(12));
            let tagged = tag.len() as u32;
            let lengths = [header.tp_snaplen + tagged, header.tp_len + tagged];
            for word in [header.tp_sec, header.tp_nsec].into_iter().chain(lengths) {
                to.write_all(&word.to_ne_bytes())?;
            }
            for part in [addresses, &tag, rest] {
                to.write_all(part)?;
            }
        }
        Ok(())
    }
}

impl Drop for FrameRing {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and no reference to it outlives `self`.
        unsafe { libc::munmap(self.memory.cast(), SLOTS * SLOT) };
    }
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length are those of a live value.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            size_of_val(value) as libc::socklen_t,
        )
    })
    .map(drop)
}
