//! Telling what belongs to a TCP connection that its client has closed from what belongs to another
//! that uses the same port since.
//!
//! A client may use a port again after a second (Linux, where both ends have timestamps: RFC 6191), and
//! at once where the other side closed first. Whoever remembers the old connection sees nothing of the
//! new one's SYN where that went to another node. But a sequence number tells: what is left to an end
//! that has closed are acknowledgments, with the number behind its FIN, and repetitions, with lower
//! ones. A new connection begins higher (RFC 9293 section 3.4.1, RFC 6191; Linux has it begin 65,537
//! above), or anywhere.
//!
//! Only the upper 24 bits are kept, which are 256 bytes.

/// The upper 24 bits of a sequence number, network order.
pub type Mark = [u8; 3];

/// How far above its FIN a connection's numbers may be: the FIN's segment may have brought data.
const ABOVE: i32 = 32 << 10;
/// How far below they may be: what is repeated lies in the other side's window.
const BELOW: i32 = 16 << 20;

/// The mark of a sequence number as it stands in the header, network order.
#[inline(always)]
pub const fn mark(sequence: u32) -> Mark {
    let [a, b, c, _] = sequence.to_ne_bytes();
    [a, b, c]
}

/// Whether a packet with this sequence number, network order, is of another connection than the one
/// whose client closed it with a FIN of this mark.
#[inline(always)]
pub const fn is_another(closed_at: Mark, sequence: u32) -> bool {
    let [a, b, c] = closed_at;
    let above = u32::from_be(sequence).wrapping_sub(u32::from_be_bytes([a, b, c, 0])) as i32;
    above > ABOVE || above < -BELOW
}

#[cfg(test)]
mod tests {
    use super::*;

    fn another(fin: u32, sequence: u32) -> bool {
        is_another(mark(fin.to_be()), sequence.to_be())
    }

    #[test]
    fn what_a_client_says_after_its_fin_is_its_connections() {
        for fin in [0, 1, 255, 256, 0x0102_0304, u32::MAX - 200, u32::MAX] {
            for ahead in [0u32, 1, 2, 1461, 9001] {
                assert!(!another(fin, fin.wrapping_add(ahead)), "{fin} + {ahead}");
            }
            for behind in [1u32, 1460, 65_536, 1 << 20, 16 << 20] {
                assert!(!another(fin, fin.wrapping_sub(behind)), "{fin} - {behind}");
            }
        }
    }

    #[test]
    fn another_connection_begins_elsewhere() {
        for fin in [0, 1, 255, 256, 0x0102_0304, u32::MAX - 200, u32::MAX] {
            // Linux, for a port in TIME_WAIT; and by its clock, a fiftieth of a second to two minutes later.
            for ahead in [65_538u32, 312_500, 15_625_000, 1_875_000_000] {
                assert!(another(fin, fin.wrapping_add(ahead)), "{fin} + {ahead}");
            }
            assert!(another(fin, fin.wrapping_sub(17 << 20)));
        }
    }
}
