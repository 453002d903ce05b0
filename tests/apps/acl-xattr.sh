# Owners of access lists, default lists, extended attributes, and what they do to others. Needs: acl attr
set -eu
cd /root; mkdir d; echo secret > d/f; chmod 600 d/f; chmod 755 d; chmod 711 /root
setfacl -m u:1234:r d/f; getfacl -c d/f | grep -qx 'user:1234:r--'
setpriv --reuid 1234 --clear-groups cat d/f | grep -qx secret
if setpriv --reuid 1235 --clear-groups cat d/f 2>/dev/null; then exit 2; fi
setfacl -d -m g:77:rwx d; touch d/new; getfacl -c d/new | grep -q 'group:77:rwx'
setfacl -b d/f; test "$(getfacl -c d/f | grep -c .)" = 3
setfattr -n user.colour -v blue d/f; getfattr --only-values -n user.colour d/f | grep -qx blue
cp -a d e; getfattr --only-values -n user.colour e/f | grep -qx blue
setfattr -x user.colour d/f; if getfattr -n user.colour d/f 2>/dev/null; then exit 3; fi
echo fine
