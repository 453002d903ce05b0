//! What dmesg(1) shows.

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

/// Draws a boot log: lines with rising times in seconds, the last one `Ready!`.
pub fn draw(release: &str) -> Vec<String> {
    let mut seed = [0; 64];
    // Without randomness the log is the same each time: no harm.
    let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    let mut left = JOKES.to_vec();
    let mut micros = 0u64;
    let mut log = vec![format!("[    0.000000] Palisade {release}: starting")];
    for pair in seed.chunks_exact(4).take(11) {
        let [a, b, c, d] = pair.try_into().unwrap_or_default();
        micros += 20_000 + u64::from(u16::from_le_bytes([a, b])) * 6 + u64::from(d);
        let joke = left.swap_remove(usize::from(c) % left.len());
        log.push(format!("[{:5}.{:06}] {joke}", micros / 1_000_000, micros % 1_000_000));
    }
    micros += 31_337;
    log.push(format!("[{:5}.{:06}] Ready!", micros / 1_000_000, micros % 1_000_000));
    log
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_rise_and_the_end_is_ready() {
        let log = super::draw("1");
        assert_eq!(log.len(), 13);
        assert!(log.is_sorted_by(|a, b| a[..14] < b[..14]));
        assert!(log.last().unwrap().ends_with("] Ready!"));
    }
}
