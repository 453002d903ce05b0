//! /proc/cpuinfo.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::fmt::Write;
use std::sync::OnceLock;

/// Names of bits, lowest first; `-` has none. CPUID 1 EDX.
const LEAF1_EDX: &str = "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe";
/// CPUID 1 ECX.
const LEAF1_ECX: &str = "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor";
/// CPUID 7 EBX.
const LEAF7_EBX: &str = "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl";
/// CPUID 7 ECX.
const LEAF7_ECX: &str = "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 - gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - - cldemote - movdiri movdir64b";
/// CPUID 8000_0001 EDX.
const EXT_EDX: &str =
    "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow";
/// CPUID 8000_0001 ECX.
const EXT_ECX: &str = "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core";

fn flags(out: &mut String, bits: u32, names: &str) {
    for (bit, name) in names.split(' ').take(32).enumerate() {
        if name != "-" && bits >> bit & 1 != 0 {
            let _ = write!(out, " {name}");
        }
    }
}

/// Text of CPUID registers: printable characters only.
fn words(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    let text: String = bytes.map(char::from).filter(|ch| ch.is_ascii_graphic() || *ch == ' ').collect();
    text.trim().to_owned()
}

/// The host's processors, in MHz.
static SPEED: OnceLock<u32> = OnceLock::new();

/// Asks the host how fast its processors are: many don't tell that themselves. Call while /proc is there.
pub fn learn_speed() {
    let speed = || {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
        line.split_once(':')?.1.trim().split('.').next()?.parse().ok()
    };
    SPEED.get_or_init(|| speed().unwrap_or(0));
}

/// Frequency of the time stamp counter, if the processor or its hypervisor tells it.
fn tsc_khz(highest: u32) -> Option<u64> {
    let told = |khz: u64| Some(khz).filter(|khz| *khz != 0);
    if highest >= 0x15 {
        let leaf = __cpuid(0x15);
        let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax.max(1));
        if let Some(khz) = told(hz / 1000) {
            return Some(khz);
        }
    }
    let virtual_machine = __cpuid(1).ecx >> 31 != 0 && __cpuid(0x4000_0000).eax >= 0x4000_0010;
    if virtual_machine { told(__cpuid(0x4000_0010).eax.into()) } else { None }
}

/// The text for this many processors.
pub fn text(processors: usize) -> String {
    let base = __cpuid(0);
    let vendor = words(&[base.ebx, base.edx, base.ecx]);
    let one = __cpuid(1);
    let (family, model) = (one.eax >> 8 & 0xf, one.eax >> 4 & 0xf);
    let model = if family == 6 || family == 15 { model | one.eax >> 12 & 0xf0 } else { model };
    let family = if family == 15 { family + (one.eax >> 20 & 0xff) } else { family };
    let highest = __cpuid(0x8000_0000).eax;
    let name = if highest >= 0x8000_0004 {
        let parts = (0x8000_0002..=0x8000_0004).map(__cpuid);
        words(&parts.flat_map(|part| [part.eax, part.ebx, part.ecx, part.edx]).collect::<Vec<_>>())
    } else {
        "unknown".to_owned()
    };
    let mut features = String::new();
    flags(&mut features, one.edx, LEAF1_EDX);
    if highest >= 0x8000_0001 {
        let extended = __cpuid(0x8000_0001);
        flags(&mut features, extended.edx, EXT_EDX);
        flags(&mut features, extended.ecx, EXT_ECX);
    }
    flags(&mut features, one.ecx, LEAF1_ECX);
    if base.eax >= 7 {
        let seven = __cpuid_count(7, 0);
        flags(&mut features, seven.ebx, LEAF7_EBX);
        flags(&mut features, seven.ecx, LEAF7_ECX);
    }
    let told = if base.eax >= 0x16 { __cpuid(0x16).eax & 0xffff } else { 0 };
    let mhz = if told == 0 { SPEED.get().copied().unwrap_or(0) } else { told };
    let sizes = if highest >= 0x8000_0008 { __cpuid(0x8000_0008).eax } else { 0x3028 };
    // Level 2, in KiB.
    let cache = if highest >= 0x8000_0006 { __cpuid(0x8000_0006).ecx >> 16 } else { 0 };
    let bogomips = tsc_khz(base.eax).unwrap_or(u64::from(mhz) * 1000) / 5;
    let line = (one.ebx >> 8 & 0xff) * 8;

    let mut out = String::new();
    for cpu in 0..processors {
        let _ = write!(out, "processor\t: {cpu}\nvendor_id\t: {vendor}\ncpu family\t: {family}\n");
        let _ = write!(out, "model\t\t: {model}\nmodel name\t: {name}\nstepping\t: {}\n", one.eax & 0xf);
        if mhz != 0 {
            let _ = writeln!(out, "cpu MHz\t\t: {mhz}.000");
        }
        let _ = writeln!(out, "cache size\t: {cache} KB");
        let _ = write!(out, "physical id\t: 0\nsiblings\t: {processors}\ncore id\t\t: {cpu}\n");
        let _ = write!(out, "cpu cores\t: {processors}\napicid\t\t: {cpu}\ninitial apicid\t: {cpu}\n");
        let _ = write!(out, "fpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {}\nwp\t\t: yes\n", base.eax);
        let _ = write!(out, "flags\t\t:{features}\nbugs\t\t:\nbogomips\t: {}.{:02}\n", bogomips / 100, bogomips % 100);
        let _ = write!(out, "clflush size\t: {line}\ncache_alignment\t: {line}\n");
        let (physical, linear) = (sizes & 0xff, sizes >> 8 & 0xff);
        let _ = write!(out, "address sizes\t: {physical} bits physical, {linear} bits virtual\npower management:\n\n");
    }
    out
}
