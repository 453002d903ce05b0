# A setuid program makes other users of us, and of others root where it is allowed. Needs: sudo
set -eu
useradd -m someone; echo 'someone ALL=(ALL) NOPASSWD: /usr/bin/id' > /etc/sudoers.d/check; chmod 440 /etc/sudoers.d/check
su someone -c 'id -un' | grep -qx someone
su someone -c 'sudo -n id -un' | grep -qx root
if su someone -c 'sudo -n cat /etc/shadow' 2>/dev/null; then exit 2; fi
sudo -u someone sh -c 'touch /home/someone/f; stat -c %U /home/someone/f' | grep -qx someone
if su someone -c 'cat /etc/shadow' 2>/dev/null; then exit 3; fi
echo fine
