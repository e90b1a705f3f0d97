//! Names of knobs with dots and with slashes.

/// The path of a name below `/proc/sys`. Whichever separator comes first is the one: a name with
/// dots may have slashes in its parts (`net.ipv4.conf.eth0/1.forwarding`), and the other way round.
pub fn slashed(name: &str) -> String {
    if name.find(['.', '/']).map(|at| &name[at..=at]) == Some(".") {
        exchanged(name)
    } else {
        name.to_owned()
    }
}

/// The name of a path: [`slashed`] backwards.
pub fn dotted(path: &str) -> String {
    if path.find(['.', '/']).map(|at| &path[at..=at]) == Some("/") {
        exchanged(path)
    } else {
        path.to_owned()
    }
}

fn exchanged(name: &str) -> String {
    let other = |letter| match letter {
        '.' => '/',
        '/' => '.',
        letter => letter,
    };
    name.chars().map(other).collect()
}
