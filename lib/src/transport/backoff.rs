//! The delay between two tries, which grows with each of them.

use std::time::Duration;

/// The delay between two tries, at first and at most.
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(20);
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// A delay that doubles from try to try.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// The last delay, before it was shortened; zero: there was none.
    last: Duration,
}

impl Backoff {
    /// The time to wait before the next try: from a half of the delay to all of it, so that clients that failed together
    /// do not come back together. `chance`: any number; zero is all of it.
    pub(crate) fn next(&mut self, chance: u8) -> Duration {
        self.last = (self.last * 2).clamp(FIRST_DELAY, LONGEST_DELAY);
        self.last.saturating_sub(self.last * u32::from(chance) / 512)
    }

    /// The next delay is the first one again.
    pub(crate) fn reset(&mut self) {
        self.last = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_up_to_the_longest_one() {
        let mut backoff = Backoff::default();
        let delays = [(); 8].map(|()| backoff.next(0).as_millis());
        assert_eq!(delays, [20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn after_a_reset_it_is_the_first_one_again() {
        let mut backoff = Backoff::default();
        let first = backoff.next(0);
        assert!(backoff.next(0) > first);
        backoff.reset();
        assert_eq!(backoff.next(0), FIRST_DELAY);
    }

    #[test]
    fn a_delay_is_shortened_by_up_to_a_half_and_grows_all_the_same() {
        let (mut whole, mut short) = (Backoff::default(), Backoff::default());
        for _ in 0..8 {
            let (whole, short) = (whole.next(0), short.next(u8::MAX));
            assert!(short > whole / 2 && short < whole * 6 / 10, "{short:?}");
        }
    }
}
