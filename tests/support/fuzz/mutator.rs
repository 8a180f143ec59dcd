//! Mutations of bytes, the same for the same seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Bytes that readers trip over: signs, quotes, separators, headers that claim much.
const TOKENS: &[&[u8]] = &[
    b"\x00",
    b"\xff",
    b"\xc0",
    b"\xc1",
    b"{}",
    b"[]",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"-0",
    b"1e999",
    b"NaN",
    b"\xdb\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\x81",
    b"\x91",
    b"\xd9\xff",
    b"\xda\xff\xff",
    b".",
    b"..",
    b"*",
    b">",
    b"$",
    b" ",
    b"\t",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x92\xa9",
    b"\xed\xa0\x80",
    b"=",
    b"==",
    b"tg_",
    b"Bearer ",
    b"user:",
    b"workspace:",
    b"9223372036854775807",
    b"18446744073709551616",
    b"-1",
    b"operation",
    b"user_id",
    b"password",
    b"workspace",
    b"\x93\xa1",
    b"\x7f",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xcb\x7f\xf8",
];

/// The longest input that mutations grow to, in bytes.
const LONGEST: usize = 8 * 1024;

/// Makes inputs out of seeds.
#[derive(Debug)]
pub struct Mutator {
    rng: StdRng,
}

impl Mutator {
    /// A mutator that gives the same inputs for the same seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    /// A seed with one to eight mutations; now and then bytes that have nothing to do with any.
    pub fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if seeds.is_empty() || self.below(20) == 0 {
            let len = self.below(64);
            return (0..len).map(|_| self.rng.random()).collect();
        }
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(8) {
            self.mutate(&mut input, seeds);
        }
        input.truncate(LONGEST.max(1));
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        if input.is_empty() {
            let token = TOKENS[self.below(TOKENS.len())];
            input.extend_from_slice(token);
            return;
        }
        let at = self.below(input.len());
        match self.below(9) {
            0 => input[at] ^= 1 << self.below(8),
            1 => input[at] = self.rng.random(),
            2 => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
            3 => {
                let token = TOKENS[self.below(TOKENS.len())];
                let end = (at + token.len()).min(input.len());
                input.splice(at..end, token.iter().copied());
            }
            4 => {
                let end = at + self.below(input.len() - at + 1).min(32);
                input.drain(at..end);
            }
            5 => {
                let end = at + self.below(input.len() - at + 1).min(256);
                let again = input[at..end].to_vec();
                let times = 1 + self.below(4);
                for _ in 0..times {
                    input.splice(at..at, again.iter().copied());
                }
            }
            6 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 => input.truncate(at),
            _ => {
                let other = self.below(input.len());
                input.swap(at, other);
            }
        }
        input.truncate(LONGEST);
    }
}
