//! Makes hostile inputs out of good ones.

/// A small generator (splitmix64), so that every failure repeats.
pub struct Entropy(pub u64);

impl Entropy {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Numbers at which lengths, counts and offsets go wrong.
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x10_0000,
    0x7fff_fffe,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];
/// No input grows beyond this.
const MOST_BYTES: usize = 256 << 10;

/// Changes an input a few times. `other` gives material to splice in.
pub fn mutate(entropy: &mut Entropy, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=entropy.below(4) {
        if input.is_empty() {
            input.extend_from_slice(other);
        }
        mutate_once(entropy, input, other);
        input.truncate(MOST_BYTES);
    }
}

fn mutate_once(entropy: &mut Entropy, input: &mut Vec<u8>, other: &[u8]) {
    if input.is_empty() {
        return input.push(entropy.next() as u8);
    }
    let at = entropy.below(input.len());
    let length = 1 + entropy.below((input.len() - at).min(64));
    match entropy.below(10) {
        0 => input[at] ^= 1 << entropy.below(8),
        1 => input[at] = entropy.next() as u8,
        2 | 3 => put_number(entropy, input, at),
        4 => put_digits(entropy, input, at),
        5 => input.truncate(at),
        6 => drop(input.drain(at..at + length)),
        7 => {
            let copy = input[at..at + length].to_vec();
            input.splice(at..at, copy);
        }
        8 => {
            let to = entropy.below(input.len());
            let length = length.min(input.len() - to);
            input.copy_within(at..at + length, to);
        }
        _ if other.is_empty() => input[at] = 0xff,
        _ => {
            let from = entropy.below(other.len());
            let piece = &other[from..(from + length).min(other.len())];
            let end = (at + piece.len()).min(input.len());
            input.splice(at..end, piece.iter().copied());
        }
    }
}

/// Overwrites a number of one to eight bytes, or a varint, by one at an edge or near what was there.
fn put_number(entropy: &mut Entropy, input: &mut Vec<u8>, at: usize) {
    let edge = EDGES[entropy.below(EDGES.len())];
    if entropy.below(4) == 0 {
        let (mut varint, mut rest) = (Vec::new(), edge);
        while rest > 0x7f {
            varint.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        varint.push(rest as u8);
        input.splice(at..=at, varint);
        return;
    }
    let width = [1, 2, 4, 8][entropy.below(4)];
    let little = entropy.below(2) == 0;
    let bytes = if little { edge.to_le_bytes() } else { edge.rotate_right(8 * width as u32).to_be_bytes() };
    for (to, from) in input[at..].iter_mut().zip(&bytes[..width]) {
        *to = *from;
    }
}

/// Overwrites a run of digits, as texts have them, by another number.
fn put_digits(entropy: &mut Entropy, input: &mut Vec<u8>, at: usize) {
    let Some(start) = input[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else {
        input[at] = b'0';
        return;
    };
    let length = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = EDGES[entropy.below(EDGES.len())];
    let text = if entropy.below(3) == 0 { format!("-{number}") } else { number.to_string() };
    input.splice(start..start + length, text.into_bytes());
}
