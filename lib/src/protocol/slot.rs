//! The slots of a Redis Cluster, and names that lie in a given slot.

use std::sync::LazyLock;

/// The number of slots.
pub(crate) const SLOTS: u16 = 16384;

/// CRC-16/XMODEM, as in the cluster specification.
const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM);

/// The length of an ending.
const LENGTH: usize = 3;

/// Returns the slot of a key or channel, by its hash tag.
pub(crate) fn of(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    CRC.checksum(tag.unwrap_or(key).as_bytes()) % SLOTS
}

/// Returns the ending with which a hash tag that starts so lies in a slot: three letters or digits.
///
/// This checksum has no initial value, so it is linear: that of a whole tag is the one of its start with three zero bytes behind
/// it, XOR the one of the ending alone.
pub(crate) fn ending(start: &str, slot: u16) -> &'static str {
    static BY_CHECKSUM: LazyLock<Vec<String>> = LazyLock::new(endings);
    let mut digest = CRC.digest();
    digest.update(start.as_bytes());
    digest.update(&[0; LENGTH]);
    // The number of slots is a power of two, so that the remainder is a part of the bits.
    &BY_CHECKSUM[usize::from((digest.finalize() ^ slot) % SLOTS)]
}

/// For each slot, the first ending whose own checksum is in it. Letters and digits are enough for all of them.
fn endings() -> Vec<String> {
    let signs = || (b'0'..=b'9').chain(b'A'..=b'Z').chain(b'a'..=b'z');
    let mut found = vec![String::new(); SLOTS.into()];
    for first in signs() {
        for second in signs() {
            for third in signs() {
                let ending = [first, second, third];
                let place = &mut found[usize::from(CRC.checksum(&ending) % SLOTS)];
                if place.is_empty() {
                    *place = ending.map(char::from).iter().collect();
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(of("123456789"), 0x31C3);
        assert_eq!(of("foo"), 12182);
        assert_eq!(of("tenure:{foo}:obj"), 12182);
        assert_eq!(of("{foo}{bar}"), 12182);
        // An empty tag is none.
        assert_eq!(of("foo{}{bar}"), 8363);
    }

    #[test]
    fn there_is_an_ending_for_each_slot() {
        for start in ["", "ml/client/5f0c/"] {
            for slot in 0..SLOTS {
                let ending = ending(start, slot);
                assert_eq!(ending.len(), LENGTH);
                assert_eq!(of(&format!("tenure:{{{start}{ending}}}")), slot);
            }
        }
    }
}
