//! What a core does in a second: pairs and queries by numeric path, tokenising and marking,
//! and the multiplications that it could do at most.
//!
//! `make bench-score` runs it; `cargo bench --workspace --bench score -- NAME` runs a part. The
//! texts are those of the shipped artifact's goldens, over and over; `bench-pairs` has real ones.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use models::encode::Encoder;
use models::{Artifact, Kernel, Numeric, Scorer, ScorerOptions, TextPair};
use tokio::runtime::{Builder, Runtime};

const ROWS: usize = 512;
const ARTIFACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/artifacts/minilm-l6-v6");

/// Golden texts of the case called `name`, repeated until there are [`ROWS`].
fn golden_texts(name: &str) -> Vec<Vec<String>> {
    let goldens = Artifact::open(Path::new(ARTIFACT)).expect("the shipped artifact is good").goldens;
    let case = goldens.cases.into_iter().find(|case| case.name == name).expect("the goldens have that case");
    case.texts.into_iter().cycle().take(ROWS).collect()
}

fn pairs() -> Vec<TextPair> {
    let pair = |texts: Vec<String>| TextPair { left: texts[0].as_str().into(), right: texts[1].as_str().into() };
    golden_texts("pairs: mixed lengths").into_iter().map(pair).collect()
}

fn queries() -> Vec<String> {
    golden_texts("queries: all classes").into_iter().flatten().collect()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn scoring(criterion: &mut Criterion) {
    let (pairs, queries, runtime) = (pairs(), queries(), runtime());
    use {Kernel::*, Numeric::*};
    let paths = [
        (Fp32, Libtorch),
        (Fp32, Avx2),
        (Int8, Avx2),
        (Fp32, Avx512),
        (Bf16, Avx512),
        (Int8, Avx512),
        (Bf16, Amx),
        (Int8, Amx),
    ];
    for (numeric, kernel) in paths {
        // A CPU without the instructions has no such path.
        let options = ScorerOptions { replicas: 1, numeric, kernel };
        let Ok(scorer) = Scorer::start(Path::new(ARTIFACT), options) else { continue };
        let scorer = scorer.without_cascade().reading_once();
        let mut group = criterion.benchmark_group("score");
        group.sample_size(20).throughput(Throughput::Elements(ROWS as u64));
        group.bench_function(format!("pairs, {numeric}, {kernel}"), |bencher| {
            bencher.iter(|| runtime.block_on(scorer.score_pairs(pairs.clone())).expect("the pairs are scored"));
        });
        group.bench_function(format!("queries, {numeric}, {kernel}"), |bencher| {
            bencher.iter(|| runtime.block_on(scorer.score_queries(queries.clone())).expect("the queries are scored"));
        });
        group.bench_function(format!("one query at a time, {numeric}, {kernel}"), |bencher| {
            let one = |query: &String| runtime.block_on(scorer.score_queries(vec![query.clone()]));
            bencher.iter(|| queries.iter().map(|query| one(query).expect("it is scored").len()).sum::<usize>());
        });
    }
}

fn encoder(artifact: &Artifact) -> Encoder {
    let (pair_max, query_max) = (artifact.manifest.pair_tokens_max, artifact.manifest.query_tokens_max);
    Encoder::new(&artifact.tokenizer, pair_max, query_max).expect("the tokenizer is good")
}

fn encoding(criterion: &mut Criterion) {
    let artifact = Artifact::open(Path::new(ARTIFACT)).expect("the shipped artifact is good");
    let (encoder, pairs, queries) = (encoder(&artifact), pairs(), queries());
    let mut group = criterion.benchmark_group("encode");
    group.sample_size(20);
    // Sides are kept within a call, and the same texts come again in one: so a call has no two of a text.
    group.throughput(Throughput::Elements(8));
    group.bench_function("pairs", |bencher| bencher.iter(|| encoder.pairs(&pairs[..8])));
    group.bench_function("queries", |bencher| bencher.iter(|| encoder.queries(&queries[..8])));
}

/// What a row costs that never reaches the network, and each that does besides.
fn first_stages(criterion: &mut Criterion) {
    let artifact = Artifact::open(Path::new(ARTIFACT)).expect("the shipped artifact is good");
    let (encoder, pairs, queries) = (encoder(&artifact), pairs(), queries());
    let cascade = artifact.cascade.expect("the shipped artifact has one");
    let query_cascade = artifact.query_cascade.expect("the shipped artifact has one");
    let mut group = criterion.benchmark_group("first stage");
    // As with `encode`, a call has no two of a text.
    group.sample_size(20).throughput(Throughput::Elements(8));
    group.bench_function("pairs", |bencher| bencher.iter(|| cascade.settle(&pairs[..8])));
    let settle = |query: &String| query_cascade.settle(&encoder, query);
    group.bench_function("queries", |bencher| bencher.iter(|| queries[..8].iter().map(settle).collect::<Vec<_>>()));
}

/// What is read over and over, so that it comes from that level of the caches of any server's core.
#[cfg(target_arch = "x86_64")]
const READ: [(&str, usize); 3] = [("L1", 24 << 10), ("L2", 256 << 10), ("L3", 8 << 20)];

/// Registers that are multiplied without a load, and loaded without a product: the machine's limits.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a vector of bf16 has no constructor, and AMX no stable intrinsics")]
mod peak {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_cvtss_f32, _mm256_extract_epi32,
        _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
        _mm256_setzero_ps, _mm256_setzero_si256, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
        _mm512_loadu_si512, _mm512_reduce_add_epi32, _mm512_reduce_add_ps, _mm512_set1_epi32, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_setzero_si512, _mm512_xor_si512,
    };

    /// Sums in flight; enough to hide an instruction's latency.
    const SUMS: usize = 24;
    const STEPS: usize = 10_000;
    /// Of the sixteen registers of AVX2.
    const SUMS_AVX2: usize = 12;
    pub const FP32_MULTIPLICATIONS: u64 = (SUMS_AVX2 * STEPS * 8) as u64;
    pub const INT8_AVX2_MULTIPLICATIONS: u64 = (SUMS_AVX2 * STEPS * 64) as u64;
    pub const FP32_AVX512_MULTIPLICATIONS: u64 = (SUMS * STEPS * 16) as u64;
    pub const BF16_MULTIPLICATIONS: u64 = (SUMS * STEPS * 32) as u64;
    pub const INT8_MULTIPLICATIONS: u64 = (SUMS * STEPS * 64) as u64;

    /// Four sums of tiles of 16 x 16, as many as the kernels have.
    pub const AMX_BF16_MULTIPLICATIONS: u64 = (4 * STEPS * 16 * 16 * 32) as u64;
    pub const AMX_INT8_MULTIPLICATIONS: u64 = (4 * STEPS * 16 * 16 * 64) as u64;

    macro_rules! tiles {
        ($name:ident, $product:literal) => {
            /// # Safety
            /// The CPU has AMX, and the kernel granted it.
            pub unsafe fn $name() {
                #[repr(C, align(64))]
                struct Config([u8; 64]);
                let mut config = Config([0; 64]);
                config.0[0] = 1;
                for tile in 0..8 {
                    (config.0[16 + 2 * tile], config.0[48 + tile]) = (64, 16);
                }
                // SAFETY: as the caller promises; the configuration is the 64 bytes that are read.
                unsafe {
                    asm!(
                        "ldtilecfg [{config}]",
                        "2:",
                        concat!($product, " tmm0, tmm4, tmm6"),
                        concat!($product, " tmm1, tmm4, tmm7"),
                        concat!($product, " tmm2, tmm5, tmm6"),
                        concat!($product, " tmm3, tmm5, tmm7"),
                        "dec {steps}",
                        "jnz 2b",
                        "tilerelease",
                        config = in(reg) &raw const config,
                        steps = inout(reg) STEPS => _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        };
    }

    tiles!(amx_bf16, "tdpbf16ps");
    tiles!(amx_int8, "tdpbusd");

    #[target_feature(enable = "avx2,fma")]
    pub fn fp32(value: f32) -> f32 {
        let factor = _mm256_set1_ps(value);
        let mut sums = [_mm256_setzero_ps(); SUMS_AVX2];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(factor, factor, *sum);
            }
        }
        let mut total = _mm256_setzero_ps();
        for sum in sums {
            total = _mm256_add_ps(total, sum);
        }
        _mm256_cvtss_f32(total)
    }

    /// As the kernel multiplies int8: two products of bytes are added in 16 bits, and their sums in 32.
    #[target_feature(enable = "avx2")]
    pub fn int8_avx2(value: i32) -> i32 {
        let (factor, ones) = (_mm256_set1_epi32(value), _mm256_set1_epi16(1));
        let mut sums = [_mm256_setzero_si256(); SUMS_AVX2];
        for _ in 0..STEPS {
            for sum in &mut sums {
                // A sum that changes keeps the products from being computed once for all.
                let products = _mm256_maddubs_epi16(factor, *sum);
                let products = _mm256_add_epi16(products, _mm256_maddubs_epi16(*sum, factor));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, ones));
            }
        }
        let mut total = _mm256_setzero_si256();
        for sum in sums {
            total = _mm256_add_epi32(total, sum);
        }
        _mm256_extract_epi32::<0>(total)
    }

    #[target_feature(enable = "avx512f,avx512vl")]
    pub fn fp32_avx512(value: f32) -> f32 {
        let factor = _mm512_set1_ps(value);
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(factor, factor, *sum);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += _mm512_reduce_add_ps(sum);
        }
        total
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
    pub fn bf16(value: i32) -> f32 {
        // SAFETY: both types are 64 bytes without invalid patterns.
        let factor = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(value)) };
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, factor, factor);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += _mm512_reduce_add_ps(sum);
        }
        total
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
    pub fn int8(value: i32) -> i32 {
        let factor = _mm512_set1_epi32(value);
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, factor, factor);
            }
        }
        let mut total = 0i32;
        for sum in sums {
            total = total.wrapping_add(_mm512_reduce_add_epi32(sum));
        }
        total
    }

    /// Of a cache.
    #[derive(Clone)]
    #[repr(C, align(64))]
    pub struct Line([u8; 64]);

    pub fn lines(bytes: usize) -> Vec<Line> {
        vec![Line([1; 64]); bytes / 64]
    }

    /// Reads all of `lines`, by registers.
    #[target_feature(enable = "avx512f,avx512vl")]
    pub fn read(lines: &[Line]) -> i32 {
        let mut all = [_mm512_setzero_si512(); 8];
        for eight in lines.as_chunks::<8>().0 {
            for i in 0..8 {
                // SAFETY: a line is 64 readable bytes.
                all[i] = _mm512_xor_si512(all[i], unsafe { _mm512_loadu_si512(eight[i].0.as_ptr().cast()) });
            }
        }
        let mut total = 0i32;
        for part in all {
            total = total.wrapping_add(_mm512_reduce_add_epi32(part));
        }
        total
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "functions for instructions that were detected")]
fn peaks(criterion: &mut Criterion) {
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        let mut group = criterion.benchmark_group("peak");
        group.sample_size(20);
        group.throughput(Throughput::Elements(peak::FP32_MULTIPLICATIONS));
        // SAFETY: the features were detected.
        group.bench_function("fp32, avx2", |bencher| bencher.iter(|| unsafe { peak::fp32(black_box(1.0)) }));
        group.throughput(Throughput::Elements(peak::INT8_AVX2_MULTIPLICATIONS));
        // SAFETY: the features were detected.
        group.bench_function("int8, avx2", |bencher| bencher.iter(|| unsafe { peak::int8_avx2(black_box(1)) }));
    }
    if !(std::arch::is_x86_feature_detected!("avx512vl") && std::arch::is_x86_feature_detected!("avx512vnni")) {
        return;
    }
    let mut group = criterion.benchmark_group("peak");
    group.sample_size(20);
    group.throughput(Throughput::Elements(peak::FP32_AVX512_MULTIPLICATIONS));
    // SAFETY: the features were detected.
    group.bench_function("fp32, avx512", |bencher| bencher.iter(|| unsafe { peak::fp32_avx512(black_box(1.0)) }));
    group.throughput(Throughput::Elements(peak::INT8_MULTIPLICATIONS));
    // SAFETY: the features were detected.
    group.bench_function("int8", |bencher| bencher.iter(|| unsafe { peak::int8(black_box(1)) }));
    for (level, bytes) in READ {
        let lines = peak::lines(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        // SAFETY: the features were detected.
        group.bench_function(format!("read, {level}"), |bencher| {
            bencher.iter(|| unsafe { peak::read(black_box(&lines)) });
        });
    }
    if !std::arch::is_x86_feature_detected!("avx512bf16") {
        return;
    }
    group.throughput(Throughput::Elements(peak::BF16_MULTIPLICATIONS));
    // SAFETY: the features were detected.
    group.bench_function("bf16", |bencher| bencher.iter(|| unsafe { peak::bf16(black_box(1)) }));
    let options = ScorerOptions { replicas: 1, numeric: Numeric::Bf16, kernel: Kernel::Amx };
    let Ok(_granted) = Scorer::start(Path::new(ARTIFACT), options) else { return };
    group.throughput(Throughput::Elements(peak::AMX_BF16_MULTIPLICATIONS));
    // SAFETY: a scorer on AMX runs in this process.
    group.bench_function("bf16, amx", |bencher| bencher.iter(|| unsafe { peak::amx_bf16() }));
    group.throughput(Throughput::Elements(peak::AMX_INT8_MULTIPLICATIONS));
    // SAFETY: as above.
    group.bench_function("int8, amx", |bencher| bencher.iter(|| unsafe { peak::amx_int8() }));
}

#[cfg(not(target_arch = "x86_64"))]
fn peaks(_: &mut Criterion) {}

criterion_group!(all, peaks, encoding, first_stages, scoring);
criterion_main!(all);
