//! Which rows of a step look at which keys together, and which of these sets are computed side by side.

use std::ops::Range;

use super::super::batch::Row;
use super::super::blocks::BLOCK;
use super::super::sequence::Sequence;

/// What attention's cost and sight follow from.
pub(super) struct Reach {
    /// Number of query heads.
    pub(super) heads: usize,
    /// Elements of a position's keys in a layer.
    pub(super) kv_width: usize,
    /// Keys that a position sees, itself included, where not all.
    pub(super) window: Option<usize>,
}

/// Scores, or elements of keys, that are computed at once at most: about a gigabyte in `f32`.
const AT_ONCE: usize = 1 << 28;

/// Sequences that look at keys together at most.
const MEMBERS: usize = 64;

/// Cost of going through the kernels once more, in keys times rows.
const CALL: usize = 1 << 19;

/// Rows with the keys that any of them sees: those that members share, then each member's own.
pub(super) struct Cluster {
    /// Positions of the first member's sequence, which are the others' too.
    shared: Range<usize>,
    members: Vec<Member>,
}

/// Neighbouring rows of a sequence.
struct Member {
    sequence: usize,
    rows: Range<usize>,
    /// Positions of the sequence after those that are shared.
    own: Range<usize>,
}

impl Reach {
    /// The first position that is seen from one.
    fn first(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Splits rows into clusters: next rows of sequences with at least half of their keys in common look at them together,
    /// as siblings at their prompt's; other sequences are by themselves.
    pub(super) fn clusters(&self, rows: &[Row], sequences: &[Sequence]) -> Vec<Cluster> {
        let mut clusters: Vec<Cluster> = Vec::new();
        let mut start = 0;
        while start < rows.len() {
            let Row { sequence, position } = rows[start];
            let same = rows[start..].iter().take_while(|row| row.sequence == sequence).count();
            let last = rows[start + same - 1].position;
            let most = (AT_ONCE / (self.heads * (last + 1))).max(1);
            let end = start + same.min(most);
            let own = self.first(position)..rows[end - 1].position + 1;
            let member = Member { sequence, rows: start..end, own };
            start = end;
            let member = match clusters.last_mut() {
                Some(cluster) => cluster.join(member, sequences),
                None => Some(member),
            };
            clusters.extend(member.map(|member| Cluster { shared: 0..0, members: vec![member] }));
        }
        clusters
    }

    /// Indices of clusters that are computed side by side, as long and as high as the largest of them: together as long as
    /// what is filled up costs less than another call.
    pub(super) fn bins(&self, clusters: &[Cluster]) -> Vec<Vec<usize>> {
        let cost = |(rows, keys): (usize, usize)| keys * (rows + 64);
        let mut by_size: Vec<usize> = (0..clusters.len()).collect();
        by_size.sort_by_key(|&index| std::cmp::Reverse((clusters[index].rows().count(), clusters[index].keys())));
        let mut bins: Vec<Vec<usize>> = Vec::new();
        let (mut most, mut filled) = ((0, 0), 0);
        for index in by_size {
            let (rows, keys) = (clusters[index].rows().count(), clusters[index].keys());
            if let Some(bin) = bins.last_mut() {
                let (count, larger) = (bin.len() + 1, (rows.max(most.0), keys.max(most.1)));
                let worth = count * cost(larger) <= 2 * (filled + cost((rows, keys))) + CALL;
                if worth && count * larger.1 * (larger.0 * self.heads).max(self.kv_width) <= AT_ONCE {
                    bin.push(index);
                    (most, filled) = (larger, filled + cost((rows, keys)));
                    continue;
                }
            }
            bins.push(vec![index]);
            (most, filled) = ((rows, keys), cost((rows, keys)));
        }
        bins
    }
}

impl Cluster {
    /// Numbers of the rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = usize> {
        self.members.iter().flat_map(|member| member.rows.clone())
    }

    /// How many keys there are.
    pub(super) fn keys(&self) -> usize {
        self.shared.len() + self.members.iter().map(|member| member.own.len()).sum::<usize>()
    }

    /// Takes a sequence's next row in if it belongs here, or hands it back.
    fn join(&mut self, mut member: Member, sequences: &[Sequence]) -> Option<Member> {
        let first = &self.members[0];
        if member.rows.len() > 1 || first.rows.len() > 1 || first.sequence == member.sequence {
            return Some(member);
        }
        let blocks = |member: &Member| sequences[member.sequence].blocks.iter().map(|block| block.number);
        // What is written in this step is no sequence's but its own, so that these are earlier positions of both.
        let common = blocks(first).zip(blocks(&member)).take_while(|(a, b)| a == b).count() * BLOCK;
        let fits = match self.members.len() {
            1 => common > first.own.start.max(member.own.start),
            MEMBERS.. => false,
            _ => common >= self.shared.end,
        };
        let end = if self.members.len() == 1 { common } else { self.shared.end };
        if !fits || 2 * end.saturating_sub(member.own.start) < member.own.len() {
            return Some(member);
        }
        let first = &mut self.members[0];
        if self.shared.is_empty() {
            self.shared = first.own.start..end;
            first.own.start = end;
        }
        self.shared.start = self.shared.start.min(member.own.start);
        member.own.start = member.own.start.max(end);
        self.members.push(member);
        None
    }

    /// The slots of the keys, in order.
    pub(super) fn slots(&self, sequences: &[Sequence]) -> impl Iterator<Item = u32> {
        let shared = (self.members[0].sequence, self.shared.clone());
        let own = self.members.iter().map(|member| (member.sequence, member.own.clone()));
        std::iter::once(shared)
            .chain(own)
            .flat_map(move |(sequence, positions)| positions.map(move |position| slot(&sequences[sequence], position)))
    }

    /// For each row in order, which of the keys it sees, as ranges of their indices.
    pub(super) fn sight(&self, rows: &[Row], reach: &Reach) -> Vec<[Range<usize>; 2]> {
        let mut sight = Vec::new();
        let mut before = self.shared.len();
        for member in &self.members {
            for row in &rows[member.rows.clone()] {
                let seen = reach.first(row.position)..row.position + 1;
                let within = |positions: &Range<usize>, offset: usize| {
                    let [start, end] = [seen.start, seen.end].map(|x| x.clamp(positions.start, positions.end));
                    start - positions.start + offset..end - positions.start + offset
                };
                sight.push([within(&self.shared, 0), within(&member.own, before)]);
            }
            before += member.own.len();
        }
        sight
    }
}

/// The slot of a position's keys and values in the cache.
pub(super) fn slot(sequence: &Sequence, position: usize) -> u32 {
    sequence.blocks[position / BLOCK].number * BLOCK as u32 + (position % BLOCK) as u32
}
