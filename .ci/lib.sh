# What .ci/run and .ci/all share. Sourced by bash from the root of the checkout; ends with `report`.
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset INDICO_ENV PORT ADDRESS WORKERS MONGODB MONGODB_DATABASE MONGODB_DRIVER USER_SALT DEV_TOKEN SLOW_TESTS
unset HTTP_SERVER CORS_ORIGINS OPENID_PROVIDERS SENTRY_DSN SENTRY_TRACES_SAMPLE_RATE OTEL_EXPORTER_OTLP_ENDPOINT
unset COMPUTE_WORKERS COMPUTE_QUEUE LOG_LEVEL LOG_FORMAT DOCS KEY_CACHE CORS_HEADERS METRICS_TOKEN OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=2
export TEST_REPORT=$work/figures # lines of the tests that count something, such as kills
touch "$work/results" # a line for each check: passed, failed, seconds, name

# sum_of PATTERN: what the numbers that stand in matches of the pattern come to, in what is read.
sum_of() {
  grep -oE "$1" | grep -oE '[0-9]+' | awk '{ sum += $1 } END { print sum + 0 }'
}

# check NAME COMMAND...: runs it and counts the tests that it ran, or itself as one where it ran none. Its status.
check() {
  local name=$1 log status good bad summary begin=$SECONDS verdict=passed
  log=$(mktemp "$work/log.XXXXXX")
  shift
  "$@" >"$log" 2>&1
  status=$?
  # unittest and nosetests say how many tests they ran, and pytest how many passed.
  summary=$(grep -E '^Ran [0-9]+ tests? in |^FAILED \(|[0-9]+ (passed|failed|errors?)\b.* in [0-9.]+s' "$log" | tail -n 2)
  bad=$(sum_of '(failures|errors)=[0-9]+|[0-9]+ (failed|errors?)\b' <<<"$summary")
  good=$(sum_of '\b[0-9]+ passed' <<<"$summary")
  [[ $summary != Ran* ]] || good=$(($(sum_of '^Ran [0-9]+' <<<"$summary") - bad))
  [ "$good" -ge 0 ] || good=0 # parts of a test may fail each by itself
  [[ $summary != "Ran 0 tests"* ]] || status=1
  [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
  [ "$status" -ne 0 ] || [ "$good" -gt 0 ] || good=1
  elapsed=$((SECONDS - begin)) # for the caller
  record "$good" "$bad" "$elapsed" "$name"
  if [ "$status" -ne 0 ]; then
    verdict=FAILED
    grep -v ' 100% *$' "$log" | tail -n 200 # without the files that are covered
  fi
  echo "$verdict  $name ($elapsed s, $good)"
  return "$status"
}

# record PASSED FAILED SECONDS NAME: for the report.
record() {
  printf '%d %d %d %s\n' "$@" >>"$work/results"
}

# at_once COUNT LANE...: runs these functions, so many of them beside each other; what they print comes in any order.
at_once() {
  local count=$1 lane
  shift
  for lane; do
    while [ "$(jobs -pr | wc -l)" -ge "$count" ]; do
      wait -n
    done
    (("$lane"; true) || record 0 1 0 "$lane, which did not come to its end") &
  done
  wait
}

# clone NAME: a fresh copy of the checkout, which the following commands run in.
clone() {
  git clone -q "$root" "$work/$1" && cd "$work/$1" || exit 1
}

# new WORDS...: `python -m indico.new` in the clone `source`, by the Python that is active.
new() {
  (cd "$work/source" && PYTHONPATH=$PWD python -m indico.new "$@")
}

# names LIST: names of parts, such as NAMES or DEFAULT, with commas between.
names() {
  (cd "$work/source" && PYTHONPATH=$PWD python -c \
    "from indico.projects.parts import DEFAULT, NAMES; print(','.join($1))")
}

# suite_of COPY WHAT: the copy's own suite, in a new environment that has what the copy needs alone.
suite_of() {
  cd "$1" || return
  deactivate 2>/dev/null
  check "what $2 needs" bash -c "rm -rf .venv && python3 -m venv .venv && .venv/bin/pip install -e '.[dev]'" || return
  check "the suite of $2" .venv/bin/nosetests
  [ "$2" != "a default copy" ] || check_time 30
}

# check_time MOST: whether the last check took at most so many seconds. It is not judged while other work, besides two
# lanes, keeps the machine busy.
check_time() {
  local load
  load=$(cut -d. -f1 /proc/loadavg 2>/dev/null)
  if [ "$elapsed" -gt "$1" ] && [ "${load:-0}" -gt 4 ]; then
    echo "skipped whether it takes at most $1 s: it took $elapsed, at a load of $load"
    return
  fi
  check "it takes at most $1 s: $elapsed" [ "$elapsed" -le "$1" ]
}

# suite_again COPY WHAT: the same in the environment that is there, with what the copy needs now.
suite_again() {
  cd "$1" || return
  deactivate 2>/dev/null
  check "what $2 needs" .venv/bin/pip install -e '.[dev]' && check "the suite of $2" .venv/bin/nosetests
}

# change_of PART: whether a default copy gets it or loses it, and the parts that go with it: words for try_change.
change_of() {
  (cd "$work/source" && PYTHONPATH=$PWD python - "$1" <<'END'
import sys
from indico.projects.parts import DEFAULT, NAMES, PARTS

part = sys.argv[1]
with_it = [name for name in DEFAULT if part in (name, *PARTS[name].needs)]
needed = [name for name in NAMES if name in (part, *PARTS[part].needs) and name not in DEFAULT]
print("remove" if part in DEFAULT else "add", ",".join(with_it if part in DEFAULT else needed))
END
  )
}

# try_change COPY SUITE WORD PARTS: adds or removes these parts, runs the copy's suite by the function SUITE, and
# undoes the change, after which no byte differs.
try_change() {
  local copy=$1 suite=$2 word=$3 parts=$4 back=add begin
  [ "$word" != add ] || back=remove
  begin=$(in_git "$copy" rev-parse HEAD)
  check "$word $parts" new "$word" "$parts" "$copy" && commit "$copy" || return
  ("$suite" "$copy" "a copy after $word $parts")
  check "$back $parts" new "$back" "$parts" "$copy" && commit "$copy"
  check "no byte differs after both" in_git "$copy" diff --exit-code "$begin"
}

# list_changed COUNT: the parts whose own files changed last, since the last version if it has a tag.
list_changed() {
  local tag
  cd "$work/source" || return
  tag=$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null)
  git log --format= --name-only ${tag:+"$tag.."}HEAD | PYTHONPATH=$PWD python -c "
import sys
from fnmatch import fnmatchcase
from indico.projects.parts import NAMES, PARTS

found = {
    name: path
    for path in sys.stdin.read().split()
    for name in NAMES
    if any(fnmatchcase(path, own) for own in PARTS[name].own_files)
}
print(*[*found][:$1])"
}

in_git() {
  git -C "$1" -c user.name=ci -c user.email=ci@localhost "${@:2}"
}

commit() {
  in_git "$1" add -A && in_git "$1" commit -q -m change
}

# python_of VERSION: the newest such Python that pyenv has, or the machine's own.
python_of() {
  local found
  found=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python 2>/dev/null | sort -V | tail -n 1)
  [ -n "$found" ] || found=$(command -v "python$1")
  echo "$found"
}

# on_python VERSION: a fresh copy of the checkout, and what the tests need on this Python.
on_python() {
  local python
  python=$(python_of "$1")
  if [ -z "$python" ]; then
    echo "skipped Python $1: not on this machine"
    # Root can install a Python by pyenv, so that a missing one is a failure.
    [ "$(id -u)" != 0 ] || [ ! -d "${PYENV_ROOT:-$HOME/.pyenv}" ] || record 0 1 0 "Python $1, which is missing"
    exit 0
  fi
  clone "python$1"
  check "what the tests need on Python $1" bash -c "'$python' -m venv .venv && .venv/bin/pip install -e '.[dev]'"
}

# on_lowest: the same on Python 3.11, with the lowest versions that are allowed.
on_lowest() {
  on_python 3.11
  check "the lowest versions" bash -c \
    '.venv/bin/python .ci/lowest.py >lowest.txt && .venv/bin/pip install -r lowest.txt'
}

# report: where the time went, the last line, and the status of the whole.
report() {
  local passed failed
  echo
  sort -k3,3nr "$work/results" | while read -r passed failed seconds name; do
    printf '%5d s  %5d passed  %3d failed  %s\n' "$seconds" "$passed" "$failed" "$name"
  done
  passed=$(awk '{ sum += $1 } END { print sum + 0 }' "$work/results")
  failed=$(awk '{ sum += $2 } END { print sum + 0 }' "$work/results")
  if [ -s "$TEST_REPORT" ]; then
    echo && sort "$TEST_REPORT" && echo
  fi
  echo "$((SECONDS / 60)) minutes $((SECONDS % 60)) seconds in all"
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

# modules PATH...: the names of the test modules at these places below indico/tests, without those that take long and
# are the same everywhere.
modules() {
  (cd indico/tests && find "$@" -name 'test_*.py' ! -name test_generated.py \
    ! -name test_floods.py ! -name test_partitions.py ! -name test_streams.py ! -name test_uploads.py) | sed 's|/|.|g; s|[.]py$||; s|^|indico.tests.|' | sort -u
}

# What has to do with processes, and so with the versions of Python and of the packages.
process="test_server.py core/test_supervisor.py core/commands/test_shell.py core/commands/test_migrate.py core/http
  core/mongo/test_races.py test_asgi.py"

# Tests that make copies of this project, and run the tests of those: in .ci/all, but for the short ones.
own="indico/tests/projects indico/tests/core/commands/new indico/tests/test_batteries.py indico/tests/test_repository.py"

# Tests that load the machine for minutes: in .ci/all. pytest takes each name for a part of a name, in any case.
load="BusyTest or KillTest or StreamProcessTest or LargeUploadTest or LargeFileTest or RealHashTest"
