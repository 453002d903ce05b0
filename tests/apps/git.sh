# Repositories: commits, branches, merges, clones, packing. Needs: git
set -eu
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
cd /tmp; git init -q -b main repo; cd repo
for i in $(seq 200); do mkdir -p d$((i % 10)); seq "$i" > "d$((i % 10))/f$i"; done
git add .; git commit -qm first; git checkout -qb side; echo side >> d1/f1; git commit -qam side
git checkout -q main; echo main >> d2/f2; git commit -qam main; git merge -q -m merged side
test "$(git log --oneline | wc -l)" = 4; test -z "$(git status --porcelain)"
git mv d3/f3 moved; git status --porcelain | grep -q '^R'; git reset -q --hard
git clone -q . ../copy; cd ../copy; git fsck --full --strict; git gc -q
echo x >> d4/f4; git stash -q; git stash pop -q; git diff --stat | grep -q '1 file changed'
test "$(git ls-files | wc -l)" = 200
echo fine
