//! Matches on fields of the IP header: `length`, `ttl`, `hl`, `dscp`, `tos`, `ecn`.

use keepstate_engine::condition::kind;
use keepstate_engine::tuple::Family;
use keepstate_engine::wire::transport::tcp_flag;

use super::{Extension, Form, Lowered, Module, OptionSpec, Refusal, Value, not, value};
use crate::problem::Problem;

pub(super) static LENGTH: Module = Module::new(
    "length",
    &[OptionSpec::new("length", Form::Range { most: 65_535 })
        .negatable()
        .must()],
    |length, _| {
        let given = &length.given[0];
        let sign = if given.negated { "!" } else { "" };
        format!(" length {sign}{}", given.value)
    },
    |length, lowered| ask_range(length, "length", kind::LENGTH, lowered),
);

fn ask_range(own: &Extension, name: &str, kind: u16, lowered: &mut Lowered) {
    if let Some(given) = own.find(name)
        && let Value::Range(low, high) = given.value
    {
        lowered.ask_packet(kind, not(given.negated), &[low as u32, high as u32]);
    }
}

const BYTE: Form = Form::Number {
    least: 0,
    most: 255,
};

pub(super) static TTL: Module = Module::new(
    "ttl",
    &[
        OptionSpec::new("ttl-lt", BYTE).excludes(&["ttl-gt", "ttl-eq"]),
        OptionSpec::new("ttl-gt", BYTE).excludes(&["ttl-lt", "ttl-eq"]),
        OptionSpec::new("ttl-eq", BYTE)
            .aliases(&["ttl"])
            .negatable()
            .excludes(&["ttl-lt", "ttl-gt"]),
    ],
    |ttl, _| list_hops(ttl, "TTL"),
    lower_hops,
)
.family(Family::V4)
.check(|ttl, _| {
    let text = "TTL match: You must specify one of `--ttl-eq', `--ttl-lt', `--ttl-gt";
    one_of(ttl, text)
});

pub(super) static HL: Module = Module::new(
    "hl",
    &[
        OptionSpec::new("hl-lt", BYTE).excludes(&["hl-gt", "hl-eq"]),
        OptionSpec::new("hl-gt", BYTE).excludes(&["hl-lt", "hl-eq"]),
        OptionSpec::new("hl-eq", BYTE)
            .aliases(&["hl"])
            .negatable()
            .excludes(&["hl-lt", "hl-gt"]),
    ],
    |hl, _| list_hops(hl, "HL"),
    lower_hops,
)
.family(Family::V6)
.check(|hl, _| {
    let text = "HL match: You must specify one of `--hl-eq', `--hl-lt', `--hl-gt'";
    one_of(hl, text)
});

fn one_of(own: &Extension, missing: &str) -> Result<(), Problem> {
    match own.given.is_empty() {
        true => Err(Problem::Match(missing.into())),
        false => Ok(()),
    }
}

fn list_hops(own: &Extension, name: &str) -> String {
    let given = &own.given[0];
    let sign = match (&given.name[given.name.len() - 2..], given.negated) {
        ("lt", _) => "<",
        ("gt", _) => ">",
        (_, true) => "!=",
        (_, false) => "==",
    };
    format!(" {name} match {name} {sign} {}", given.value)
}

fn lower_hops(own: &Extension, lowered: &mut Lowered) {
    let Some(given) = own.given.first() else {
        return;
    };
    let Value::Number(number) = given.value else {
        return;
    };
    let number = number as u32;
    let bounds = match &given.name[given.name.len() - 2..] {
        // Nothing is less than zero: from one to zero.
        "lt" if number == 0 => [1, 0],
        "lt" => [0, number - 1],
        "gt" => [number + 1, u32::MAX],
        _ => [number, number],
    };
    lowered.ask_packet(kind::HOPS, not(given.negated), &bounds);
}

const CODE_POINT_MAX: u64 = 63;

pub(super) static DSCP: Module = Module::new(
    "dscp",
    &[
        OptionSpec::new("dscp", Form::Own(code_point))
            .negatable()
            .excludes(&["dscp-class"]),
        OptionSpec::new("dscp-class", Form::Own(class))
            .saved("dscp")
            .negatable()
            .excludes(&["dscp"]),
    ],
    |dscp, _| {
        let given = &dscp.given[0];
        let sign = if given.negated { "!" } else { "" };
        format!(" DSCP match {sign}{}", given.value)
    },
    |dscp, lowered| {
        if let Some(given) = dscp.given.first()
            && let Value::Hexadecimal(point) = given.value
        {
            let wanted = u32::from(point) << 2;
            lowered.ask_packet(kind::TOS, not(given.negated), &[0xfc, wanted]);
        }
    },
)
.check(|dscp, _| match dscp.given.is_empty() {
    true => Err(Problem::Match(
        "DSCP match: Parameter --dscp is required".into(),
    )),
    false => Ok(()),
})
// Two names for one value.
.complete(|dscp, _| {
    for given in &mut dscp.given {
        given.name = "dscp";
    }
});

fn code_point(_: &super::Context<'_>, text: &str) -> Result<Value, Problem> {
    match value::number(text) {
        Some(number) if number <= CODE_POINT_MAX => Ok(Value::Hexadecimal(number as u8)),
        _ => Err(Problem::Match(format!(
            "dscp: bad value for option \"--dscp\", or out of range (0-{CODE_POINT_MAX})."
        ))),
    }
}

/// RFC 2474, RFC 2597, RFC 3246.
const CLASSES: [(&str, u8); 22] = [
    ("CS0", 0x00),
    ("CS1", 0x08),
    ("CS2", 0x10),
    ("CS3", 0x18),
    ("CS4", 0x20),
    ("CS5", 0x28),
    ("CS6", 0x30),
    ("CS7", 0x38),
    ("BE", 0x00),
    ("AF11", 0x0a),
    ("AF12", 0x0c),
    ("AF13", 0x0e),
    ("AF21", 0x12),
    ("AF22", 0x14),
    ("AF23", 0x16),
    ("AF31", 0x1a),
    ("AF32", 0x1c),
    ("AF33", 0x1e),
    ("AF41", 0x22),
    ("AF42", 0x24),
    ("AF43", 0x26),
    ("EF", 0x2e),
];

fn class(_: &super::Context<'_>, text: &str) -> Result<Value, Problem> {
    let found = CLASSES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    match found {
        Some((_, point)) => Ok(Value::Hexadecimal(*point)),
        None => Err(Problem::Match(format!("Invalid DSCP value `{text}'"))),
    }
}

/// RFC 1349, with the mask that goes with these names.
const SERVICES: [(&str, u8); 5] = [
    ("Minimize-Delay", 0x10),
    ("Maximize-Throughput", 0x08),
    ("Maximize-Reliability", 0x04),
    ("Minimize-Cost", 0x02),
    ("Normal-Service", 0x00),
];

const SERVICE_MASK: u8 = 0x3f;

pub(super) static TOS: Module = Module::new(
    "tos",
    &[OptionSpec::new("tos", Form::Own(service))
        .negatable()
        .must()],
    |tos, numeric| {
        let given = &tos.given[0];
        let sign = if given.negated { "!" } else { "" };
        match named_service(&given.value).filter(|_| !numeric) {
            Some(name) => format!(" tos match{sign} {name}"),
            None => format!(" tos match{sign}{}", given.value),
        }
    },
    |tos, lowered| {
        if let Some(given) = tos.given.first()
            && let Value::Service(value, mask) = given.value
        {
            let data = [mask.into(), value.into()];
            lowered.ask_packet(kind::TOS, not(given.negated), &data);
        }
    },
);

fn named_service(value: &Value) -> Option<&'static str> {
    let Value::Service(value, SERVICE_MASK) = value else {
        return None;
    };
    let found = SERVICES.iter().find(|(_, known)| known == value);
    found.map(|(name, _)| *name)
}

fn service(_: &super::Context<'_>, text: &str) -> Result<Value, Problem> {
    let unknown = || Problem::Match(format!("Symbolic name \"{text}\" is unknown"));
    let byte = |text: &str| value::number(text).and_then(|number| u8::try_from(number).ok());
    if let Some((value, mask)) = text.split_once('/') {
        let (value, mask) = (byte(value), byte(mask));
        return match (value, mask) {
            (Some(value), Some(mask)) => Ok(Value::Service(value, mask)),
            _ => Err(unknown()),
        };
    }
    if let Some(value) = byte(text) {
        return Ok(Value::Service(value, u8::MAX));
    }
    let found = SERVICES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    let (_, value) = found.ok_or_else(unknown)?;
    Ok(Value::Service(*value, SERVICE_MASK))
}

pub(super) static ECN: Module = Module::new(
    "ecn",
    &[
        OptionSpec::new("ecn-tcp-ece", Form::Nothing).negatable(),
        OptionSpec::new("ecn-tcp-cwr", Form::Nothing).negatable(),
        OptionSpec::new("ecn-ip-ect", Form::Number { least: 0, most: 3 }).negatable(),
    ],
    |ecn, _| {
        let mut text = " ECN match".to_string();
        for given in &ecn.given {
            let sign = if given.negated { "!" } else { "" };
            let what = match given.name {
                "ecn-tcp-ece" => "ECE".to_string(),
                "ecn-tcp-cwr" => "CWR".to_string(),
                _ => format!("ECT={}", given.value),
            };
            text += &format!(" {sign}{what}");
        }
        text
    },
    |ecn, lowered| {
        for given in &ecn.given {
            let bit = match (given.name, &given.value) {
                ("ecn-tcp-ece", _) => tcp_flag::ECE,
                ("ecn-tcp-cwr", _) => tcp_flag::CWR,
                (_, Value::Number(codepoint)) => {
                    let data = [3, *codepoint as u32];
                    lowered.ask_packet(kind::TOS, not(given.negated), &data);
                    continue;
                }
                _ => continue,
            };
            let data = [bit.into(), bit.into()];
            lowered.ask_packet(kind::TCP_FLAGS, not(given.negated), &data);
        }
    },
)
.check(|ecn, _| match ecn.given.is_empty() {
    true => Err(Problem::Match("ECN match: some option required".into())),
    false => Ok(()),
})
.refuse(|ecn, context| {
    let asks_tcp = ecn.has("ecn-tcp-ece") || ecn.has("ecn-tcp-cwr");
    (asks_tcp && !context.is(6)).then(|| Refusal {
        error: "Invalid argument",
        hint: "flags of TCP need `-p tcp' before them".into(),
    })
});
