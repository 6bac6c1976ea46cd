# What .ci/run and .ci/all share. Sourced by bash from the root of the checkout; ends with `report`.
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset INDICO_ENV PORT ADDRESS WORKERS MONGODB MONGODB_DATABASE MONGODB_DRIVER USER_SALT DEV_TOKEN SLOW_TESTS
unset HTTP_SERVER CORS_ORIGINS OPENID_PROVIDERS SENTRY_DSN SENTRY_TRACES_SAMPLE_RATE OTEL_EXPORTER_OTLP_ENDPOINT
unset LOG_LEVEL LOG_FORMAT DOCS KEY_CACHE
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=2
passed=0
failed=0

# check NAME COMMAND...: runs it and counts the tests that it ran, or itself as one where it ran none.
check() {
  local name=$1 log="$work/log" status ran bad
  shift
  local begin=$SECONDS
  "$@" >"$log" 2>&1
  status=$?
  ran=$(sed -nE 's/^Ran ([0-9]+) tests? in .*/\1/p; s/^=* ?.*\b([0-9]+) passed.*/\1/p' "$log" | tail -n 1)
  bad=$(sed -nE 's/^(FAILED|Failed).*failures=([0-9]+).*/\2/p; s/^(FAILED|Failed).*errors=([0-9]+).*/\2/p' "$log" |
    awk '{ sum += $1 } END { print sum + 0 }')
  ran=${ran:-1}
  if [ "$status" -ne 0 ]; then
    [ "$bad" -gt 0 ] || bad=1
    [ "$bad" -le "$ran" ] || bad=$ran
    failed=$((failed + bad))
    passed=$((passed + ran - bad))
    echo "FAILED  $name ($((SECONDS - begin)) s)"
    tail -n 100 "$log"
  else
    passed=$((passed + ran))
    echo "passed  $name ($((SECONDS - begin)) s, $ran)"
  fi
}

# clone NAME: a fresh copy of the checkout, which the following commands run in.
clone() {
  git clone -q "$root" "$work/$1" && cd "$work/$1" || exit 1
}

# python_of VERSION: the newest such Python that pyenv has, or the machine's own.
python_of() {
  local found
  found=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python 2>/dev/null | sort -V | tail -n 1)
  [ -n "$found" ] || found=$(command -v "python$1")
  echo "$found"
}

# report: the last line, and the status of the whole.
report() {
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
