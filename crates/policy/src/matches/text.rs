//! `-m string`.

use keepstate_engine::condition::{BYTES_PER_DATA, flag, kind};
use keepstate_engine::limits::TEXT_BYTES_MAX;

use super::value::{hexadecimal, quoted};
use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Refusal, Value, not};
use crate::problem::Problem;

const OFFSET: Form = Form::Number {
    least: 0,
    most: 65_535,
};

const OFFSET_MAX: u64 = 65_535;

pub(super) static STRING: Module = Module::new(
    "string",
    &[
        OptionSpec::new("string", Form::Own(plain))
            .negatable()
            .excludes(&["hex-string"]),
        OptionSpec::new("hex-string", Form::Own(mixed))
            .negatable()
            .excludes(&["string"]),
        OptionSpec::new("algo", Form::Own(|_, text| Ok(Value::Text(text.into())))).must(),
        OptionSpec::new("from", OFFSET),
        OptionSpec::new("to", OFFSET),
        OptionSpec::new("icase", Form::Nothing),
    ],
    list,
    lower,
)
.check(
    |string, _| match pattern(string).is_none() && string.has("algo") {
        true => Err(Problem::Match(
            "STRING match: You must specify `--string' or `--hex-string'".into(),
        )),
        false => Ok(()),
    },
)
.refuse(|string, _| {
    let algorithm = string.find("algo").map(|given| given.value.to_string());
    if !matches!(algorithm.as_deref(), Some("bm" | "kmp")) {
        return Some(Refusal {
            error: "No such file or directory",
            hint: "the algorithms are bm and kmp; they find the same".into(),
        });
    }
    if let Some(from) = string.number("from")
        && from > string.number("to").unwrap_or(OFFSET_MAX)
    {
        return Some(Refusal {
            error: "Invalid argument",
            hint: "`--from' is behind `--to'".into(),
        });
    }
    let empty = pattern(string).is_none_or(|(bytes, _)| bytes.is_empty());
    empty.then(|| Refusal {
        error: "Invalid argument",
        hint: "the text is empty".into(),
    })
})
.complete(|string, _| {
    // What cannot be shown is shown in hexadecimal, however it was written.
    for given in &mut string.given {
        if let Value::Quoted(bytes) | Value::Bytes(bytes) = &given.value {
            let bytes = bytes.clone();
            let plain = bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
            let plain = plain && bytes.last() != Some(&b'\\');
            (given.name, given.value) = match plain {
                true => ("string", Value::Quoted(bytes)),
                false => ("hex-string", Value::Bytes(bytes)),
            };
        }
    }
    string.given.retain(|given| {
        !matches!(
            (given.name, &given.value),
            ("from", Value::Number(0)) | ("to", Value::Number(OFFSET_MAX))
        )
    });
});

fn pattern(string: &Extension) -> Option<(&[u8], bool)> {
    string.given.iter().find_map(|given| match &given.value {
        Value::Quoted(bytes) | Value::Bytes(bytes) => Some((bytes.as_slice(), given.negated)),
        _ => None,
    })
}

fn plain(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    checked(text.as_bytes().to_vec())
}

fn checked(bytes: Vec<u8>) -> Result<Value, Problem> {
    match bytes.len() > TEXT_BYTES_MAX as usize {
        true => Err(Problem::Match("STRING too long".into())),
        false => Ok(Value::Quoted(bytes)),
    }
}

/// Text with bytes in hexadecimal between bars; a backslash before a character that is no bar.
fn mixed(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let said = |text: &str| Problem::Match(text.into());
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match (first, after.split_first()) {
            (b'\\', Some((escaped, after))) => {
                bytes.push(*escaped);
                rest = after;
            }
            (b'\\', None) => return Err(said("Bad literal placement at end of string")),
            (b'|', _) => {
                let end = after.iter().position(|byte| *byte == b'|');
                let end = end.ok_or_else(|| said("Invalid hex block"))?;
                let digits: Vec<u8> = after[..end]
                    .iter()
                    .copied()
                    .filter(|byte| *byte != b' ')
                    .collect();
                for pair in digits.chunks(2) {
                    let [high, low] = pair else {
                        return Err(said("Invalid hex block"));
                    };
                    let digit = |byte: u8| char::from(byte).to_digit(16);
                    let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
                        return Err(said("Invalid hex block"));
                    };
                    bytes.push((high * 16 + low) as u8);
                }
                rest = &after[end + 1..];
            }
            (other, _) => {
                bytes.push(*other);
                rest = after;
            }
        }
    }
    checked(bytes)
}

fn list(string: &Extension, _: bool) -> String {
    let (bytes, negated) = pattern(string).unwrap_or_default();
    let sign = if negated { "!" } else { "" };
    let hex = string.has("hex-string");
    let shown = match hex {
        true => format!("|{}|", hexadecimal(bytes)),
        false => quoted(bytes),
    };
    let algorithm = string.find("algo").map(|given| given.value.to_string());
    let algorithm = algorithm.unwrap_or_default();
    let mut text = format!(" STRING match {sign} \"{shown}\" ALGO name {algorithm}");
    if let Some(from) = string.number("from") {
        text += &format!(" FROM {from}");
    }
    if let Some(to) = string.number("to") {
        text += &format!(" TO {to}");
    }
    if string.has("icase") {
        text += " ICASE";
    }
    text
}

fn lower(string: &Extension, lowered: &mut Lowered) {
    let Some((bytes, negated)) = pattern(string) else {
        return;
    };
    let any_case = string.has("icase");
    let bytes: Vec<u8> = match any_case {
        true => bytes.to_ascii_lowercase(),
        false => bytes.to_vec(),
    };
    let data = [chunks(&bytes), chunks(&failures(&bytes))].concat();
    let case = if any_case { flag::ANY_CASE } else { 0 };
    let count = (data.len() as u16) << flag::COUNT_SHIFT;
    let from = string.number("from").unwrap_or(0) as u32;
    let to = string.number("to").unwrap_or(OFFSET_MAX) as u32;
    let head = [from, to, bytes.len() as u32];
    lowered.ask_packet(kind::TEXT, not(negated) | case | count, &head);
    for words in data {
        lowered.ask_packet(kind::DATA, 0, &words);
    }
}

fn chunks(bytes: &[u8]) -> Vec<[u32; 7]> {
    let chunks = bytes.chunks(BYTES_PER_DATA as usize);
    let words = chunks.map(|chunk| {
        let mut words = [0; 7];
        for (index, byte) in chunk.iter().enumerate() {
            words[index / 4] |= u32::from(*byte) << (8 * (index % 4));
        }
        words
    });
    words.collect()
}

/// For each beginning of the text, how long the longest shorter beginning is that it ends with.
fn failures(bytes: &[u8]) -> Vec<u8> {
    let mut failures = vec![0u8; bytes.len()];
    let mut length = 0;
    for at in 1..bytes.len() {
        while length > 0 && bytes[at] != bytes[length] {
            length = usize::from(failures[length - 1]);
        }
        if bytes[at] == bytes[length] {
            length += 1;
        }
        failures[at] = length as u8;
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_function_is_that_of_the_textbook() {
        assert_eq!(failures(b"ababaca"), [0, 0, 1, 2, 3, 0, 1]);
        assert_eq!(failures(b"aaaa"), [0, 1, 2, 3]);
    }
}
