# Changes in a directory are told. Needs: inotify-tools
set -eu
mkdir -p /tmp/watched/old; cd /tmp
inotifywait -q -m -r --format '%e %w%f' -o events watched & watcher=$!
sleep 1
echo x > watched/file; mv watched/file watched/other; chmod 600 watched/other; rm watched/other; mkdir watched/new; rmdir watched/old
for i in $(seq 50); do if grep -q 'DELETE_SELF\|DELETE,ISDIR' events; then break; fi; sleep 0.1; done
kill $watcher
for event in 'CREATE watched/file' 'CLOSE_WRITE,CLOSE watched/file' 'MOVED_FROM watched/file' 'MOVED_TO watched/other' 'ATTRIB watched/other' \
    'DELETE watched/other' 'CREATE,ISDIR watched/new' 'DELETE,ISDIR watched/old'; do
    grep -qx "$event" events || { echo "missing: $event"; cat events; exit 2; }
done
echo fine
