//! Where replicas are to be, so that brokers have equal shares: a plan made of what a cluster tells. Pure.
//!
//! It goes by steps, of which a later one undoes nothing of an earlier: replicas of a partition are in as many racks as possible;
//! brokers have as many replicas as each other; those with many bytes change them for replicas with few; and then, which costs
//! nothing, leaders are shared out. A replica moves only where that brings one of these further, so that a cluster that is in balance
//! is left as it is, and a plan that was carried out in part is the rest of itself. `rebalance` shows and carries out what is planned.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Brokers differ by so much at least before bytes alone are a reason to move any.
const LEAST_SLACK_BYTES: u64 = 1 << 30;
/// The same as a part of what a broker has on average.
const SLACK_DIVISOR: u64 = 5;
/// Replicas of a broker that are looked at to find two that change places.
const LOOKED_AT: usize = 64;

/// A broker.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it stands.
    pub(super) rack: Option<String>,
    /// It takes part, so that its replicas can move and lead.
    pub(super) is_up: bool,
    /// It may get replicas.
    pub(super) takes: bool,
}

/// A partition, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// The topic's name.
    pub(super) topic: String,
    /// The partition's number.
    pub(super) partition: i32,
    /// Its brokers, preferred leader first.
    pub(super) replicas: Vec<i32>,
    /// What a new replica has to copy: what the leader has on its disk.
    pub(super) bytes: u64,
    /// It is among those whose replicas may move.
    pub(super) may_move: bool,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// The brokers, by number.
    pub(super) nodes: BTreeMap<i32, Node>,
    /// All partitions.
    pub(super) partitions: Vec<Placed>,
}

/// What a broker has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Replicas on it.
    pub(super) replicas: usize,
    /// Partitions that it is to lead.
    pub(super) leaders: usize,
    /// Bytes on its disks.
    pub(super) bytes: u64,
}

/// A partition whose replicas change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Which of the layout's partitions.
    pub(super) index: usize,
    /// Its brokers afterwards.
    pub(super) replicas: Vec<i32>,
    /// Those that it is not on yet.
    pub(super) adds: Vec<i32>,
    /// Those that it is on no more.
    pub(super) drops: Vec<i32>,
}

/// A partition that can't leave a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoPlace {
    /// Which of the layout's partitions.
    pub(super) index: usize,
    /// Brokers that could hold it.
    pub(super) brokers: usize,
}

/// Equal shares for all.
pub(super) fn balanced(layout: &Layout) -> Vec<Change> {
    let mut planner = Planner::new(layout);
    loop {
        // Each step makes something better and nothing worse that an earlier one is for, so that this ends.
        let replaced = planner.replaced;
        planner.spread_over_racks();
        planner.level_replicas();
        planner.level_bytes();
        if planner.replaced == replaced {
            break;
        }
    }
    let all: Vec<usize> = (0..layout.partitions.len()).filter(|index| layout.partitions[*index].may_move).collect();
    planner.level_leaders(&all);
    planner.changes()
}

/// A broker without any replica. Nothing else moves.
pub(super) fn drained(layout: &Layout, node: i32) -> Result<Vec<Change>, NoPlace> {
    let mut planner = Planner::new(layout);
    let leaving: Vec<usize> = planner.on.get(&node).into_iter().flatten().copied().collect();
    // The largest first: there is most room for choice.
    let mut by_size = leaving.clone();
    by_size.sort_by_key(|index| std::cmp::Reverse(layout.partitions[*index].bytes));
    for index in by_size {
        let to = planner.best_place(index, node).ok_or_else(|| {
            let brokers = layout.nodes.iter().filter(|(id, other)| other.takes && **id != node).count();
            NoPlace { index, brokers }
        })?;
        planner.replace(index, node, to);
    }
    planner.level_leaders(&leaving);
    Ok(planner.changes())
}

/// What each broker has, with some changes made.
pub(super) fn loads(layout: &Layout, changes: &[Change]) -> BTreeMap<i32, Load> {
    let mut planner = Planner::new(layout);
    for change in changes {
        planner.replicas[change.index].clone_from(&change.replicas);
    }
    planner.count();
    planner.loads
}

struct Planner<'a> {
    layout: &'a Layout,
    replicas: Vec<Vec<i32>>,
    loads: BTreeMap<i32, Load>,
    /// Those that may move, by broker.
    on: BTreeMap<i32, BTreeSet<usize>>,
    /// Replicas of a topic on a broker.
    of_topics: BTreeMap<(&'a str, i32), usize>,
    /// How many replicas were put elsewhere.
    replaced: usize,
}

impl<'a> Planner<'a> {
    fn new(layout: &'a Layout) -> Self {
        let replicas = layout.partitions.iter().map(|partition| partition.replicas.clone()).collect();
        let (loads, on, of_topics) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut planner = Self { layout, replicas, loads, on, of_topics, replaced: 0 };
        planner.count();
        planner
    }

    fn count(&mut self) {
        self.loads = self.layout.nodes.keys().map(|id| (*id, Load::default())).collect();
        self.on.clear();
        self.of_topics.clear();
        for (index, placed) in self.layout.partitions.iter().enumerate() {
            for node in &self.replicas[index] {
                let load = self.loads.entry(*node).or_default();
                load.replicas += 1;
                load.bytes += placed.bytes;
                *self.of_topics.entry((&*placed.topic, *node)).or_default() += 1;
                if placed.may_move {
                    self.on.entry(*node).or_default().insert(index);
                }
            }
            if let Some(first) = self.replicas[index].first() {
                self.loads.entry(*first).or_default().leaders += 1;
            }
        }
    }

    fn load(&self, node: i32) -> Load {
        self.loads.get(&node).copied().unwrap_or_default()
    }

    fn of_topic(&self, index: usize, node: i32) -> usize {
        self.of_topics.get(&(&*self.layout.partitions[index].topic, node)).copied().unwrap_or(0)
    }

    fn is_up(&self, node: i32) -> bool {
        self.layout.nodes.get(&node).is_some_and(|node| node.is_up)
    }

    fn takers(&self) -> impl Iterator<Item = i32> {
        self.layout.nodes.iter().filter(|(_, node)| node.takes).map(|(id, _)| *id)
    }

    /// Racks that a partition is in, with one replica in place of another.
    fn racks(&self, index: usize, from: i32, to: i32) -> usize {
        let ids = self.replicas[index].iter().map(|id| if *id == from { to } else { *id });
        let racks = ids.map(|id| self.layout.nodes.get(&id).and_then(|node| node.rack.as_deref()));
        racks.collect::<BTreeSet<_>>().len()
    }

    fn keeps_racks(&self, index: usize, from: i32, to: i32) -> bool {
        self.racks(index, from, to) >= self.racks(index, from, from)
    }

    /// Puts a replica on another broker, in the same place of the order.
    fn replace(&mut self, index: usize, from: i32, to: i32) {
        let placed = &self.layout.partitions[index];
        let place = self.replicas[index].iter().position(|id| *id == from).expect("it is on the broker that it leaves");
        assert!(!self.replicas[index].contains(&to), "a partition has one replica on a broker: {placed:?} {to}");
        self.replicas[index][place] = to;
        self.replaced += 1;
        let leads = usize::from(place == 0);
        let left = self.loads.entry(from).or_default();
        (left.replicas, left.leaders, left.bytes) =
            (left.replicas - 1, left.leaders - leads, left.bytes - placed.bytes);
        let entered = self.loads.entry(to).or_default();
        (entered.replicas, entered.leaders, entered.bytes) =
            (entered.replicas + 1, entered.leaders + leads, entered.bytes + placed.bytes);
        *self.of_topics.entry((&*placed.topic, from)).or_default() -= 1;
        *self.of_topics.entry((&*placed.topic, to)).or_default() += 1;
        self.on.entry(from).or_default().remove(&index);
        self.on.entry(to).or_default().insert(index);
    }

    /// The broker that is to have a replica that leaves another.
    fn best_place(&self, index: usize, from: i32) -> Option<i32> {
        let free = self.takers().filter(|id| *id != from && !self.replicas[index].contains(id));
        free.min_by_key(|to| {
            let Load { replicas, bytes, .. } = self.load(*to);
            (std::cmp::Reverse(self.racks(index, from, *to)), replicas, self.of_topic(index, *to), bytes, *to)
        })
    }

    fn spread_over_racks(&mut self) {
        for index in 0..self.replicas.len() {
            if self.layout.partitions[index].may_move {
                while self.spread(index) {}
            }
        }
    }

    /// Moves one replica into a rack that the partition is not in; tells whether there was one.
    fn spread(&mut self, index: usize) -> bool {
        let from = self.replicas[index].iter().copied().filter(|id| self.is_up(*id));
        let pairs = from.filter_map(|from| Some((from, self.best_place(index, from)?)));
        let better = pairs.filter(|(from, to)| self.racks(index, *from, *to) > self.racks(index, *from, *from));
        let best = better.min_by_key(|(from, to)| {
            let place = self.replicas[index].iter().position(|id| id == from);
            (std::cmp::Reverse(self.load(*from).replicas), self.load(*to).replicas, std::cmp::Reverse(place))
        });
        if let Some((from, to)) = best {
            self.replace(index, from, to);
        }
        best.is_some()
    }

    fn level_replicas(&mut self) {
        while let Some((index, from, to)) = self.next_to_level() {
            self.replace(index, from, to);
        }
    }

    /// A replica that goes from a broker with many to one with few.
    fn next_to_level(&self) -> Option<(usize, i32, i32)> {
        let mut from: Vec<i32> = self.layout.nodes.keys().copied().filter(|id| self.is_up(*id)).collect();
        from.sort_by_key(|id| std::cmp::Reverse(self.load(*id).replicas));
        let mut to: Vec<i32> = self.takers().collect();
        to.sort_by_key(|id| self.load(*id).replicas);
        let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
        let mut uneven = pairs.filter(|(from, to)| self.load(*from).replicas >= self.load(*to).replicas + 2);
        uneven.find_map(|(from, to)| Some((self.best_to_level(from, to)?, from, to)))
    }

    /// Of the topic that is shared most unevenly, what brings the bytes closest together.
    fn best_to_level(&self, from: i32, to: i32) -> Option<usize> {
        let gap = i128::from(self.load(from).bytes) - i128::from(self.load(to).bytes);
        let able = self.on.get(&from)?.iter().copied();
        let able = able.filter(|index| !self.replicas[*index].contains(&to) && self.keeps_racks(*index, from, to));
        able.min_by_key(|index| {
            let bytes = self.layout.partitions[*index].bytes;
            let shared = self.of_topic(*index, to) as i128 - self.of_topic(*index, from) as i128;
            (shared, (gap - 2 * i128::from(bytes)).abs(), bytes, *index)
        })
    }

    fn level_bytes(&mut self) {
        let up: Vec<i32> = self.layout.nodes.keys().copied().filter(|id| self.is_up(*id)).collect();
        let total: u64 = up.iter().map(|id| self.load(*id).bytes).sum();
        let slack = (total / (up.len() as u64).max(1) / SLACK_DIVISOR).max(LEAST_SLACK_BYTES);
        loop {
            let Some(from) = up.iter().copied().max_by_key(|id| self.load(*id).bytes) else { return };
            let Some(to) = self.takers().min_by_key(|id| self.load(*id).bytes) else { return };
            let gap = self.load(from).bytes.saturating_sub(self.load(to).bytes);
            if gap <= slack {
                return;
            }
            let Some((index, back)) = self.best_exchange(from, to, gap, slack) else { return };
            self.replace(index, from, to);
            if let Some(back) = back {
                self.replace(back, to, from);
            }
        }
    }

    /// What goes from the broker with most bytes to the one with fewest, and what comes back for it.
    fn best_exchange(&self, from: i32, to: i32, gap: u64, slack: u64) -> Option<(usize, Option<usize>)> {
        let bytes = |index: usize| self.layout.partitions[index].bytes;
        let mut large = self.able(from, to);
        large.sort_by_key(|index| (std::cmp::Reverse(bytes(*index)), *index));
        large.truncate(LOOKED_AT);
        let comes_back = self.layout.nodes.get(&from).is_some_and(|node| node.takes) && self.is_up(to);
        let mut small = if comes_back { self.able(to, from) } else { Vec::new() };
        small.sort_by_key(|index| (bytes(*index), *index));
        small.truncate(LOOKED_AT);
        let may_go_alone = self.load(from).replicas > self.load(to).replicas;
        let backs = small.into_iter().map(Some).chain(may_go_alone.then_some(None));
        let backs: Vec<Option<usize>> = backs.collect();
        let pairs = large.iter().flat_map(|index| backs.iter().map(|back| (*index, *back)));
        let scored = pairs.filter_map(|(index, back)| {
            let back_bytes = back.map_or(0, bytes);
            let moved = bytes(index).checked_sub(back_bytes).filter(|moved| *moved > 0 && *moved < gap)?;
            let left = gap.abs_diff(moved.saturating_mul(2));
            // It has to be worth the copying.
            (gap.saturating_sub(left) >= slack / 2).then_some((left, bytes(index) + back_bytes, index, back))
        });
        scored.min().map(|(_, _, index, back)| (index, back))
    }

    fn able(&self, from: i32, to: i32) -> Vec<usize> {
        let on = self.on.get(&from).into_iter().flatten().copied();
        on.filter(|index| !self.replicas[*index].contains(&to) && self.keeps_racks(*index, from, to)).collect()
    }

    /// Shares out who is preferred to lead some partitions, by the order of their replicas alone.
    fn level_leaders(&mut self, some: &[usize]) {
        let mut ways = Ways::default();
        some.iter().for_each(|index| ways.insert(*index, &self.replicas[*index]));
        while let Some(path) = self.way_to_level(&ways) {
            for (from, to) in path.iter().zip(&path[1..]) {
                let index = ways.first(*from, *to).expect("the way leads over a partition");
                ways.remove(index, &self.replicas[index]);
                let place = self.replicas[index].iter().position(|id| id == to).expect("it is on both brokers");
                self.replicas[index].swap(0, place);
                ways.insert(index, &self.replicas[index]);
                self.loads.entry(*from).or_default().leaders -= 1;
                self.loads.entry(*to).or_default().leaders += 1;
            }
        }
    }

    /// Brokers of which each hands one partition to the next, from one that leads many to one that leads few.
    fn way_to_level(&self, ways: &Ways) -> Option<Vec<i32>> {
        let mut from: Vec<i32> = self.loads.keys().copied().filter(|id| self.is_up(*id)).collect();
        from.sort_by_key(|id| std::cmp::Reverse(self.load(*id).leaders));
        from.into_iter().find_map(|from| {
            let mut came_from = BTreeMap::from([(from, from)]);
            let mut queue = VecDeque::from([from]);
            while let Some(at) = queue.pop_front() {
                for to in ways.heirs(at).filter(|to| self.is_up(*to)) {
                    if came_from.contains_key(&to) {
                        continue;
                    }
                    came_from.insert(to, at);
                    queue.push_back(to);
                }
            }
            let fewest = came_from.keys().copied().min_by_key(|id| self.load(*id).leaders)?;
            if self.load(from).leaders < self.load(fewest).leaders + 2 {
                return None;
            }
            let mut path = vec![fewest];
            while path.last() != Some(&from) {
                path.extend(path.last().and_then(|at| came_from.get(at)));
            }
            path.reverse();
            Some(path)
        })
    }

    fn changes(&self) -> Vec<Change> {
        let all = self.layout.partitions.iter().zip(&self.replicas).enumerate();
        let changed = all.filter(|(_, (before, after))| before.replicas != **after);
        let change = |(index, (before, after)): (usize, (&Placed, &Vec<i32>))| {
            let only = |these: &[i32], those: &[i32]| these.iter().copied().filter(|id| !those.contains(id)).collect();
            let (adds, drops) = (only(after, &before.replicas), only(&before.replicas, after));
            Change { index, replicas: after.clone(), adds, drops }
        };
        changed.map(change).collect()
    }
}

/// Partitions by who is preferred to lead them and who else could be.
#[derive(Default)]
struct Ways(BTreeMap<i32, BTreeMap<i32, BTreeSet<usize>>>);

impl Ways {
    fn insert(&mut self, index: usize, replicas: &[i32]) {
        let Some((first, others)) = replicas.split_first() else { return };
        for other in others {
            self.0.entry(*first).or_default().entry(*other).or_default().insert(index);
        }
    }

    fn remove(&mut self, index: usize, replicas: &[i32]) {
        let Some((first, others)) = replicas.split_first() else { return };
        for other in others {
            self.0.entry(*first).or_default().entry(*other).or_default().remove(&index);
        }
    }

    /// Those that could lead something in a broker's place.
    fn heirs(&self, node: i32) -> impl Iterator<Item = i32> {
        let to = self.0.get(&node).into_iter().flatten();
        to.filter(|(_, partitions)| !partitions.is_empty()).map(|(to, _)| *to)
    }

    fn first(&self, from: i32, to: i32) -> Option<usize> {
        self.0.get(&from)?.get(&to)?.first().copied()
    }
}

#[cfg(test)]
mod tests;
