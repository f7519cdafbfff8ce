//! Precisions: sizes, the layout of blocks to the byte, and how far stored numbers are from those that were given. What is expected is
//! worked out here in f64 from the text of `refrain::precision`, not by its code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use proptest::prelude::*;
use refrain::precision::{BLOCK, Packed, Precision};

use Precision::{F16, F32, Q4, Q8};

/// The smallest step between two f16: every scale is a multiple of it.
const F16_STEP: f64 = 1.0 / (1 << 24) as f64;
/// The smallest scale that keeps all its 11 bits.
const NORMAL: f64 = 1.0 / (1 << 14) as f64;

/// An f16 by the definition of the format.
fn half(bytes: &[u8], i: usize) -> f64 {
    let bits = u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
    let (sign, exponent, rest) = (if bits >> 15 == 1 { -1.0 } else { 1.0 }, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    match exponent {
        0 => sign * rest * F16_STEP,
        31 => sign * if rest == 0.0 { f64::INFINITY } else { f64::NAN },
        _ => sign * (1024.0 + rest) * 2f64.powi(exponent - 25),
    }
}

/// The number at (row, col), by the formulas.
fn number(precision: Precision, cols: usize, packed: &Packed, row: usize, col: usize) -> f64 {
    let blocks = cols.div_ceil(32);
    let scale = || half(&packed.scales, row * blocks + col / 32);
    match precision {
        F32 => {
            let at = 4 * (row * cols + col);
            f64::from(f32::from_le_bytes(packed.data[at..at + 4].try_into().unwrap()))
        }
        F16 => half(&packed.data, row * cols + col),
        Q8 => scale() * f64::from(packed.data[row * 32 * blocks + col].cast_signed()),
        Q4 => {
            // Number 8 g + b lies in the low half of byte 4 g + b, number 8 g + b + 4 in its high half.
            let (g, b) = (col % 32 / 8, col % 4);
            let byte = packed.data[16 * (row * blocks + col / 32) + 4 * g + b];
            scale() * (f64::from(if col % 8 < 4 { byte % 16 } else { byte / 16 }) - 8.0)
        }
    }
}

/// The bytes of the numbers that fill up the last block of each row, and those bytes as they should be.
fn filling(precision: Precision, cols: usize, packed: &Packed, row: usize) -> Vec<f64> {
    let all = cols.next_multiple_of(32);
    (cols..all).map(|col| number(precision, all, packed, row, col)).collect()
}

/// Packs, checks sizes and that `unpack` follows the formulas; the packed rows and the numbers.
fn there_and_back(precision: Precision, cols: usize, rows: &[f32]) -> (Packed, Vec<f32>) {
    let packed = precision.pack(cols, rows);
    let count = rows.len() / cols;
    assert_eq!(packed.data.len(), count * precision.row_bytes(cols));
    assert_eq!(packed.scales.len(), count * 2 * precision.blocks(cols));
    let numbers = precision.unpack(cols, &packed);
    assert_eq!(numbers.len(), rows.len());
    for (i, found) in numbers.iter().enumerate() {
        let expected = number(precision, cols, &packed, i / cols, i % cols);
        assert_eq!(f64::from(*found), expected, "{precision}, {cols} columns, number {i}");
    }
    if precision.is_quantized() {
        assert!((0..count).flat_map(|row| filling(precision, cols, &packed, row)).all(|x| x == 0.0), "{precision}: not filled up with 0");
    }
    (packed, numbers)
}

/// The squared error of numbers in f64.
fn squared(given: &[f32], found: impl Iterator<Item = f64>) -> f64 {
    given.iter().zip(found).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum()
}

/// Plain rounding to 4 bits: the scale is −max / 8 as an f16, where max is the number of the largest size.
fn plain_q4(block: &[f32]) -> Vec<f64> {
    let largest = block.iter().copied().fold(0f32, |max, x| if x.abs() > max.abs() { x } else { max });
    let scale = f64::from(half::f16::from_f32(-largest / 8.0).to_f32());
    let round = |x: &f32| if scale == 0.0 { 0.0 } else { scale * (f64::from(*x) / scale).round_ties_even().clamp(-8.0, 7.0) };
    block.iter().map(round).collect()
}

/// Checks the largest error of every block; the squared error of q4 and of plain rounding.
fn check_errors(cols: usize, rows: &[f32]) -> (f64, f64) {
    let (mut q4, mut plain) = (0.0, 0.0);
    for precision in Precision::ALL {
        let (packed, numbers) = there_and_back(precision, cols, rows);
        for (r, (given, found)) in rows.chunks(cols).zip(numbers.chunks(cols)).enumerate() {
            for (b, (given, found)) in given.chunks(32).zip(found.chunks(32)).enumerate() {
                let error = |x: f32, y: f32| (f64::from(x) - f64::from(y)).abs();
                let worst = given.iter().zip(found).map(|(x, y)| error(*x, *y)).fold(0.0, f64::max);
                let largest = given.iter().fold(0f64, |max, x| max.max(f64::from(x.abs())));
                match precision {
                    F32 => assert_eq!(given, found),
                    F16 => {
                        for (x, y) in given.iter().zip(found) {
                            // A unit in the last place of an f16 near x.
                            let unit = 2f64.powi(f64::from(x.abs()).log2().floor().max(-14.0) as i32 - 10);
                            assert!(error(*x, *y) <= unit / 2.0, "{x} became {y}");
                        }
                    }
                    Q8 => {
                        let scale = half(&packed.scales, r * cols.div_ceil(32) + b);
                        assert!((0.0..=65504.0).contains(&scale));
                        // Half a step, and a little for products of f32; nothing is cut off, however small.
                        assert!(worst <= scale * 0.5001, "q8: {worst}, where the scale is {scale} and the largest {largest}");
                        // No finer scale would do, but for its own rounding.
                        assert!(scale <= largest / 127.0 * (1.0 + 2f64.powi(-10)) + F16_STEP, "q8: {scale} for {largest}");
                    }
                    Q4 => {
                        let ours = squared(given, found.iter().map(|x| f64::from(*x)));
                        let theirs = squared(given, plain_q4(given).into_iter());
                        // f32 sums in the search: a last digit or so.
                        assert!(ours <= theirs * (1.0 + 1e-5), "q4: {ours}, where plain rounding has {theirs}: {given:?}");
                        (q4, plain) = (q4 + ours, plain + theirs);
                    }
                }
            }
        }
    }
    (q4, plain)
}

/// SplitMix64 and the method of Box and Muller.
fn normal(count: usize, seed: u64, deviation: f32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count).map(|_| ((-2.0 * (1.0 - next()).ln()).sqrt() * (std::f64::consts::TAU * next()).cos()) as f32 * deviation).collect()
}

/// Unpacking f16 is a matter of bits: all of them, subnormal, infinite and no numbers too.
#[test]
fn every_f16() {
    let data: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let packed = Packed { data, scales: Vec::new() };
    for (bits, found) in F16.unpack(1 << 16, &packed).into_iter().enumerate() {
        let expected = half(&packed.data, bits);
        assert!(f64::from(found) == expected || (found.is_nan() && expected.is_nan()), "{bits:04x}: {found}, expected {expected}");
        assert_eq!(found.is_sign_negative(), bits >> 15 == 1, "{bits:04x}");
    }
}

#[test]
fn sizes() {
    // cols, blocks, bytes of a row of f16, q8, q4, stride of f32, f16, q8 and q4, words of scales
    let table = [
        (1, 1, [2, 32, 16], [4, 8, 64], 1),
        (31, 1, [62, 32, 16], [32, 32, 64], 1),
        (32, 1, [64, 32, 16], [32, 32, 64], 1),
        (33, 2, [66, 64, 32], [36, 40, 64], 1),
        (63, 2, [126, 64, 32], [64, 64, 64], 1),
        (64, 2, [128, 64, 32], [64, 64, 64], 1),
        (65, 3, [130, 96, 48], [68, 72, 128], 2),
        (130, 5, [260, 160, 80], [132, 136, 192], 3),
    ];
    assert_eq!(BLOCK, 32);
    for (cols, blocks, [f16, q8, q4], [s32, s16, sq], scale_words) in table {
        let of = |precision: Precision| {
            let p = precision;
            (p.blocks(cols), p.row_bytes(cols), p.stride(cols), p.words(cols), p.scale_words(cols))
        };
        assert_eq!(of(F32), (0, 4 * cols, s32, s32, 0));
        assert_eq!(of(F16), (0, f16, s16, s16 / 2, 0));
        assert_eq!(of(Q8), (blocks, q8, sq, sq / 4, scale_words));
        assert_eq!(of(Q4), (blocks, q4, sq, sq / 8, scale_words));
        for precision in Precision::ALL {
            assert!(precision.words(cols) % 4 == 0, "rows start at multiples of 16 bytes");
            assert!(4 * precision.words(cols) >= precision.row_bytes(cols) && 2 * precision.scale_words(cols) >= precision.blocks(cols));
        }
    }
    for precision in Precision::ALL {
        assert_eq!((precision.row_bytes(0), precision.words(0), precision.blocks(0)), (0, 0, 0));
        assert_eq!(precision.pack(0, &[]), Packed::default());
        assert_eq!(precision.unpack(0, &Packed::default()), [0f32; 0]);
        assert_eq!(precision.name().parse::<Precision>().unwrap(), precision);
        assert_eq!(format!("{precision:>4}"), format!("{:>4}", precision.name()));
    }
    assert_eq!([F32, F16, Q8, Q4].map(Precision::is_quantized), [false, false, true, true]);
    assert_eq!([F16, Q8, Q4].map(Precision::largest), [65504.0, 8_319_008.0, 524_032.0]);
    assert!(Q4 < Q8 && Q8 < F16 && F16 < F32);
    assert_eq!("Q4".parse::<Precision>().unwrap(), Q4);
    let error = "q5".parse::<Precision>().unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), ("argument", "dtype: expected f32, f16, q8 or q4, found q5"));
}

/// The worked example of docs/formats.md.
#[test]
fn one_block_to_the_byte() {
    // 0.25 · (n − 8) with n = 0 … 15 twice, but negated: the number of the largest size is 2 and takes −8.
    let block: Vec<f32> = (0..32).map(|i| 2.0 - 0.25 * (i % 16) as f32).collect();
    let packed = Q4.pack(32, &block);
    assert_eq!(packed.scales, half::f16::from_f32(-0.25).to_le_bytes());
    assert_eq!(packed.scales, [0x00, 0xb4]);
    let half_block = [0x40, 0x51, 0x62, 0x73, 0xc8, 0xd9, 0xea, 0xfb];
    assert_eq!(packed.data, [half_block, half_block].concat());
    assert_eq!(Q4.unpack(32, &packed), block);

    let block: Vec<f32> = (0..32).map(|i| 0.5 * (i as f32 * 8.0 - 127.0).max(-127.0)).collect();
    let packed = Q8.pack(32, &block);
    assert_eq!(packed.scales, [0x00, 0x38]);
    assert_eq!(packed.data[..4], [0x81, 0x89, 0x91, 0x99]);
    assert_eq!(packed.data[31], 121);
    assert_eq!(Q8.unpack(32, &packed), block);
    // Half to even.
    let row = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5];
    assert_eq!(Q8.unpack(6, &Q8.pack(6, &row)), [127.0, 0.0, 2.0, 2.0, 0.0, -2.0]);
    // A row of 3 in q4: five zeros make up the first eight, then 24 more; zero is n = 8.
    let packed = Q4.pack(3, &[-1.0, 0.5, 0.125]);
    assert_eq!((packed.scales.as_slice(), &packed.data[..4]), (&[0x00, 0x30][..], &[0x80, 0x8c, 0x89, 0x88][..]));
    assert!(packed.data[4..].iter().all(|byte| *byte == 0x88));
}

#[test]
fn every_size_and_every_kind_of_row() {
    for cols in [1, 2, 31, 32, 33, 63, 64, 65, 130] {
        let count = 3 * cols;
        check_errors(cols, &normal(count, cols as u64, 0.02));
        let rows = |value: &dyn Fn(usize) -> f32| (0..count).map(value).collect::<Vec<_>>();
        // Zeros, of both signs; one number, here and there; constants; alternating signs.
        for x in [0.0, -0.0, 1.0, -1.0, 0.3, -0.07, 1000.7] {
            check_errors(cols, &rows(&|_| x));
            check_errors(cols, &rows(&|i| if i % 2 == 0 { x } else { -x }));
            for at in 0..cols {
                check_errors(cols, &rows(&|i| if i % cols == at { x } else { 0.0 }));
            }
        }
        // An outlier: the rest of its block is lost to q4, no other block is.
        check_errors(cols, &rows(&|i| if i % cols == cols / 2 { -300.0 } else { 0.01 * (i % 7) as f32 - 0.03 }));
        // Scales that have few bits or none.
        for tiny in [1e-3, 1e-4, 1e-5, 4e-6, 1e-6, 1e-7, 1e-8, 1e-20, 1e-38, 1e-40, 1e-45] {
            check_errors(cols, &normal(count, 7, tiny));
            check_errors(cols, &rows(&|_| tiny));
        }
    }
}

#[test]
fn zero_stays_zero_whatever_its_sign_and_its_neighbours() {
    for precision in Precision::ALL {
        let row = [0.0, -0.0, 0.7, 0.0, -0.0];
        assert!(precision.unpack(5, &precision.pack(5, &row)).iter().zip(row).all(|(y, x)| (*y == 0.0) == (x == 0.0)), "{precision}");
        assert_eq!(precision.unpack(2, &precision.pack(2, &[0.0, -0.0])), [0.0, 0.0]);
    }
    // So small that no scale is left.
    for (precision, none, some) in [(Q8, 2.9e-8, 3.1e-8), (Q4, 1.7e-7, 1.9e-7)] {
        assert_eq!(precision.unpack(1, &precision.pack(1, &[none])), [0.0], "{precision}");
        assert_ne!(precision.unpack(1, &precision.pack(1, &[some])), [0.0], "{precision}");
    }
    // Where numbers stand alone their sign stays too.
    for precision in [F32, F16] {
        assert_eq!(precision.unpack(2, &precision.pack(2, &[0.0, -0.0])).map_signs(), [false, true]);
    }
}

trait MapSigns {
    fn map_signs(&self) -> Vec<bool>;
}

impl MapSigns for Vec<f32> {
    fn map_signs(&self) -> Vec<bool> {
        self.iter().map(|x| x.is_sign_negative()).collect()
    }
}

#[test]
fn the_largest_numbers() {
    for precision in [F16, Q8, Q4] {
        let largest = precision.largest();
        for x in [largest, -largest] {
            let row = [x, 0.0, -x / 3.0, 1.0];
            assert_eq!(there_and_back(precision, 4, &row).1.len(), 4);
            let found = precision.unpack(4, &precision.pack(4, &row));
            assert!(found.iter().all(|y| y.is_finite()), "{precision}: {found:?}");
            assert!((found[0] - x).abs() <= 0.05 * largest, "{precision}: {x} became {}", found[0]);
            // The largest alone is kept as it is.
            assert_eq!(precision.unpack(1, &precision.pack(1, &[x])), [x]);
            // Well past it a number or its scale is infinite; callers look first.
            let far = precision.pack(1, &[x * 1.01]);
            assert!(!half(if precision == F16 { &far.data } else { &far.scales }, 0).is_finite(), "{precision}");
        }
    }
}

/// Weights as training leaves them: how much better than plain rounding the search is, and how large the errors are.
#[test]
fn errors_of_normal_weights() {
    let (rows, cols) = (512, 512);
    let weights = normal(rows * cols, 3, 0.02);
    let (q4, plain) = check_errors(cols, &weights);
    let total: f64 = weights.iter().map(|x| f64::from(*x).powi(2)).sum();
    let error = |precision: Precision| {
        let found = precision.unpack(cols, &precision.pack(cols, &weights));
        (squared(&weights, found.into_iter().map(f64::from)) / total).sqrt()
    };
    let [f16, q8, q4_share] = [F16, Q8, Q4].map(error);
    println!(
        "root mean square error, of the weights': f16 {f16:.2e}, q8 {q8:.2e}, q4 {q4_share:.2e}; plain q4 {:.2e}",
        (plain / total).sqrt()
    );
    println!("q4: squared error {:.1}% below plain rounding", 100.0 * (1.0 - q4 / plain));
    assert!(q4 < 0.9 * plain, "{q4} against {plain}");
    assert!(f16 < 2.5e-4 && q8 < 6e-3 && q4_share < 8.5e-2, "{f16} {q8} {q4_share}");
}

#[test]
fn the_same_whatever_the_number_of_threads() {
    let cols = 97;
    let weights = normal(301 * cols, 9, 0.1);
    for precision in Precision::ALL {
        let all = precision.pack(cols, &weights);
        for threads in [1, 2, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| precision.pack(cols, &weights)), all, "{precision} on {threads} threads");
        }
        // Row by row.
        let (mut data, mut scales) = (Vec::new(), Vec::new());
        for row in weights.chunks(cols) {
            let packed = precision.pack(cols, row);
            data.extend(packed.data);
            scales.extend(packed.scales);
        }
        assert_eq!(Packed { data, scales }, all, "{precision}");
    }
}

/// What was stored once can be stored again without loss: f16 always; q8 where the scale keeps its bits. q4 may move: the search
/// finds another scale for numbers that were rounded. Files therefore copy blocks as they are.
#[test]
fn storing_twice() {
    let (cols, mut moved) = (130, 0);
    for seed in 0..20 {
        let weights = normal(20 * cols, seed, 0.05);
        for precision in [F32, F16, Q8, Q4] {
            let once = precision.pack(cols, &weights);
            let numbers = precision.unpack(cols, &once);
            let twice = precision.pack(cols, &numbers);
            if precision == Q4 {
                moved += usize::from(twice != once);
                // Never by more than the second rounding costs: no more than plain rounding of the rounded numbers.
                check_errors(cols, &numbers);
            } else {
                assert_eq!(twice, once, "{precision}");
            }
        }
    }
    println!("q4: {moved} of 20 matrices moved");
    // Tiny numbers: f16 still; q8 within half a step.
    let weights = normal(20 * cols, 1, 1e-5);
    let once = F16.pack(cols, &weights);
    assert_eq!(F16.pack(cols, &F16.unpack(cols, &once)), once);
    check_errors(cols, &Q8.unpack(cols, &Q8.pack(cols, &weights)));
}

/// Rows of numbers of all sizes that a precision may be asked to hold.
fn rows() -> impl Strategy<Value = (usize, Vec<f32>)> {
    let size = prop_oneof![Just(0.0f32), Just(1.0), Just(1e-6), Just(3e-8), Just(0.02), Just(60000.0)];
    let number = (size, -1.0f32..1.0).prop_map(|(size, x)| size * x);
    (1usize..140, 1usize..4).prop_flat_map(move |(cols, rows)| (Just(cols), proptest::collection::vec(number.clone(), rows * cols)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_rows((cols, rows) in rows()) {
        check_errors(cols, &rows);
    }

    #[test]
    fn any_rows_of_one_size((cols, rows) in rows(), size in -40i32..16) {
        let rows: Vec<f32> = rows.iter().map(|x| x / 60000.0 * 2f32.powi(size)).collect();
        check_errors(cols, &rows);
    }

    #[test]
    fn q8_twice_is_once((cols, rows) in rows()) {
        let once = Q8.pack(cols, &rows);
        let twice = Q8.pack(cols, &Q8.unpack(cols, &once));
        for i in 0..once.scales.len() / 2 {
            if half(&once.scales, i) >= NORMAL {
                prop_assert_eq!(&once.data[32 * i..][..32], &twice.data[32 * i..][..32]);
                prop_assert_eq!(&once.scales[2 * i..][..2], &twice.scales[2 * i..][..2]);
            }
        }
    }
}
