//! Names of sets in texts and in compiled rules. Which sets there are is for others to know.

use keepstate_engine::condition::kind;

use crate::compile::Compiled;
use crate::diagnostic::{Diagnostic, Severity};
use crate::fault::Fault;
use crate::file::looks_saved;
use crate::lexer::{Word, restore_words, script_commands};
use crate::matches::NAMING_SETS;
use crate::problem::Problem;

/// What is wrong with a text whose rules name sets that there are not, each time that it does.
pub fn missing_sets(text: &str, exists: impl Fn(&str) -> bool) -> Vec<Diagnostic> {
    if !text.contains("-set") {
        return Vec::new();
    }
    let lines: Vec<&str> = text.lines().collect();
    let commands = if looks_saved(text) {
        let numbered = lines.iter().zip(1..);
        numbered
            .filter_map(|(line, number)| restore_words(line, number, 1).ok())
            .collect()
    } else {
        script_commands(text).0
    };
    let named = commands.iter().flat_map(|words| named(words));
    named
        .filter(|word| !exists(&word.text))
        .map(|word| missing(word).in_text(&lines, Severity::Error))
        .collect()
}

/// The words that name sets.
fn named(words: &[Word]) -> impl Iterator<Item = &Word> {
    let pairs = words.windows(2);
    pairs.filter_map(|pair| {
        let option = pair[0].text.strip_prefix("--")?;
        NAMING_SETS.contains(&option).then_some(&pair[1])
    })
}

fn missing(word: &Word) -> Fault {
    let problem = Problem::Match(missing_set(&word.text));
    let hint = format!("make it first: `keepstate set create {} ...'", word.text);
    Fault::at(word, problem).hint(Some(hint))
}

/// What iptables says of a set that there is not.
pub fn missing_set(name: &str) -> String {
    format!("Set {name} doesn't exist.")
}

impl Compiled {
    /// Puts the numbers of sets in the place of those that their names have in [`Compiled::sets`]. The error is a
    /// name that has no number.
    pub fn number_sets(&mut self, number: impl Fn(&str) -> Option<u32>) -> Result<(), String> {
        let find = |name: &String| number(name).ok_or_else(|| name.clone());
        let numbers: Vec<u32> = self.sets.iter().map(find).collect::<Result<_, _>>()?;
        for condition in &mut self.conditions {
            if !matches!(condition.kind, kind::SET..=kind::SET_DEL) {
                continue;
            }
            let [index, ..] = &mut condition.data;
            if let Some(number) = numbers.get(*index as usize) {
                *index = *number;
            }
        }
        Ok(())
    }
}
