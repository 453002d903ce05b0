//! What /proc says of address spaces.

use std::fmt::Write;

use abi::{SysResult, c};
use mm::{MapInfo, Residency, Usage};
use usermem::PAGE_SIZE;

use crate::Proc;
use crate::process::View;

/// Sums of the address space, if there is one.
pub fn usage(view: &View) -> Option<Usage> {
    view.mm().map(|mm| mm.usage())
}

pub fn map_lines(view: &View) -> Vec<MapInfo> {
    let mut lines = view.mm().map(|mm| mm.maps()).unwrap_or_default();
    lines.sort_by_key(|line| line.range.start);
    lines
}

/// The lines of `status` that begin with Vm.
pub fn status_lines(view: &View) -> String {
    let mut text = String::new();
    let Some(usage) = usage(view) else { return text };
    let exe = view.mm().map(|mm| mm.info.lock().exe.clone()).unwrap_or_default();
    let own = |map: &MapInfo| map.name.as_bytes() == exe && map.prot.bits() & 4 != 0;
    let code = map_lines(view).iter().filter(|map| own(map)).fold(0u64, |sum, map| sum + (map.range.end - map.range.start));
    let totals = usage.totals;
    let lines = [
        ("VmPeak", usage.peak),
        ("VmSize", totals.all),
        ("VmLck", totals.locked),
        ("VmPin", 0),
        ("VmHWM", usage.resident_peak),
        ("VmRSS", usage.resident()),
        ("RssAnon", usage.anonymous),
        ("RssFile", usage.file),
        ("RssShmem", usage.shared),
        ("VmData", totals.data),
        ("VmStk", totals.stack),
        ("VmExe", code),
        ("VmLib", totals.exec.saturating_sub(code)),
        // What the host's page tables need, roughly: a page of them for 2 MiB.
        ("VmPTE", (usage.resident() >> 21 << 12) + PAGE_SIZE),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ];
    for (name, bytes) in lines {
        let _ = writeln!(text, "{name}:\t{:>8} kB", bytes / 1024);
    }
    text
}

pub fn statm(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let usage = usage(view).unwrap_or_default();
    let pages = |bytes: u64| bytes / PAGE_SIZE;
    let (size, resident) = (pages(usage.totals.all), pages(usage.resident()));
    let shared = pages(usage.file.saturating_add(usage.shared));
    let (text, data) = (pages(usage.totals.exec), pages(usage.totals.data.saturating_add(usage.totals.stack)));
    Ok(format!("{size} {resident} {shared} {text} 0 {data} 0\n").into_bytes())
}

/// A line of maps, as smaps has it too.
fn header(map: &MapInfo) -> String {
    let bits = map.prot.bits();
    let letter = |bit: u32, letter: char| if bits & bit != 0 { letter } else { '-' };
    let (r, w, x) = (letter(1, 'r'), letter(2, 'w'), letter(4, 'x'));
    let shared = if map.shared { 's' } else { 'p' };
    let (major, minor) = (c::major(map.dev), c::minor(map.dev));
    let line = format!(
        "{:08x}-{:08x} {r}{w}{x}{shared} {:08x} {major:02x}:{minor:02x} {} ",
        map.range.start, map.range.end, map.offset, map.ino
    );
    let name = map.name.replace('\n', "\\012");
    if name.is_empty() { format!("{line}\n") } else { format!("{line:<73}{name}\n") }
}

pub fn maps(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    Ok(map_lines(view).iter().map(header).collect::<String>().into_bytes())
}

/// The numbers below a header of smaps.
fn numbers(text: &mut String, sum: &Residency, one: bool) {
    let lines = [
        ("Rss", sum.resident),
        ("Pss", sum.proportional),
        ("Pss_Dirty", sum.private_dirty.saturating_add(sum.shared_dirty)),
        ("Shared_Clean", sum.shared_clean),
        ("Shared_Dirty", sum.shared_dirty),
        ("Private_Clean", sum.private_clean),
        ("Private_Dirty", sum.private_dirty),
        ("Referenced", sum.resident),
        ("Anonymous", sum.anonymous),
        ("KSM", 0),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", sum.locked),
    ];
    for (name, bytes) in lines {
        let name = format!("{name}:");
        let _ = writeln!(text, "{name:<16}{:>8} kB", bytes / 1024);
    }
    if one {
        text.push_str("THPeligible:           0\n");
    }
}

fn sorted(view: &View) -> Vec<(MapInfo, Residency)> {
    let mut all = view.mm().map(|mm| mm.smaps()).unwrap_or_default();
    all.sort_by_key(|(map, _)| map.range.start);
    all
}

/// Mappings with their memory policies and pages (numa(7)): there is one node.
pub fn numa_maps(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let mut text = String::new();
    for (map, sum) in sorted(view) {
        let _ = write!(text, "{:08x} default", map.range.start);
        if map.name.starts_with('/') {
            let _ = write!(text, " file={}", map.name.replace(' ', "\\040").replace('\n', "\\012"));
        } else if map.name == "[heap]" {
            text.push_str(" heap");
        } else if map.name == "[stack]" {
            text.push_str(" stack");
        }
        let (anonymous, all) = (sum.anonymous / PAGE_SIZE, sum.resident / PAGE_SIZE);
        if anonymous > 0 {
            let _ = write!(text, " anon={anonymous} dirty={anonymous}");
        }
        if all > anonymous {
            let _ = write!(text, " mapped={}", all - anonymous);
        }
        if all > 0 {
            let _ = write!(text, " N0={all} kernelpagesize_kB=4");
        }
        text.push('\n');
    }
    Ok(text.into_bytes())
}

pub fn smaps(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let mut text = String::new();
    for (map, sum) in sorted(view) {
        text.push_str(&header(&map));
        let size = map.range.end.saturating_sub(map.range.start) / 1024;
        let _ = writeln!(text, "Size:           {size:>8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB");
        numbers(&mut text, &sum, true);
        let _ = writeln!(text, "VmFlags: {} ", map.flags);
    }
    Ok(text.into_bytes())
}

pub fn smaps_rollup(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let all = sorted(view);
    let mut text = String::new();
    if let (Some((first, _)), Some((last, _))) = (all.first(), all.last()) {
        let line = format!("{:08x}-{:08x} ---p 00000000 00:00 0 ", first.range.start, last.range.end);
        let _ = writeln!(text, "{line:<73}[rollup]");
        let mut sum = Residency::default();
        all.iter().for_each(|(_, one)| sum.add(one));
        numbers(&mut text, &sum, false);
    }
    Ok(text.into_bytes())
}
