//! Every fuzz target on its seeds and on mutations of them: a bounded number here, as many as one likes with
//! `IAM_TEST_FUZZ_EXECUTIONS`, and guided by coverage with `tests/fuzz/run`.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use iam_tests::fuzz::{Mutator, TARGETS, Target};

/// Mutated inputs of each target, unless the environment says otherwise.
const EXECUTIONS: usize = 1_500;

/// A number out of the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Runs a target once; a panic tells the input.
fn once(target: &Target, input: &[u8], seed: u64) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        println!("target {} with IAM_TEST_SEED={seed}, input in hex: {}", target.name, hex(input));
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn targets_hold_on_their_seeds_and_on_mutations_of_them() {
    let executions = number("IAM_TEST_FUZZ_EXECUTIONS").map_or(EXECUTIONS, |n| n as usize);
    let seed = number("IAM_TEST_SEED").unwrap_or(0x1a_2b_3c);
    let only = std::env::var("IAM_TEST_FUZZ_TARGET").unwrap_or_default();
    for target in TARGETS.iter().filter(|target| only.is_empty() || target.name == only) {
        let begun = Instant::now();
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} begins with nothing", target.name);
        seeds.iter().for_each(|input| once(target, input, seed));
        let mut mutator = Mutator::new(seed);
        for _ in 0..executions {
            once(target, &mutator.input(&seeds), seed);
        }
        let took = begun.elapsed().as_secs_f32();
        println!("{}: {} seeds, {executions} mutations, {took:.1} s, seed {seed}", target.name, seeds.len());
    }
}

/// Each target has its program for the fuzzer, and each program its target.
#[test]
fn every_target_has_a_program_for_the_fuzzer() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("a manifest");
    let declared = manifest.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let mut declared: Vec<&str> = declared.filter(|name| *name != "iam-fuzz").collect();
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    declared.sort_unstable();
    names.sort_unstable();
    assert_eq!(declared, names);
    for name in names {
        let program = std::fs::read_to_string(fuzz.join(format!("targets/{name}.rs"))).expect("a program");
        assert!(program.contains(&format!("iam_tests::fuzz::{name}(")), "{name} runs something else");
    }
}

/// Writes the seeds where the fuzzer looks for them, a file each, when told where.
#[test]
fn corpus_is_written_where_asked() {
    let Some(to) = std::env::var_os("IAM_TEST_FUZZ_CORPUS").filter(|path| !path.is_empty()) else { return };
    for target in TARGETS {
        let dir = Path::new(&to).join(target.name);
        std::fs::create_dir_all(&dir).expect("a directory");
        for (n, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{n:04}")), seed).expect("written");
        }
    }
}
