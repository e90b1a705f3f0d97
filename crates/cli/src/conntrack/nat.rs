//! Addresses with a port, as `--src-nat` takes them.

use super::problem::Problem;

/// `1.2.3.4:80` and `[fd00::1]:80` without the port.
pub(super) fn without_port(text: &str) -> Result<&str, Problem> {
    let (address, port) = match text.split_once('[') {
        Some((_, inside)) => {
            let Some((address, after)) = inside.split_once(']') else {
                return Err(Problem::usage("No closing ']' around IPv6 address"));
            };
            if address.is_empty() {
                return Err(Problem::usage("No IPv6 address specified"));
            }
            match after.split_once(':') {
                Some((_, port)) => (address, port),
                None => return Ok(text),
            }
        }
        None => match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, port),
            _ => return Ok(text),
        },
    };
    if port.is_empty() {
        return Err(Problem::usage("No port specified after `:'"));
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || port.parse::<u16>().is_err() {
        return Err(Problem::Usage(format!("Invalid port `{port}'")));
    }
    Ok(address)
}
