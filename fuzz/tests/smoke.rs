//! Each harness on its seeds and on a few thousand mutations of them.

use keepstate_fuzz::{Random, TARGETS};

const MUTATIONS: usize = 3_000;

#[test]
fn harnesses_hold_on_seeds_and_mutations() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for seed in &seeds {
            (target.run)(seed);
        }
        let mut random = Random::new(0x6b65_6570);
        for _ in 0..MUTATIONS {
            let mut input = seeds[random.below(seeds.len())].clone();
            random.mutate(&mut input);
            (target.run)(&input);
        }
    }
}
