# Tracing of calls, of children, and of signals. Needs: strace
set -eu
cd /tmp; strace -f -o trace sh -c 'cat /etc/hostname > /dev/null; kill -USR1 $$; exit 7' || status=$?
test "$status" = 138
grep -q 'execve("/usr/bin/cat"\|execve("/bin/cat"' trace; grep -q 'openat(AT_FDCWD, "/etc/hostname", O_RDONLY' trace; grep -q -- '--- SIGUSR1' trace
grep -q '+++ killed by SIGUSR1' trace
strace -c -o counts ls / > /dev/null; grep -q getdents64 counts
echo fine
