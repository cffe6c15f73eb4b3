//! What goes wrong.

use std::time::Duration;

use super::Part;
use super::member::Member;
use super::world::{REPLICAS, World};
use crate::archive::store::simulated::Weather;
use crate::metadata::image::{BrokerState, ReplicaState};

/// Something that is to happen to a broker.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    /// Its process is killed; or, where it is down, it is started.
    Kill(usize),
    CutPower(usize),
    Start(usize),
    /// Its process is killed, and its second data directory is lost.
    LoseSecond(usize),
}

impl World {
    /// What happens in one turn beside what brokers do: what is due, and now and then something new.
    pub(super) fn let_happen(&mut self) {
        for deed in self.scheduled.remove(&self.turns).unwrap_or_default() {
            self.do_now(deed);
        }
        if self.turns.is_multiple_of(64) && self.has_lost && self.is_whole() {
            self.has_lost = false;
        }
        if self.random.below(120) == 0 {
            let at = self.pick(self.members.len());
            self.do_now(Deed::Start(at));
        }
        if self.random.below(150) == 0 {
            self.misfortune();
        }
    }

    fn do_now(&mut self, deed: Deed) {
        tracing::debug!(turn = self.turns, ?deed, "a misfortune");
        match deed {
            Deed::Kill(at) if self.members[at].is_down() => self.start(at),
            Deed::Kill(at) => self.members[at].kill(),
            Deed::CutPower(at) => self.members[at].cut_power(),
            Deed::Start(at) if self.members[at].is_down() => self.start(at),
            Deed::Start(_) => {}
            // Two copies of what was acknowledged can be lost only if one was not made again.
            Deed::LoseSecond(_) if self.has_lost => {}
            Deed::LoseSecond(at) => {
                self.has_lost = true;
                self.members[at].kill();
                self.members[at].lose_second();
            }
        }
    }

    fn schedule(&mut self, after: u64, deed: Deed) {
        let turn = self.turns + 1 + usize::try_from(after).expect("small");
        self.scheduled.entry(turn).or_default().push(deed);
    }

    fn misfortune(&mut self) {
        let at = self.pick(self.members.len());
        let other = self.pick(self.members.len());
        let names = [at, other].map(|at| self.members[at].node.name.clone());
        match self.random.below(24) {
            0..3 => self.do_now(Deed::Kill(at)),
            3..5 => self.do_now(Deed::CutPower(at)),
            5 if self.members[at].is_up() => {
                let changes = self.random.below(300);
                self.members[at].node.machine.disk.cut_power_after(changes);
            }
            6 | 7 => self.network.cut(&names[0], &names[1]),
            8 => {
                self.network.cut(&names[0], &names[1]);
                self.network.cut(&names[1], &names[0]);
            }
            9 => self.isolate(at),
            10 => self.members[at].stalled = self.random.below(3000),
            11 => self.members[at].slow = self.random.below(2000),
            12 => self.members[at].leave(),
            13 => self.trouble_controller(),
            14 => self.end_all(),
            15 => self.do_now(Deed::LoseSecond(at)),
            16 | 17 => self.corner(),
            18 | 19 => self.leave_behind(),
            20 => self.network.reset(&names[0], &names[1]),
            21 => self.draw_conditions(),
            _ => self.heal(),
        }
    }

    fn isolate(&self, at: usize) {
        let name = &self.members[at].node.name;
        for other in self.members.iter().map(|member| &member.node.name) {
            self.network.cut(name, other);
            self.network.cut(other, name);
        }
    }

    pub(super) fn heal(&mut self) {
        let names: Vec<String> = self.members.iter().map(|member| member.node.name.clone()).collect();
        for from in &names {
            names.iter().for_each(|to| self.network.heal(from, to));
        }
    }

    /// The controller moves.
    fn trouble_controller(&mut self) {
        let leads = |member: &Member| member.broker().is_some_and(|broker| broker.metadata.leads());
        let Some(at) = self.members.iter().position(leads) else { return };
        if self.random.chance(50) {
            self.do_now(Deed::Kill(at));
        } else {
            self.isolate(at);
        }
    }

    /// All are killed at once, or lose their power, and come back one after the other.
    fn end_all(&mut self) {
        let by_power = self.random.chance(50);
        for at in 0..self.members.len() {
            if by_power {
                self.do_now(Deed::CutPower(at));
            } else {
                self.members[at].kill();
            }
            let after = self.random.below(300);
            self.schedule(after, Deed::Start(at));
        }
    }

    /// The replicas of some partition, its leader first.
    fn replicas(&mut self) -> Option<[usize; REPLICAS]> {
        let at = self.pick(self.parts.len());
        let id = *self.parts.keys().nth(at).expect("counted");
        let image = self.members.iter().find_map(Member::broker)?.image();
        let partition = image.partition(id)?;
        let leader = partition.leader?;
        let mut nodes: Vec<_> = partition.replica_nodes().collect();
        nodes.sort_by_key(|node_id| *node_id != leader);
        let places = nodes.iter().filter_map(|node_id| self.members.iter().position(|it| it.node_id() == *node_id));
        places.collect::<Vec<_>>().try_into().ok()
    }

    /// A leader is left alone by its followers, and then loses its data: what it had for itself was not acknowledged.
    fn corner(&mut self) {
        let Some([leader, one, other]) = self.replicas() else { return };
        let alone = 300 + self.random.below(700);
        for follower in [one, other] {
            if !self.members[follower].is_down() {
                self.do_now(Deed::Kill(follower));
            }
            let after = self.random.below(200);
            self.schedule(alone + after, Deed::Start(follower));
        }
        self.schedule(alone, Deed::LoseSecond(leader));
        self.schedule(alone + 200, Deed::Start(leader));
    }

    /// A follower misses something, and is the only one that is there afterwards.
    fn leave_behind(&mut self) {
        let Some([leader, one, behind]) = self.replicas() else { return };
        if !self.members[behind].is_down() {
            self.do_now(Deed::Kill(behind));
        }
        let away = 400 + self.random.below(600);
        // It comes back when the others go.
        self.schedule(away, Deed::CutPower(leader));
        self.schedule(away, Deed::CutPower(one));
        self.schedule(away, Deed::Start(behind));
        let later = away + 500 + self.random.below(500);
        self.schedule(later, Deed::Start(one));
        self.schedule(later, Deed::Start(leader));
    }

    /// How fast the network is from now on, and whether the bucket answers.
    fn draw_conditions(&mut self) {
        let most_ms = [1, 1, 20, 150][self.pick(4)];
        self.network.set_delay(Duration::from_micros(100), Duration::from_millis(most_ms));
        let weather = [Weather::default(), Weather { refused: 10, lost: 10, slow: 2, contended: 5 }, Weather::OUTAGE];
        let next = weather[self.pick(3)];
        self.bucket.set_weather(next);
    }

    /// Everything works from now on, as far as the surroundings go.
    pub(super) fn calm(&mut self) {
        self.heal();
        self.network.set_delay(Duration::from_micros(100), Duration::from_millis(1));
        self.bucket.set_weather(Weather::default());
        self.scheduled.clear();
        for member in &mut self.members {
            (member.stalled, member.slow) = (0, 0);
            // No machine is about to lose its power any more.
            member.node.machine.disk.cut_power_after(u64::MAX);
        }
    }

    /// Whether all brokers take part, know the same, and all replicas are in sync.
    pub(super) fn is_whole(&self) -> bool {
        let Some(newest) = self.members[0].broker().map(|broker| broker.image()) else { return false };
        let is_in = |member: &Member| {
            let Some(broker) = member.broker().filter(|_| member.is_up()) else { return false };
            let known = newest.broker(member.node_id());
            let is_active = known.is_some_and(|it| it.epoch == broker.epoch() && it.state == BrokerState::Active);
            is_active && broker.image().version() == newest.version()
        };
        let is_in_sync = |part: &Part| {
            newest.partition(part.id).is_some_and(|partition| {
                let all = partition.replicas.iter().all(|replica| replica.state == ReplicaState::InSync);
                all && partition.leader.is_some() && partition.replicas.len() == REPLICAS
            })
        };
        self.members.iter().all(is_in) && self.parts.values().all(|part| is_in_sync(part))
    }
}
