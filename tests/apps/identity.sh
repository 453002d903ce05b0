# Who we say we are: nothing of the host shows. Needs: procps
set -eu
case $(uname -r) in *-palisade) ours=1 ;; *) ours=0 ;; esac
if [ $ours = 1 ]; then
    grep -q "$(uname -r)" /proc/version
    dmesg | tail -n 1 | grep -q 'Ready!'
    test "$(hostname)" = check
fi
test "$(nproc)" = "$(grep -c ^processor /proc/cpuinfo)"
test "$(cat /proc/1/comm)" = "$(ps -o comm= -p 1)"
free -b | awk '/^Mem:/ { exit !($2 > 0 && $3 <= $2) }'
test "$(id -u):$(id -g)" = 0:0
test "$(readlink /proc/self/root)" = /
! grep -q ' /checks .* rw' /proc/self/mountinfo || true
for pid in /proc/[0-9]*; do readlink "$pid/exe" > /dev/null || true; done
echo fine
