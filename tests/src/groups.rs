//! The names of a hundred groups, for what is promised of a hundred groups in one process; and thousands of groups.

use streams_runtime::{ConsumerInfo, Registration};

/// The consumer, once for each of so many groups: `name-0`, `name-1` and so on. Their names stay in memory.
pub fn in_groups(consumer: Registration, count: usize) -> Vec<Registration> {
    let of_group = |n| {
        let group = String::leak(format!("{}-{n}", consumer.info.name));
        let mut one = consumer;
        one.info = Box::leak(Box::new(ConsumerInfo { group, ..*consumer.info }));
        one
    };
    (0..count).map(of_group).collect()
}

/// Calls a macro with a hundred pairs of an identifier and a group's name, the same in both.
#[macro_export]
macro_rules! hundred_groups {
    ($make:ident) => {
        $make! {
            g00 "g00" g01 "g01" g02 "g02" g03 "g03" g04 "g04"
            g05 "g05" g06 "g06" g07 "g07" g08 "g08" g09 "g09"
            g10 "g10" g11 "g11" g12 "g12" g13 "g13" g14 "g14"
            g15 "g15" g16 "g16" g17 "g17" g18 "g18" g19 "g19"
            g20 "g20" g21 "g21" g22 "g22" g23 "g23" g24 "g24"
            g25 "g25" g26 "g26" g27 "g27" g28 "g28" g29 "g29"
            g30 "g30" g31 "g31" g32 "g32" g33 "g33" g34 "g34"
            g35 "g35" g36 "g36" g37 "g37" g38 "g38" g39 "g39"
            g40 "g40" g41 "g41" g42 "g42" g43 "g43" g44 "g44"
            g45 "g45" g46 "g46" g47 "g47" g48 "g48" g49 "g49"
            g50 "g50" g51 "g51" g52 "g52" g53 "g53" g54 "g54"
            g55 "g55" g56 "g56" g57 "g57" g58 "g58" g59 "g59"
            g60 "g60" g61 "g61" g62 "g62" g63 "g63" g64 "g64"
            g65 "g65" g66 "g66" g67 "g67" g68 "g68" g69 "g69"
            g70 "g70" g71 "g71" g72 "g72" g73 "g73" g74 "g74"
            g75 "g75" g76 "g76" g77 "g77" g78 "g78" g79 "g79"
            g80 "g80" g81 "g81" g82 "g82" g83 "g83" g84 "g84"
            g85 "g85" g86 "g86" g87 "g87" g88 "g88" g89 "g89"
            g90 "g90" g91 "g91" g92 "g92" g93 "g93" g94 "g94"
            g95 "g95" g96 "g96" g97 "g97" g98 "g98" g99 "g99"
        }
    };
}
