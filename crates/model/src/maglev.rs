//! Sizes of Maglev lookup tables.

use std::num::NonZeroU32;

/// The largest prime whose size fits in the 20 bits that a service word holds.
pub(crate) const LARGEST: u32 = 1_048_573;

/// Primes just below the powers of two: a step is rare, because a step sends most clients to another endpoint.
const STEPS: [u32; 10] = [2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071, 262_139, 524_287, LARGEST];

/// The table size for `endpoints` when none is asked for: at least 100 entries an endpoint, which keeps the shares
/// within 1 % (Eisenbud 2016, 5.3), as far as there are such sizes.
pub(crate) fn default_table_size(endpoints: usize) -> NonZeroU32 {
    let wanted = endpoints.saturating_mul(100);
    let step = STEPS.into_iter().find(|step| *step as usize >= wanted).unwrap_or(LARGEST);
    NonZeroU32::new(step).unwrap_or(NonZeroU32::MIN)
}

/// Whether the turns of every endpoint through a table of this size reach every entry.
pub(crate) fn is_prime(size: u32) -> bool {
    size >= 2 && (2..).take_while(|d| *d <= size / d).all(|d| !size.is_multiple_of(d))
}

/// The prime nearest to `size` that is a table size.
pub(crate) fn nearest_prime(size: u32) -> u32 {
    let size = size.clamp(2, LARGEST);
    (0..size).flat_map(|d| [size - d, size + d]).find(|p| *p <= LARGEST && is_prime(*p)).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_primes_of_at_most_20_bits() {
        for step in STEPS {
            assert!(is_prime(step), "{step}");
            assert!(step < 1 << 20, "{step}");
        }
        assert!((LARGEST + 1..1 << 20).all(|n| !is_prime(n)), "a larger prime has 20 bits too");
    }

    #[test]
    fn a_table_has_a_hundred_entries_an_endpoint() {
        assert_eq!(default_table_size(0).get(), 2039);
        assert_eq!(default_table_size(20).get(), 2039);
        assert_eq!(default_table_size(21).get(), 4093);
        assert_eq!(default_table_size(10_485).get(), LARGEST);
        assert_eq!(default_table_size(usize::MAX).get(), LARGEST);
        assert!((0..10_485).all(|n| default_table_size(n).get() as usize >= 100 * n));
    }

    #[test]
    fn primes() {
        let small: Vec<u32> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(small, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert_eq!(nearest_prime(0), 2);
        assert_eq!(nearest_prime(2048), 2053);
        assert_eq!(nearest_prime(u32::MAX), LARGEST);
    }
}
