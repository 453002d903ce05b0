# A shell in a terminal that somebody else looks at. Needs: tmux
set -eu
export LC_ALL=C.UTF-8 TERM=screen
tmux -f /dev/null new-session -d -s check -x 100 -y 30 sh
tmux send-keys -t check 'stty size; tty; echo $((6 * 7))' Enter
seen() { for i in $(seq 100); do if tmux capture-pane -p -t check | grep -q "$1"; then return 0; fi; sleep 0.1; done; tmux capture-pane -p -t check; return 1; }
seen '^42$'; seen '/dev/pts/'
tmux send-keys -t check 'sleep 1000' Enter; sleep 0.5; tmux send-keys -t check C-c; seen '\^C'
tmux send-keys -t check 'echo interrupted $?' Enter; seen 'interrupted 130'
tmux split-window -t check; tmux list-panes -t check | grep -c . | grep -qx 2
tmux kill-server
echo fine
