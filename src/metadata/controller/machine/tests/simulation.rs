//! Histories of brokers under a seed: heartbeats are late or lost, commands take their time or vanish, processes die with and without
//! a word, and the controller itself changes. `ALLUVIUM_SIM_SEEDS` sets how many seeds run, from `ALLUVIUM_SIM_SEED`.

use super::*;
use crate::metadata::error::Rejection;
use crate::sim::{Random, number};

const BROKERS: i32 = 6;
const STEP_MS: u64 = 25;
const HEARTBEAT_MS: u64 = 250;
const SESSION_MS: u64 = 3000;
const RETRY_MS: u64 = 2000;
/// Steps in which everything can go wrong, and then those in which nothing does.
const STEPS: u64 = 4000;
const CALM_STEPS: u64 = 1200;

/// When a controller that is planted goes deaf.
const DEAF_MS: u64 = 40_000;

/// A mistake that the checks are to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// The controller gives up on brokers too soon.
    ShortSessions,
    /// Nobody tells it that time passes.
    NoTicks,
    /// At some time it hears one of the brokers no more.
    DeafToHeartbeats,
}

#[derive(Debug, Default)]
struct Process {
    is_alive: bool,
    /// Its registration, once it knows of it.
    epoch: Option<BrokerEpoch>,
    incarnation: u64,
    applied: u64,
    next_ms: u64,
}

/// What is under way, by when it arrives.
#[derive(Debug)]
enum Message {
    ToController(Event),
    Image(Arc<Image>),
    Command(Command),
    Registered(i32, u64, BrokerEpoch),
    ImageTo(i32, u64, u64),
}

struct Simulation {
    image: Image,
    controller: Option<Controller>,
    /// When the controller was told of each broker last, or could have been.
    told_ms: BTreeMap<NodeId, (BrokerEpoch, u64)>,
    /// What it submitted last, and in which image it did.
    submitted: Vec<(Command, u64)>,
    shown: Arc<Image>,
    processes: BTreeMap<i32, Process>,
    under_way: BTreeMap<(u64, u64), Message>,
    random: Random,
    now: u64,
    next: u64,
    is_calm: bool,
    planted: Planted,
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

impl Simulation {
    fn new(seed: u64, planted: Planted) -> Self {
        let mut image = Image::default();
        machine::apply(&mut image, &Command::SetClusterId(CLUSTER)).unwrap();
        machine::advance(&mut image, 1);
        Self {
            shown: Arc::new(image.clone()),
            image,
            controller: None,
            told_ms: BTreeMap::new(),
            submitted: Vec::new(),
            processes: (1..=BROKERS).map(|node| (node, Process::default())).collect(),
            under_way: BTreeMap::new(),
            random: Random::new(seed),
            now: 0,
            next: 0,
            is_calm: false,
            planted,
        }
    }

    /// Sends something that takes up to so long, and may get lost.
    fn send(&mut self, most_ms: u64, lost_percent: u64, message: Message) {
        let lost = self.random.chance(lost_percent);
        let delay = self.random.below(most_ms);
        if !lost || self.is_calm {
            self.next += 1;
            let delay = if self.is_calm { delay / 4 } else { delay };
            self.under_way.insert((self.now + delay, self.next), message);
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for step in 0..STEPS + CALM_STEPS {
            self.now += STEP_MS;
            self.is_calm = step >= STEPS;
            self.misfortune();
            self.processes_act();
            while self.under_way.first_key_value().is_some_and(|((at_ms, _), _)| *at_ms <= self.now) {
                let (_, message) = self.under_way.pop_first().expect("there is one");
                self.arrive(message)?;
            }
            if self.planted != Planted::NoTicks
                && self.controller.as_ref().is_some_and(|controller| controller.next_timeout() <= at(self.now))
            {
                self.tell(Event::Tick)?;
            }
            self.check_silent()?;
        }
        for (node, process) in &self.processes {
            let state = self.image.broker(NodeId(*node)).map(|broker| broker.state);
            let expected = if process.is_alive { BrokerState::Active } else { BrokerState::Fenced };
            ensure!(state.is_none_or(|state| state == expected), "broker {node} is {state:?} in the end: {process:?}");
            ensure!(state.is_some() || !process.is_alive, "broker {node} has not registered");
        }
        Ok(())
    }

    fn misfortune(&mut self) {
        if self.controller.is_none() && (self.is_calm || self.random.chance(2)) {
            self.begin_controller();
        }
        if self.is_calm || !self.random.chance(2) {
            return;
        }
        let node = 1 + i32::try_from(self.random.below(6)).unwrap();
        match self.random.below(8) {
            0 => self.controller = None,
            1..=3 => {
                let process = self.processes.get_mut(&node).unwrap();
                let epoch = process.epoch.take().filter(|_| process.is_alive);
                process.is_alive = false;
                if let Some(broker_epoch) = epoch {
                    let gone = Event::ProcessGone { node_id: NodeId(node), broker_epoch };
                    self.send(300, 50, Message::ToController(gone));
                }
            }
            _ => {
                let (now, incarnation) = (self.now, self.next);
                let process = self.processes.get_mut(&node).unwrap();
                if !process.is_alive {
                    *process = Process { is_alive: true, incarnation, next_ms: now, ..Process::default() };
                    self.next += 1;
                }
            }
        }
    }

    fn begin_controller(&mut self) {
        let session_ms = if self.planted == Planted::ShortSessions { SESSION_MS / 3 } else { SESSION_MS };
        let settings = ControllerSettings {
            session: Duration::from_millis(session_ms),
            retry: Duration::from_millis(RETRY_MS),
            ..ControllerSettings::default()
        };
        // Its log may have more than it has been shown.
        self.under_way.retain(|_, message| !matches!(message, Message::Image(_)));
        self.shown = Arc::new(self.image.clone());
        self.controller = Some(Controller::new(at(self.now), Arc::clone(&self.shown), settings));
        self.told_ms = self.image.brokers().map(|broker| (broker.node_id, (broker.epoch, self.now))).collect();
        self.submitted.clear();
    }

    fn processes_act(&mut self) {
        for node in 1..=BROKERS {
            let process = self.processes.get_mut(&node).unwrap();
            if !process.is_alive || self.now < process.next_ms {
                continue;
            }
            process.next_ms = self.now + HEARTBEAT_MS;
            let message = match process.epoch {
                Some(broker_epoch) => Message::ToController(Event::Heartbeat(Heartbeat {
                    node_id: NodeId(node),
                    broker_epoch,
                    applied_version: process.applied,
                    wants: Wants::Serve,
                    offline_directories: Vec::new(),
                })),
                None => {
                    process.next_ms = self.now + 2000;
                    let peer = Some(format!("node-{node}:9095"));
                    let broker = RegisterBroker { peer, starts_fenced: true, ..register(node, process.incarnation) };
                    Message::Command(Command::RegisterBroker(broker))
                }
            };
            let late = if self.random.chance(5) { 4000 } else { 200 };
            self.send(late, 15, message);
        }
    }

    fn arrive(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::ToController(event) => {
                if let Event::Heartbeat(heartbeat) = &event {
                    let is_known = |(epoch, _): &&mut (BrokerEpoch, u64)| *epoch == heartbeat.broker_epoch;
                    if let Some((_, told_ms)) = self.told_ms.get_mut(&heartbeat.node_id).filter(is_known) {
                        *told_ms = self.now;
                    }
                    if self.planted == Planted::DeafToHeartbeats && heartbeat.node_id == NodeId(1) && self.now > DEAF_MS
                    {
                        return Ok(());
                    }
                }
                self.tell(event)
            }
            Message::Image(image) => {
                if self.controller.is_none() || image.version() < self.shown.version() {
                    return Ok(());
                }
                for broker in image.brokers() {
                    let told = self.told_ms.entry(broker.node_id).or_insert((broker.epoch, self.now));
                    if told.0 != broker.epoch {
                        *told = (broker.epoch, self.now);
                    }
                    if self.shown.broker(broker.node_id) != Some(broker) {
                        let of_it = |command: &Command| broker_of(command) == Some(broker.node_id);
                        self.submitted.retain(|(command, _)| !of_it(command));
                    }
                }
                self.shown = Arc::clone(&image);
                self.tell(Event::Image(image))
            }
            Message::Command(command) => {
                self.commit(&command);
                Ok(())
            }
            Message::Registered(node, incarnation, epoch) => {
                let process = self.processes.get_mut(&node).unwrap();
                if process.is_alive && process.incarnation == incarnation {
                    process.epoch = Some(epoch);
                    process.next_ms = self.now;
                }
                Ok(())
            }
            Message::ImageTo(node, incarnation, version) => {
                let process = self.processes.get_mut(&node).unwrap();
                if process.incarnation == incarnation {
                    process.applied = process.applied.max(version);
                }
                Ok(())
            }
        }
    }

    /// The quorum decides on a command.
    fn commit(&mut self, command: &Command) {
        let outcome = machine::apply(&mut self.image, command);
        let version = self.image.version() + 1;
        machine::advance(&mut self.image, version);
        if let (Command::RegisterBroker(broker), Ok(crate::metadata::Outcome::BrokerRegistered(epoch))) =
            (command, &outcome)
        {
            let node = broker.node_id.get();
            let incarnation = u64::from_be_bytes(broker.incarnation_id.as_bytes()[8..].try_into().unwrap());
            self.send(200, 10, Message::Registered(node, incarnation, *epoch));
        }
        let is_expected =
            matches!(outcome, Ok(_) | Err(Rejection::StaleBrokerEpoch { .. } | Rejection::UnknownBroker { .. }));
        assert!(is_expected, "{command:?}: {outcome:?}");
        // Images come in order; a controller skips those that are overtaken.
        let image = Arc::new(self.image.clone());
        self.send(100, 0, Message::Image(image));
        for node in 1..=BROKERS {
            let incarnation = self.processes[&node].incarnation;
            self.send(400, 0, Message::ImageTo(node, incarnation, version));
        }
    }

    fn tell(&mut self, event: Event) -> Result<(), String> {
        let Some(controller) = &mut self.controller else { return Ok(()) };
        let heard = match &event {
            Event::Heartbeat(heartbeat) => Some((heartbeat.node_id.get(), heartbeat.broker_epoch)),
            _ => None,
        };
        let actions = controller.handle(at(self.now), event);
        if let (Some((node, epoch)), Some(Action::Reply(HeartbeatReply { is_stale: true, .. }))) =
            (heard, actions.last())
        {
            let process = self.processes.get_mut(&node).unwrap();
            // Whoever is not known under its registration registers again.
            process.epoch = process.epoch.filter(|registered| *registered != epoch);
        }
        for command in commands(&actions) {
            if let Command::FenceBroker { node_id, broker_epoch } = &command {
                let (epoch, told_ms) = self.told_ms[node_id];
                let process = &self.processes[&node_id.get()];
                let is_dead = process.epoch != Some(*broker_epoch);
                let silent_ms = self.now - told_ms;
                ensure!(
                    is_dead || (epoch == *broker_epoch && silent_ms >= SESSION_MS),
                    "broker {node_id} was heard {silent_ms} ms ago, and is fenced at {}",
                    self.now
                );
            }
            let last = self.submitted.iter().rev().find(|(before, _)| *before == command);
            ensure!(
                last.is_none_or(|(_, at_ms)| self.now - at_ms >= RETRY_MS),
                "{command:?} is submitted again at {} without need",
                self.now
            );
            self.submitted.push((command.clone(), self.now));
            self.send(300, 10, Message::Command(command));
        }
        Ok(())
    }

    /// No broker is silent beyond its session and still taken for active.
    fn check_silent(&self) -> Result<(), String> {
        let Some(controller) = &self.controller else { return Ok(()) };
        for broker in self.shown.brokers().filter(|broker| broker.state != BrokerState::Fenced) {
            let Some((epoch, told_ms)) = self.told_ms.get(&broker.node_id) else { continue };
            let fence = Command::FenceBroker { node_id: broker.node_id, broker_epoch: *epoch };
            let was_asked = self.submitted.iter().any(|(command, _)| *command == fence);
            let is_over = self.now - told_ms > SESSION_MS + STEP_MS;
            ensure!(was_asked || !is_over, "broker {} is silent and not fenced: {controller:?}", broker.node_id);
        }
        Ok(())
    }
}

fn broker_of(command: &Command) -> Option<NodeId> {
    match command {
        Command::FenceBroker { node_id, .. } | Command::UnfenceBroker { node_id, .. } => Some(*node_id),
        _ => None,
    }
}

#[test]
fn who_is_heard_in_time_is_never_fenced_and_who_is_not_always_is() {
    let first = number("ALLUVIUM_SIM_SEED", 1);
    for seed in first..first + number("ALLUVIUM_SIM_SEEDS", 30) {
        if let Err(error) = Simulation::new(seed, Planted::Nothing).run() {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn the_checks_find_a_controller_that_is_impatient_or_deaf_or_asleep() {
    for (planted, found) in [
        (Planted::ShortSessions, "is fenced at"),
        (Planted::NoTicks, "is silent and not fenced"),
        (Planted::DeafToHeartbeats, "is fenced at"),
    ] {
        let finds = |seed| Simulation::new(seed, planted).run().is_err_and(|error| error.contains(found));
        assert!((1..10).any(finds), "{planted:?}");
    }
}
