//! Which member of a group should own which partition: a pure function that every process computes for itself.
//!
//! [`roster`](super::roster) says who is a member, [the task of the members](super::Members) acts on what stands here. Processes that
//! disagree would take partitions from each other, so the function is part of the wire format: `docs/wire-format.md`.

/// For each partition the index of the member that should own it; none where there is no member.
///
/// `set` is the key of the set of members, so that groups of one partition do not all choose the same process. `eligible` says
/// whether a member may have a partition. Where nobody may, everybody counts.
///
/// No member has two more than another, as far as eligibility leaves the choice. A member that comes or goes moves little
/// but its own partitions. Every pair of partition and member has a weight that depends on the two alone. Pairs are taken
/// from the heaviest down while the member has room.
pub(super) fn assign(
    set: &str,
    partitions: u32,
    members: &[&str],
    eligible: impl Fn(u32, usize) -> bool,
) -> Vec<Option<usize>> {
    let mut owners = vec![None; partitions as usize];
    if members.is_empty() {
        return owners;
    }
    let mut pairs = Vec::with_capacity(owners.len() * members.len());
    for partition in 0..partitions {
        let mut able: Vec<_> = (0..members.len()).filter(|member| eligible(partition, *member)).collect();
        if able.is_empty() {
            able.extend(0..members.len());
        }
        let choice = able.len();
        pairs.extend(able.into_iter().map(|member| Pair {
            choice,
            weight: weight(set, partition, members[member]),
            partition,
            member,
        }));
    }
    // A partition with little choice comes first: others can go elsewhere.
    pairs.sort_unstable_by_key(|pair| (pair.choice, std::cmp::Reverse(pair.weight), pair.partition, pair.member));
    let (share, mut larger) = (owners.len() / members.len(), owners.len() % members.len());
    let mut load = vec![0; members.len()];
    for pair in &pairs {
        let owner = &mut owners[pair.partition as usize];
        if owner.is_some() || load[pair.member] > share || (load[pair.member] == share && larger == 0) {
            continue;
        }
        larger -= usize::from(load[pair.member] == share);
        load[pair.member] += 1;
        *owner = Some(pair.member);
    }
    // Where no eligible member has room, the partition goes to the eligible one that has the least.
    for partition in 0..partitions {
        if owners[partition as usize].is_none() {
            let able = pairs.iter().filter(|pair| pair.partition == partition);
            let least = able.min_by_key(|pair| (load[pair.member], std::cmp::Reverse(pair.weight), pair.member));
            if let Some(pair) = least {
                load[pair.member] += 1;
                owners[partition as usize] = Some(pair.member);
            }
        }
    }
    owners
}

struct Pair {
    /// How many members may have the partition.
    choice: usize,
    weight: u64,
    partition: u32,
    member: usize,
}

/// How much a partition leans to a member: FNV-1a over the names with a zero byte between them, then the mixer of
/// MurmurHash3. FNV alone leaves the highest bits of similar names alike.
fn weight(set: &str, partition: u32, member: &str) -> u64 {
    let partition = partition.to_string();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in [set, &partition, member].join("\0").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    fn of_all(set: &str, partitions: u32, members: &[&str]) -> Vec<usize> {
        assign(set, partitions, members, |_, _| true).into_iter().map(|owner| owner.unwrap()).collect()
    }

    fn loads(owners: &[usize], members: usize) -> Vec<usize> {
        (0..members).map(|member| owners.iter().filter(|owner| **owner == member).count()).collect()
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        btree_set("[a-c]{1,3}\\.[0-9]{1,5}\\.[0-9a-f]{8}", 1..12).prop_map(|names| names.into_iter().collect())
    }

    fn refs(names: &[String]) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    proptest! {
        #[test]
        fn no_member_has_two_more_than_another(names in names(), partitions in 1_u32..70, set in "[a-z]{1,8}") {
            let loads = loads(&of_all(&set, partitions, &refs(&names)), names.len());
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
        }

        #[test]
        fn the_order_in_which_members_are_listed_does_not_matter(names in names(), partitions in 1_u32..40) {
            let there = refs(&names);
            let back: Vec<_> = there.iter().rev().copied().collect();
            let one: Vec<_> = of_all("s", partitions, &there).into_iter().map(|owner| there[owner]).collect();
            let other: Vec<_> = of_all("s", partitions, &back).into_iter().map(|owner| back[owner]).collect();
            prop_assert_eq!(one, other);
        }

        #[test]
        fn nobody_gets_what_it_may_not_have_while_others_may(
            names in names(),
            partitions in 1_u32..40,
            closed in proptest::collection::vec(any::<bool>(), 40 * 12),
        ) {
            let members = refs(&names);
            let eligible = |partition: u32, member: usize| !closed[partition as usize * 12 + member];
            let owners = assign("s", partitions, &members, eligible);
            for (partition, owner) in (0..partitions).zip(owners) {
                let nobody = (0..members.len()).all(|member| !eligible(partition, member));
                prop_assert!(eligible(partition, owner.unwrap()) || nobody);
            }
        }

        #[test]
        fn excusing_the_owner_of_one_partition_gives_it_to_another(names in names(), partitions in 1_u32..40) {
            let members = refs(&names);
            let before = of_all("s", partitions, &members);
            let after = assign("s", partitions, &members, |partition, member| partition != 0 || member != before[0]);
            prop_assert!(members.len() == 1 || after[0] != Some(before[0]));
        }
    }

    /// How many partitions change their owner when one of so many members leaves, on average, and how many must.
    fn moves(partitions: u32, members: usize) -> (f64, f64) {
        const ROUNDS: usize = 100;
        let (mut moved, mut must) = (0, 0);
        for round in 0..ROUNDS {
            let names: Vec<_> =
                (0..members).map(|n| format!("host-{n}.{}.{:08x}", 100 + n, round * 7919 + n)).collect();
            let (all, set) = (refs(&names), format!("streams:{{s}}:g{round}:members"));
            let left = [&all[..round % members], &all[round % members + 1..]].concat();
            let before = of_all(&set, partitions, &all);
            let after = of_all(&set, partitions, &left);
            must += before.iter().filter(|owner| **owner == round % members).count();
            moved += before.iter().zip(&after).filter(|(before, after)| all[**before] != left[**after]).count();
        }
        (moved as f64 / ROUNDS as f64, must as f64 / ROUNDS as f64)
    }

    #[test]
    fn a_member_that_comes_or_goes_moves_little_else() {
        for (partitions, members) in [(16, 2), (16, 4), (16, 5), (64, 3), (64, 8), (256, 8)] {
            let (moved, must) = moves(partitions, members);
            assert!(moved <= must * 1.75, "{partitions} partitions, {members} members: {moved} moves, {must} needed");
        }
    }

    #[test]
    fn groups_of_one_partition_spread_over_the_members() {
        let members = ["a.1.00000001", "b.2.00000002", "c.3.00000003", "d.4.00000004"];
        let owners: Vec<_> =
            (0..100).map(|n| of_all(&format!("streams:{{trades}}:g{n:02}:members"), 1, &members)[0]).collect();
        assert!(loads(&owners, 4).iter().all(|load| (12..=38).contains(load)), "{:?}", loads(&owners, 4));
    }

    #[test]
    fn the_function_never_changes() {
        // `docs/wire-format.md` says the same: another one would make builds take partitions from each other.
        // Both were computed by a script of a few lines, from that description.
        assert_eq!(weight("streams:{trades}:risk:members", 3, "node-3.4242.8f3a90c1"), 829_427_496_745_068_425);
        let members = ["node-1.10.00000001", "node-2.20.00000002", "node-3.30.00000003"];
        assert_eq!(of_all("streams:{trades}:risk:members", 8, &members), [0, 1, 2, 2, 0, 2, 0, 1]);
    }
}
