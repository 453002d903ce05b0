# Namespaces of one's own: users, processes, mounts, names, networks. Needs: util-linux
set -eu
test "$(unshare --uts sh -c 'hostname other; hostname')" = other; test "$(hostname)" != other
test "$(unshare --pid --fork --mount-proc sh -c 'echo $$; ls /proc | grep -c "^[0-9]"' | head -n 1)" = 1
unshare --mount sh -c 'mount -t tmpfs t /mnt; touch /mnt/x'; test ! -e /mnt/x
test "$(setpriv --reuid 1234 --regid 1234 --clear-groups unshare --user --map-root-user id -u)" = 0
unshare --net sh -c 'test "$(ls /sys/class/net 2>/dev/null | wc -l)" -le 1 && cat /proc/net/dev' | grep -q lo
unshare --ipc sh -c 'ipcmk -M 100 > /dev/null; ipcs -m | grep -c 0x' | grep -qx 1
sleep 100 & nsenter --target $! --pid --mount --uts true; kill $!
echo fine
