//! What benches measure with, and sections of docs/BENCHMARKS.md, each written by the bench that
//! measured it.

use std::fs;

use crate::worker::repository;

/// Date, cores, what the CPU computes in hardware, and how this was built.
pub fn machine() -> String {
    let known = [
        ("avx2", "AVX2"),
        ("avx512f", "AVX-512"),
        ("avx512_vnni", "VNNI"),
        ("avx512_bf16", "BF16"),
        ("amx_tile", "AMX"),
    ];
    let features: Vec<&str> = known.iter().filter(|(flag, _)| cpu_has(flag)).map(|(_, name)| *name).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    format!(
        "{date}, {cores} cores of {} ({}), built in the {profile} profile",
        of_cpu("model name"),
        features.join(", ")
    )
}

/// Whether the first core's flags in /proc/cpuinfo, such as `avx512_bf16`, have this one.
pub fn cpu_has(flag: &str) -> bool {
    of_cpu("flags").split(' ').any(|given| given == flag)
}

/// What /proc/cpuinfo says of the first core; empty where it says nothing.
fn of_cpu(key: &str) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = cpu.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// Seconds of CPU that this process has used, on all its threads.
///
/// # Panics
/// Where there is no Linux.
pub fn cpu_s() -> f64 {
    cpu_s_of("self")
}

/// The same of another process, by its number.
///
/// # Panics
/// When it has ended.
pub fn cpu_s_of(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux has it");
    // The name before the last parenthesis may hold spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    // proc(5): utime and stime are fields 14 and 15; Linux counts them in hundredths.
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number"));
    ticks.sum::<f64>() / 100.0
}

/// Seconds of CPU that a process has used, on its threads whose names begin with `name`.
///
/// # Panics
/// When it has ended.
pub fn cpu_s_of_threads(process: u32, name: &str) -> f64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs").flatten();
    let read = |thread: &fs::DirEntry, file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
    let of_name = threads.filter(|thread| read(thread, "comm").starts_with(name));
    // Documentation/scheduler/sched-stats of Linux: the first field is nanoseconds on a CPU.
    let on_cpu = |thread| read(&thread, "schedstat").split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
    of_name.filter_map(on_cpu).sum::<f64>() / 1e9
}

/// Replaces the section between this name's markers, or adds it at the end.
///
/// # Panics
/// When the page can't be written.
pub fn write_section(name: &str, section: &str) {
    let path = repository().join("docs/BENCHMARKS.md");
    let page = fs::read_to_string(&path).unwrap_or_else(|_| "# Benchmarks\n".to_owned());
    fs::write(path, replaced(&page, name, section)).expect("docs is writable");
}

fn replaced(page: &str, name: &str, section: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->\n"));
    let section = format!("{begin}{}\n{end}", section.trim_end());
    match (page.find(&begin), page.find(&end)) {
        (Some(from), Some(to)) if from < to => format!("{}{section}{}", &page[..from], &page[to + end.len()..]),
        _ => format!("{}\n\n{section}", page.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_added_once_and_then_replaced() {
        let one = replaced("# Benchmarks\n", "a", "first\n");
        let two = replaced(&one, "b", "other");
        let again = replaced(&two, "a", "second");
        assert_eq!(
            again,
            "# Benchmarks\n\n<!-- a: begin -->\nsecond\n<!-- a: end -->\n\n<!-- b: begin -->\nother\n<!-- b: end -->\n"
        );
    }
}
