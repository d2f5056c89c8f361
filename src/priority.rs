//! How much of a busy processor a thread gets beside the others.

/// Five of nineteen: beside one thread that answers requests about a quarter of a core that both want, a whole one that nobody else does. Ten
/// left two logins a second where a flood of other requests took every core.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Lowers the calling thread. What is not allowed or not known here stays as it was: the number of threads bounds them all the same.
pub fn lower() {
    // On Linux a thread has a priority of its own, elsewhere it would be the whole process's.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the priority of a thread stays as it is");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn only_the_thread_that_asks_is_lowered() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let (before, lowered) = (
            priority(),
            std::thread::spawn(move || {
                super::lower();
                priority()
            }),
        );
        assert_eq!(lowered.join().unwrap(), super::NICE.max(before));
        assert_eq!(priority(), before);
    }
}
