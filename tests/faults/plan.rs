//! Chance with a seed: the same seed gives the same plan.

/// SplitMix64: small, whole, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice for a part of the plan, whatever the other parts throw.
    pub fn part(&self, n: u64) -> Self {
        let mut dice = Self(self.0 ^ n.wrapping_mul(0xA076_1D64_78BD_642F));
        dice.next();
        dice
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).expect("smaller than a usize")
    }

    /// `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to.saturating_sub(from) + 1)
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }

    /// The place of a weight.
    pub fn weighed(&mut self, weights: &[usize]) -> usize {
        let mut at = self.below(weights.iter().sum());
        weights.iter().position(|weight| at.checked_sub(*weight).map(|rest| at = rest).is_none()).unwrap_or(0)
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for n in (1..list.len()).rev() {
            list.swap(n, self.below(n + 1));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_plan() {
    let throw = |seed| {
        let mut dice = Dice::new(seed).part(3);
        (0..20).map(|_| dice.below(1000)).collect::<Vec<_>>()
    };
    assert_eq!(throw(7), throw(7));
    assert_ne!(throw(7), throw(8));
    let mut dice = Dice::new(1);
    let mut seen = [0; 3];
    (0..600).for_each(|_| seen[dice.weighed(&[1, 0, 2])] += 1);
    assert!(seen[0] > 100 && seen[1] == 0 && seen[2] > 300, "{seen:?}");
}
