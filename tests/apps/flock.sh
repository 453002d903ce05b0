# Locks between processes: flock(2) and fcntl(2), waiting, shared, ended with their owner. Needs: perl
set -eu
cd /tmp; : > lock; echo 0 > count
for i in 1 2 3 4 5 6; do
    (for j in 1 2 3 4 5; do flock lock sh -c 'n=$(cat count); sleep 0.01; echo $((n + 1)) > count'; done) &
done
wait; test "$(cat count)" = 30
flock -s lock sleep 2 & sleep 0.5
flock -s -n lock true
if flock -x -n lock true; then exit 2; fi
flock -x -w 10 lock true; wait
perl -e 'use Fcntl; open my $f, "+<", "lock" or die; my $l = pack("s s l! l! i", F_WRLCK, SEEK_SET, 10, 5, 0);
    fcntl($f, F_SETLK, $l) or die; my $pid = fork // die;
    if (!$pid) { my $m = pack("s s l! l! i", F_WRLCK, SEEK_SET, 12, 1, 0); exit(fcntl($f, F_SETLK, $m) ? 1 : 0) }
    waitpid $pid, 0; exit $? >> 8' || exit 3
echo fine
