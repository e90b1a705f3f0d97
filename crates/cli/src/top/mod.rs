//! `keepstate top`: the firewall on one screen.

mod feed;
mod format;
mod keys;
mod model;
mod view;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use anyhow::Context;
use keepstate_api::{Expression, Instance};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::feed::Feed;
use self::keys::Deed;
use self::model::Model;

/// How long a key may lie before it is seen, and how old what is shown may be.
const PATIENCE: Duration = Duration::from_millis(100);

/// News that are taken in between two pictures: in a flood there is no end of them.
const NEWS_PER_PICTURE: usize = 20_000;

/// Shows the screen until somebody quits.
pub(crate) fn show(instance: &Instance, filter: Option<Expression>) -> anyhow::Result<()> {
    let feed = Feed::start(instance);
    let mut terminal = ratatui::try_init().context("top wants a terminal")?;
    let result = run(&mut terminal, &feed, filter);
    ratatui::restore();
    result
}

fn run(
    terminal: &mut DefaultTerminal,
    feed: &Feed,
    filter: Option<Expression>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut model = Model::new();
    model.wish.filter = filter;
    loop {
        feed.wish(&model.wish);
        for news in feed.news.try_iter().take(NEWS_PER_PICTURE) {
            model.take(news, begun.elapsed());
        }
        terminal.draw(|frame| view::draw(frame, &model, begun.elapsed()))?;
        if !event::poll(PATIENCE)? {
            continue;
        }
        // Other events (a new size, for one) only want a new picture.
        let Event::Key(key) = event::read()? else {
            continue;
        };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match keys::press(&mut model, key, begun.elapsed()) {
            Deed::Nothing => {}
            Deed::Quit => return Ok(()),
            Deed::Send(request) => feed.order(*request),
        }
    }
}
