//! What the screen shows comes from here: threads that ask the daemon, so that the screen never waits.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use keepstate_api::{
    Banned, Client, ClientError, DefenceStatus, Event, EventKinds, Expression, Filter, Flow,
    Instance, Order, Query, Reply, Request, Status, Survey,
};

use crate::ruleset::{self, CountedRule};

/// News that wait for the screen; while they do, the daemon counts what it could not tell.
const NEWS_MAX: usize = 1024;

/// Between two looks at the counters.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Between two looks at the rules, whose text is long.
const RULES_EVERY: Duration = Duration::from_secs(2);

/// A survey of a large table takes this part of the daemon's time at most, and so do many rules.
const SHARE: u32 = 10;

/// Flows and sources that are asked for: more than a screen has lines.
const SURVEY_COUNT: u32 = 200;

/// Before the daemon is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// News for the screen.
pub(super) enum News {
    Status(Box<Status>),
    Survey(Box<Survey>),
    Defence(Box<DefenceStatus>),
    Rules(Vec<CountedRule>),
    Event(Box<Event>),
    Lost(u64),
    /// The flow that is open; `None` when it is gone.
    Flow(Option<Box<Flow>>),
    /// A request was carried out.
    Said(String),
    /// The daemon cannot be asked now.
    Silent(String),
}

/// What the screen wants to see.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wish {
    pub(super) order: Order,
    pub(super) filter: Option<Expression>,
    pub(super) open: Option<Query>,
}

/// The screen's end.
pub(super) struct Feed {
    pub(super) news: Receiver<News>,
    wish: Arc<Mutex<Wish>>,
    orders: Sender<Request>,
}

impl Feed {
    pub(super) fn start(instance: &Instance) -> Self {
        let (sender, news) = sync_channel(NEWS_MAX);
        let (orders, requests) = channel();
        let wish = Arc::new(Mutex::new(Wish::default()));
        let asker = Asker {
            news: sender.clone(),
            wish: Arc::clone(&wish),
            requests,
        };
        let own = instance.clone();
        thread::spawn(move || asker.run(&own));
        let own = instance.clone();
        thread::spawn(move || listen(&own, &sender));
        Self { news, wish, orders }
    }

    /// Takes effect at once.
    pub(super) fn wish(&self, wish: &Wish) {
        let mut slot = lock(&self.wish);
        if *slot != *wish {
            slot.clone_from(wish);
            drop(slot);
            // Wakes the thread that asks. Without it nothing can be asked anyway.
            let _ = self.orders.send(Request::Status);
        }
    }

    pub(super) fn order(&self, request: Request) {
        let _ = self.orders.send(request);
    }
}

struct Asker {
    news: SyncSender<News>,
    wish: Arc<Mutex<Wish>>,
    requests: Receiver<Request>,
}

/// The screen is gone.
struct Over;

/// When what is next.
struct Due {
    status: Instant,
    rules: Instant,
    survey: Instant,
    /// What the last survey was about.
    wish: Wish,
}

impl Asker {
    fn run(&self, instance: &Instance) {
        loop {
            let result = Client::connect(instance).map(|client| self.ask(client));
            match result {
                Ok(Err(Failed::Over(Over))) => return,
                Ok(Ok(())) => {}
                Ok(Err(Failed::Client(error))) | Err(error) => {
                    if self.tell(News::Silent(error.to_string())).is_err() {
                        return;
                    }
                    thread::sleep(RETRY);
                }
            }
        }
    }

    fn ask(&self, mut client: Client) -> Result<(), Failed> {
        let now = Instant::now();
        let mut due = Due {
            status: now,
            rules: now,
            survey: now,
            wish: Wish::default(),
        };
        loop {
            self.poll(&mut client, &mut due)?;
            let next = due.status.min(due.rules).min(due.survey);
            let patience = next.saturating_duration_since(Instant::now());
            match self.requests.recv_timeout(patience) {
                Ok(Request::Status) | Err(RecvTimeoutError::Timeout) => {}
                Ok(request) => self.carry_out(&mut client, &request)?,
                Err(RecvTimeoutError::Disconnected) => return Err(Failed::Over(Over)),
            }
        }
    }

    fn poll(&self, client: &mut Client, due: &mut Due) -> Result<(), Failed> {
        let wish = lock(&self.wish).clone();
        // Somebody waits for it.
        if (wish.order, &wish.filter) != (due.wish.order, &due.wish.filter) {
            self.look(client, due, &wish)?;
        }
        let now = Instant::now();
        if now >= due.status {
            due.status = now + STATUS_EVERY;
            if let Reply::Status(status) = client.ask(&Request::Status)? {
                self.tell(News::Status(status))?;
            }
            if let Reply::Defence(defence) = client.ask(&Request::Defence)? {
                self.tell(News::Defence(defence))?;
            }
        }
        if let Some(query) = wish.open {
            let found = client.ask(&Request::Find { query })?;
            let flow = match found {
                Reply::Flow(flow) => Some(flow),
                _ => None,
            };
            self.tell(News::Flow(flow))?;
        }
        if now >= due.rules {
            let begun = Instant::now();
            if let Reply::Policy(policy) = client.ask(&Request::Policy)? {
                let rules = policy.rules.as_ref().map(ruleset::counted);
                self.tell(News::Rules(rules.unwrap_or_default()))?;
            }
            due.rules = after(begun, RULES_EVERY);
        }
        if now >= due.survey {
            self.look(client, due, &wish)?;
        }
        Ok(())
    }

    fn look(&self, client: &mut Client, due: &mut Due, wish: &Wish) -> Result<(), Failed> {
        let begun = Instant::now();
        self.survey(client, wish)?;
        due.survey = after(begun, STATUS_EVERY);
        due.wish.clone_from(wish);
        Ok(())
    }

    fn survey(&self, client: &mut Client, wish: &Wish) -> Result<(), Failed> {
        let request = Request::Survey {
            filter: Filter {
                expression: wish.filter.clone(),
                ..Filter::default()
            },
            order: wish.order,
            count: SURVEY_COUNT,
        };
        if let Reply::Survey(survey) = client.ask(&request)? {
            self.tell(News::Survey(survey))?;
        }
        Ok(())
    }

    fn carry_out(&self, client: &mut Client, request: &Request) -> Result<(), Failed> {
        let said = match client.ask(request) {
            Ok(Reply::FlowsEnd { shown: 0 }) => "the flow was gone already".to_owned(),
            Ok(Reply::FlowsEnd { shown: 1 }) => "the flow was removed".to_owned(),
            Ok(Reply::FlowsEnd { shown }) => format!("{shown} flows were removed"),
            Ok(Reply::Banned(banned)) => ban_said(request, &banned),
            Ok(_) => "done".to_owned(),
            Err(ClientError::Refused(failure)) => failure.to_string(),
            Err(error) => return Err(error.into()),
        };
        self.tell(News::Said(said)).map_err(Failed::Over)
    }

    fn tell(&self, news: News) -> Result<(), Over> {
        self.news.send(news).map_err(|_| Over)
    }
}

/// When what began then comes again, so that it takes its share of the daemon's time and no more.
fn after(begun: Instant, every: Duration) -> Instant {
    begun + (begun.elapsed() * SHARE).max(every)
}

fn ban_said(request: &Request, banned: &Banned) -> String {
    let Request::Ban { networks, .. } = request else {
        return "done".to_owned();
    };
    let names: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let names = names.join(" ");
    match banned.refused {
        0 => format!(
            "banned, {} flows ended; `keepstate ban del {names}` lets it in",
            banned.flows_ended
        ),
        _ => "there is no room for another ban".to_owned(),
    }
}

enum Failed {
    Client(ClientError),
    Over(Over),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<Over> for Failed {
    fn from(over: Over) -> Self {
        Self::Over(over)
    }
}

/// Hands on drops for as long as the screen is there. That the daemon is silent the other thread tells.
fn listen(instance: &Instance, news: &SyncSender<News>) {
    loop {
        let is_over = Client::connect(instance).is_ok_and(|client| hear(client, news).is_err());
        if is_over {
            return;
        }
        thread::sleep(RETRY);
    }
}

fn hear(mut client: Client, news: &SyncSender<News>) -> Result<(), Over> {
    let kinds = EventKinds::Drops;
    if client.send(&Request::Events { kinds }).is_err() {
        return Ok(());
    }
    loop {
        let told = match client.reply() {
            Ok(Reply::Event(event)) => News::Event(event),
            Ok(Reply::EventsLost { count }) => News::Lost(count),
            Ok(_) => continue,
            Err(_) => return Ok(()),
        };
        news.send(told).map_err(|_| Over)?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
