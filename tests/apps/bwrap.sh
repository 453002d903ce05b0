# bubblewrap makes namespaces, mounts and a root of its own. Needs: bubblewrap
set -eu
out=$(bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-pid --unshare-net --unshare-ipc --unshare-uts --hostname inner \
  --die-with-parent sh -c 'hostname; echo $$; ls /tmp | wc -l; touch /x 2>/dev/null || echo read-only; echo hello > /tmp/f && cat /tmp/f')
test "$(echo "$out" | tr '\n' ' ')" = "inner 2 0 read-only hello " || { echo "$out"; exit 2; }
mkdir /root/keep; bwrap --bind / / --bind /root/keep /mnt --chdir /mnt touch made; test -e /root/keep/made
bwrap --ro-bind / / --unshare-user --uid 1000 --gid 1000 id -u | grep -qx 1000
if bwrap --ro-bind / / --cap-drop ALL chown 5 /root/keep/made 2>/dev/null; then exit 3; fi
echo fine
