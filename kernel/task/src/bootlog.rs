//! What dmesg(1) shows at first.

use klog::Log;

/// A dozen of these make a boot.
const JOKES: &[&str] = &[
    "Teaching penguins to keep their flippers to themselves...",
    "Counting the fence posts, twice...",
    "Asking the host for permission to ignore it...",
    "Polishing the drawbridge...",
    "Feeding the crocodiles in the moat...",
    "Replacing all doors with walls that have good manners...",
    "Synchronizing alibis across CPUs...",
    "Putting a sentry in the sentry box...",
    "Rehearsing 'you shall not pass' in front of a mirror...",
    "Sharpening the stakes, politely...",
    "Hiding the host behind a very large curtain...",
    "Reading the system call table bedtime stories...",
    "Convincing bits that they are free range...",
    "Drawing straws for pid 1...",
    "Defusing fork bombs, one spoon at a time...",
    "Looking for the any key...",
    "Watering the page trees...",
    "Telling the scheduler that everyone is special...",
    "Returning borrowed interrupts to their owners...",
    "Checking under the bed for kernel modules...",
];

/// Writes a boot log: a dozen lines with rising times, the last one `Ready!`.
pub fn write(release: &str, log: &Log) {
    let mut seed = [0; 64];
    // Without randomness the log is the same each time: no harm.
    let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    let mut left = JOKES.to_vec();
    let mut micros = 0u64;
    log.append(0, klog::INFO, 0, format!("Palisade {release}: starting").as_bytes());
    for pair in seed.chunks_exact(4).take(11) {
        let [a, b, c, d] = pair.try_into().unwrap_or_default();
        micros += 20_000 + u64::from(u16::from_le_bytes([a, b])) * 6 + u64::from(d);
        let joke = left.swap_remove(usize::from(c) % left.len());
        log.append(0, klog::INFO, micros, joke.as_bytes());
    }
    micros += 31_337;
    log.append(0, klog::INFO, micros, b"Ready!");
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_rise_and_the_end_is_ready() {
        let log = klog::Log::default();
        super::write("1", &log);
        let text = String::from_utf8(log.tail(10_000, false)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 13);
        assert!(lines.is_sorted_by(|a, b| a[..17] < b[..17]));
        assert!(text.ends_with("] Ready!\n"));
    }
}
